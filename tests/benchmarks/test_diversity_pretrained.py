"""Measures from a pretrained network are taken of the images of a recorded run, and stand beside its own measures."""

import pytest
import torch
from torch import nn

from benchmarks import diversity, diversity_analysis, diversity_pretrained
from diversify.files import atomic


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(12, 5)

    def forward(self, images):
        return self.head(self.body(images))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny().eval()


def test_grey_and_coloured_images_of_either_type_have_the_features_of_the_network(model):
    grey = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = diversity_pretrained.features_of(model, grey)
    assert found.shape == (3, 12)
    colour = diversity_pretrained.features_of(model, grey.expand(-1, 3, -1, -1))
    assert torch.allclose(found, colour)
    bytes_ = diversity_pretrained.features_of(model, (grey * 255).round().to(torch.uint8))
    assert torch.allclose(found, bytes_, atol=0.02)


@pytest.mark.slow
def test_a_recorded_run_gains_its_measures(model, monkeypatch, tmp_path):
    cells = (("equal", "bursts:10"),)
    design = diversity.Design(
        data="digits", equal="exp:1:20", unequal="exp:2:20", cells=cells, epochs=1, widths=(4, 6, 12), matched=8
    )
    monkeypatch.setattr(diversity, "RESULTS", tmp_path)
    monkeypatch.setitem(diversity.DESIGNS, "digits", design)
    monkeypatch.setattr(diversity_pretrained, "network", lambda sources: model)
    monkeypatch.setattr(diversity_pretrained, "_NETWORK", {})
    records = list(diversity.run(design, assignments=2, path=diversity.path_of("digits")))
    found = diversity_pretrained.measured(records[0], tmp_path, "data")
    assert diversity.key_of(found) == diversity.key_of(records[0])
    assert {f"pretrained_{kind}" for kind in diversity.KINDS} == set(found["measures"])
    atomic.append_jsonl(diversity_pretrained.path_of("digits"), found)
    (table,) = diversity_analysis.tables()
    column = table.columns["pretrained_distinct"]
    assert column[:10].tolist() == pytest.approx(found["measures"]["pretrained_distinct"])
    assert all(value != value for value in column[10:])  # the second run has none
    assert diversity_analysis.title_of("pretrained_distinct") == "distinct images, pretrained network"
    narrow = table.narrow[:10]
    assert column[:10][narrow].mean() < column[:10][~narrow].mean()  # bursts are less distinct
