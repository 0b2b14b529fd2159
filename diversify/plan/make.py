"""Make a plan from a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

from ..diagnosis.result import Diagnosis
from ..errors import must
from .draft import Draft, strengths_for_all
from .from_counts import counted, normalised
from .plan import Plan
from .policies import ClassPlan, ImagePolicy, exposures
from .rules import RULES, Rule, RunRule, require_rule
from .strengths import STRENGTHS, Strengths

# From a diagnosis


def make_plan(
    diagnosis: Diagnosis,
    *,
    rules: Sequence[Rule | RunRule] = RULES,
    base: Plan | None = None,
    strengths: Strengths = STRENGTHS,
) -> Plan:
    """`base` (by default the plan of the counts), changed where the diagnosis shows that a class needs more or less.

    A class moves by what its 95% intervals show beyond doubt: an interval that holds the mark changes nothing. A rule that
    is `pooled` (of `RULES` the magnitude gap) goes by its value instead, drawn toward what the class's size predicts. A
    `RunRule` speaks of all classes alike: where the network knows little of its training images by heart, images are varied
    and mixed less or not at all (`Strengths.gap_none`, `gap_full`), as no policy gained on all of the networks that this was
    tried on; it does not touch a `base` of your own. What no evidence and no rarity speaks for stays as it is in
    `Plan.untouched`, but for the share of the draws, which sum to 1.

        plan = make_plan(diagnosis)
        plan = make_plan(diagnosis, rules=(*RULES, my_rule), strengths=Strengths(draws_exponent=0.0))

    Raises:
        InputError: the diagnosis was made on test, `base` is of other classes, or a rule names what there is not.
    """
    if not diagnosis.plan_ready:
        raise must(
            "diagnosis",
            "be made on val to make a plan from",
            f"one made on {diagnosis.heldout_split}",
            "bring a val split, or train with --holdout, and diagnose on that: test is read once, after choosing",
        )
    if not isinstance(rules, Sequence):
        raise must("rules", "be a sequence of diversify.plan.Rule or RunRule", type(rules).__name__)
    for rule in rules:
        require_rule(rule, diagnosis)
    for column in ("count", "recall_heldout", "recall_heldout_low"):
        if column not in diagnosis.columns:
            raise must("diagnosis", f"have the column {column}", "none", "diagnose again")
    names, counts = counted(diagnosis.class_names, diagnosis["count"])
    if base is None:
        of_all = [rule for rule in rules if isinstance(rule, RunRule)]
        strengths, told = strengths_for_all(strengths, diagnosis, of_all)
        base = Plan.from_counts(names, counts, strengths=strengths)
        said = [one.model_copy(update={"reasons": (*told, *one.reasons)}) if one.count else one for one in base.classes]
        base = base.model_copy(update={"classes": tuple(said)})
    elif [(one.name, one.count) for one in base.classes] != list(zip(names, counts, strict=True)):
        raise must(
            "base", "be of the diagnosis's classes, with their training images", ", ".join(_listed(base.classes))
        )
    common = min(one.image.strength for one in base.classes if one.count)
    drafts = [Draft(one, strengths, common) for one in base.classes]
    of_classes = [rule for rule in rules if isinstance(rule, Rule)]
    recall = float(diagnosis["recall_heldout"].nanmean())
    for c, draft in enumerate(drafts):
        found = float(diagnosis["recall_heldout_low"][c]) > recall
        for rule in of_classes:
            if counts[c] >= max(rule.least_count, 1) and (rule.found_too or not found):
                draft.hear(rule, diagnosis, c)
    for draft in drafts:
        draft.settle()
    draws = [draft.values["draws"] for draft in drafts]
    if draws != [one.draws for one in base.classes]:
        draws = normalised(draws)
    exposed = dict(
        zip(drafts, exposures([draft.image if draft.one.count else ImagePolicy() for draft in drafts]), strict=True)
    )
    least = min(draft.values["image.strength"] * exposed[draft] for draft in drafts if draft.one.count)
    for draft in drafts:
        draft.bound_images(least + base.bound, exposed[draft])
    classes = [draft.built(share) for draft, share in zip(drafts, draws, strict=True)]
    made_from = "diagnosis" if diagnosis.permuted_by is None else "permuted diagnosis"
    return Plan.from_dict({**base.model_dump(exclude={"classes"}), "made_from": made_from, "classes": classes})


def _listed(classes: Sequence[ClassPlan]) -> list[str]:
    some = [f"{one.name} ({one.count:,})" for one in classes[:3]]
    return [*some, "…"] if len(classes) > 3 else some
