"""Which pairs of classes to mix or to separate in the head step, by out-of-fold confusion: `benchmarks/results/pairs.jsonl`.

    python -m benchmarks.pairs --root DATA --banks DIR [--workers 2] [--half development|confirmation]

The networks are those of `benchmarks.unseen_rows`, trained on long-tailed Fashion-MNIST and CIFAR-10. Every method trains the head
further on even draws with the same 30 held-out images of each class in the batches. Heads that were trained without a third of these
images say how often each class is confused with which other class. The methods act on pairs of classes as far as they are confused;
their controls on other pairs, or on all pairs alike. Scores are read on the test set. Strengths were settled on tail orders 0 to 3;
orders 4 to 7 are read once. The same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import objective, tails, unseen_rows
from benchmarks.unseen_rows import HALVES, Bank, Heads, bank_name, half_of, make_bank, read_bank, scores
from diversify.files import atomic
from diversify.functional import counts, draws, oversample
from diversify.functional.ceiling import stratified_folds
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.policies import FeaturePolicy
from diversify.repair.candidate import even_plan
from diversify.repair.head_steps import Descent
from diversify.repair.retrain import _BLOCK, DEFAULT, HeadRecipe, _learning_rate, _Rows, retrain_with
from diversify.repair.unseen import SHARE, UnseenRows
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "pairs.jsonl"
SETS = unseen_rows.SETS
ROWS = 30  # held-out images of every class
FOLDS = 3  # of them, to measure confusion
MIXED = 0.5  # share of a class's draws that are mixed
BALANCING = 200  # rounds that fit rows and columns in turn
BASE = "even draws + unseen"


def off_diagonal(pairs: Tensor) -> Tensor:
    """Return `(C, C)` with zeros on the diagonal."""
    return pairs * (1 - torch.eye(len(pairs), dtype=pairs.dtype))


def confusion_of(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean probability of each other class (columns) for the rows of each class (rows), `(C, C)` float64."""
    return off_diagonal(counts.class_mean(probabilities.double(), labels, probabilities.shape[1]))


def one_cycle(number: int, *key: str | int) -> Tensor:
    """Return another place for every place, each once."""
    turn = draws.permutation(number, *key)
    other = torch.empty_like(turn)
    other[turn] = turn.roll(1)
    return other


def other_classes(pairs: Tensor, seed: int) -> Tensor:
    """Return what the pairs of other classes have: classes are exchanged, and pairs with them."""
    other = one_cycle(len(pairs), "other classes", seed)
    return pairs[other][:, other]


def other_partners(pairs: Tensor, seed: int) -> Tensor:
    """Return as much for each class, but for other partners: no partner keeps its own."""
    number = len(pairs)
    found = torch.zeros_like(pairs)
    for c in range(number):
        partners = torch.tensor([one for one in range(number) if one != c])
        found[c, partners] = pairs[c, partners[one_cycle(number - 1, "other partners", seed, c)]]
    return found


def alike(pairs: Tensor, seed: int) -> Tensor:
    """Return the mean over all pairs for every pair."""
    number = len(pairs)
    return off_diagonal(torch.full_like(pairs, float(pairs.sum()) / (number * (number - 1))))


def without_pairs(pairs: Tensor, seed: int) -> Tensor:
    """Return as much for each class, both of what it loses and of what it takes, with nothing that singles out a pair."""
    found = off_diagonal(torch.ones_like(pairs))
    for _ in range(BALANCING):
        found = found * (pairs.sum(1) / found.sum(1).clamp(min=1e-12))[:, None]
        found = found * (pairs.sum(0) / found.sum(0).clamp(min=1e-12))
    return found


KINDS: Mapping[str, tuple[str, Callable[[Tensor, int], Tensor]]] = {
    "confused": ("as far as pairs are confused", lambda pairs, seed: pairs),
    "other partners": ("as much for each class, with other partners", other_partners),
    "other classes": ("the pairs of other classes", other_classes),
    "without pairs": ("as much for each class on both sides, pairs aside", without_pairs),
    "alike": ("all pairs alike", alike),
}
CONFUSED, *CONTROLS = KINDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class InPairs:
    """What a head step does to pairs of classes.

    Attributes:
        margins: `(C, C)`: what is added to the logit of each class (columns) for rows of each class (rows) in the loss.
        partners: `(C, C)`: shares with which a class (rows) is mixed with others (columns); None for no mixing.
        strength: How far a mixed row goes at most, in [0, 1]; its label goes as far.
        share: Share of the rows that are mixed.
        all_rows: Whether held-out rows are mixed as well; otherwise training rows alone.
        labels_only: Whether labels are mixed and features are not.
        targets: `(C, C)`: the class probabilities that the rows of each class (rows) are to have; None for the class itself.
    """

    margins: Tensor | None = None
    partners: Tensor | None = None
    strength: float = 0.0
    share: float = MIXED
    all_rows: bool = False
    labels_only: bool = False
    targets: Tensor | None = None


def trained_in_pairs(
    train: Embeddings,
    unseen: Embeddings,
    head: LinearHead,
    acts: InPairs,
    *,
    recipe: HeadRecipe = DEFAULT,
    seed: int = 0,
) -> LinearHead:
    """Return the head trained further on even draws with unseen rows, like `retrain_head`, with what `acts` says for pairs.

    Without margins and partners the head is that of `retrain_head`, from the same draws. Partners are training rows.
    """
    plan = even_plan(counts.class_counts(train.labels, train.num_classes))
    weight, bias = head.weight.clone(), head.bias.clone()
    squared = float(train.features.norm(dim=1).double().square().mean())
    descent = Descent(
        [weight, bias] if recipe.bias else [weight],
        [recipe.weight_decay, 0.0],
        _learning_rate(squared, head, recipe),
        momentum=recipe.momentum,
        steps=recipe.steps,
    )
    rows = _Rows(train, plan, recipe.batch_size, seed)
    others = UnseenRows(unseen, SHARE, recipe.batch_size, seed, train.features.device)
    for first in range(0, recipe.steps, _BLOCK):
        steps = torch.arange(first, min(first + _BLOCK, recipe.steps))
        chosen = rows.of(steps)
        classes = train.labels[chosen]
        features, targets = train.features[chosen], functional.one_hot(classes, train.num_classes).to(weight)
        if acts.partners is not None and not acts.all_rows:
            features, targets = _mixed(train, features, classes, targets, acts, steps, seed)
        features, targets, _ = others.replace(features, targets, classes, steps)
        if acts.partners is not None and acts.all_rows:
            features, targets = _mixed(train, features, classes, targets, acts, steps, seed)
        if acts.targets is not None:
            targets = acts.targets.to(weight)[classes]
        for step in range(len(steps)):
            logits = torch.addmm(bias, features[step], weight.T)
            if acts.margins is not None:
                logits += acts.margins[classes[step]].to(logits)
            pushed = (logits.softmax(1) - targets[step]) / len(logits)
            descent.down((pushed.T.mm(features[step]), pushed.sum(0)))
    return dataclasses.replace(head, weight=weight, bias=bias)


def _mixed(
    train: Embeddings, features: Tensor, classes: Tensor, targets: Tensor, acts: InPairs, steps: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Return features `(S, B, D)` and targets `(S, B, C)` with a share of the rows moved toward rows of their partners."""
    assert acts.partners is not None
    place = torch.arange(classes.shape[1])
    drawn = {
        name: draws.uniform(f"pair {name}", seed, steps[:, None], place) for name in ("acts", "class", "row", "way")
    }
    label = oversample.class_of(acts.partners[classes.flatten()], drawn["class"].flatten()[:, None])
    row = oversample.row_of(
        label, oversample.by_class(train.labels, train.num_classes), drawn["row"].flatten()[:, None]
    )
    partner = train.features[row[:, 0]].view_as(features)
    share = torch.where(drawn["acts"] < acts.share, acts.strength * drawn["way"], 0.0)[..., None].to(features)
    other = functional.one_hot(label[:, 0], train.num_classes).view_as(targets).to(targets)
    moved = features if acts.labels_only else features + share * (partner - features)
    return moved, targets + share * (other - targets)


def _shares(pairs: Tensor) -> Tensor:
    return pairs / pairs.sum(1, keepdim=True)


class PairHeads(Heads):
    """The heads that are made by pairs of classes."""

    @cached_property
    def confusion(self) -> Tensor:
        """How often each class is taken for each other one, by heads that did not see the images, `(C, C)`."""
        rows = self.unseen
        fold_of = stratified_folds(rows.labels, FOLDS, seed=0, name="pairs")
        found = torch.zeros(len(rows), rows.num_classes, dtype=torch.float64)
        for fold in range(FOLDS):
            plan = even_plan(self.sizes)
            made = retrain_with(
                self.bank.train,
                self.bank.head,
                plan,
                self.recipe,
                unseen=rows.select((fold_of != fold).nonzero()[:, 0]),
            )
            left = fold_of == fold
            found[left] = made.logits(rows.features[left]).softmax(1).double()
        return confusion_of(found, rows.labels)

    def pairs(self, kind: str) -> Tensor:
        """Return the confusion of pairs, or that of other pairs, in multiples of its mean over all pairs."""
        return KINDS[kind][1](self.confusion, self.bank.tail_order) / self.mean_confusion

    @property
    def mean_confusion(self) -> float:
        """Mean over all pairs of `confusion`."""
        number = len(self.confusion)
        return float(self.confusion.sum()) / (number * (number - 1))

    def acted(self, acts: InPairs) -> LinearHead:
        """Return the head of a step that acts on pairs."""
        return trained_in_pairs(self.bank.train, self.unseen, self.bank.head, acts, recipe=self.recipe)

    def toward(self, pairs: Tensor, strength: float) -> LinearHead:
        """Return the head after even draws with held-out rows, in which half of the training rows move toward partners."""
        plan = even_plan(self.sizes)
        shares = _shares(pairs)
        classes = tuple(
            one.model_copy(
                update={
                    "features": (
                        FeaturePolicy(
                            method="toward_enemies",
                            strength=strength,
                            share=MIXED,
                            toward={str(j): value for j, value in enumerate(shares[c].tolist()) if value > 0},
                        ),
                    )
                }
            )
            for c, one in enumerate(plan.classes)
        )
        return self.trained(plan.model_copy(update={"classes": classes}), unseen=True)


def softened(pairs: Tensor, share: float) -> Tensor:
    """Return targets that give each class `1 - share`, and the classes that it is taken for the rest, `(C, C)`."""
    return (1 - share) * torch.eye(len(pairs), dtype=pairs.dtype) + share * _shares(pairs)


def by_confusion(pairs: Tensor, mean: float, share: float) -> Tensor:
    """Return targets part of the way to the mean predictions: a class that is often taken for others has softer ones.

    Args:
        pairs: In multiples of the mean over all pairs.
        mean: This mean, a probability.
        share: How far they go; 1 for the mean predictions themselves.
    """
    others = share * mean * pairs
    return others + torch.diag(1 - others.sum(1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """A way to act on pairs: what it does, the strengths that were tried, the one that was settled, and how a head is made."""

    meaning: str
    strengths: tuple[float, ...]
    make: Callable[[PairHeads, Tensor, float], LinearHead]
    settled: float | None = None


FORMS: Mapping[str, Form] = {
    "margins": Form(
        meaning="separated: a margin in the loss against each class, in proportion to how often it is taken for the right one",
        strengths=(0.1, 0.3),
        make=lambda heads, pairs, strength: heads.acted(InPairs(margins=strength * pairs)),
    ),
    "logarithmic margins": Form(
        meaning="separated: the same with the logarithm of 1 + confusion",
        strengths=(0.3, 1.0),
        make=lambda heads, pairs, strength: heads.acted(InPairs(margins=strength * pairs.log1p())),
    ),
    "margins both ways": Form(
        meaning="separated: the same margin for both classes of a pair",
        strengths=(0.1, 0.3),
        make=lambda heads, pairs, strength: heads.acted(InPairs(margins=strength * (pairs + pairs.T) / 2)),
    ),
    "mixing": Form(
        meaning="mixed: half of the training rows, features and labels, with rows of classes that they are taken for",
        strengths=(0.5, 1.0),
        make=lambda heads, pairs, strength: heads.acted(InPairs(partners=_shares(pairs), strength=strength)),
    ),
    "mixing, every row": Form(
        meaning="mixed: every training row",
        strengths=(1.0,),
        make=lambda heads, pairs, strength: heads.acted(InPairs(partners=_shares(pairs), strength=strength, share=1.0)),
    ),
    "mixing, held-out rows too": Form(
        meaning="mixed: half of all rows, held-out ones too",
        strengths=(0.5, 1.0),
        make=lambda heads, pairs, strength: heads.acted(
            InPairs(partners=_shares(pairs), strength=strength, all_rows=True)
        ),
    ),
    "labels mixed": Form(
        meaning="label smoothing toward the classes that they are taken for, all rows",
        strengths=(0.2, 0.5),
        make=lambda heads, pairs, strength: heads.acted(
            InPairs(partners=_shares(pairs), strength=strength, share=1.0, all_rows=True, labels_only=True)
        ),
    ),
    "softened labels": Form(
        meaning="the same without chance: a share of every label given to the classes that its class is taken for",
        strengths=(0.1, 0.25, 0.4),
        make=lambda heads, pairs, strength: heads.acted(InPairs(targets=softened(pairs, strength))),
        settled=0.25,
    ),
    "labels by confusion": Form(
        meaning="labels moved toward the mean predictions: the softer, the more often a class is taken for others",
        strengths=(0.5, 1.0),
        make=lambda heads, pairs, strength: heads.acted(
            InPairs(targets=by_confusion(pairs, heads.mean_confusion, strength))
        ),
    ),
    "margins eased": Form(
        meaning="the margin with the other sign: classes that a row is taken for weigh less in its loss",
        strengths=(0.1, 0.3),
        make=lambda heads, pairs, strength: heads.acted(InPairs(margins=-strength * pairs)),
    ),
    "moved toward": Form(
        meaning="half of the training rows moved toward rows of classes that they are taken for, labels kept (EOS)",
        strengths=(0.25, 0.5),
        make=lambda heads, pairs, strength: heads.toward(pairs, strength),
    ),
}

Cell = tuple[str, str, float]  # form, kind of pairs, strength


def cells(half: str) -> list[Cell]:
    """Return what is made of each network: every strength in development, and then those that were settled."""
    found: list[Cell] = [(BASE, "", 0.0)]
    for name, form in FORMS.items():
        settled = () if form.settled is None else (form.settled,)
        strengths = form.strengths if half == HALVES[0] else settled
        found += [(name, kind, strength) for strength in strengths for kind in KINDS]
    return found


def head_of(heads: PairHeads, cell: Cell) -> LinearHead:
    """Return the head of a cell."""
    name, kind, strength = cell
    if name == BASE:
        return heads.trained(even_plan(heads.sizes), unseen=True)
    return FORMS[name].make(heads, heads.pairs(kind), strength)


def cell_of(record: Mapping[str, Any]) -> Cell:
    """Return the cell of a record."""
    return str(record["method"]), str(record["pairs"]), float(record["strength"])


def run(bank: Bank, done: set[Cell], recipe: HeadRecipe = DEFAULT) -> Iterator[dict[str, Any]]:
    """Yield the record of each cell that is not done."""
    heads = PairHeads(bank, ROWS, recipe)
    for cell in cells(bank.half):
        if cell in done:
            continue
        begun, started = provenance.now(), time.perf_counter()
        name, kind, strength = cell
        found = scores(bank, head_of(heads, cell))
        yield {
            "kind": "final",
            "suite": "pairs",
            "data": bank.data,
            "tail_order": bank.tail_order,
            "half": bank.half,
            "method": name,
            "pairs": kind,
            "strength": strength,
            "rows": ROWS,
            **found,
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _network(task: tuple[int, int], *, root: Path, banks: Path, results: Path) -> str:
    torch.set_num_threads(1)
    one, order = SETS[task[0]], task[1]
    known = [each for each in tails.records_in(results) if (each["data"], each["tail_order"]) == (one.data, order)]
    done = {cell_of(each) for each in known}
    path, made = banks / bank_name(one, order), 0
    if not path.exists():
        make_bank(one, order, path, root=root)
    for record in run(read_bank(one, order, path), done):
        atomic.append_jsonl(results, record)
        made += 1
    return f"{one.data}, tail order {order} ({half_of(one, order)}): {made} records"


def _by_cell(half: str) -> dict[Cell, dict[tails.Network, dict[str, float]]]:
    found: dict[Cell, dict[tails.Network, dict[str, float]]] = {}
    for one in tails.records_in(RESULTS, half):
        found.setdefault(cell_of(one), {})[str(one["data"]), int(one["tail_order"])] = tails.percent(one)
    return found


def table(half: str = HALVES[1]) -> str:
    """Return how far each way to act on pairs is ahead of the same head step without it, and of its controls."""
    found = _by_cell(half)
    base = found.get((BASE, "", 0.0), {})
    if not base:
        return "No records yet."
    titles = list(tails.SCORES.values())
    lines = [f"| what | against | {' | '.join(titles)} |", f"|:--|:--|{'--:|' * len(titles)}"]
    lines.append(f"| `{BASE}` | – | {' | '.join(tails.means(base))} |")
    for name, form in FORMS.items():
        for strength in form.strengths:
            ours = found.get((name, CONFUSED, strength), {})
            if not ours:
                continue
            title = f"`{name}`, {strength:g}: {form.meaning}"
            lines.append(f"| {title} | `{BASE}` | {' | '.join(tails.differences(ours, base))} |")
            for kind in CONTROLS:
                control = found.get((name, kind, strength), {})
                lines.append(f"| | {KINDS[kind][0]} | {' | '.join(tails.differences(ours, control))} |")
    return "\n".join(lines)


def beside_objectives(half: str = HALVES[1]) -> str:
    """Return how far softened labels and the objectives of `choose_head` are ahead of the base, on the same networks."""
    found = _by_cell(half)
    base = found.get((BASE, "", 0.0), {})
    others: dict[str, dict[tails.Network, dict[str, float]]] = {}
    for one in tails.records_in(objective.RESULTS, half):
        key = str(one["data"]), int(one["tail_order"])
        if key in base:
            others.setdefault(str(one["method"]), {})[key] = tails.percent(one)
    rows = {f"softened labels, {share:g}": found.get(("softened labels", CONFUSED, share), {}) for share in (0.25,)}
    rows |= {name: others.get(name, {}) for name in ("worst-class offsets", "choose_head, worst", "choose_head, 0.5")}
    titles = list(tails.SCORES.values())
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    lines += [f"| `{name}` | {' | '.join(tails.differences(ours, base))} |" for name, ours in rows.items() if ours]
    return "\n".join(lines) if base and len(lines) > 2 else "No records yet."


def text() -> str:
    """Return what the records are of."""
    records = tails.records_in(RESULTS)
    if not records:
        return "No records yet."
    return (
        f"{tails.networks_text(records)} Points with 95% t intervals over networks, on the test set; {ROWS} held-out images of each class."
        f" The first line has the scores of `{BASE}` in percent; the others are differences of the same networks."
    )


def main() -> None:
    """Make the banks and the records that are missing."""
    chosen = tails.options(__doc__, SETS, RESULTS, banks=True)
    tails.every_network(_network, SETS, chosen)
    if chosen.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
