"""The default for everyone: the plan of what controls show to matter, the same for every class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must
from ..functional.labels import ClassNames
from .draft import strengths_for_all
from .from_counts import counted, drawn_shares, tidy
from .plan import Plan
from .policies import ClassPlan, ImagePolicy, Mixing, Reason
from .rules import RULES, RunRule
from .strengths import STRENGTHS, Strengths

RULE = "default"


def recipe(
    class_names: ClassNames,
    class_counts: Sequence[int] | Tensor,
    *,
    diagnosis: Diagnosis | None = None,
    strengths: Strengths | None = None,
    augment: bool = True,
) -> Plan:
    """Return the plan of what controls show to matter: images augmented, images mixed, and the class prior corrected.

    Every class gets the same image policy, CutMix with partners drawn evenly from the classes, and the prior correction of
    balanced softmax; no class gets a feature policy or other draws. On long-tailed CIFAR-10 with 30 epochs,
    these parts, with strengths chosen on validation data, were as good as a plan that grades them class by class, or better
    (`docs/results/studies.md`). Retrain the head afterwards: `choose_head`. The recipe has a second way, `augment=False` on a cosine head
    (`with_cosine_head`), which is better on Fashion-MNIST: train both, and keep the one that is better on the validation set
    (`docs/results/recipe.md`).

    A diagnosis decides the one thing that it was shown to decide better: how strongly images are augmented and mixed. Where
    the network has barely overfitted, they are augmented less or not at all (`Strengths.gap_none`, `Strengths.gap_full`).

    Args:
        class_names: Names of the classes.
        class_counts: Training images per class.
        diagnosis: A diagnosis on the validation set of a network that was trained on these images; None augments in full.
        strengths: The numbers; `STRENGTHS` by default. Images are augmented at the mean of `image_least` and `image_most`.
        augment: False corrects for the class prior alone, without augmentation and mixing.

    Returns:
        A plan for the sampler, the augmenters and `fit`, like any other.

    Raises:
        InputError: The names and counts do not describe a training set, or are not those of the diagnosis, or the diagnosis
            was made on test.

    References:
        Ren et al. (2020), Balanced meta-softmax for long-tailed visual recognition; Park et al. (2022), The majority can help the
        minority: context-rich minority oversampling for long-tailed classification (CMO).

    See Also:
        `make_plan`, which grades every setting by the diagnosis; `with_cosine_head`.

    Example:
        >>> import diversify as dv
        >>> plan = dv.recipe(["cat", "newt"], [100, 10])
        >>> [(one.image.strength, one.mixing.method, one.features) for one in plan.classes]
        [(0.6, 'cutmix', ()), (0.6, 'cutmix', ())]
        >>> plan.prior_correction.training
        1.0
    """
    names, counts = counted(class_names, class_counts)
    strengths = STRENGTHS if strengths is None else strengths
    strengths = strengths if augment else strengths.with_images(0.0)
    about: tuple[Reason, ...] = ()
    if diagnosis is not None:
        if not diagnosis.plan_ready:
            raise must("diagnosis", "be made on the validation set", f"one made on {diagnosis.heldout_split}")
        known = [*map(str, diagnosis.class_names)], [int(count) for count in diagnosis["count"].tolist()]
        if known != (names, counts):
            raise must("diagnosis", "have these class names and training counts", f"{len(known[0])} classes")
        rules = [rule for rule in RULES if isinstance(rule, RunRule)]
        strengths, about = strengths_for_all(strengths, diagnosis, rules)
    image = ImagePolicy(
        operations=strengths.image_operations,
        layers=strengths.image_layers,
        strength=tidy((strengths.image_least + strengths.image_most) / 2),
        probability=tidy(strengths.image_probability),
    )
    mixing = strengths.mixing.model_copy(update={"partner": 1.0})
    classes = tuple(
        ClassPlan(
            name=name,
            count=count,
            draws=share,
            image=image if count and image.amount else ImagePolicy(),
            mixing=mixing if count else Mixing(),
            reasons=tuple(_reasons(count, max(counts), image, mixing, about)) if count else (),
        )
        for name, count, share in zip(names, counts, drawn_shares(counts, strengths.draws_exponent), strict=True)
    )
    return Plan(
        made_from="uniform",
        classes=classes,
        prior_correction=strengths.prior_correction,
        schedule=strengths.schedule,
        images_per_epoch=strengths.images_per_epoch,
        largest_difference=strengths.largest_difference,
    )


def _reasons(count: int, largest: int, image: ImagePolicy, mixing: Mixing, about: Sequence[Reason]) -> Sequence[Reason]:
    """The reasons of a class; `about` says why images are augmented less than in full."""
    made = [*about]
    augmented, mixed = f"augmented at strength {image.strength:.2f}", f"mixed by {mixing.method}"
    for choice, said, source in (
        ("image", _said(image.probability, augmented, image.amount > 0), "Cubuk et al. 2020 (RandAugment)"),
        ("mixing", _said(mixing.probability, mixed, mixing.method != "none"), "Park et al. 2022 (CMO)"),
    ):
        if said:
            made.append(
                Reason(
                    rule=RULE,
                    choice=choice,
                    measure="count",
                    value=float(count),
                    low=None,
                    high=None,
                    compared_with=float(largest),
                    text=f"Every class alike: images are {said}.",
                    source=source,
                )
            )
    return made


def _said(probability: float, done: str, acts: bool) -> str:
    return f"{done} in {probability:.0%} of the draws" if acts else ""
