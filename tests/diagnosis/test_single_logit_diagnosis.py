"""The diagnosis of a model with one output is that of the model with two outputs that gives the same probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.diagnosis.columns import without_weights


class Binary(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU())
        self.fc = nn.Linear(12, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images))


def loader(rows: tuple[int, int], seed: int, *, floats: bool) -> DataLoader:
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor(rows))
    images = torch.randn(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    images[labels == 1] += 0.4
    return DataLoader(TensorDataset(images, labels.float()[:, None] if floats else labels), batch_size=32)


@pytest.fixture(scope="module")
def pair() -> tuple[dv.Diagnosis, dv.Diagnosis]:
    torch.manual_seed(0)
    one, two = Binary(1), Binary(2)
    with torch.no_grad():
        for name, value in one.body.state_dict().items():
            two.body.state_dict()[name].copy_(value)
        one.fc.bias.zero_()
        two.fc.weight.copy_(torch.cat([torch.zeros(1, 12), one.fc.weight]))
        two.fc.bias.zero_()
    found = [
        dv.diagnose_model(
            model, loader((60, 20), 1, floats=floats), loader((30, 30), 2, floats=floats), class_names=["no", "yes"]
        )
        for model, floats in ((one, True), (two, False))
    ]
    return found[0], found[1]


def test_every_column_is_the_same(pair):
    one, two = pair
    assert one.columns.keys() == two.columns.keys()
    for name in one.columns:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)
    for name in one.summary:
        assert one.summary[name] == pytest.approx(two.summary[name], rel=1e-4, abs=1e-5, nan_ok=True), name
    assert [finding.kind for finding in one.findings] == [finding.kind for finding in two.findings]
    assert one.notes == two.notes


def test_what_weights_of_zero_cannot_say_is_left_out(pair):
    diagnosis = pair[0]
    for name in ("ce_magnitude_ratio", "ce_magnitude_gap", "identity_overlap", "top_k_share", "needed_tp"):
        assert math.isnan(diagnosis[name][0]), name
        assert not math.isnan(diagnosis[name][1]), name
    assert diagnosis.top_k_features[0].tolist() == [-1] * 10
    assert diagnosis["recall_heldout"].isfinite().all()
    assert diagnosis.notes == (
        "The head has no weights for no, as a model with one output has none for its class 0: what is measured with these"
        " weights is left out.",
    )
    assert without_weights(torch.tensor([[0.0, 0.0], [0.0, 1.0]])).tolist() == [True, False]


def test_reports_plans_and_files(pair):
    diagnosis = pair[0]
    assert "no weights for no" in dv.render_markdown(diagnosis)
    assert dv.Diagnosis.from_dict(diagnosis.to_dict()).notes == diagnosis.notes
    plan = dv.make_plan(diagnosis)
    assert plan.num_classes == 2


def test_a_comparison_leaves_out_the_top_k_of_the_class_without_weights():
    train, heldout, head = dv.make_embeddings((60, 20), heldout=20, num_features=12)
    single = dv.LinearHead(weight=head.weight, bias=head.bias, single_logit=True)
    models = [dv.Model(name=name, train=train, heldout=heldout, head=single) for name in ("a", "b")]
    found = dv.compare_models(*models, shared_start=True)
    for name in ("top_k_share_first", "magnitude_first", "identity_overlap"):
        assert found.columns[name].isnan().tolist() == [True, False], name
