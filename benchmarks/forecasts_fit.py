"""The numbers of `dv.expected_gains`, fitted on records of suites; and its forecasts for suites that were left out of the fit.

`python -m benchmarks.forecasts_fit` writes the numbers into the library.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import forecasts
from diversify.files import atomic
from diversify.functional import draws
from diversify.plan.expected_gains import FEATURES, features_of, forecast, recall_now, scale_of, scale_of_mean
from diversify.plan.gain_table import RemedyTable
from diversify.plan.strengths import STRENGTHS

RESULTS = Path(__file__).parent / "results"
TABLE = Path(__file__).resolve().parent.parent / "diversify" / "plan" / "gain_table.py"
KINDS = {
    "balanced_softmax": "prior",
    "balanced_softmax+images+mix": "images",
    "balanced_softmax+images+mix+head": "images",
    "plan_from_counts": "images",
    "diversify": "images",
}
STUDIES = {
    "digits_2": 54,
    "fashion_mnist_lt": 1000,
    "cifar10_lt_short": 1000,
    "cifar10_lt": 1000,
}  # test images of a class
HELDOUT = 0.25  # of the training images of a class, where a record has no held-out recall and one is drawn
RIDGE = 1.0
SHARE = 0.95
SIGNS = (0, 1, -1, 0)  # of the coefficients, in the order of `FEATURES`


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network trained with cross entropy, what was known of it, and what a remedy gave; each tensor is `(C,)`."""

    suite: str
    kind: str
    remedy: str
    half: str
    count: Tensor
    heldout: Tensor
    hits: Tensor
    test_rows: Tensor
    before: Tensor
    after: Tensor

    @property
    def gain(self) -> Tensor:
        """The recall gained on test images."""
        return self.after - self.before


def cases() -> list[Case]:
    """Return the cases of all records: those of this benchmark, of `validity`, and of the studies."""
    return [*_trained(), *_validity(), *_studies()]


def _trained() -> Iterator[Case]:
    for one in forecasts.records():
        if one["kind"] != "training":
            continue
        rows = _column(one["count_test"])
        found = {name: _column(hits) / rows for name, hits in one["hits_test"].items()}
        for remedy in forecasts.REMEDIES:
            if KINDS[remedy] == "images" and _overfit(one) < STRENGTHS.gap_none:
                continue  # no made plan augments images there
            yield Case(
                suite=one["suite"],
                kind=KINDS[remedy],
                remedy=remedy,
                half=forecasts.half_in(one["suite"], one["order"]),
                count=_column(one["count"]),
                heldout=_column(one["count_heldout"]),
                hits=_column(one["hits_heldout"]),
                test_rows=rows,
                before=found[forecasts.BASE],
                after=found[remedy],
            )


def _overfit(one: dict[str, Any]) -> float:
    """How far the mean recall on training images is ahead of that on held-out images."""
    train, heldout = (
        _column(one[f"hits_{side}"]) / _column(one[rows])
        for side, rows in (("train", "count"), ("heldout", "count_heldout"))
    )
    return float((train - heldout).nanmean())


def _validity() -> Iterator[Case]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in atomic.read_jsonl(RESULTS / "validity.jsonl"):
        found.setdefault((str(one["design"]), one["tail_order"], one["seed"]), {})[str(one["method"])] = one
    for methods in found.values():
        base = methods[forecasts.BASE]
        heldout, recall = (_column(base["classes"][name]) for name in ("count_heldout", "recall_heldout"))
        yield Case(
            suite="validity",
            kind=KINDS["balanced_softmax"],
            remedy="balanced_softmax",
            half="development",
            count=_column(base["class_counts"]),
            heldout=heldout,
            hits=(recall.nan_to_num(0.0) * heldout).round(),
            test_rows=torch.full_like(heldout, 1000),
            before=_column(base["recall"]),
            after=_column(methods["balanced_softmax"]["recall"]),
        )


def _studies() -> Iterator[Case]:
    """Yield the cases of studies, whose records have no held-out recall: it is drawn, with the test recall as its chance."""
    for name, rows in STUDIES.items():
        found: dict[int, dict[str, Any]] = {}
        for one in atomic.read_jsonl(RESULTS / f"study_{name}.jsonl"):
            if one["kind"] == "final":
                found.setdefault(int(one["seed"]), {})[str(one["method"])] = one
        for seed, methods in found.items():
            base = methods[forecasts.BASE]
            count, recall = _column(base["class_counts"]), _column(base["recall"])
            heldout = (HELDOUT * count).round().clamp(min=1)
            hits = [
                float((draws.uniform("forecasts", name, seed, c, torch.arange(int(of))) < chance).sum())
                for c, (of, chance) in enumerate(zip(heldout.tolist(), recall.tolist(), strict=True))
            ]
            for remedy in KINDS.keys() & methods.keys():
                yield Case(
                    suite=name,
                    kind=KINDS[remedy],
                    remedy=remedy,
                    half="development",
                    count=count,
                    heldout=heldout,
                    hits=_column(hits),
                    test_rows=torch.full_like(count, rows),
                    before=recall,
                    after=_column(methods[remedy]["recall"]),
                )


def _column(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if one is None else one for one in values], dtype=torch.float64)


def line_of(found: Sequence[Case]) -> tuple[float, ...]:
    """Return the coefficients of a ridge regression of the log odds of the new recall; every suite weighs the same.

    A coefficient with a sign against sense is 0: recall after the remedy rises with recall before it, and of two classes with the
    same recall, the smaller gains no less.
    """
    number = {suite: sum(one.suite == suite for one in found) for suite in {one.suite for one in found}}
    product = RIDGE * torch.eye(len(FEATURES), dtype=torch.float64)
    product[0, 0] = 0.0
    right = torch.zeros(len(FEATURES), dtype=torch.float64)
    for one in found:
        inputs = features_of(one.count, one.heldout, one.hits)
        share = (one.after * one.test_rows + 0.5) / (one.test_rows + 1)
        product += inputs.T @ inputs / number[one.suite]
        right += inputs.T @ torch.logit(share.clamp(0.01, 0.99)) / number[one.suite]
    used = list(range(len(FEATURES)))
    while True:
        line = torch.zeros(len(FEATURES), dtype=torch.float64)
        line[used] = torch.linalg.solve(product[used][:, used], right[used])
        wrong = [place for place in used if float(line[place]) * SIGNS[place] < 0]
        if not wrong:
            return tuple(line.tolist())
        used.remove(wrong[0])


def errors_of(one: Case, line: tuple[float, ...]) -> tuple[Tensor, float]:
    """Return the absolute errors of each class's gain and of the mean gain, in units of their scale."""
    gain = torch.sigmoid(features_of(one.count, one.heldout, one.hits) @ _column(line))
    wrong = one.gain - (gain - recall_now(one.heldout, one.hits))
    mean = float(wrong.mean().abs()) / scale_of_mean(one.heldout, one.hits)
    return wrong.abs() / scale_of(one.heldout, one.hits), mean


def fitted(found: Sequence[Case]) -> RemedyTable:
    """Return the line, and how large errors may be.

    Each suite is forecast by a line that was not fitted on it. Of the classes' errors the 95% quantile is taken, all suites weighing the
    same. Of the errors of the balanced accuracy, which are few, the largest is taken: with fewer than 20 suites, that is the 95%
    quantile of conformal prediction.
    """
    wrong: list[tuple[float, float]] = []
    means: list[float] = []
    for suite in sorted({one.suite for one in found}):
        line = line_of([one for one in found if one.suite != suite])
        own = [errors_of(one, line) for one in found if one.suite == suite]
        wrong += [(value, 1 / (len(own) * len(errors))) for errors, _ in own for value in errors.tolist()]
        means += [mean for _, mean in own]
    return {
        "coefficients": tuple(round(value, 4) for value in line_of(found)),
        "errors": round(_quantile(wrong), 4),
        "errors_of_mean": round(max(means), 4),
    }


def _quantile(values: Sequence[tuple[float, float]]) -> float:
    """The smallest value that at least 95% of the weight is not above."""
    total, below = sum(weight for _, weight in values), 0.0
    for value, weight in sorted(values):
        below += weight
        if below >= SHARE * total - 1e-9:
            return value
    return max(value for value, _ in values)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """A forecast of the gains of a case, `(C,)` each, from the other suites; `whole` is that of the balanced accuracy, with its ends."""

    case: Case
    gain: Tensor
    low: Tensor
    high: Tensor
    whole: tuple[float, ...]


def left_out() -> list[Forecast]:
    """Return the forecasts for every case, by numbers fitted on all suites but its own."""
    found, made = cases(), []
    for kind in ("prior", "images"):
        ours = [one for one in found if one.kind == kind]
        for suite in sorted({one.suite for one in ours}):
            table = fitted([one for one in ours if one.suite != suite])
            for one in ours:
                if one.suite == suite:
                    _, (gain, low, high), whole = forecast(table, one.count, one.heldout, one.hits)
                    made.append(Forecast(case=one, gain=gain, low=low, high=high, whole=whole))
    return made


def _development() -> list[Case]:
    return [one for one in cases() if one.half == "development"]


def confirmed() -> list[Forecast]:
    """Return the forecasts for the cases of the confirmation half, by numbers fitted on all others."""
    made = []
    for kind in ("prior", "images"):
        table = fitted([one for one in _development() if one.kind == kind])
        for one in cases():
            if one.kind == kind and one.half != "development":
                _, (gain, low, high), whole = forecast(table, one.count, one.heldout, one.hits)
                made.append(Forecast(case=one, gain=gain, low=low, high=high, whole=whole))
    return made


def table_text() -> str:
    """Return the content of `diversify/plan/gain_table.py`, whose numbers the confirmation half has not seen."""
    found = _development()
    tables = {kind: fitted([one for one in found if one.kind == kind]) for kind in ("prior", "images")}
    suites = {kind: sorted({one.suite for one in found if one.kind == kind}) for kind in tables}
    lines = [
        '"""The numbers of `expected_gains`, as `python -m benchmarks.forecasts_fit` fits them on the records of suites."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import TypedDict",
        "",
        "",
        "class RemedyTable(TypedDict):",
        '    """The line of a remedy, in the order of `FEATURES`, and how large its errors may be, in units of their scale."""',
        "",
        "    coefficients: tuple[float, ...]",
        "    errors: float",
        "    errors_of_mean: float",
        "",
        "",
        f"CLASSES = {len(found[0].count)}  # of every suite",
        "REMEDIES: dict[str, RemedyTable] = {",
    ]
    for kind, table in tables.items():
        lines += [
            *textwrap.wrap(", ".join(suites[kind]), 120, initial_indent="    # ", subsequent_indent="    # "),
            f'    "{kind}": {{',
            f'        "coefficients": ({", ".join(f"{value:g}" for value in table["coefficients"])}),',
            f'        "errors": {table["errors"]:g},',
            f'        "errors_of_mean": {table["errors_of_mean"]:g},',
            "    },",
        ]
    return "\n".join([*lines, "}", ""])


def write_table() -> None:
    """Write the table of the library."""
    atomic.write_text(TABLE, table_text())


if __name__ == "__main__":
    write_table()
