"""A gate for continuous integration: which classes are below a bar, or worse than in an older diagnosis."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from typing import Literal
from xml.etree import ElementTree

import torch

from ..errors import must
from ..functional import stats
from ..functional.multilabel import require_one_label
from .result import Diagnosis

Status = Literal["passed", "failed", "skipped"]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BARS = {"worst_recall": ("recall_heldout", "recall"), "gap_ratio": ("ce_magnitude_ratio", "top-K magnitude ratio")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassCheck:
    """The outcome of one bar for one class.

    Attributes:
        class_name: The class.
        measure: What is checked: "recall", "top-K magnitude ratio" or "recall, change".
        value: The measured value; NaN if it is not defined for the class.
        low: Lower end of its 95% interval; NaN where there is none.
        high: Upper end.
        bar: The value that must be reached; 0 for a change.
        status: "failed" if `high` is below the bar, "skipped" if the value is NaN or has no interval, else "passed".
        message: The outcome in a sentence.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> dv.check(dv.diagnose(train, heldout, head=head), worst_recall=0.6).failed[0].status
        'failed'
    """

    class_name: str
    measure: str
    value: float
    low: float
    high: float
    bar: float
    status: Status
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of `check` for all classes and bars.

    Attributes:
        classes: One outcome per bar and class, bar by bar.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> outcome = dv.check(dv.diagnose(train, heldout, head=head), worst_recall=0.6)
        >>> outcome.passed, [one.class_name for one in outcome.failed]
        (False, ['class 3'])
    """

    classes: tuple[ClassCheck, ...]

    @property
    def failed(self) -> tuple[ClassCheck, ...]:
        """The outcomes that failed."""
        return tuple(one for one in self.classes if one.status == "failed")

    @property
    def skipped(self) -> tuple[ClassCheck, ...]:
        """The outcomes that could not be judged."""
        return tuple(one for one in self.classes if one.status == "skipped")

    @property
    def passed(self) -> bool:
        """True if no class failed."""
        return not self.failed

    def in_words(self) -> str:
        """Return the outcome in one line per failed or skipped class, with a summary first."""
        judged = len(self.classes) - len(self.skipped)
        head = f"{len(self.failed)} of {judged} checks failed" if self.failed else f"all {judged} checks passed"
        skipped = f"; {len(self.skipped)} skipped" if self.skipped else ""
        return "\n".join([head + skipped, *(one.message for one in (*self.failed, *self.skipped))])

    def to_markdown(self) -> str:
        """Return the outcome as a Markdown table: failed checks first, then skipped, then passed ones."""
        order: dict[Status, int] = {"failed": 0, "skipped": 1, "passed": 2}
        rows = [
            f"| {_cell(one.class_name)} | {one.measure} | {_number(one.value)} | {_interval(one)} | {_number(one.bar)} |"
            f" {one.status} |"
            for one in sorted(self.classes, key=lambda one: order[one.status])
        ]
        titles = ["| class | measure | value | 95% interval | bar | outcome |", "|:--|:--|--:|:--|--:|:--|"]
        return "\n".join([self.in_words().splitlines()[0], "", *titles, *rows, ""])

    def to_junit(self) -> str:
        """Return the outcome as JUnit XML, one test case per bar and class, which CI services display."""
        suite = ElementTree.Element(
            "testsuite",
            name="diversify check",
            tests=str(len(self.classes)),
            failures=str(len(self.failed)),
            skipped=str(len(self.skipped)),
        )
        for one in self.classes:
            case = ElementTree.SubElement(
                suite, "testcase", classname=one.measure, name=_NOT_XML.sub("?", one.class_name)
            )
            if one.status != "passed":
                kind = "failure" if one.status == "failed" else "skipped"
                ElementTree.SubElement(case, kind, message=_NOT_XML.sub("?", one.message))
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def check(
    diagnosis: Diagnosis,
    *,
    worst_recall: float | None = None,
    gap_ratio: float | None = None,
    against: Diagnosis | None = None,
) -> Check:
    """Return which classes are below a bar, or worse than in an older diagnosis, beyond what chance explains.

    A class fails only if the whole 95% interval of its value lies below the bar, so few held-out images make the gate
    lenient and not random. With many classes some intervals miss their value by chance: about 2.5% of the classes that
    lie exactly on the bar fail.

    Args:
        diagnosis: The diagnosis to judge.
        worst_recall: Smallest held-out recall that a class may have, in [0, 1].
        gap_ratio: Smallest ratio of held-out to training top-K magnitude that a class may have, above 0.
        against: An older diagnosis of the same classes, in any order. A class fails if its held-out recall is lower now,
            beyond the 95% interval of the difference. The two recalls are treated as independent, which is cautious if
            both models were judged on the same images.

    Raises:
        InputError: No bar is given, a bar is out of its range, the classes differ from those of `against`, or no class has enough
            images to be judged.

    References:
        Newcombe (1998), Interval estimation for the difference between independent proportions, Statistics in Medicine 17.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> print(dv.check(diagnosis, worst_recall=0.6).in_words())
        1 of 4 checks failed
        recall of class 3 is 0.40 (95% interval 0.28 to 0.54), below 0.60
    """
    require_one_label("diagnosis", diagnosis)
    require_one_label("against", against)
    for name, given in (("diagnosis", diagnosis), ("against", against)):
        if not isinstance(given, Diagnosis) and (name == "diagnosis" or given is not None):
            raise must(name, "be a Diagnosis", type(given).__name__, "Diagnosis.from_json reads one")
    bars = {"worst_recall": worst_recall, "gap_ratio": gap_ratio}
    if against is None and all(bar is None for bar in bars.values()):
        raise must("check", "have a bar", "none", "pass worst_recall=R, gap_ratio=R or against=DIAGNOSIS")
    for name, bar in bars.items():
        if bar is not None and (isinstance(bar, str | bool) or not isinstance(bar, numbers.Real)):
            raise must(name, "be a number", repr(bar))
    if worst_recall is not None and not 0 <= worst_recall <= 1:
        raise must("worst_recall", "lie in [0, 1]", worst_recall)
    if gap_ratio is not None and not 0 < gap_ratio < math.inf:
        raise must("gap_ratio", "be above 0 and finite", gap_ratio)
    outcomes: list[ClassCheck] = []
    for name, bar in bars.items():
        if bar is not None:
            column, title = _BARS[name]
            values, low, high = (diagnosis[column + end].tolist() for end in ("", "_low", "_high"))
            rows = zip(diagnosis.class_names, values, low, high, strict=True)
            outcomes += [_judged(name, value, *ends, measure=title, bar=bar) for name, value, *ends in rows]
    if against is not None:
        outcomes += _changes(diagnosis, against)
    if all(one.status == "skipped" for one in outcomes):
        law = "have held-out images of at least one class that a bar can judge"
        raise must("diagnosis", law, "none", "a gate that judges nothing passes everything")
    return Check(classes=tuple(outcomes))


def _judged(class_name: str, value: float, low: float, high: float, *, measure: str, bar: float) -> ClassCheck:
    text = f"{measure} of {class_name} is {_number(value)} (95% interval {_number(low)} to {_number(high)})"
    status: Status = "passed"
    message = f"{text}, not below {_number(bar)} beyond the interval"
    if math.isnan(value) or math.isnan(high):
        status, message = "skipped", f"{measure} of {class_name} has no interval: too few images to judge it"
    elif high < bar:
        status, message = "failed", f"{text}, below {_number(bar)}"
    return ClassCheck(
        class_name=class_name, measure=measure, value=value, low=low, high=high, bar=bar, status=status, message=message
    )


def _changes(diagnosis: Diagnosis, against: Diagnosis) -> list[ClassCheck]:
    """The change of each class's held-out recall since an older diagnosis."""
    names, older = diagnosis.class_names, against.class_names
    if len(set(names)) < len(names) or len(set(older)) < len(older):
        raise must("class names", "differ from each other, to match those of an older diagnosis", "the same name twice")
    if set(names) != set(older):
        odd = sorted(set(names) ^ set(older))[0]
        raise must("classes of against", f"be the {len(names)} of the diagnosis", f"{odd!r} in one of the two only")
    order = torch.tensor([older.index(name) for name in names])
    then = [against["recall_heldout" + end][order] for end in ("", "_low", "_high")]
    now = [diagnosis["recall_heldout" + end] for end in ("", "_low", "_high")]
    low, high = stats.difference_interval(then[0], (then[1], then[2]), now[0], (now[1], now[2]))
    change = now[0] - then[0]
    outcomes = []
    for c, name in enumerate(names):
        value, ends = float(change[c]), (float(low[c]), float(high[c]))
        text = f"recall of {name} went from {_number(float(then[0][c]))} to {_number(float(now[0][c]))}"
        status: Status = "passed"
        message = f"{text} (95% interval of the change {ends[0]:+.2f} to {ends[1]:+.2f}), not lower beyond the interval"
        if math.isnan(value):
            status, message = "skipped", f"recall of {name} cannot be compared: no held-out images in one of the two"
        elif ends[1] < 0:
            status, message = "failed", f"{text} (95% interval of the change {ends[0]:+.2f} to {ends[1]:+.2f})"
        outcomes.append(
            ClassCheck(
                class_name=name,
                measure="recall, change",
                value=value,
                low=ends[0],
                high=ends[1],
                bar=0.0,
                status=status,
                message=message,
            )
        )
    return outcomes


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _interval(one: ClassCheck) -> str:
    return "–" if math.isnan(one.low) else f"{_number(one.low)} to {_number(one.high)}"


def _cell(text: str) -> str:
    """A name that stays inside its cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
