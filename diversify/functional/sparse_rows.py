"""A matrix of which few values are not 0, as a tensor that makes a row when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import must

_TENSOR: Any = Tensor
_OF_THE_FORM = {  # what a matrix tells without its values
    *(getattr(_TENSOR, name).__get__ for name in ("shape", "dtype", "device", "ndim")),
    *(getattr(_TENSOR, name) for name in ("__len__", "size", "dim", "numel")),
}


class SparseRows(Tensor):
    """A float64 matrix that keeps only its values other than 0; `matrix[row]` makes this row, all else makes the matrix.

    It cannot be changed in place; `clone()` gives the whole matrix, which can.

    Args:
        rows: `(V,)` int64, the row of each value, ascending.
        columns: `(V,)` int64, the column of each value.
        values: `(V,)` float64.
        known: `(R,)` bool; a row that is not known is NaN.
        width: Number of columns, C.

    Example:
        >>> matrix = SparseRows(
        ...     torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]), torch.tensor([0.25, 0.75, 1.0]),
        ...     known=torch.tensor([True, False, True]), width=4,
        ... )
        >>> matrix.shape, matrix[0].tolist(), matrix[1].isnan().all().item()
        (torch.Size([3, 4]), [0.0, 0.25, 0.0, 0.75], True)
        >>> matrix.nan_to_num(0).sum(1).tolist()
        [1.0, 0.0, 1.0]
    """

    known: Tensor
    _form: tuple[int, int]
    _starts: list[int]
    _places: Tensor
    _numbers: Tensor

    @staticmethod
    def __new__(cls, rows: Tensor, columns: Tensor, values: Tensor, *, known: Tensor, width: int) -> SparseRows:
        """Return the matrix: a tensor of one NaN in memory for all cells, of which only the shape is ever used."""
        made = torch.full((), torch.nan, dtype=torch.float64).expand(len(known), width).as_subclass(cls)
        sizes = torch.bincount(rows, minlength=len(known))
        made.known, made._places, made._numbers = known, columns, values.double()
        made._form = len(known), width
        made._starts = [0, *sizes.cumsum(0).tolist()]
        return made

    def __init__(self, *_: Tensor, **__: Any) -> None:
        super().__init__()

    @classmethod
    def of(cls, matrix: Tensor) -> SparseRows:
        """Return a matrix `(R, C)` in this form.

        Example:
            >>> SparseRows.of(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).cells(0)
            (tensor([1]), tensor([2.], dtype=torch.float64))
        """
        known = ~matrix.isnan().all(1)
        rows, columns = (matrix != 0).logical_and(known[:, None]).nonzero(as_tuple=True)
        return cls(rows, columns, matrix[rows, columns], known=known, width=matrix.shape[1])

    def cells(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the columns and the values of a row that are not 0; none of a row that is not known.

        Args:
            row: The row.
        """
        part = slice(self._starts[row], self._starts[row + 1])
        return self._places[part], self._numbers[part]

    def dense(self) -> Tensor:
        """Return the whole matrix."""
        sizes = torch.tensor(self._starts).diff()
        matrix = torch.zeros(self._form, dtype=torch.float64)
        matrix[torch.arange(len(sizes)).repeat_interleave(sizes), self._places] = self._numbers
        matrix[~self.known] = torch.nan
        return matrix

    def among(self, source: Tensor) -> SparseRows:
        """Return the same as `matrix[source][:, source]`, for a square matrix and a permutation of its rows.

        Args:
            source: `(C,)` int64, every row once.
        """
        place = torch.empty_like(source)
        place[source] = torch.arange(len(source))
        sizes = torch.tensor(self._starts).diff()
        rows, columns = place.repeat_interleave(sizes), place[self._places]
        order = (rows * len(source) + columns).argsort()
        return SparseRows(
            rows[order], columns[order], self._numbers[order], known=self.known[source], width=len(source)
        )

    def _row(self, row: int) -> Tensor:
        height, width = self._form
        if not -height <= row < height:
            raise IndexError(f"index {row} is out of bounds for dimension 0 with size {height}")
        row %= height
        if not self.known[row]:
            return torch.full((width,), torch.nan, dtype=torch.float64)
        columns, values = self.cells(row)
        return torch.zeros(width, dtype=torch.float64).index_put_((columns,), values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self._starts, self._places, self._numbers, self.known, self._form[1])

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SparseRows({self._form[0]:,} x {self._form[1]:,}, {len(self._numbers):,} values)"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do an operation of torch: on the shape alone, on one row, or on the whole matrix."""
        if func in _OF_THE_FORM:
            return super().__torch_function__(func, types, tuple(args), dict(kwargs or {}))  # type: ignore[no-untyped-call]
        name = func.__name__
        if name == "__getitem__" and isinstance(args[0], cls):
            row, *rest = args[1] if isinstance(args[1], tuple) else (args[1],)
            if isinstance(row, int) and not isinstance(row, bool):
                return args[0]._row(row)[tuple(rest)] if rest else args[0]._row(row)
        named = kwargs or {}
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if changes or isinstance(named.get("out"), cls):
            raise must("a sparse matrix", "not be changed in place", name, "change its clone()")
        return func(*map(_whole, args), **{key: _whole(value) for key, value in named.items()})


def _whole(value: Any) -> Any:
    """The argument of an operation with whole matrices in the place of sparse ones."""
    if isinstance(value, SparseRows):
        return value.dense()
    return type(value)(map(_whole, value)) if type(value) in (list, tuple) else value


def _rebuilt(starts: list[int], columns: Tensor, values: Tensor, known: Tensor, width: int) -> SparseRows:
    rows = torch.arange(len(known)).repeat_interleave(torch.tensor(starts).diff())
    return SparseRows(rows, columns, values, known=known, width=width)
