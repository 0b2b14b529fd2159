"""A sparse matrix gives what the whole matrix gives."""

import copy

import pytest
import torch

from diversify.errors import InputError
from diversify.functional import draws
from diversify.functional.sparse_rows import SparseRows

WHOLE = draws.uniform("sparse", 0, torch.arange(49)).view(7, 7).double()
WHOLE = WHOLE.where(WHOLE > 0.6, 0.0)
WHOLE[3] = torch.nan
WHOLE[1, 2] = torch.nan
SOURCE = torch.tensor([3, 1, 6, 0, 2, 5, 4])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def test_every_use_gives_what_the_matrix_gives():
    sparse = SparseRows.of(WHOLE)
    uses = (
        lambda m: m[0],
        lambda m: m[3],
        lambda m: m[-1],
        lambda m: m[1, 2:5],
        lambda m: m[:, 2],
        lambda m: m[[2, 0]],
        lambda m: m[SOURCE][:, SOURCE],
        lambda m: m.T,
        lambda m: m.nan_to_num(0).sum(1),
        lambda m: 1 - m,
        lambda m: torch.stack([m, m]),
        lambda m: m.clone(),
        lambda m: m.float(),
    )
    for use in uses:
        found = use(sparse)
        assert type(found) is torch.Tensor
        assert same(found, use(WHOLE))
    assert same(sparse.among(SOURCE).dense(), WHOLE[SOURCE][:, SOURCE])
    assert same(torch.stack(list(sparse)), WHOLE)
    assert same(copy.deepcopy(sparse).dense(), WHOLE)
    with pytest.raises(IndexError):
        sparse[7]


def test_only_what_is_not_0_is_held():
    one = torch.tensor([5])
    wide = SparseRows(one, one, torch.ones(1), known=torch.ones(10**6, dtype=torch.bool), width=10**6)
    assert wide.shape == (10**6, 10**6)
    assert wide[5].nonzero().tolist() == [[5]]
    assert repr(wide) == "SparseRows(1,000,000 x 1,000,000, 1 values)"


def test_it_is_not_changed_in_place():
    sparse = SparseRows.of(WHOLE)
    for change in (
        lambda: sparse.fill_(0),
        lambda: sparse.__setitem__(0, 1.0),
        lambda: torch.add(WHOLE, 1, out=sparse),
    ):
        with pytest.raises(InputError, match="must not be changed in place"):
            change()
    assert same(sparse.dense(), WHOLE)
