"""The study of head repair: the backbone of each seed, and plans that never see the fold they are evaluated on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import head_methods, head_study
from diversify.errors import InputError
from diversify.files import atomic
from diversify.network.embeddings import Embeddings
from diversify.study.records import read_records
from diversify.study.run import run_study
from diversify.study.study import Study

NAMES = ("many", "some", "few")
SIDES = {"holdout": ((60, 20, 8), (15, 10, 6)), "all": ((75, 25, 10), (20, 20, 20))}


def side(counts: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return features around a mean per class, and their labels."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    drawn = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    return drawn.abs() + 2 * torch.eye(3, 6)[labels], labels


@pytest.fixture
def banks(tmp_path: Path) -> Path:
    """Tiny banks of all backbones of the protocol."""
    folder = tmp_path / "banks"
    folder.mkdir()
    for place, name in enumerate(head_study.names_of(head_study.PROTOCOL)):
        for kind, sides in SIDES.items():
            tensors = {"weight": torch.eye(3, 6), "bias": torch.zeros(3)}
            for number, (which, counts) in enumerate(zip(("train", "judged"), sides, strict=True)):
                features, labels = side(counts, 10 * place + number)
                tensors |= {f"{which}_features": features, f"{which}_labels": labels}
            metadata = {"class_names": json.dumps(NAMES), "weights": f"{place}{kind}", "epochs": "200"}
            atomic.write_tensors(folder / f"{name}-{kind}.safetensors", tensors, metadata)
    return folder


def test_backbones_are_named_by_tail_order_and_their_own_seed() -> None:
    assert head_study.names_of(head_study.PROTOCOL) == ["canonical-0", "canonical-1", "canonical-2", "0-0", "1-0"]


@pytest.mark.slow
def test_every_method_goes_all_the_way(banks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_methods, "STEPS", 3)
    protocol = head_study.PROTOCOL.model_copy(update={"trials": 2, "seeds": (0, 1, 7)})
    study = Study(
        protocol=protocol,
        results=tmp_path / "r.jsonl",
        root=str(banks),
        runner="benchmarks.head_study:runner",
    )
    steps = list(run_study(study))
    assert sum(step.record is not None for step in steps) == len(head_methods.METHODS) * (2 + 3)
    records = read_records(study.results)
    assert {one.reason for one in records} == {""}
    assert {one.state for one in records} == {"complete"}
    finals = [one for one in records if one.kind == "final" and one.method == "diversify"]
    # the third seed uses the third backbone, whatever its number
    assert [one.inside["backbone"] for one in finals] == ["canonical-0", "canonical-1", "canonical-2"]
    assert finals[0].inside["weights"] == "0all"
    assert finals[0].class_counts == (75, 25, 10)
    untouched = next(one for one in records if one.kind == "final" and one.method == "ce" and one.seed == 0)
    test = head_study.read_bank(banks, "canonical-0", "all").judged
    right = (test.features @ torch.eye(3, 6).T).argmax(1) == test.labels
    assert untouched.recall == pytest.approx([float(right[test.labels == c].float().mean()) for c in range(3)])


def test_no_plan_sees_the_fold_that_it_is_judged_by(banks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = head_study.Task(head_study.PROTOCOL, str(banks))
    bank = task.bank("canonical-0", "holdout")
    fold_of = task.fold_of("canonical-0")
    assert sorted(fold_of.unique().tolist()) == list(range(head_study.FOLDS))
    seen: list[Embeddings] = []
    whole = head_study.diagnose

    def diagnose(train: Embeddings, heldout: Embeddings, **options: object) -> object:
        seen.append(heldout)
        return whole(train, heldout, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(head_study, "diagnose", diagnose)
    monkeypatch.setattr(head_methods, "STEPS", 1)
    parameters = {"learning_rate": 0.05, "weight_decay": 5e-4, "tau": 0.0, "strength": 1.0}
    logits = head_study._logits(task, head_methods.BY_NAME["diversify"], "canonical-0", parameters, 0)
    assert logits.isfinite().all()
    assert len(seen) == head_study.FOLDS
    for fold, heldout in enumerate(seen):
        judged = bank.judged.features[fold_of == fold]
        assert not bool((heldout.features[:, None] == judged).all(2).any())
        assert len(heldout) + len(judged) == len(bank.judged)


def test_a_bank_of_another_length_of_training_is_refused(banks: Path) -> None:
    protocol = head_study.PROTOCOL.model_copy(update={"epochs": 100})
    with pytest.raises(InputError, match="backbone canonical-0 must be trained for 100 epochs, got 200"):
        head_study.Task(protocol, str(banks))


def test_a_bank_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="canonical-0-holdout.safetensors"):
        head_study.Task(head_study.PROTOCOL, str(tmp_path))


def test_the_table_says_what_the_runs_reached() -> None:
    """Two runs of a network count as one; the interval is over networks."""

    def runs(method: str, *accuracies: tuple[str, float]) -> list[head_study._Result]:
        return [
            head_study._Result(method, name, value, (value + 0.1, value, value, value - 0.1), (200, 150, 40, 30))
            for name, value in accuracies
        ]

    ours = runs("diversify", ("a", 0.70), ("a", 0.74), ("b", 0.80), ("c", 0.78))
    other = runs("ce", ("a", 0.71), ("a", 0.71), ("b", 0.78), ("c", 0.75))
    rows = head_study._table([*other, *ours], "diversify", "`diversify`").splitlines()
    # 71, 78 and 75; 72, 80 and 78; 1, 2 and 3 points ahead: 2 on average, with a standard error of 1 / sqrt(3) and t = 4.303
    groups = "many shot | medium shot | largest third | middle third | smallest third"
    assert rows[0] == f"| method | balanced accuracy, % | `diversify` ahead by, points | {groups} |"
    of_ce = "79.7 ± 8.7 | 69.7 ± 8.7 | 79.7 ± 8.7 | 74.7 ± 8.7 | 64.7 ± 8.7"
    assert rows[2] == f"| `ce` | 74.7 ± 8.7 | +2.0 ± 2.5 (3 of 3) | {of_ce} |"
    ours_of = "81.7 ± 10.3 | 71.7 ± 10.3 | 81.7 ± 10.3 | 76.7 ± 10.3 | 66.7 ± 10.3"
    assert rows[3] == f"| **`diversify`** | 76.7 ± 10.3 | – | {ours_of} |"
    assert head_study._table(other, "diversify", "`diversify`") == "No records yet."


def test_a_class_that_nobody_is_judged_on_is_left_out(banks: Path) -> None:
    tensors, metadata = atomic.read_tensors(banks / "canonical-0-all.safetensors")
    kept = tensors["judged_labels"] != 2
    tensors |= {name: tensors[name][kept] for name in ("judged_features", "judged_labels")}
    atomic.write_tensors(banks / "canonical-0-all.safetensors", tensors, metadata)
    task = head_study.Task(head_study.PROTOCOL, str(banks))
    options = {"seed": 0, "split": "test", "carried": None, "report": None}
    outcome = head_study.run(task, head_methods.BY_NAME["ce"], {}, **options)
    assert outcome.recall[2] is None
    assert outcome.balanced_accuracy == pytest.approx(sum(outcome.recall[:2]) / 2)
