"""A head comes back from its file as it was, and other files are refused."""

import dataclasses

import pytest
import torch
from small_data import message_of

from diversify.files import atomic
from diversify.network.head_file import load_head, save_head
from diversify.network.linear_head import LinearHead

PLAIN = LinearHead(weight=torch.arange(6.0).view(2, 3), bias=torch.tensor([0.5, -1.0]))
HEADS = {
    "plain": PLAIN,
    "without a bias": dataclasses.replace(PLAIN, bias=torch.zeros(2), has_bias=False),
    "cosine": dataclasses.replace(PLAIN, bias=torch.zeros(2), cosine=True, scale=16.0, has_bias=False),
    "single logit": LinearHead(weight=torch.ones(1, 3), bias=torch.tensor([2.0]), single_logit=True),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_comes_back(tmp_path, name):
    head = HEADS[name]
    save_head(tmp_path / "head.safetensors", head)
    found = load_head(tmp_path / "head.safetensors")
    for field in dataclasses.fields(LinearHead):
        was, now = getattr(head, field.name), getattr(found, field.name)
        assert torch.equal(was, now) if isinstance(was, torch.Tensor) else was == now, field.name


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    atomic.write_tensors(path, {"w": torch.ones(2, 3)})
    assert "hold weight (C, D) and, if it has one, bias (C,), got w" in message_of(lambda: load_head(path))
    atomic.write_tensors(path, {"weight": torch.ones(2, 3)}, {"scale": "much"})
    assert "say its form in its metadata" in message_of(lambda: load_head(path))
