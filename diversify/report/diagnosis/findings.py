"""The findings of a diagnosis in the order of a report, those of one kind that many classes have as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ...diagnosis import clusters, label_errors, near_copies
from ...diagnosis.findings import LOW_RECALL, NARROW, REMEDIES, Finding
from ...diagnosis.result import Diagnosis
from .. import wording

MOST_APART = 3  # classes with findings of one kind that are shown one by one
MOST_NAMED = 20  # classes that a finding on many names
KINDS = (LOW_RECALL, NARROW, clusters.KIND, label_errors.KIND, near_copies.KIND, near_copies.LEAK_KIND)
"""The kinds of findings, most important first; other kinds come last."""

Findings = tuple[Finding, ...]


def in_order(diagnosis: Diagnosis) -> tuple[Findings, ...]:
    """Return the findings, most important kind first and largest effect first, in groups that a report shows as one finding each.

    A group has one finding. It has all of a kind if more than `MOST_APART` classes have one, but never those on low recall,
    each of which has causes and remedies of its own.

    Args:
        diagnosis: The diagnosis; its findings keep their order.

    Example:
        >>> import diversify as dv
        >>> from diversify.report.diagnosis.findings import in_order
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> [[finding.class_name for finding in group] for group in in_order(dv.diagnose(train, heldout, head=head))]
        [['class 3'], ['class 1']]
    """
    kinds = dict.fromkeys([*KINDS, *(finding.kind for finding in diagnosis.findings)])
    groups: list[Findings] = []
    for kind in kinds:
        found = [finding for finding in diagnosis.findings if finding.kind == kind]
        if kind in _EFFECTS:
            effect = _EFFECTS[kind]
            found.sort(key=lambda finding: -effect(finding, diagnosis))
        together = kind != LOW_RECALL and len({finding.class_index for finding in found}) > MOST_APART
        groups += [tuple(found)] if together else [(finding,) for finding in found]
    return tuple(groups)


def text_of(group: Sequence[Finding], diagnosis: Diagnosis) -> str:
    """Return what a group of findings says, with the remedy that it points to, as the text of a finding.

    Args:
        group: The findings, of one kind.
        diagnosis: The diagnosis that they are of.
    """
    if len(group) == 1:
        return group[0].text
    kind, number = group[0].kind, classes_of(group)
    opening = _OPENINGS.get(kind, "{number} classes have a finding of this kind").format(number=number)
    say = _LINES.get(kind)
    parts = [finding.class_name + (f" {say(finding, diagnosis)}" if say else "") for finding in group[:MOST_NAMED]]
    if len(group) > MOST_NAMED:
        parts.append(f"and {len(group) - MOST_NAMED:,} more in diagnosis.json")
    return f"{opening}: {'; '.join(parts)}. Points to: {REMEDIES[group[0].remedy]}."


def classes_of(group: Sequence[Finding]) -> int:
    """Return the number of classes that findings are on."""
    return len({finding.class_index for finding in group})


def _value(finding: Finding) -> float:
    return finding.evidence[0].value if finding.evidence else math.nan


def _reference(finding: Finding) -> float:
    return finding.evidence[0].compared_with if finding.evidence else math.nan


def _below(finding: Finding, _: Diagnosis) -> float:
    """By how much the value is below what it is compared with."""
    return _known(_reference(finding) - _value(finding))


def _leaked(finding: Finding, diagnosis: Diagnosis) -> float:
    """By how much recall is higher with the held-out images that are near copies; the largest if none is left without them."""
    known = wording.at(diagnosis.columns, "recall_heldout", finding.class_index)
    clean = wording.at(diagnosis.columns, "recall_heldout_clean", finding.class_index)
    return math.inf if math.isnan(clean) else _known(known - clean)


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _cluster_line(finding: Finding, _: Diagnosis) -> str:
    return f"{wording.share(_value(finding))}, the rest {wording.share(_reference(finding))}"


def _narrow_line(finding: Finding, _: Diagnosis) -> str:
    one = finding.evidence[0]
    return f"{wording.share(one.value)} ({wording.share(one.low)} to {wording.share(one.high)})"


def _suspect_line(finding: Finding, diagnosis: Diagnosis) -> str:
    side = next((side for side, name in label_errors.COLUMNS.items() if name == finding.evidence[0].measure), "heldout")
    errors = diagnosis.label_errors.get(side)
    if errors is not None and errors.looks_alike[finding.class_index]:
        return f"{_value(finding):,.0f} {label_errors.SIDES[side]} images, most exactly like images of one other class"
    return f"{_value(finding):,.0f} {label_errors.SIDES[side]} images where {_reference(finding):,.0f} are expected"


def _copies_line(finding: Finding, _: Diagnosis) -> str:
    return f"{_value(finding):,.0f} of {_reference(finding):,.0f}"


def _leak_line(finding: Finding, diagnosis: Diagnosis) -> str:
    known, clean = (
        wording.at(diagnosis.columns, f"recall_heldout{end}", finding.class_index) for end in ("", "_clean")
    )
    without = "none is left without" if math.isnan(clean) else f"{wording.share(clean)} without"
    return f"{wording.share(_value(finding))}, recall {wording.share(known)} with them, {without}"


_EFFECTS: Mapping[str, Callable[[Finding, Diagnosis], float]] = {
    NARROW: _below,
    near_copies.KIND: _below,
    near_copies.LEAK_KIND: _leaked,
}
_LINES: Mapping[str, Callable[[Finding, Diagnosis], str]] = {
    NARROW: _narrow_line,
    clusters.KIND: _cluster_line,
    label_errors.KIND: _suspect_line,
    near_copies.KIND: _copies_line,
    near_copies.LEAK_KIND: _leak_line,
}
_OPENINGS: Mapping[str, str] = {
    NARROW: "The training images of {number} classes do not show what their held-out images show. Coverage, which would be 50% if"
    " both were drawn from the same images, with its 95% interval",
    clusters.KIND: "In {number} classes, some held-out images form a cluster that is surely recognised less often than the rest of"
    " the class. Recall of the cluster",
    label_errors.KIND: "In {number} classes, labels are probably wrong: too many images look like images of another class",
    near_copies.KIND: "In {number} classes, most training images are near copies of others. Effective images of all",
    near_copies.LEAK_KIND: "In {number} classes, held-out images are near copies of training images. Share of the class's held-out"
    " images, most inflated recall first",
}
