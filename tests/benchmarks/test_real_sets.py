"""The benchmark on real image sets: its splits, its records and its page, on a bank of a few rows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import real_sets, real_sets_page
from diversify.files import atomic
from diversify.functional import draws


@pytest.fixture
def bank() -> real_sets.Bank:
    sizes = (60, 40, 30, 25, 22, 20, 20, 20, 20)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = draws.normal("real sets test", torch.arange(len(labels))[:, None], torch.arange(16)).float()
    features = noise + 2 * torch.eye(len(sizes), 16)[labels]
    names = tuple(f"class {c}" for c in range(len(sizes)))
    return real_sets.Bank(
        data="emoji", class_names=names, labels=labels, features=features, pixels=noise.tile(1, 3), other=features + 0.1
    )


def test_splits_share_no_row_and_hold_every_class(bank: real_sets.Bank) -> None:
    one, other = (real_sets.parts(bank, number) for number in (0, 1))
    for chosen in (one, other):
        assert torch.cat(list(chosen.values())).sort().values.tolist() == list(range(len(bank.labels)))
        assert all(bank.labels[rows].unique().numel() == 9 for rows in chosen.values())
        assert bank.labels[chosen["test"]].bincount().tolist() == [30, 20, 15, 12, 11, 10, 10, 10, 10]
    assert not torch.equal(one["test"], other["test"])
    assert torch.equal(one["test"], real_sets.parts(bank, 0)["test"])


def test_a_record_has_recall_and_measures_and_is_not_made_twice(bank: real_sets.Bank, tmp_path: Path) -> None:
    path = tmp_path / "real_emoji.jsonl"
    made = list(real_sets.run(bank, path, 1, ("split",)))
    assert [(one["split"], one["half"]) for one in made] == [(0, "development")]
    assert list(real_sets.run(bank, path, 1, ("split",))) == []
    one = made[0]
    assert set(one["recall"]) == set(one["recall_other"]) == {"cross entropy", "balanced softmax", "slope"}
    assert sum(map(sum, one["counts"].values())) == len(bank.labels)
    assert "network_vendi" in one["measures"]
    assert "pixels_copies" in one["measures"]
    assert all(math.isfinite(value) for value in one["measures"]["network_vendi"])
    head = real_sets.fit_head(bank.features, bank.labels, 9)
    prior = torch.zeros(9)  # equal shares: both losses are the same
    balanced = real_sets.balanced_head(bank.features, bank.labels, prior)
    assert torch.allclose(balanced.weight, head.weight, atol=1e-5)


def record(split: int) -> dict[str, Any]:
    """A record of a split, as `real_sets.run` makes them, with two measures."""
    counts = {"train": [24, 16, 12, 10, 9, 8, 8, 8, 8], "heldout": [6, 4, 3, 2, 2, 2, 2, 2, 2]}
    counts["test"] = [30, 20, 15, 12, 11, 10, 10, 10, 10]
    columns = draws.uniform("record", torch.tensor(split), torch.arange(5)[:, None], torch.arange(9)).tolist()
    heads = dict(zip(("cross entropy", "balanced softmax", "slope"), columns[:3], strict=True))
    return {
        "kind": "split",
        "data": "emoji",
        "split": split,
        "half": real_sets.HALVES[split > 2],
        "counts": counts,
        "class_names": [f"class {c}" for c in range(9)],
        "recall": heads,
        "recall_other": heads,
        "measures": {"network_vendi": columns[3], "pixels_copies": [None, *columns[4][1:]]},
    }


def test_the_page_says_how_measures_and_heads_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "real_emoji.jsonl"
    for split in range(6):
        atomic.append_jsonl(path, record(split))
    monkeypatch.setattr(real_sets, "path_of", lambda data: path if data == "emoji" else tmp_path / "none.jsonl")
    monkeypatch.setattr(real_sets_page, "BOOTSTRAPS", 50)
    real_sets_page.records.cache_clear()
    try:
        assert "emoji**: 256 images in 9 classes" in real_sets_page.text()
        heads = real_sets_page.heads_table()
        assert heads.count("| emoji |") == heads.count("| emoji, of another vendor |") == 3
        measures = real_sets_page.measures_table().splitlines()
        assert measures[2].startswith("| log n |")
        assert len(measures) == 3 + 2
    finally:
        real_sets_page.records.cache_clear()


def test_partial_rank_correlation_takes_size_out() -> None:
    size = np.arange(12.0)
    other = np.array([3.0, 1, 4, 1.5, 9, 2.6, 5, 3.5, 8, 9.7, 9.3, 2])
    assert real_sets_page.partial_rank_correlation(size**3, np.exp(size)) == pytest.approx(1)
    assert math.isnan(real_sets_page.partial_rank_correlation(size**3, other, size))
    whole = real_sets_page.partial_rank_correlation(other + size, other, size)
    assert 0 < whole < 1
    assert real_sets_page.partial_rank_correlation(other, -other, size) == pytest.approx(-1)
    assert math.isnan(real_sets_page.partial_rank_correlation(size[:5], other[:5]))


def test_links_and_vague_folders_of_the_clip_art_are_left_out(tmp_path: Path) -> None:
    top = tmp_path / "usr/share/openclipart/png"
    for name in ("animals/cat.png", "animals/fish/cod.png", "unsorted/any.png"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(top / name)
    (top / "animals/link.png").symlink_to(top / "animals/cat.png")
    found = real_sets.clipart(tmp_path)
    assert [(name, paths["image"].name) for name, paths in found] == [("animals", "cat.png"), ("animals", "cod.png")]


def test_a_forecast_holds_where_noise_explains_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = real_sets_page.Forecast("tau-norm", expected=2.0, low=0.04, high=3.96, came_out=5.0, error=1.0)
    assert not far.holds  # 3 points apart, with a standard error of sqrt(2)
    near = real_sets_page.Forecast("tau-norm", expected=2.0, low=0.04, high=3.96, came_out=4.7, error=1.0)
    assert near.holds
    lines = [
        {
            "candidate": name,
            "gain": 0.02,
            "gain_low": 0.0004,
            "gain_high": 0.0396,
            "came_out": out,
            "came_out_error": 0.01,
        }
        for name, out in (("tau-norm", 0.05), ("EOS", 0.047))
    ]
    monkeypatch.setattr(real_sets, "RESULTS", tmp_path)
    atomic.append_jsonl(tmp_path / "real_emoji.jsonl", {"kind": "choice", "split": 0, "forecasts": lines})
    table = real_sets_page.forecasts_table().splitlines()
    assert table[2:] == [
        "| emoji | `tau-norm` | +2.0 | +5.0 | 0 of 1 |",
        "| emoji | `EOS` | +2.0 | +4.7 | 1 of 1 |",
        "| emoji | all | +2.0 | +4.8 | 1 of 2 (50%) |",
    ]
    (drawn,) = real_sets_page.draw_figures(tmp_path)
    before = drawn.read_bytes()
    assert real_sets_page.draw_figures(tmp_path)[0].read_bytes() == before
