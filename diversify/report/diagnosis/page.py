"""A diagnosis as one offline HTML page and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...augment.leak import Leak
from ...diagnosis.catalogue import MEASURES
from ...diagnosis.exhibits import Exhibits
from ...diagnosis.findings import LOW_RECALL, NARROW, REMEDIES, Finding, remedy_title
from ...diagnosis.multilabel import MultilabelDiagnosis
from ...diagnosis.result import Diagnosis
from ...errors import InputError, must
from .. import page, wording
from ..multilabel import multilabel_report_of
from ..record import Definition, Headline, Report, Section, Statement
from ..wording import DASH
from .beyond_size import beyond_size_note, beyond_size_table
from .class_table import CLASS_COLUMNS, class_table
from .clusters import clusters_section
from .coverage import coverage_section, has_coverage
from .diversity import diversity_section
from .findings import MOST_APART, classes_of, in_order, text_of
from .head import head_section
from .images import images_section
from .near_copies import COPY_COLUMNS, classes_with_copies, copies_section
from .neighbors import neighbors_section
from .size import size_section
from .subject import Subject
from .suspects import suspects_section
from .top_k import top_k_section

SECTION_COLUMNS = (  # measures that the sections show; the page defines them
    *("ce_magnitude_gap", "ce_magnitude_ratio_tp", "ce_magnitude_ratio_fn", "identity_overlap"),
    *(
        "diversity_distinct_heldout",
        "diversity_vendi_heldout",
        "diversity_vendi_train",
        "diversity_effective_rank_heldout",
    ),
    *("diversity_spread_heldout", "diversity_spread_train"),
    *("border", "rare", "outlier", "recall_ceiling"),
    *(
        "suspect_labels",
        "suspect_labels_expected",
        "suspect_labels_train",
        "suspect_labels_train_expected",
        "cluster_recall",
    ),
)
_SPLITS = {"val": "validation", "test": "test"}


def render_html(
    diagnosis: Diagnosis | MultilabelDiagnosis,
    run: Mapping[str, Any] | None = None,
    exhibits: Exhibits | None = None,
) -> str:
    """Return the report of a diagnosis as one HTML page that loads nothing from outside.

    The page adapts to light and dark, narrow and wide screens, and to paper.

    Args:
        diagnosis: The diagnosis, from `diagnose` or `diagnose_multilabel`.
        run: What is known about the run, as in `run.json`: the model, the data, versions. Not needed.
        exhibits: Example images and the feature map, from `choose_exhibits`; with pictures after `take_pictures`.

    Returns:
        The text of an HTML file.

    Raises:
        InputError: `exhibits` were chosen for another diagnosis, or are given for one of several labels per image.

    See Also:
        `render_markdown`: The same as Markdown.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((60, 30, 10))
        >>> diagnosis = dv.diagnose(train, heldout, head=head, class_names=("cat", "dog", "owl"), top_k=5)
        >>> page = dv.render_html(diagnosis, {"model": {"name": "resnet32"}})
        >>> "<h1>Diagnosis of resnet32</h1>" in page
        True
    """
    return page.html(_of_either(diagnosis, run or {}, exhibits))


def render_markdown(
    diagnosis: Diagnosis | MultilabelDiagnosis,
    run: Mapping[str, Any] | None = None,
    exhibits: Exhibits | None = None,
) -> str:
    """Return the report of a diagnosis as Markdown, without figures and pictures.

    Args:
        diagnosis: The diagnosis, from `diagnose` or `diagnose_multilabel`.
        run: What is known about the run, as in `run.json`. Not needed.
        exhibits: Example images, from `choose_exhibits`; they are listed by name.

    Returns:
        Text of 100 columns for terminals and code-hosting sites; tables may be wider.

    Raises:
        InputError: `exhibits` were chosen for another diagnosis, or are given for one of several labels per image.

    See Also:
        `render_html`: The same with figures and pictures.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((60, 30, 10))
        >>> diagnosis = dv.diagnose(train, heldout, head=head, class_names=("cat", "dog", "owl"), top_k=5)
        >>> dv.render_markdown(diagnosis).splitlines()[0]
        '# Diagnosis of a network'
    """
    return page.markdown(_of_either(diagnosis, run or {}, exhibits))


def _of_either(diagnosis: Diagnosis | MultilabelDiagnosis, run: Mapping[str, Any], exhibits: Exhibits | None) -> Report:
    """Return the record of the report of a diagnosis of one label per image, or of several."""
    if not isinstance(diagnosis, MultilabelDiagnosis):
        return report_of(diagnosis, run, exhibits)
    if exhibits is not None:
        raise must("exhibits", "be left out where images have several labels", type(exhibits).__name__)
    return multilabel_report_of(diagnosis, run)


def report_of(diagnosis: Diagnosis, run: Mapping[str, Any], exhibits: Exhibits | None = None) -> Report:
    """Return the record of a diagnosis's report; the arguments are those of `render_html`."""
    names = tuple(wording.named(name) for name in diagnosis.class_names)
    split = _SPLITS.get(diagnosis.heldout_split, diagnosis.heldout_split)
    model, data = wording.look(run, "model", "name"), wording.look(run, "data", "spec")
    images = [f"{int(diagnosis[side].nansum()):,}" for side in ("count", "count_heldout")]
    order, gap = wording.selection(diagnosis["recall_heldout"])
    return Report(
        title=f"Diagnosis of {wording.plain(model or 'a network')}"
        + (f" on {wording.data_name(data)}" if data else ""),
        subtitle=f"{wording.number_of(len(names), 'class', 'classes')}, {images[0]} training images, {images[1]} held-out images"
        f" ({split} split). Each class's top-K are its {diagnosis.top_k} strongest of {diagnosis.num_features} features."
        " Brackets show 95% intervals.",
        warnings=_warnings(diagnosis, run),
        headlines=_headlines(diagnosis.summary, len(names), wording.means_leave_out(diagnosis, names)),
        findings_note=_findings_note(diagnosis, names),
        findings=tuple(_statement(group, diagnosis) for group in in_order(diagnosis)),
        table=class_table(diagnosis, names, order, gap),
        sections=_sections(diagnosis, names, order, exhibits),
        beyond_note=beyond_size_note(diagnosis),
        beyond=beyond_size_table(diagnosis),
        definitions=_definitions(
            [
                *CLASS_COLUMNS,
                *SECTION_COLUMNS,
                *(COPY_COLUMNS if classes_with_copies(diagnosis) else ()),
                *diagnosis.beyond_log_count,
            ]
        ),
        origin=(
            *wording.origin_of(run),
            ("held-out images", f"{split} split"),
            *wording.top_k_origin(diagnosis),
            *(
                (f"images measured, {'held-out' if side == 'heldout' else side}", f"{wording.words(rows)}")
                for side, rows in diagnosis.queries.items()
                if isinstance(rows, Mapping) and rows.get("rows") != rows.get("of")
            ),
            ("seed of the diagnosis", str(diagnosis.seed)),
            *_largest_leak(run),
        ),
    )


def _sections(
    diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int], exhibits: Exhibits | None
) -> tuple[Section, ...]:
    """Return the sections in their order; example images and the feature map only with `exhibits`."""
    if exhibits is not None:
        exhibits.require_of(diagnosis)
    subject = Subject(diagnosis, names, order)
    return (
        *([coverage_section(subject)] if has_coverage(subject) else []),
        size_section(subject),
        top_k_section(subject),
        diversity_section(subject),
        neighbors_section(subject, exhibits.feature_map if exhibits else None),
        head_section(subject),
        *([suspects_section(subject, exhibits)] if diagnosis.label_errors else []),
        *([clusters_section(subject, exhibits)] if diagnosis.failing_clusters else []),
        *([copies_section(subject, copied, exhibits)] if (copied := classes_with_copies(diagnosis)) else []),
        *([images_section(subject, exhibits)] if exhibits else []),
    )


def _warnings(diagnosis: Diagnosis, run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the title and text of each warning."""
    warnings = []
    if not diagnosis.plan_ready:
        warnings.append(
            (
                "This diagnosis reads the test split.",
                "Do not choose a plan, a remedy or a setting from it: the test score would then no longer measure accuracy on"
                " unseen images.",
            )
        )
    warnings += [("Note:", wording.plain(text)) for text in diagnosis.notes]
    copies = wording.look(run, "duplicates", "count")
    if isinstance(copies, int) and copies > 0:
        other = copies - (wording.look(run, "duplicates", "same_label") or 0)
        labelled = f" {other:,} of them {'has' if other == 1 else 'have'} another label there." if other > 0 else ""
        warnings.append(
            (
                f"{wording.number_of(copies, 'held-out image is', 'held-out images are')} also in the training set.",
                f"The model was trained on these images, so held-out recall and magnitudes look better than they are.{labelled}",
            )
        )
    leak = _leak_of(run)
    if leak is not None and leak.beyond_doubt:
        points = ", ".join(f"{leak.class_names[c]} {wording.leaked(leak, c)}" for c in leak.beyond_doubt)
        warnings.append(
            (
                "Augmentation makes the model predict the wrong class.",
                "The network was trained with a plan. If a class's augmentation is applied to held-out images of other classes,"
                f" the network predicts that class more often, by these percentage points: {points}.",
            )
        )
    caveats = run.get("caveats")
    if isinstance(caveats, list):
        warnings += [("Note:", wording.sentence(wording.plain(text))) for text in caveats]
    return tuple(warnings)


def _leak_of(run: Mapping[str, Any]) -> Leak | None:
    """Return the leak of the plan that the network was trained with, if the record holds one."""
    try:
        return Leak.from_dict(run.get("leak", {}))
    except InputError:
        return None


def _largest_leak(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    leak = _leak_of(run)
    if leak is None or math.isnan(leak.largest):
        return ()
    c = int(leak.leak.nan_to_num(-math.inf).argmax())
    images = int(leak.count[c] + leak.count_others[c])
    text = f"{leak.class_names[c]} {wording.leaked(leak, c)}, on {images:,} held-out images"
    return (("largest leak of an image policy, points", text),)


def _headlines(summary: Mapping[str, float], num_classes: int, left_out: str = "") -> tuple[Headline, ...]:
    def value(name: str) -> float:
        return float(summary.get(name, math.nan))

    def interval(name: str, unit: str) -> str:
        return wording.between(value(f"{name}_low"), value(f"{name}_high"), unit)

    def group(names: Sequence[str]) -> str:
        recalls = {name.removesuffix("_third"): value(f"recall_{name}") for name in names}
        shares = [f"{name} {wording.formatted(one, 'share')}" for name, one in recalls.items() if math.isfinite(one)]
        return ", ".join(shares) or DASH

    ratio = value("imbalance_ratio")
    by_size = "many: over 100 training images; few: under 20"
    thirds = ("largest_third", "middle_third", "smallest_third")
    if any(math.isfinite(value(f"recall_{third}")) for third in thirds):
        by_size += "; by thirds of the classes: " + group(thirds)
    return (
        Headline(
            label="Balanced accuracy",
            value=wording.percent(value("balanced_accuracy_heldout")),
            detail=f"held-out {interval('balanced_accuracy_heldout', 'percent')}".strip()
            + (f" ({left_out})" if left_out else "")
            + f"; training {wording.percent(value('balanced_accuracy_train'))}",
        ),
        Headline(
            label="Fragile classes",
            value=f"{wording.formatted(value('fragile_classes'), 'images')} of {num_classes:,}",
            detail="the whole interval of their recall lies below the class mean",
        ),
        Headline(
            label="Head ceiling",
            value=f"{wording.points(value('head_ceiling'))} points" if math.isfinite(value("head_ceiling")) else DASH,
            detail=f"{interval('head_ceiling', 'tenths')} {wording.ceiling_in_words(summary)}".strip(),
        ),
        Headline(
            label="Imbalance ratio",
            value=f"{ratio:,.4g}" if math.isfinite(ratio) else DASH,
            detail="largest class over smallest",
        ),
        Headline(
            label="Recall by class size", value=group(("many", "medium", "few")).replace(", ", "\n"), detail=by_size
        ),
    )


def _findings_note(diagnosis: Diagnosis, names: Sequence[str]) -> str:
    fragile = sum(finding.kind == LOW_RECALL for finding in diagnosis.findings)
    others = " Findings of other kinds follow." if fragile < len(diagnosis.findings) else ""
    if any(len(group) > 1 for group in in_order(diagnosis)):
        others = f" Findings of other kinds follow; a kind that more than {MOST_APART} classes have is one finding."
    if not fragile:
        return wording.none_fragile(diagnosis, names) + others
    mean = wording.percent(float(diagnosis["recall_heldout"].nanmean()))
    left_out = wording.means_leave_out(diagnosis, names)
    mean += f" ({left_out})" if left_out else ""
    return (
        f"A class is fragile if the whole interval of its held-out recall lies below the class mean of {mean}. Weakest class first."
        " The first label names the recommended kind of remedy." + others + _by_chance(len(names))
    )


def _by_chance(classes: int) -> str:
    """Return how many classes would count as fragile by chance; a 95% interval lies below its true value 1 time in 40."""
    if classes < 40:
        return ""
    return f" If all {classes} classes had the same true recall, about {classes / 40:.0f} would still count as fragile by chance."


def _statement(group: Sequence[Finding], diagnosis: Diagnosis) -> Statement:
    """Return a finding, or those of one kind that many classes have, as one statement."""
    finding, alone = group[0], len(group) == 1
    text, _, advice = wording.plain(text_of(group, diagnosis)).rpartition(" Points to: ")
    title = wording.named(finding.class_name) if alone else f"{classes_of(group)} classes"
    return Statement(
        title=title + ("" if finding.kind == LOW_RECALL else f": {finding.kind}"),
        troubles=tuple(trouble for trouble in finding.trouble if trouble != finding.kind) if alone else (),
        text=(text or advice) + (_predicted(finding, diagnosis) if alone else ""),
        label=remedy_title(finding.remedy),
        others=tuple(remedy_title(cause) for cause in finding.causes if cause != finding.remedy),
        advice=wording.sentence(REMEDIES.get(finding.remedy, "")),
    )


def _predicted(finding: Finding, diagnosis: Diagnosis) -> str:
    """Return a sentence on what class size and coverage predict, for findings on low recall and on narrow classes."""
    both, size, recall = (
        wording.at(diagnosis.columns, name, finding.class_index)
        for name in ("size_and_diversity_predict", "recall_log_count", "recall_heldout")
    )
    if finding.kind not in (LOW_RECALL, NARROW) or not math.isfinite(both):
        return ""
    if finding.kind == LOW_RECALL:
        return f" Size and coverage together predict a recall of {wording.share(both)}."
    if not math.isfinite(size):
        return f" Coverage predicts a recall of {wording.share(both)}; it is {wording.share(recall)}."
    return (
        f" Class size alone predicts a recall of {wording.share(size)}, size and coverage together {wording.share(both)}; it is"
        f" {wording.share(recall)}."
    )


def _definitions(measures: Iterable[str]) -> tuple[Definition, ...]:
    wanted = set(measures)
    return tuple(  # in the catalogue's order, in which definitions refer to earlier ones
        Definition(title=one.title, text=wording.with_evidence(one), source=one.source, anchor=wording.anchor(name))
        for name, one in MEASURES.items()
        if name in wanted
    )
