"""Make a plan from a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

from ..diagnosis.result import Diagnosis
from ..errors import must
from ..functional.multilabel import require_one_label
from .draft import Draft, strengths_for_all
from .from_counts import counted, normalised
from .marks import Marks
from .plan import Plan
from .policies import ClassPlan, ImagePolicy, Reason, exposures
from .rules import RULES, Rule, RunRule, require_rule
from .settings import DRAWS, IMAGE_STRENGTH
from .strengths import STRENGTHS, Strengths


def make_plan(
    diagnosis: Diagnosis,
    *,
    rules: Sequence[Rule | RunRule] | None = None,
    base: Plan | None = None,
    strengths: Strengths | None = None,
) -> Plan:
    """Return the plan that a diagnosis supports, with the reason for every choice.

    A plan starts from class sizes and changes a setting only when the diagnosis's 95% interval supports it. The magnitude
    gap is noisy for small classes, so its rule uses a pooled estimate instead (`Rule.pooled`). Rare classes that are
    already recognised get no extra image augmentation. If the network has barely overfitted, images are augmented and
    mixed less or not at all (`RunRule`, `Strengths.gap_none`, `Strengths.gap_full`): no image policy improved every such
    network that was tried.

    Args:
        diagnosis: Made on a validation split, never on test.
        rules: The rules to apply, in this order; `RULES` by default.
        base: The plan to start from; by default that of `Plan.from_counts`. A `RunRule` does not change a plan given here.
        strengths: The numbers behind the rules; `STRENGTHS` by default.

    Returns:
        The plan. Where neither class sizes nor the diagnosis ask for anything, it is that of `Plan.untouched`.

    Raises:
        InputError: the diagnosis was made on test, `base` has other classes, or a rule names something that does not
            exist.

    See Also:
        `RULES` for the rules; `Plan.from_counts` and `Plan.uniform` for the controls that a plan has to beat.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
        >>> [[policy.method for policy in one.features] for one in plan.classes]
        [['toward_enemies'], ['toward_enemies'], ['toward_enemies'], ['eos', 'toward_enemies']]
    """
    require_one_label(
        "diagnosis", diagnosis, "use dv.repair_multilabel, dv.MultilabelSampler and the losses for several labels"
    )
    if not diagnosis.plan_ready:
        raise must(
            "diagnosis",
            "be made on the validation set to make a plan from",
            f"one made on {diagnosis.heldout_split}",
            "bring a validation set, or train with a holdout, and diagnose on that: test is evaluated once, after choosing",
        )
    rules = RULES if rules is None else rules
    strengths = STRENGTHS if strengths is None else strengths
    if not isinstance(rules, Sequence):
        raise must("rules", "be a sequence of diversify.plan.Rule or RunRule", type(rules).__name__)
    for rule in rules:
        require_rule(rule, diagnosis)
    for column in ("count", "recall_heldout", "recall_heldout_low"):
        if column not in diagnosis.columns:
            raise must("diagnosis", f"have the column {column}", "none", "diagnose again")
    names, counts = counted(diagnosis.class_names, diagnosis["count"])
    if base is None:
        run_rules = [rule for rule in rules if isinstance(rule, RunRule)]
        strengths, reasons = strengths_for_all(strengths, diagnosis, run_rules)
        base = _with_reasons(Plan.from_counts(names, counts, strengths=strengths), reasons)
    elif [(one.name, one.count) for one in base.classes] != list(zip(names, counts, strict=True)):
        raise must("base", "have the diagnosis's classes and training counts", ", ".join(_listed(base.classes)))
    common = min(one.image.strength for one in base.classes if one.count)
    drafts = [Draft(one, strengths, common) for one in base.classes]
    _apply([rule for rule in rules if isinstance(rule, Rule)], drafts, diagnosis)
    draws = [draft.values[DRAWS] for draft in drafts]
    if draws != [one.draws for one in base.classes]:
        draws = normalised(draws)
    _bound_images(drafts, base.bound)
    classes = [draft.built(share) for draft, share in zip(drafts, draws, strict=True)]
    made_from = "diagnosis" if diagnosis.permuted_by is None else "permuted diagnosis"
    return Plan.from_dict({**base.model_dump(exclude={"classes"}), "made_from": made_from, "classes": classes})


def _with_reasons(plan: Plan, reasons: Sequence[Reason]) -> Plan:
    """The plan with these reasons in front of those of every class that has images."""
    classes = [
        one.model_copy(update={"reasons": (*reasons, *one.reasons)}) if one.count else one for one in plan.classes
    ]
    return plan.model_copy(update={"classes": tuple(classes)})


def _apply(rules: Sequence[Rule], drafts: Sequence[Draft], diagnosis: Diagnosis) -> None:
    """Apply the rules to every class, in their order."""
    marks = Marks(diagnosis)
    mean_recall = float(diagnosis["recall_heldout"].nanmean())
    for c, draft in enumerate(drafts):
        recognised = marks.at("recall_heldout_low", c) > mean_recall
        for rule in rules:
            if draft.one.count >= max(rule.least_count, 1) and (rule.found_too or not recognised):
                draft.apply(rule, marks, c)
    for draft in drafts:
        draft.settle()


def _bound_images(drafts: Sequence[Draft], bound: float) -> None:
    """Lower image strengths so that no two classes differ by more than the bound in strength times exposure."""
    policies = [draft.image if draft.one.count else ImagePolicy() for draft in drafts]
    exposed = dict(zip(drafts, exposures(policies), strict=True))
    least = min(draft.values[IMAGE_STRENGTH] * exposed[draft] for draft in drafts if draft.one.count)
    for draft in drafts:
        draft.bound_images(least + bound, exposed[draft])


def _listed(classes: Sequence[ClassPlan]) -> list[str]:
    some = [f"{one.name} ({one.count:,})" for one in classes[:3]]
    return [*some, "…"] if len(classes) > 3 else some
