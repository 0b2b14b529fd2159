"""Which repair of a head is worth having: candidates compared on held-out images, each by options chosen on other folds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from .embeddings import Embeddings
from .errors import must
from .functional import counts, draws, stats
from .functional.ceiling import stratified_folds
from .head import DEFAULT, HeadRecipe, adjust_logits, log_prior_of, nearest_mean, normalize_tau, retrain_with
from .heads import LinearHead, read_head
from .plan import ClassPlan, Plan

SCHEMA_VERSION = 1
TAUS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
MORE_TAUS = (0.0, 0.25, 0.5, 1.0, 1.5)  # of a logit adjustment after retraining
SCALES = (0.5, 1.0, 1.5)
PLAN_FOLDS = 3  # of the held-out rows, where a plan is made from them
LARGEST_BANK = 1 << 28  # numbers in a training set balanced by made rows, beyond which none is made
_BLOCK = 1 << 24  # logits at a time

Make = Callable[[Embeddings, LinearHead, int], LinearHead]
MakePlan = Callable[[Embeddings], Plan]
Progress = Callable[[int, int], None]

UNTOUCHED = "untouched"


# Candidates


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to repair a head.

    Attributes:
        name: Short, for tables.
        meaning: What it does, in a sentence or two.
        options: By what they are called, the mildest first: how the head is made, from training embeddings, the old head
            and a seed. One option where there is nothing to choose.
        taus: Logit adjustments that every option is also tried with: the head is made once for all of them.
        source: Where it comes from.
        needs_bias: Whether the head it makes has a bias of its own.
        remade: Where the options came from held-out rows: the same options from others of them, so that no row is judged by
            what was made from it.
    """

    name: str
    meaning: str
    options: Mapping[str, Make]
    taus: tuple[float, ...] = (0.0,)
    source: str = ""
    needs_bias: bool = False
    remade: Callable[[Embeddings], Mapping[str, Make]] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What each option is called with each tau, in the order of the heads that `make` gives."""
        taus = [f"tau {tau:g}" if tau else "" for tau in self.taus]
        return tuple(", ".join(part for part in (name, tau) if part) for name in self.options for tau in taus)


def default_candidates(
    train: Embeddings,
    head: nn.Module | LinearHead,
    *,
    plan: Plan | None = None,
    counted: Plan | None = None,
    replan: MakePlan | None = None,
    recipe: HeadRecipe = DEFAULT,
) -> tuple[Candidate, ...]:
    """The simplest first: untouched, the free fixes, even draws, SMOTE, EOS, a plan made from counts, and the plan.

    `replan` is how the plan was made from held-out embeddings, for example `lambda rows: make_plan(diagnose(train, rows,
    head=head))`: then each third of them is judged by a plan made from the others. Without it a plan that was made from the
    rows it is judged on looks somewhat better than it is. A plan that is not given is left out, and so is what would make
    more rows than fit into memory. Where the recipe has no bias, those that need one are left out. Whatever trains the head
    may also take off a part of the log prior afterwards, as the plan may: that is free, so none is credited for what it does
    alone.
    """
    head = read_head(head)
    rows = counts.class_counts(train.labels, train.num_classes)
    more = MORE_TAUS if recipe.bias else (0.0,)
    found = [
        Candidate(name=UNTOUCHED, meaning="The head as it is.", options={"": lambda _, old, __: old}),
        Candidate(
            name="logit adjustment",
            meaning="tau times the logarithm of each class's share of the training images, taken off its logit.",
            options={"": lambda _, old, __: old},
            taus=TAUS,
            source="Menon et al. 2021",
            needs_bias=True,
        ),
        Candidate(
            name="tau-norm",
            meaning="Each class's logit divided by its weight's norm to the power of tau.",
            options={f"tau {tau:g}": _normalized(tau) for tau in TAUS},
            source="Kang et al. 2020",
        ),
        Candidate(
            name="nearest mean",
            meaning="The class whose mean training feature is nearest.",
            options={"": lambda bank, old, _: nearest_mean(bank, like=old)},
            source="Kang et al. 2020",
            needs_bias=not head.cosine or bool((rows == 0).any()),
        ),
        Candidate(
            name="even draws",
            meaning="The head trained further, every class drawn equally often (random oversampling).",
            options={f"{steps:,} steps": _evenly(replace(recipe, steps=steps)) for steps in _lengths(recipe)},
            taus=more,
            source="Kang et al. 2020 (classifier retraining)",
        ),
    ]
    if _balanced_size(train) <= LARGEST_BANK:
        found += [
            Candidate(
                name="SMOTE",
                meaning="Even draws from classes filled up with rows between two neighbours of the class.",
                options={f"{k} neighbors": _oversampled("smote", k, recipe) for k in (5, 10)},
                taus=more,
                source="Chawla et al. 2002",
            ),
            Candidate(
                name="EOS",
                meaning="Even draws from classes filled up with rows between a row and its nearest enemies.",
                options={f"{k} neighbors": _oversampled("eos", k, recipe) for k in (10, 100)},
                taus=more,
                source="Dablain et al. 2022 (expansive over-sampling)",
            ),
        ]
    meanings = {
        "plan from counts": "The head trained further by a plan that knows only how many images each class has.",
        "plan": "The head trained further by the plan.",
    }
    if replan is not None:
        meanings["plan"] += " Each third of the held-out images is judged by a plan made without it."
    for (name, meaning), one in zip(meanings.items(), (counted, plan), strict=True):
        if one is not None:
            scales = SCALES if one.feature_methods else ()
            found.append(
                Candidate(
                    name=name,
                    meaning=f"{meaning} The option multiplies the strengths of its feature policies.",
                    options=_planned_options(one, scales, recipe),
                    taus=more,
                    needs_bias=one.prior_correction.after > 0,
                    remade=partial(_replanned, replan, scales, recipe) if name == "plan" and replan else None,
                )
            )
    return tuple(one for one in found if recipe.bias or not one.needs_bias)


def _lengths(recipe: HeadRecipe) -> tuple[int, ...]:
    return tuple(dict.fromkeys((max(1, recipe.steps // 5), recipe.steps)))


def scaled(plan: Plan, factor: float) -> Plan:
    """The plan with the strength of every feature policy multiplied, and 1 at most."""
    classes = tuple(
        one.model_copy(
            update={
                "features": tuple(
                    policy.model_copy(update={"strength": min(1.0, factor * policy.strength)})
                    for policy in one.features
                )
            }
        )
        for one in plan.classes
    )
    return plan.model_copy(update={"classes": classes})


def even_plan(class_counts: Tensor) -> Plan:
    """Every class that has rows drawn equally often, and nothing else."""
    listed = class_counts.tolist()
    share = 1 / max(1, sum(count > 0 for count in listed))
    classes = tuple(
        ClassPlan(name=str(c), count=count, draws=share if count else 0.0) for c, count in enumerate(listed)
    )
    return Plan(classes=classes)


def _normalized(tau: float) -> Make:
    return lambda _, head, __: normalize_tau(head, tau)


def _evenly(recipe: HeadRecipe) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        plan = even_plan(counts.class_counts(train.labels, train.num_classes))
        return retrain_with(train, head, plan, recipe, seed=seed)

    return make


def _planned(plan: Plan, recipe: HeadRecipe) -> Make:
    return lambda train, head, seed: retrain_with(train, head, plan, recipe, seed=seed)


def _planned_options(plan: Plan, scales: Sequence[float], recipe: HeadRecipe) -> dict[str, Make]:
    if not scales:
        return {"": _planned(plan, recipe)}
    return {f"strength x {scale:g}": _planned(scaled(plan, scale), recipe) for scale in scales}


def _replanned(
    replan: MakePlan, scales: Sequence[float], recipe: HeadRecipe, heldout: Embeddings
) -> Mapping[str, Make]:
    return _planned_options(replan(heldout), scales, recipe)


def _oversampled(method: str, neighbors: int, recipe: HeadRecipe) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        from .oversampling import balanced  # it brings imbalanced-learn, which only these heads need

        bank = balanced(train, head, method, k_neighbors=neighbors, seed=seed)
        return _evenly(recipe)(bank, head, seed)

    return make


def _balanced_size(train: Embeddings) -> int:
    rows = counts.class_counts(train.labels, train.num_classes)
    return int(rows.max()) * int((rows > 0).sum()) * train.num_features


# The choice


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChoice:
    """The candidates compared, and the one that is recommended. F candidates, C classes; shares of 1.

    Held-out rows are cut into folds, several times over; a row is judged by the option that does best on the other folds
    of its turn, so no candidate's numbers profit from its own options. Intervals are 95%, over held-out rows.

    Attributes:
        names: Of the candidates, the simplest first.
        meanings: What each does.
        sources: Where each comes from.
        options: The options of each.
        times_chosen: How often each option was chosen, over folds and repeats.
        final_option: Per candidate, the option that does best on all held-out rows.
        columns: `(F,)` float64: `balanced_accuracy` and its `_low`, `_high`; `spread`, its standard deviation over repeats;
            `gain` over the untouched head and its `_low`, `_high`; `behind`, how far behind the best, and `behind_error`,
            the standard error of that.
        recall: `(F, C)` mean over repeats; NaN for a class without held-out rows. `recall_low`, `recall_high` alike.
        change_low: `(F, C)` low end of what recall gains over the untouched head, on the same rows. `change_high` alike.
        class_counts: `(C,)` training rows.
        heldout_counts: `(C,)` held-out rows.
        best: The candidate with the highest balanced accuracy.
        recommended: The best, or the untouched head where that is not behind it by more than one standard error.
        overall: What taking the best of all, candidate and option, on the other folds gains: `gain`, `_low`, `_high`.
        heads: Per candidate, the head of its final option; empty in one read back from a file.
    """

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    times_chosen: tuple[tuple[int, ...], ...]
    final_option: tuple[int, ...]
    columns: Mapping[str, Tensor]
    recall: Tensor
    recall_low: Tensor
    recall_high: Tensor
    change_low: Tensor
    change_high: Tensor
    class_counts: Tensor
    heldout_counts: Tensor
    best: int
    recommended: int
    overall: Mapping[str, float]
    folds: int
    repeats: int
    seed: int
    heads: tuple[LinearHead, ...] = ()

    @property
    def head(self) -> LinearHead:
        """The recommended one."""
        return self.heads[self.recommended]

    def option(self, place: int) -> str:
        """The final option of a candidate, empty where it had only one."""
        return self.options[place][self.final_option[place]]

    @property
    def simpler(self) -> int | None:
        """The simplest that changes the head and is not behind the recommended one by more than one standard error.

        None where nothing simpler comes as near, or nothing is changed.
        """
        near = (self.columns["behind"] <= self.columns["behind_error"]).nonzero().flatten().tolist()
        return next((place for place in near if 0 < place < self.recommended), None)

    def groups(self) -> dict[str, Tensor]:
        """`(F,)` mean recall over the classes of each group that there is: many, medium, few; and thirds by count."""
        found = {}
        for names, group in (
            (("many", "medium", "few"), counts.shot_groups(self.class_counts)),
            (("largest third", "middle third", "smallest third"), counts.count_thirds(self.class_counts)),
        ):
            for place, name in enumerate(names):
                members = (group == place) & ~self.recall[0].isnan()
                if bool(members.any()):
                    found[name] = self.recall[:, members].mean(1)
        return found

    def in_words(self) -> str:
        """What is recommended, what it gains with its interval, and what comes as near and is simpler."""
        if self.recommended == 0:
            if self.best == 0:
                return "Recommended: leave the head as it is; no candidate does better on held-out images."
            behind, error = self._behind(0)
            return (
                f"Recommended: leave the head as it is; {self.names[self.best]} is only {behind} points ahead on held-out"
                f" images, within one standard error ({error})."
            )
        gain, low, high = (100 * float(self.columns[f"gain{end}"][self.recommended]) for end in ("", "_low", "_high"))
        option = self.option(self.recommended)
        text = (
            f"Recommended: {self.names[self.recommended]}{f' ({option})' if option else ''}, which gains {gain:+.1f} points of"
            f" balanced accuracy on held-out images (95% interval {low:+.1f} to {high:+.1f})."
        )
        if self.simpler is not None:
            behind, error = self._behind(self.simpler)
            text += (
                f" Simpler, and {behind} points behind it, within one standard error ({error}):"
                f" {self.names[self.simpler]}."
            )
        return text

    def _behind(self, place: int) -> tuple[str, str]:
        """Points behind the best, and the standard error of that."""
        behind, error = (f"{100 * float(self.columns[key][place]):.1f}" for key in ("behind", "behind_error"))
        return behind, error

    def to_dict(self) -> dict[str, Any]:
        """JSON values, NaN as None; the heads are left out."""
        found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "heads":
                continue
            if field.name in ("columns", "overall"):
                found[field.name] = {name: _plain(one) for name, one in value.items()}
            else:
                found[field.name] = _plain(value)
        return found

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> HeadChoice:
        """The choice that `to_dict` came from, without its heads.

        Raises:
            InputError: a field is missing or has another form (it is named), or the file is of another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("remedy", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "remedy"
            raise must(f"remedy field {place}", f"be valid ({first['msg']})", repr(first["input"])[:80]) from None
        values = {name: getattr(file, name) for name in _File.model_fields if name != "schema_version"}
        values["columns"] = {name: _tensor(column) for name, column in file.columns.items()}
        per_class = ("recall", "recall_low", "recall_high", "change_low", "change_high")
        values |= {name: _tensor(getattr(file, name)) for name in per_class}
        values |= {name: torch.tensor(getattr(file, name)) for name in ("class_counts", "heldout_counts")}
        values["overall"] = {name: math.nan if value is None else value for name, value in file.overall.items()}
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _tensor(values: Sequence[Any]) -> Tensor:
    def filled(value: Any) -> Any:
        return (
            [filled(one) for one in value] if isinstance(value, (list, tuple)) else math.nan if value is None else value
        )

    return torch.tensor(filled(values), dtype=torch.float64)


_Number = float | None
_Rows = tuple[tuple[_Number, ...], ...]


class _File(pydantic.BaseModel):
    schema_version: int
    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    times_chosen: tuple[tuple[int, ...], ...]
    final_option: tuple[int, ...]
    columns: dict[str, tuple[_Number, ...]]
    recall: _Rows
    recall_low: _Rows
    recall_high: _Rows
    change_low: _Rows
    change_high: _Rows
    class_counts: tuple[int, ...]
    heldout_counts: tuple[int, ...]
    best: int
    recommended: int
    overall: dict[str, _Number]
    folds: int
    repeats: int
    seed: int


def choose_head(
    train: Embeddings,
    heldout: Embeddings,
    head: nn.Module | LinearHead,
    candidates: Sequence[Candidate] | None = None,
    *,
    folds: int = 5,
    repeats: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeadChoice:
    """The candidates compared on held-out rows, and which of them to take.

    Every option's head is made once, from training rows alone, but for a candidate that is `remade`: what it made from
    held-out rows is made anew for each third of them without that third. Otherwise the held-out rows only choose and judge:
    cut into stratified folds, `repeats` times, each fold judges the option that has the highest balanced accuracy on the others.
    Recommended is the candidate that does best, the simplest of equals as they are listed; but the head is left as it is
    where that is not behind by more than one standard error of their difference on the same rows. The untouched head is always
    compared, and comes first.

    Args:
        train: Features of the backbone's own training images.
        heldout: Features of images that it has not seen, and that are not the test set's.
        head: The head as it is: the module, which is only read, or its numbers.
        candidates: The simplest first; None takes `default_candidates` without a plan.
        progress: Called with heads made and in all.

    Raises:
        InputError: sizes that differ, a class that is held out and not in the head, too few rows for the folds, no repeat,
            or two candidates of one name.
    """
    head = read_head(head)
    _require_sides(train, heldout, head)
    if not 2 <= folds <= len(heldout):
        raise must("folds", f"lie in [2, {len(heldout)}], the number of held-out rows", folds)
    if repeats < 1:
        raise must("repeats", "be at least 1", repeats)
    listed = list(default_candidates(train, head) if candidates is None else candidates)
    for one in listed:
        if not isinstance(one, Candidate):
            raise must("candidates", "be instances of Candidate", repr(one)[:80])
    if all(one.name != UNTOUCHED for one in listed):
        listed.insert(0, default_candidates(train, head)[0])
    listed.sort(key=lambda one: one.name != UNTOUCHED)
    for place, one in enumerate(listed):
        if one.name in [other.name for other in listed[:place]]:
            raise must("candidates", "have names of their own", f"{one.name!r} twice")
        if not one.labels:
            raise must(f"candidate {one.name!r}", "have an option", "none")
    tick = _Ticker(listed, progress)
    heads = [made for one in listed for made in _made(one.options, one.taus, train, head, seed, tick)]
    right = torch.stack([_is_right(one, heldout) for one in heads])
    family = torch.tensor([place for place, one in enumerate(listed) for _ in one.labels])
    for place, one in enumerate(listed):
        if one.remade is not None:
            right[family == place] = _cross_fitted(one, one.remade, train, heldout, head, seed, tick)
    return _judged(listed, heads, right, family, train, heldout, folds=folds, repeats=repeats, seed=seed)


def _require_sides(train: Embeddings, heldout: Embeddings, head: LinearHead) -> None:
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_classes) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} classes"
            raise must(f"{name} embeddings", law, f"{side.num_features} and {side.num_classes}")


class _Ticker:
    """Heads made, and in all."""

    def __init__(self, listed: Sequence[Candidate], progress: Progress | None) -> None:
        self.progress, self.done = progress, 0
        self.total = sum(len(one.options) * (1 + PLAN_FOLDS * (one.remade is not None)) for one in listed)
        self()

    def __call__(self, more: int = 0) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total)


def _made(
    options: Mapping[str, Make],
    taus: Sequence[float],
    train: Embeddings,
    head: LinearHead,
    seed: int,
    tick: Callable[[int], None],
) -> list[LinearHead]:
    """A head for every option and tau."""
    prior = log_prior_of(counts.class_counts(train.labels, train.num_classes))
    heads: list[LinearHead] = []
    for make in options.values():
        made = make(train, head, seed)
        if not isinstance(made, LinearHead):
            raise must("what a candidate makes", "be a LinearHead", type(made).__name__)
        heads += [adjust_logits(made, prior, tau) for tau in taus]
        tick(1)
    return heads


def _cross_fitted(
    one: Candidate,
    remade: Callable[[Embeddings], Mapping[str, Make]],
    train: Embeddings,
    heldout: Embeddings,
    head: LinearHead,
    seed: int,
    tick: Callable[[int], None],
) -> Tensor:
    """`(O, N)` bool, on the CPU: what each option gets right, every fold of the rows by options made from the others."""
    folds = min(PLAN_FOLDS, len(heldout))
    fold_of = stratified_folds(heldout.labels, folds, seed=draws.seed_for("plan folds", seed), name="plan folds")
    right = torch.zeros(len(one.labels), len(heldout), dtype=torch.bool)
    for fold in range(folds):
        judged = fold_of == fold
        options = remade(heldout.select(~judged))
        if list(options) != list(one.options):
            raise must(f"remade options of {one.name!r}", f"be {list(one.options)}", list(options))
        side = heldout.select(judged)
        heads = _made(options, one.taus, train, head, seed, tick)
        right[:, judged.cpu()] = torch.stack([_is_right(each, side) for each in heads])
    return right


def _is_right(head: LinearHead, heldout: Embeddings) -> Tensor:
    """`(N,)` bool, on the CPU."""
    blocks = heldout.features.split(max(1, _BLOCK // head.num_classes))
    on = replace(head, weight=head.weight.to(blocks[0].device), bias=head.bias.to(blocks[0].device))
    return (torch.cat([on.logits(block).argmax(1) for block in blocks]) == heldout.labels).cpu()


def _judged(
    listed: Sequence[Candidate],
    heads: Sequence[LinearHead],
    right: Tensor,
    family: Tensor,
    train: Embeddings,
    heldout: Embeddings,
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> HeadChoice:
    """The choice, from which rows each option's head gets right, `(O, N)` bool, and whose option it is, `(O,)`."""
    labels, classes = heldout.labels.cpu(), heldout.num_classes
    places = [(family == place).nonzero().flatten().tolist() for place in range(len(listed))]
    everything = list(range(len(right)))
    chosen = torch.zeros(len(right), dtype=torch.int64)
    scores = torch.zeros(len(listed), repeats, len(labels), dtype=torch.float64)
    overall = torch.zeros(repeats, len(labels), dtype=torch.float64)
    for turn in range(repeats):
        fold = stratified_folds(labels, folds, seed=draws.seed_for("head choice", seed, turn), name="head choice")
        for index in range(folds):
            judged = fold == index
            elsewhere = _balanced(right[:, ~judged], labels[~judged], classes).tolist()
            for place, options in enumerate(places):
                option = _highest(options, elsewhere)
                chosen[option] += 1
                scores[place, turn, judged] = right[option, judged].double()
            overall[turn, judged] = right[_highest(everything, elsewhere), judged].double()
    whole = _balanced(right, labels, classes).tolist()
    final = [_highest(options, whole) for options in places]
    mean = scores.mean(1)
    accuracy = _balanced(mean, labels, classes)
    best = _highest(list(range(len(listed))), accuracy.tolist())
    recall = torch.stack([counts.class_mean(one, labels, classes) for one in mean])
    held = counts.class_counts(labels, classes)
    low, high = stats.wilson_interval(recall.nan_to_num(0.0) * held, held.expand_as(recall))
    ends = [stats.mean_share_interval(*one) for one in zip(recall, low, high, strict=True)]
    hits, both = (_sums(values, labels, classes) for values in (mean, mean * mean[0]))
    change = stats.paired_difference_interval(hits[:1].expand_as(hits), hits, both, held.expand_as(hits))
    spread = torch.stack([_balanced(one, labels, classes) for one in scores])
    gains = [balanced_difference(one, mean[0], labels, classes) for one in mean]
    behinds = [balanced_difference(mean[best], one, labels, classes) for one in mean]
    behind, error = (torch.tensor([one[key] for one in behinds], dtype=torch.float64) for key in (0, 1))
    error[best] = 0.0
    z = NormalDist().inv_cdf(0.975)
    gain, gain_error = (torch.tensor([one[key] for one in gains], dtype=torch.float64) for key in (0, 1))
    gain_error[0] = 0.0
    total, total_error = balanced_difference(overall.mean(0), mean[0], labels, classes)
    return HeadChoice(
        names=tuple(one.name for one in listed),
        meanings=tuple(one.meaning for one in listed),
        sources=tuple(one.source for one in listed),
        options=tuple(one.labels for one in listed),
        times_chosen=tuple(tuple(chosen[options].tolist()) for options in places),
        final_option=tuple(options.index(one) for options, one in zip(places, final, strict=True)),
        columns={
            "balanced_accuracy": accuracy,
            "balanced_accuracy_low": torch.tensor([one[0] for one in ends], dtype=torch.float64),
            "balanced_accuracy_high": torch.tensor([one[1] for one in ends], dtype=torch.float64),
            "spread": spread.std(1, correction=1) if repeats > 1 else torch.full_like(accuracy, torch.nan),
            "gain": gain,
            "gain_low": (gain - z * gain_error).clamp(min=-1),
            "gain_high": (gain + z * gain_error).clamp(max=1),
            "behind": behind,
            "behind_error": error,
        },
        recall=recall,
        recall_low=low,
        recall_high=high,
        change_low=change[0],
        change_high=change[1],
        class_counts=counts.class_counts(train.labels, classes).cpu(),
        heldout_counts=held,
        best=best,
        recommended=0 if float(behind[0]) <= float(error[0]) else best,
        overall={
            "gain": total,
            "gain_low": max(total - z * total_error, -1.0),
            "gain_high": min(total + z * total_error, 1.0),
        },
        folds=folds,
        repeats=repeats,
        seed=seed,
        heads=tuple(heads[one] for one in final),
    )


def _highest(options: Sequence[int], values: Sequence[float]) -> int:
    """The first of the options with the highest value."""
    return max(options, key=lambda one: values[one])


def _balanced(right: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(...)` float64 mean recall over the classes that are there, of rows `(..., N)` that are right or not."""
    return (_sums(right, labels, num_classes) / counts.class_counts(labels, num_classes)).nanmean(-1)


def _sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(..., C)` float64 sums over the rows of each class, of values `(..., N)`."""
    sums = torch.zeros(*values.shape[:-1], num_classes, dtype=torch.float64)
    return sums.index_add_(-1, labels, values.double())


def balanced_difference(one: Tensor, other: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Balanced accuracy of one less that of another on the same rows, and its standard error.

    Within each class the error is that of a paired difference of proportions with one more row for and one against
    (Agresti and Min 2005), so that a class of few rows that all stay as they were is not taken for settled.
    """
    difference = one - other
    rows = counts.class_counts(labels, num_classes).double()
    held = rows > 0
    total, squares = (
        torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values)
        for values in (difference, difference.square())
    )
    more = rows + 2
    variance = ((squares + 1) / more - (total / more).square()) / more
    number = int(held.sum())
    return float((total / rows)[held].mean()), float(variance[held].sum().sqrt()) / number


__all__ = ["Candidate", "HeadChoice", "choose_head", "default_candidates", "even_plan", "scaled"]
