"""What the tests share: one thread, and a small diagnosis made once."""

import dataclasses
import math
import os
from collections.abc import Iterator

# Small fits are slower on several threads, which wait for each other. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import offline
import pytest
import torch
from plans import WIDE
from quick import draw_nothing

from diversify.diagnosis.findings import find
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead

torch.set_num_threads(1)
offline.forbid()

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def no_other_machine() -> Iterator[None]:
    """A test fails if something asked another machine, even if the error was caught."""
    yield
    asked = offline.attempts.copy()
    offline.attempts.clear()
    assert not asked


def synthetic(
    sizes: list[int], name: str, *, num_features: int = 16, spread: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-negative features around one centre per class, and their labels."""
    centre = draws.uniform("centre", torch.arange(len(sizes) * num_features)).view(len(sizes), num_features)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    cell = torch.arange(len(labels) * num_features).view(-1, num_features)
    noise = sum(draws.uniform(name, turn, cell) for turn in range(6)) - 3
    return (centre[labels] + spread * noise).relu(), labels


def embeddings_of(features: torch.Tensor, labels: torch.Tensor, head: LinearHead) -> Embeddings:
    return Embeddings(features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels)))


def synthetic_head(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> LinearHead:
    means = counts.class_mean(features, labels, num_classes)
    weight = (4 * (means - means.nanmean(0))).nan_to_num(0)
    return LinearHead(weight=weight, bias=-(weight * means.nan_to_num(0)).sum(1) / 2)


@pytest.fixture(scope="session")
def sides() -> tuple[Embeddings, Embeddings, LinearHead]:
    """Long-tailed training embeddings, balanced held-out ones, and the head."""
    seen, seen_labels = synthetic([200, 120, 70, 40, 30, 25, 22, 20, 8, 3], "train")
    unseen, unseen_labels = synthetic([50] * 10, "heldout")
    head = synthetic_head(seen, seen_labels, 10)
    return embeddings_of(seen, seen_labels, head), embeddings_of(unseen, unseen_labels, head), head


@pytest.fixture(scope="session")
def diagnosis(sides: tuple[Embeddings, Embeddings, LinearHead]) -> Diagnosis:
    """Their diagnosis."""
    train, heldout, head = sides
    return diagnose(train, heldout, head=head, class_names=NAMES, top_k=5)


def repeated(diagnosis: Diagnosis, classes: list[int], names: tuple[str, ...] | None = None) -> Diagnosis:
    """The diagnosis as if it had these classes, each as often as it is listed; the findings made anew."""
    index = torch.tensor(classes)
    columns = {name: column[index].clone() for name, column in diagnosis.columns.items()}
    columns["fragile"] = (columns["recall_heldout_high"] < columns["recall_heldout"].nanmean()).double()
    names = names or tuple(f"class {place}" for place in range(len(classes)))
    enemies = diagnosis.enemies[index][:, index]
    tops = {
        field.name: getattr(diagnosis, field.name)[index]
        for field in dataclasses.fields(diagnosis)
        if field.name.startswith("top_k_")
    }
    known = len(classes) >= 5
    lines = {"recall_heldout": {"slope": 0.1, "intercept": 0.3, "r_squared": 0.5}} if known else {}
    return dataclasses.replace(
        diagnosis,
        class_names=names,
        columns=columns,
        enemies=enemies,
        log_count=diagnosis.log_count if known else {},
        findings=find(columns, names, enemies, lines, top_k=10),
        label_errors={},
        failing_clusters=(),
        **tops,
    )


@pytest.fixture(scope="session")
def many(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis of a thousand classes."""
    return repeated(diagnosis, [place % 10 for place in range(1000)])


@pytest.fixture(scope="module")
def reports_without_figures() -> Iterator[None]:
    """Reports have no figures in a test file that uses this: drawing is most of the time that a small run takes."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures in a test that uses this."""
    draw_nothing(monkeypatch)


@pytest.fixture(scope="session")
def quiet(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis without clear findings: every interval contains every mark, and no class's magnitudes are measured.

    The network predicts all of its training images correctly.
    """
    columns = {name: column.clone() for name, column in diagnosis.columns.items()}
    for name in columns:
        if name.endswith(("_low", "_high")):
            columns[name].fill_(-WIDE if name.endswith("_low") else WIDE)
            columns[name.rpartition("_")[0]].fill_(0.5)
    columns["ce_magnitude_ratio"].fill_(math.nan)
    columns["recall_train"].fill_(1.0)
    return dataclasses.replace(diagnosis, columns=columns, log_count={})
