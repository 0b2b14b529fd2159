"""Over-sampling of feature tables, with imbalanced-learn's estimator conventions."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from imblearn.over_sampling import SMOTE, BorderlineSMOTE
from imblearn.over_sampling.base import BaseOverSampler
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from ..functional import counts, draws, oversample
from ..functional.neighbors import nearest_neighbors
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from .eos import eos_parents
from .known_neighbors import KnownNeighbors

Array = NDArray[Any]

METHODS = ("eos", "smote", "borderline_smote", "covariance", "random")
NEIGHBORS = {"eos": 10, "smote": 5, "borderline_smote": 5}
DANGER_NEIGHBORS = 10  # among which BorderlineSMOTE looks for enemies
_BOUNDS = 1 << 21  # distances that are computed at once; small classes need few turns
_BLOCK = 512  # rows whose donors are looked up at once


class ExactNeighbors(BaseEstimator):  # type: ignore[misc]
    """Exact nearest neighbours, in the form that imbalanced-learn takes as `k_neighbors`.

    If there are fewer rows than `n_neighbors`, `kneighbors` returns as many as there are, and the only row of a class twice:
    imbalanced-learn then repeats such a row instead of refusing the class. Among the fitted rows, each row's first neighbour
    is the row itself, before equal rows.

    Args:
        n_neighbors: Number of neighbours.

    Example:
        >>> import numpy as np
        >>> from diversify.augment.oversampler import ExactNeighbors
        >>> ExactNeighbors(2).fit(np.array([[0.0], [1.0], [3.0]])).kneighbors([[2.8]], return_distance=False).tolist()
        [[2, 1]]
    """

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Keep the rows `(R, D)` to find neighbours among."""
        self._rows = X
        self._fit_X = torch.as_tensor(_dense(X))
        self.n_features_in_ = self._fit_X.shape[1]
        self.n_samples_fit_ = len(self._fit_X)
        return self

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:  # noqa: N803
        """Return distances and indices of the nearest rows, each `(Q, k)`, nearest first.

        Args:
            X: Queries `(Q, D)`; None for the fitted rows, which then do not count as their own neighbours.
            n_neighbors: Number of neighbours; None for that of the constructor.
            return_distance: Return distances and indices, not indices alone.
        """
        wanted = self.n_neighbors if n_neighbors is None else n_neighbors
        itself = X is not None and X is self._rows
        queries = self._fit_X if X is None or itself else torch.as_tensor(_dense(X))
        if X is not None and not itself:
            distances, indices = nearest_neighbors(queries, self._fit_X, min(wanted, len(self._fit_X)))
        else:
            own = torch.arange(len(queries))
            distances, indices = queries.new_zeros(len(own), 1), own[:, None]
            if len(own) > 1:
                block = max(256, _BOUNDS // len(own))
                near = nearest_neighbors(
                    queries, queries, min(wanted - itself, len(own) - 1) or 1, same=own, block=block
                )
                distances, indices = (torch.cat(pair, 1) for pair in zip((distances, indices), near, strict=True))
                distances, indices = distances[:, 1 - itself :], indices[:, 1 - itself :]
        if indices.shape[1] == 1 and wanted > 1:
            distances, indices = distances.repeat(1, 2), indices.repeat(1, 2)
        return (distances.numpy(), indices.numpy()) if return_distance else indices.numpy()

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> Any:  # noqa: N803
        """Return the neighbours as a sparse matrix `(Q, R)` of ones, or of distances with `mode="distance"`."""
        distances, indices = self.kneighbors(X, n_neighbors)
        values = np.ones_like(distances) if mode == "connectivity" else distances
        rows = np.arange(len(indices) + 1) * indices.shape[1]
        return sparse.csr_matrix((values.ravel(), indices.ravel(), rows), shape=(len(indices), self.n_samples_fit_))


def _dense(rows: Any) -> Array:
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
    return np.require(rows, requirements="W")  # torch warns about read-only arrays


class _Sought:
    """The k nearest other rows of each row, `(R, k)`, found only for the rows that are asked for."""

    def __init__(self, rows: Tensor, k: int) -> None:
        self.rows = rows
        self.shape = len(rows), k
        self.size = len(rows) * k

    def __getitem__(self, place: tuple[Any, Any]) -> Any:
        """Return neighbours at pairs of row and column; with slices, as imbalanced-learn drops the first column, the table."""
        rows, columns = place
        if isinstance(rows, slice):
            return self
        drawn = np.zeros(len(self.rows), dtype=bool)
        drawn[rows] = True
        own = torch.from_numpy(drawn).nonzero().flatten()
        block = max(256, _BOUNDS // len(self.rows))
        with torch.inference_mode():
            near = nearest_neighbors(self.rows[own], self.rows, self.shape[1], same=own, block=block)[1]
        return near.numpy()[drawn.cumsum()[rows] - 1, columns]


class _SoughtNeighbors(ExactNeighbors):
    """Neighbours for imbalanced-learn's SMOTE, which asks for the neighbours of all rows but may draw few of them."""

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:  # noqa: N803
        """Return what the parent class returns, but for the fitted rows without distances a table that is filled later."""
        wanted = min(self.n_neighbors, len(self._fit_X)) - 1
        if return_distance or n_neighbors is not None or X is not self._rows or wanted < 1:
            return super().kneighbors(X, n_neighbors, return_distance)
        return _Sought(self._fit_X, wanted)


class _Drawn:
    """The neighbours that were drawn, in place of the table that they come from."""

    def __init__(self, found: Array) -> None:
        self.found = found

    def __getitem__(self, place: Any) -> Array:
        return self.found


class _Parents:
    """Adds to imbalanced-learn's classes a strength, and a record of the two parents of each new row."""

    strength: float
    found: list[tuple[Array, Array]]

    def _generate_samples(
        self,
        X: Any,  # noqa: N803
        nn_data: Any,
        nn_num: Any,
        rows: Array,
        cols: Array,
        steps: Array,
        *rest: Any,
    ) -> Any:
        partners = nn_num[rows, cols]
        self.found.append((rows, partners))
        drawn = _Drawn(partners)
        return super()._generate_samples(X, nn_data, drawn, rows, cols, self.strength * steps, *rest)  # type: ignore[misc]


class _SMOTE(_Parents, SMOTE):  # type: ignore[misc]
    pass


class _BorderlineSMOTE(_Parents, BorderlineSMOTE):  # type: ignore[misc]
    pass


class DiversifyOverSampler(BaseOverSampler):  # type: ignore[misc]
    """Adds rows to the classes that have too few; a drop-in replacement for imbalanced-learn's `SMOTE`.

    Takes and returns NumPy arrays, data frames, sparse matrices and lists as imbalanced-learn does, and torch tensors of
    any floating type and device. The rows of the input come first, then the new ones.

    Args:
        method: "eos" moves a row toward a row of another class among its k nearest neighbours (Dablain et al. 2022);
            "smote" toward a neighbour in its own class (Chawla et al. 2002); "borderline_smote" does so only for rows that
            are mostly surrounded by other classes (Han et al. 2005), and, like imbalanced-learn, leaves classes without
            such rows unchanged; "covariance" adds Gaussian noise with a covariance borrowed from frequent classes;
            "random" repeats rows.
        sampling_strategy: As in imbalanced-learn; "auto" makes all classes as large as the largest.
        k_neighbors: Number of neighbours; None for 10 with "eos" and 5 with the others. A class with too few rows uses as
            many as it has, and its only row is repeated.
        strength: In [0, 1]. 0 repeats rows; 1 allows the whole way to the partner, or adds noise of 3 standard deviations.
        donors: For "covariance". "similar" is the class's own covariance, shrunk toward those of the most similar frequent
            classes (more strongly the fewer rows it has); "pooled" the covariance within all frequent classes.
        random_state: As in scikit-learn. With "smote" and "borderline_smote" the draws are those of imbalanced-learn.

    Attributes:
        k_used_: After `fit_resample`, the number of neighbours used for each class that got rows from neighbours.
        parents_: The two input rows that each new row comes from, `(M, 2)`; twice the same row if there is no partner.
        sampling_strategy_: Number of rows asked for, per class.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> features, labels = dv.DiversifyOverSampler("eos", random_state=0).fit_resample(train.features, train.labels)
        >>> labels.bincount().tolist()
        [200, 200, 200, 200]
    """

    _known: KnownNeighbors | None = None
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseOverSampler._parameter_constraints,
        "method": [StrOptions(set(METHODS))],
        "k_neighbors": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "strength": [Interval(numbers.Real, 0, 1, closed="both")],
        "donors": [StrOptions({"similar", "pooled"})],
    }

    def __init__(
        self,
        method: str = "eos",
        *,
        sampling_strategy: Any = "auto",
        k_neighbors: int | None = None,
        strength: float = 1.0,
        donors: str = "similar",
        random_state: Any = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.method = method
        self.k_neighbors = k_neighbors
        self.strength = strength
        self.donors = donors
        self.random_state = random_state

    def fit_resample(self, X: Any, y: Any, **params: Any) -> Any:  # noqa: N803
        """Return all rows and labels in the form of the input: first those of the input in order, then the new ones.

        Args:
            X: Rows `(N, D)`.
            y: Labels `(N,)`.
            **params: As for imbalanced-learn's `fit_resample`.
        """
        rows, labels = super().fit_resample(_to_numpy(X), _to_numpy(y), **params)
        if isinstance(X, Tensor):
            rows = torch.as_tensor(rows).to(X)
        if isinstance(y, Tensor):
            labels = torch.as_tensor(labels).to(y)
        return rows, labels

    def _fit_resample(self, X: Any, y: Array) -> tuple[Any, Array]:  # noqa: N803
        self.k_used_: dict[Any, int] = {}
        wanted = {label: number for label, number in self.sampling_strategy_.items() if number}
        if self.method == "smote" and not sparse.issparse(X):
            return self._smote(X, y, wanted)
        if self.method in ("smote", "borderline_smote"):
            return self._through_imblearn(X, y, wanted)
        dense = _dense(X)
        classes, codes = np.unique(y, return_inverse=True)
        place = {label: index for index, label in enumerate(classes.tolist())}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        features, labels = torch.as_tensor(dense), torch.as_tensor(codes)
        numbers_wanted = [(place[label], number) for label, number in wanted.items()]
        if self.method == "eos":
            parents = self._eos_parents(features, labels, numbers_wanted, classes, seed)
            step = self.strength * draws.uniform("step", seed, torch.arange(len(parents)))
            self.parents_ = parents.numpy()
            grown = _joined(dense, X.dtype, self.parents_, step.to(features.dtype).numpy())
        else:
            made, parents = self._make(features, labels, numbers_wanted, classes, seed)
            self.parents_ = parents.numpy()
            grown = np.concatenate([dense, made.numpy()]).astype(X.dtype, copy=False)
        return (type(X)(grown) if sparse.issparse(X) else grown), _grown_labels(y, wanted)

    def _eos_parents(
        self, features: Tensor, labels: Tensor, wanted: list[tuple[int, int]], classes: Array, seed: int
    ) -> Tensor:
        """The parents of the new rows, `(M, 2)`, class after class."""
        k = min(self.k_neighbors or NEIGHBORS["eos"], max(len(features) - 1, 1))
        parents, used = eos_parents(features, labels, wanted, k, seed, self._known)
        self.k_used_ = {classes.tolist()[index]: number for index, number in used.items()}
        return parents

    def _make(
        self, features: Tensor, labels: Tensor, wanted: list[tuple[int, int]], classes: Array, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The new rows `(M, D)`, class after class, and their parents `(M, 2)`."""
        rows = oversample.by_class(labels, len(classes))
        parents = torch.cat([torch.empty(0, dtype=torch.int64), *(_bases(rows, *one, seed) for one in wanted)])
        parents = parents[:, None].repeat(1, 2)
        base = features[parents[:, 0]]
        if self.method == "covariance" and wanted:
            noise = torch.cat(_borrowed_noise(features, labels, wanted, self.donors, seed))
            lowest = 0.0 if bool((features >= 0).all()) else -torch.inf
            return oversample.add_noise(base, noise, self.strength, lowest), parents
        return base, parents

    def _smote(self, X: Array, y: Array, wanted: Mapping[Any, int]) -> tuple[Array, Array]:  # noqa: N803
        """The rows of imbalanced-learn's SMOTE, number for number; neighbours are found only for the rows that are drawn."""
        k = self.k_neighbors or NEIGHBORS["smote"]
        chance = check_random_state(self.random_state)
        repeats = chance.get_state() if isinstance(self.random_state, numbers.Integral) else None
        parents, steps = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
        for label, number in wanted.items():
            if repeats is not None:  # imbalanced-learn starts every class from the same seed
                chance.set_state(repeats)
            members = np.flatnonzero(y == label)
            found = min(k, len(members) - 1)
            self.k_used_[label] = found
            drawn = chance.randint(low=0, high=len(members) * max(found, 1), size=number)
            steps.append(self.strength * chance.uniform(size=number))
            base, place = np.divmod(drawn, max(found, 1))
            partner = _Sought(torch.as_tensor(_dense(X[members])), found)[base, place] if found else base
            parents.append(np.stack([members[base], members[partner]], 1))
        self.parents_ = np.concatenate(parents)
        return _joined(X, X.dtype, self.parents_, np.concatenate(steps)), _grown_labels(y, wanted)

    def _through_imblearn(self, X: Any, y: Array, wanted: Mapping[Any, int]) -> tuple[Any, Array]:  # noqa: N803
        """The result of imbalanced-learn's own class; `_Parents` adds the strength and records the parents."""
        k = self.k_neighbors or NEIGHBORS[self.method]
        options = {"random_state": self.random_state, "k_neighbors": _SoughtNeighbors(k + 1)}
        if self.method == "borderline_smote":
            options["m_neighbors"] = ExactNeighbors(min(DANGER_NEIGHBORS, len(y) - 1) + 1)
        sampler = (_SMOTE if self.method == "smote" else _BorderlineSMOTE)(**options)
        sampler.sampling_strategy_, sampler.strength, sampler.found = wanted, self.strength, []
        rows, labels = sampler._fit_resample(X, y)
        members = {label: np.flatnonzero(y == label) for label in wanted}
        bases = members if self.method == "smote" else sampler.in_danger_indices
        self.k_used_ = {label: min(k, len(members[label]) - 1) for label in bases}
        pairs = [
            np.stack([bases[label][base], members[label][partner]], 1)
            for label, (base, partner) in zip(bases, sampler.found, strict=True)
        ]
        self.parents_ = np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])
        return rows, labels


def balanced(
    embeddings: Embeddings,
    head: LinearHead,
    method: str,
    *,
    k_neighbors: int | None = None,
    seed: int = 0,
    known: KnownNeighbors | None = None,
) -> Embeddings:
    """Return the rows followed by those that `DiversifyOverSampler` adds until all classes have equally many.

    Args:
        embeddings: Training embeddings.
        head: Gives the logits of all rows.
        method: As for `DiversifyOverSampler`.
        k_neighbors: As for `DiversifyOverSampler`.
        seed: Seed of the draws.
        known: The nearest rows of these embeddings that are known already.
    """
    sampler = DiversifyOverSampler(method=method, k_neighbors=k_neighbors, random_state=seed)
    sampler._known = known
    features, labels = sampler.fit_resample(embeddings.features, embeddings.labels)
    rows = torch.arange(len(labels), device=labels.device)
    return Embeddings(features=features, labels=labels, logits=head.logits(features), indices=rows)


def _joined(rows: Array, dtype: Any, parents: Array, steps: Array) -> Array:
    """The rows, and after them those that lie between each pair of parents, a step `(M,)` of the way from first to second."""
    grown = np.empty((len(rows) + len(parents), rows.shape[1]), dtype)
    grown[: len(rows)] = rows
    for start in range(0, len(parents), _BLOCK):
        base, partner = (rows.take(parents[start : start + _BLOCK, side], axis=0) for side in (0, 1))
        partner -= base
        grown[len(rows) + start : len(rows) + start + _BLOCK] = base + steps[start : start + _BLOCK, None] * partner
    return grown


def _grown_labels(labels: Array, wanted: Mapping[Any, int]) -> Array:
    """The labels, and after them those of the new rows, class after class."""
    return np.concatenate([labels, *(np.full(number, label, dtype=labels.dtype) for label, number in wanted.items())])


def _bases(rows: tuple[Tensor, Tensor, Tensor], index: int, number: int, seed: int) -> Tensor:
    place = torch.arange(number)
    return oversample.row_of(torch.full_like(place, index), rows, draws.uniform("base", seed, index, place))


def _borrowed_noise(
    features: Tensor, labels: Tensor, wanted: list[tuple[int, int]], kind: str, seed: int
) -> list[Tensor]:
    """Noise with the borrowed covariance, for each class as many rows as it is to get."""
    num_classes, num_features = int(labels.max()) + 1, features.shape[1]
    means = counts.class_mean(features, labels, num_classes)
    sizes = torch.bincount(labels)
    donors = oversample.pooled_donors(sizes) if kind == "pooled" else oversample.similar_donors(means, sizes)
    grouped = oversample.by_class(labels, num_classes)
    made = []
    for index, number in wanted:
        if num_features <= oversample.FACTORED:
            covariance = oversample.donor_covariance(features, labels, donors, torch.tensor([index]))
            column = torch.arange(num_features)
            noise = draws.normal("noise", seed, index, torch.arange(number)[:, None], column).double()
            made.append(noise @ oversample.factor(covariance)[0])
            continue
        column = torch.arange(oversample.RESIDUALS)
        for row in torch.arange(number).split(_BLOCK):
            key = seed, index, row[:, None], column
            drawn = draws.uniform("donor", *key), draws.uniform("donor row", *key)
            shares = donors[index].expand(len(row), -1)
            residuals = oversample.donor_residuals(features, means, shares, grouped, drawn)
            made.append(oversample.combined_noise(draws.normal("noise", *key).to(features.dtype), residuals))
    return made


def _to_numpy(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
