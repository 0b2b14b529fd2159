"""The demo as one offline HTML page and as Markdown: what was wrong, what was done, and how much it helped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..augment.leak import Leak
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.result import Diagnosis
from ..plan.expected_gains import expected_gains
from ..plan.plan import Plan
from ..study.outcome import WaysOutcome
from . import page, wording
from .plan_section import plan_section
from .plots import FRAGILE, Rows, Series
from .record import (
    Cell,
    Chart,
    Definition,
    Heading,
    Headline,
    PictureTable,
    Report,
    Row,
    Section,
    Statement,
    Table,
)
from .thumbnails import thumbnail
from .wording import DASH

SHOWN_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LARGE_CHANGE = 0.05  # of recall; shown in bold


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Demo:
    """Everything that the demo's report shows. The diagnoses, the leaks and the plan are those of the first seed.

    Attributes:
        outcome: The ways of training, compared on the test set.
        control: The place of the control among the ways of the outcome.
        planned: The place of training with the plan among them.
        repaired: The place of the repaired head among them.
        unseen: The place of the head that was repaired with validation images.
        both: The place of the control that was trained on training and validation images.
        before: The diagnosis of the first network, on the validation set.
        after: The diagnosis of the network trained with the plan, on the validation set.
        leak_before: The leak of the plan's image policies in the first network.
        leak_after: The same in the network trained with the plan.
        plan: The plan.
        varied: `(C, S, N, ...)`, per class N training images under its image policy at the S `SHOWN_STRENGTHS`.
        policy: The plan's image policy, in words.
        choice: Which repair of the first network's head cross-validation recommends, in a sentence.
        commands: The commands that repeat the steps of the first seed.
        seconds: Duration of each step.
    """

    outcome: WaysOutcome
    control: int
    planned: int
    repaired: int
    unseen: int
    both: int
    before: Diagnosis
    after: Diagnosis
    leak_before: Leak
    leak_after: Leak
    plan: Plan
    varied: tuple[Tensor, ...]
    policy: str
    choice: str
    commands: tuple[str, ...]
    seconds: Mapping[str, float]


def render_demo_html(demo: Demo, run: Mapping[str, Any]) -> str:
    """Return the demo's report as one offline HTML page; `run` is the content of run.json."""
    return page.html(demo_report_of(demo, run))


def render_demo_markdown(demo: Demo, run: Mapping[str, Any]) -> str:
    """Return the same as Markdown, without plots and pictures."""
    return page.markdown(demo_report_of(demo, run))


def demo_report_of(demo: Demo, run: Mapping[str, Any]) -> Report:
    """Return the record of the demo's report."""
    before, outcome = demo.before, demo.outcome
    names = tuple(wording.named(name) for name in before.class_names)
    counts = [int(count) for count in before["count"].tolist()]
    seeds = wording.number_of(outcome.accuracy.shape[1], "training seed", "training seeds")
    return Report(
        title="Long-tailed digits: diagnosed, repaired, retrained",
        subtitle=f"A small CNN learns {len(names)} digits from {sum(counts)} images: {max(counts)} of the largest class,"
        f" {min(counts)} of the smallest. All choices were made on the {int(before['count_heldout'].nansum())} images of the"
        f" validation set. The test set ({wording.words(run.get('test_images')) or 'its'} images) was read once, at the end."
        f" {seeds}. Brackets show 95% intervals.",
        warnings=(),
        headlines=_headlines(demo),
        findings_note="What was wrong, what was done, and how much it helped.",
        findings=_statements(demo, names),
        table=_class_table(demo, names),
        sections=(
            _ways_section(demo),
            _policies_section(demo, names),
            _change_section(demo, names),
            plan_section(demo.plan, names, training=True, expected=expected_gains(demo.plan, before)),
            _commands_section(demo),
        ),
        beyond_note="",
        beyond=None,
        definitions=_definitions(demo),
        origin=(
            *wording.origin_of(run),
            ("seconds", ", ".join(f"{name} {value:.0f}" for name, value in demo.seconds.items())),
        ),
    )


def _gain_text(outcome: WaysOutcome, one: int, other: int) -> str:
    low, high = float(outcome.gain_low[one, other]), float(outcome.gain_high[one, other])
    return f"{wording.points(float(outcome.gain[one, other]))} points {wording.between(low, high, 'tenths')}"


def _accuracy(outcome: WaysOutcome, place: int) -> tuple[str, str]:
    value = wording.percent(float(outcome.balanced_accuracy[place]))
    return value, wording.between(float(outcome.low[place]), float(outcome.high[place]), "percent")


def _seeds(values: Sequence[float]) -> str:
    return " / ".join(wording.points(value) for value in values)


def _headlines(demo: Demo) -> tuple[Headline, ...]:
    outcome, planned, control, repaired = demo.outcome, demo.planned, demo.control, demo.repaired
    before, after = (_accuracy(outcome, place) for place in (0, repaired))

    def gain(one: int, other: int, label: str) -> Headline:
        ends = float(outcome.gain_low[one, other]), float(outcome.gain_high[one, other])
        detail = f"{wording.between(*ends, 'tenths')} by seed {_seeds(outcome.seed_gain(one, other))}"
        return Headline(label=label, value=wording.points(float(outcome.gain[one, other])), detail=detail)

    return (
        Headline(label="Before", value=before[0], detail=f"{before[1]} balanced test accuracy, {outcome.names[0]}"),
        Headline(
            label="New last layer (the plan's repair)", value=after[0], detail=f"{after[1]} balanced test accuracy"
        ),
        gain(repaired, 0, "Gain of the new last layer, points"),
        gain(planned, control, f"Plan over {outcome.names[control]}, points"),
        gain(demo.unseen, repaired, "Validation images in its batches add, points"),
    )


def _statements(demo: Demo, names: Sequence[str]) -> tuple[Statement, ...]:
    return (
        _what_was_wrong(demo, names),
        Statement(
            title="A plan, made from the diagnosis, set what each class gets",
            text="First only the last layer was retrained by the plan; the backbone stayed as it was. Then the network was retrained"
            f" from scratch by the plan, with {demo.policy}. The tile “New last layer” is the"
            " plan's repair of the last layer. For the first network, the remedy command compared it with others:"
            f" {demo.choice}",
            label="what was done",
            good=True,
        ),
        _what_it_gained(demo),
        _what_new_images_gain(demo),
        *_what_got_weaker(demo, names),
        _what_it_cannot_tell(demo),
        *_what_it_leaks(demo, names),
    )


def _what_was_wrong(demo: Demo, names: Sequence[str]) -> Statement:
    before = demo.before
    weak = [c for c in range(len(names)) if float(before["fragile"][c]) > 0]
    worst = min(range(len(names)), key=lambda c: float(before["recall_heldout"].nan_to_num(2.0)[c]))
    ratio, share = (float(before[name][worst]) for name in ("ce_magnitude_ratio", "recall_heldout"))
    text = (
        f"The weakest class is {names[worst]}, with {int(before['count'][worst])} training images. Its recall on validation images is"
        f" {wording.share(share)} {wording.column_interval(before.columns, 'recall_heldout', worst, 'share')}. Its top-K features"
        f" reach {wording.share(ratio)}"
        + f" {wording.column_interval(before.columns, 'ce_magnitude_ratio', worst, 'share')}".rstrip()
        + " of their training magnitude on these images."
    )
    title = (
        f"{wording.number_of(len(weak), 'fragile class', 'fragile classes')}: {', '.join(names[c] for c in weak)}"
        if weak
        else "No class is fragile"
    )
    return Statement(title=title, text=text, label="what was wrong")


def _what_it_gained(demo: Demo) -> Statement:
    outcome, planned, control, repaired = demo.outcome, demo.planned, demo.control, demo.repaired
    low, high = (float(values[repaired, 0]) for values in (outcome.gain_low, outcome.gain_high))
    verdict = "more" if low > 0 else "less" if high < 0 else "not measurably more or less"
    return Statement(
        title=f"A new last layer: {_gain_text(outcome, repaired, 0)}",
        text=f"With the retrained last layer the networks recognise {verdict} than before, and no training of the backbone was"
        f" needed. Retraining from scratch by the plan gains {_gain_text(outcome, planned, 0)}, and {outcome.names[control]}, which"
        f" knows only how many images each class has, gains {_gain_text(outcome, control, 0)}.",
        label="what it gained",
        good=low > 0,
    )


def _what_new_images_gain(demo: Demo) -> Statement:
    """Return the statement on the head that was repaired with validation images, and on its control."""
    outcome, unseen, both, repaired = demo.outcome, demo.unseen, demo.both, demo.repaired
    low, high = (float(values[unseen, repaired]) for values in (outcome.gain_low, outcome.gain_high))
    verdict = "more" if low > 0 else "less" if high < 0 else "not measurably more or less"
    better = float(outcome.gain_low[both, unseen]) > 0
    return Statement(
        title=f"Images that the network has not seen add {_gain_text(outcome, unseen, repaired)}",
        text="The same repair of the last layer, with validation images in half of the draws, makes the networks recognise"
        f" {verdict} than the repair without them; by seed {_seeds(outcome.seed_gain(unseen, repaired))}. It takes seconds."
        f" Training from scratch on all of these images, as balanced softmax does in the last row, gains"
        f" {_gain_text(outcome, both, unseen)} over it"
        f"{': where there is time, and no validation set is needed, train on them' if better else ''}.",
        label="what new images gain",
        good=low > 0,
    )


def _what_got_weaker(demo: Demo, names: Sequence[str]) -> tuple[Statement, ...]:
    """Return a statement on the fragile classes whose top-K ratio fell after training by the plan, if there are any."""
    before, after = (side["ce_magnitude_ratio"].tolist() for side in (demo.before, demo.after))
    fallen = [c for c in range(len(names)) if float(demo.before["fragile"][c]) > 0 and before[c] - after[c] >= 0.01]
    if not fallen:
        return ()
    listed = ", ".join(f"{names[c]} from {wording.share(before[c])} to {wording.share(after[c])}" for c in fallen)
    text = (
        "On validation images, these fragile classes' top-K features reach a smaller share of their training magnitude after"
        f" training from scratch by the plan (first seed): {listed}. The plan did not make these features carry over better to new"
        " images; whether recall rose all the same is in the table of classes."
    )
    return (Statement(title="The magnitude gap of a fragile class grew", text=text, label="what the plan did not do"),)


def _what_it_cannot_tell(demo: Demo) -> Statement:
    outcome, planned, control = demo.outcome, demo.planned, demo.control
    low, high = float(outcome.gain_low[planned, control]), float(outcome.gain_high[planned, control])
    seeds = wording.number_of(outcome.accuracy.shape[1], "seed", "seeds")
    detectable = wording.unsigned(100 * (high - low) / 2, 1)
    if low > 0 or high < 0:
        title = f"The plan is {'better' if low > 0 else 'worse'} than {outcome.names[control]} here"
        verdict = "Whether this holds for other data, this demo cannot tell."
    else:
        title = f"Whether the plan is better than {outcome.names[control]}"
        verdict = "The interval contains 0: these images and seeds cannot tell the two apart."
    return Statement(
        title=title,
        text=f"Retrained from scratch, the plan gains {_gain_text(outcome, planned, control)} over {outcome.names[control]}; by seed"
        f" {_seeds(outcome.seed_gain(planned, control))}. {verdict} With {seeds} an observed difference below {detectable} points"
        " cannot be told from 0. The command diversify benchmark compares methods at equal budgets on larger data.",
        label="what this demo cannot tell",
    )


def _what_it_leaks(demo: Demo, names: Sequence[str]) -> tuple[Statement, ...]:
    """Return a statement on the classes whose augmentation makes the network predict them, if there are any."""
    leak = demo.leak_after
    if not leak.beyond_doubt:
        return ()
    points = ", ".join(f"{names[c]} {wording.leaked(leak, c)}" for c in leak.beyond_doubt)
    text = (
        "If a class's augmentation is applied to validation images of other classes, the network predicts that class more often, by"
        f" these percentage points: {points}. The function diversify.augment.bounded(plan, leak) weakens such a policy."
    )
    return (Statement(title="Augmentation makes the model predict the wrong class", text=text, label="what it cost"),)


_GAP = (
    "Top-K magnitude, training minus held-out. In logits; weak classes have small logits and so small gaps. The ratio compares"
    " classes."
)
_CLASS_HEADINGS = (  # title, short form, measure, meaning
    ("images, train", "images", "", ""),
    ("recall before", "recall", "", ""),
    ("recall with the plan", "with the plan", "", ""),
    ("change, points", "change", "", ""),
    ("magnitude gap before", "gap", "ce_magnitude_gap", _GAP),
    ("after", "gap after", "ce_magnitude_gap", _GAP),
    ("diversity before", "diversity", "diversity_vendi_heldout", "Vendi score of 20 held-out images."),
    ("after", "diversity after", "diversity_vendi_heldout", "Vendi score of 20 held-out images."),
    ("leak before, points", "leak", "leak", "How often its augmentation turns other classes' images into this class."),
    ("after", "leak after", "leak", "How often its augmentation turns other classes' images into this class."),
)


def _class_table(demo: Demo, names: Sequence[str]) -> Table:
    return Table(
        title="Classes, before and after",
        caption="Recall is measured on the test set and averaged over all seeds; the other columns are measured on the validation set, for"
        f" the first seed. Largest class first. {FRAGILE} marks classes that the diagnosis found fragile; changes of 5 points or more"
        " are bold. Brackets show the 95% interval of each class.",
        headings=(
            Heading(title="class", short="class"),
            *(
                Heading(title=title, short=short, meaning=meaning, anchor=wording.anchor(name) if name else "")
                for title, short, name, meaning in _CLASS_HEADINGS
            ),
        ),
        rows=tuple(_class_row(demo, c, name) for c, name in enumerate(names)),
    )


def _class_row(demo: Demo, c: int, name: str) -> Row:
    outcome, sides = demo.outcome, (demo.before, demo.after)

    def test_recall(place: int) -> Cell:
        ends = float(outcome.recall_low[place][c]), float(outcome.recall_high[place][c])
        value = wording.formatted(float(outcome.recall[place][c]), "share")
        return Cell(value=value, interval=wording.between(*ends, "share"))

    def measured(side: Diagnosis, column: str, unit: str) -> Cell:
        value = wording.formatted(wording.at(side.columns, column, c), unit)
        return Cell(value=value, interval=wording.column_interval(side.columns, column, c, unit))

    def leaked(leak: Leak) -> Cell:
        ends = float(leak.leak_low[c]), float(leak.leak_high[c])
        return Cell(value=wording.points(float(leak.leak[c])), interval=wording.between(*ends, "tenths"))

    change = float(outcome.recall[demo.planned][c] - outcome.recall[0][c])
    return Row(
        name=name,
        mark=f"{FRAGILE} fragile" if float(demo.before["fragile"][c]) > 0 else "",
        cells=(
            Cell(value=f"{int(demo.before['count'][c]):,}"),
            test_recall(0),
            test_recall(demo.planned),
            Cell(value=wording.points(change) if math.isfinite(change) else DASH, strong=abs(change) >= _LARGE_CHANGE),
            *(measured(side, "ce_magnitude_gap", "logits") for side in sides),
            *(measured(side, "diversity_vendi_heldout", "plain") for side in sides),
            *(leaked(leak) for leak in (demo.leak_before, demo.leak_after)),
        ),
    )


def _ways_section(demo: Demo) -> Section:
    outcome, control = demo.outcome, demo.control
    titles = (
        "validation",
        "test",
        "test by\u00a0seed",
        f"over {outcome.names[0]}, points",
        f"over {outcome.names[control]}, points",
    )
    return Section(
        title="How much each way of training gains",
        anchor="ways",
        note="Balanced accuracy is the mean recall of the classes, so a rare class counts as much as a frequent one. The validation set"
        " was used for all choices, and the last two ways were trained on it, too; the test set was read once, for all finished"
        " networks together.",
        table=Table(
            title="How much each way of training gains",
            caption="Means over the seeds. Intervals of accuracies are over test images; intervals of gains are over test images and"
            " training seeds. The column by seed shows how much depends on the training seed.",
            headings=(Heading(title="way of training"), *(Heading(title=title) for title in titles)),
            rows=tuple(_way_row(demo, place) for place in range(len(outcome.names))),
        ),
        charts=(_gain_chart(demo),),
    )


def _way_row(demo: Demo, place: int) -> Row:
    outcome = demo.outcome
    value, ends = _accuracy(outcome, place)

    def over(other: int) -> Cell:
        if place == other:
            return Cell(value=DASH)
        low, high = float(outcome.gain_low[place, other]), float(outcome.gain_high[place, other])
        gain = wording.points(float(outcome.gain[place, other]))
        return Cell(value=gain, interval=wording.between(low, high, "tenths"))

    marks = {demo.planned: "retrained"}
    marks |= dict.fromkeys((demo.repaired, demo.unseen), "last layer only")
    marks |= dict.fromkeys((demo.control, demo.both), "control")
    val = float(outcome.accuracy_val[place].mean())
    return Row(
        name=outcome.names[place],
        mark=marks.get(place, ""),
        good=True,
        meaning=outcome.meanings[place],
        anchor=wording.anchor(f"way {place}"),
        cells=(
            Cell(value=wording.percent(val) if math.isfinite(val) else DASH),
            Cell(value=value, interval=ends, strong=place == demo.planned),
            Cell(value=" / ".join(wording.unsigned(100 * float(one), 1) for one in outcome.accuracy[place])),
            over(0),
            over(demo.control),
        ),
    )


def _gain_chart(demo: Demo) -> Chart:
    outcome = demo.outcome
    gain = tuple(float(value) for value in outcome.gain[:, 0])
    listed = "; ".join(f"{name} {wording.points(value)}" for name, value in zip(outcome.names, gain, strict=True))
    return Chart(
        title="Gain on the test set",
        caption=f"Balanced accuracy minus that of {outcome.names[0]}, in points, with its 95% interval; ● marks the plan.",
        alt=f"Gain in points: {listed}.",
        data=Rows(
            names=outcome.names,
            signs=tuple("●" if place == demo.planned else "" for place in range(len(outcome.names))),
            series=(
                Series(
                    name="gain",
                    values=gain,
                    low=(math.nan, *(float(value) for value in outcome.gain_low[1:, 0])),
                    high=(math.nan, *(float(value) for value in outcome.gain_high[1:, 0])),
                ),
            ),
            reference=0.0,
            points=True,
        ),
    )


def _policies_section(demo: Demo, names: Sequence[str]) -> Section:
    columns = tuple("original" if not strength else f"{strength:g}" for strength in SHOWN_STRENGTHS)
    rows = []
    for c, name in enumerate(names):
        policy = demo.plan.classes[c].image
        detail = f"{policy.strength:.2f} on {policy.probability:.0%}" if policy.amount else "not augmented"
        cells = tuple(tuple(thumbnail(image) for image in images) for images in demo.varied[c])
        rows.append((name, detail, cells))
    kinds = dict.fromkeys(name for one in demo.plan.classes for name in one.image.operations)
    return Section(
        title="What the augmentation does to images",
        anchor="policies",
        note="Training images under the image policy of their class. Operations:"
        f" {', '.join(kinds).replace('_', ' ') or 'none'}. Each row keeps its images and operations; the strength grows from left to"
        " right. Beside the name are the strength used in training and the share of the class's draws that is augmented.",
        picture_tables=(
            PictureTable(
                title="Images at increasing strength",
                caption="Strength 0 leaves the image unchanged; 1 uses the full range of each operation.",
                corner="class",
                columns=columns,
                rows=tuple(rows),
            ),
        ),
    )


def _change_section(demo: Demo, names: Sequence[str]) -> Section:
    outcome = demo.outcome
    recalls = [[float(value) for value in outcome.recall[place]] for place in (0, demo.planned)]
    ratios = [[float(value) for value in side["ce_magnitude_ratio"]] for side in (demo.before, demo.after)]
    return Section(
        title="Before and after",
        anchor="change",
        charts=(
            Chart(
                title="Which classes gain, which lose?",
                caption="Test recall, mean over the seeds. Largest class at the top.",
                alt=f"Recall: {_changes(names, recalls)}.",
                data=_joined(names, recalls),
            ),
            Chart(
                title="Are the top-K features as strong on held-out images?",
                caption="Magnitude of the top-K features on validation images, as a share of that on training images, for the first seed."
                " At the dashed line, both are equal.",
                alt=f"Top-K magnitude ratio: {_changes(names, ratios)}.",
                data=_joined(names, ratios, reference=1.0),
            ),
        ),
    )


def _changes(names: Sequence[str], sides: Sequence[Sequence[float]]) -> str:
    return "; ".join(
        f"{name} {wording.share(before)} to {wording.share(after)}"
        for name, before, after in zip(names, *sides, strict=True)
    )


def _joined(names: Sequence[str], sides: Sequence[Sequence[float]], reference: float | None = None) -> Rows:
    """Return a dot plot with a line from the value before to the value with the plan."""
    nothing = (math.nan,) * len(names)
    before = Series(
        name="before", values=tuple(sides[0]), low=nothing, high=nothing, color="muted", marker="s", hollow=True
    )
    after = Series(name="with the plan", values=tuple(sides[1]), low=nothing, high=nothing)
    return Rows(
        names=tuple(names),
        signs=("",) * len(names),
        series=(before, after),
        reference=reference,
        percent=True,
        joined=True,
    )


def _commands_section(demo: Demo) -> Section:
    return Section(
        title="Commands to repeat these steps",
        anchor="again",
        note="These commands repeat the steps of the first seed; the data is an ordinary file.",
        commands=demo.commands,
    )


def _definitions(demo: Demo) -> tuple[Definition, ...]:
    outcome = demo.outcome
    ways = zip(outcome.names, outcome.meanings, outcome.sources, strict=True)
    measures = (
        (name, MEASURES[name]) for name in ("ce_magnitude_gap", "ce_magnitude_ratio", "diversity_vendi_heldout")
    )
    return (
        *(
            Definition(title=name, text=text, source=source, anchor=wording.anchor(f"way {place}"))
            for place, (name, text, source) in enumerate(ways)
        ),
        *(
            Definition(title=one.title, text=wording.with_evidence(one), source=one.source, anchor=wording.anchor(name))
            for name, one in measures
        ),
        Definition(
            title="leak",
            text="How much more often held-out images of other classes are predicted as the class once its augmentation is applied to"
            " them at full strength, in percentage points. A large leak means that the network takes augmented images for a rare"
            " class.",
            anchor=wording.anchor("leak"),
        ),
    )
