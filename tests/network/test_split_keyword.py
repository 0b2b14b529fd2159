"""Models that take images by keyword and return a mapping, as those of Hugging Face do."""

import pytest
import torch
from small_network import make_net, message_of, seeded
from torch import nn
from torch.utils.data import DataLoader, Dataset

from diversify.diagnosis.measure import diagnose_model
from diversify.errors import InputError
from diversify.network.extraction import extract
from diversify.network.split import split_head

torch.set_num_threads(1)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_net()


class ByPosition(Wrapped):
    def forward(self, pixel_values=None, labels=None):
        return {"logits": self.net(pixel_values)}


class ByKeyword(Wrapped):
    def forward(self, *, image, labels=None):
        return {"logits": self.net(image)}


class TextFirst(Wrapped):
    def forward(self, input_ids=None, pixel_values=None):
        assert input_ids is None
        return {"logits": self.net(pixel_values)}


class TextToo(Wrapped):
    def forward(self, input_ids, pixel_values):
        return self.net(pixel_values)


class Rows(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        return {"pixel_values": seeded(1, 8, 8, seed=index), "labels": index % 3}


@pytest.mark.parametrize("kind", [ByPosition, ByKeyword, TextFirst])
def test_images_go_where_the_model_takes_them(kind):
    loader = DataLoader(Rows(), batch_size=6)
    found = extract(split_head(kind()), loader)
    batches = [(batch["pixel_values"], batch["labels"]) for batch in loader]
    plain = extract(split_head(make_net()), batches)
    assert torch.equal(found.logits, plain.logits)
    assert found.labels.tolist() == [index % 3 for index in range(24)]


def test_a_diagnosis_of_mappings():
    loader = DataLoader(Rows(), batch_size=6)
    diagnosis = diagnose_model(ByPosition(), loader, loader, class_names={"a": 0, "c": 2, "b": 1}, top_k=3)
    assert diagnosis.class_names == ("a", "b", "c")
    assert diagnosis["count"].tolist() == [8, 8, 8]


def test_a_model_that_takes_more_is_refused():
    assert message_of(InputError, split_head, TextToo()).startswith(
        "model must take images as its one argument, got forward(input_ids, pixel_values)"
    )
