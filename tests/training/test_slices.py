"""The slices of a batch, and batch norms over all of them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import of_ranks
from torch import Tensor, distributed, nn
from torch.nn import functional

from diversify.errors import InputError
from diversify.training.joined_norms import JoinedNorms, require_joinable
from diversify.training.slices import GlobalBatch, SlicedBatches


def test_the_slices_of_all_processes_are_the_batches_of_one() -> None:
    for count, size, processes in ((23, 6, 2), (23, 6, 4), (7, 3, 5), (12, 4, 3)):
        whole = [list(range(count))[start : start + size] for start in range(0, count, size)]
        shares = [
            list(SlicedBatches(range(count), size, process=process, processes=processes))  # type: ignore[arg-type]
            for process in range(processes)
        ]
        for number, batch in enumerate(whole):
            parts = [share[number] for share in shares]
            held = [GlobalBatch(process, processes, parts[process].total) for process in range(processes)]
            assert [row for part, one in zip(parts, held, strict=True) for row in part[: one.own]] == batch
            assert [part.start for part in parts] == [sum(held[0].expected[:process]) for process in range(processes)]
            assert all(part for part in parts)  # a process without a row still runs one
            assert max(held[0].expected) - min(held[0].expected) <= 1


def test_a_joined_norm_is_the_batch_norm_of_the_whole_batch_and_leaves_no_trace() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(48, momentum=None))
        joined, images = copy.deepcopy(plain), torch.rand(5, 1, 6, 6)
        norms, own = JoinedNorms(several=True), functional.batch_norm
        for rows in (5, 3):
            plain(images[:rows]).square().mean().backward()
            norms.batch = GlobalBatch(0, 1, rows)
            with norms.joined():
                joined(images[:rows]).square().mean().backward()
    finally:
        distributed.destroy_process_group()
    for one, other in zip(plain.parameters(), joined.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value.double(), joined.state_dict()[name].double(), atol=1e-6), name
    assert functional.batch_norm is own


ROWS = torch.arange(5 * 4 * 3).remainder(11).view(5, 4, 3).double() / 11
STARTS, ENDS = (0, 3), (3, 5)  # of the slices of two processes


def _scaled_by(norm: nn.Module, values: Tensor, norms: JoinedNorms, rank: int) -> tuple[list[Any], list[Any]]:
    """What a joined norm gives for the values of a process and their gradients, and its running statistics."""
    values = values.clone().requires_grad_()
    norms.batch = GlobalBatch(rank, 2, 5)
    with norms.joined():
        result = norm(values)
        result.pow(3).sum().backward()
    assert values.grad is not None
    return [result.tolist(), values.grad.tolist()], [value.tolist() for value in norm.buffers()]


def _norm(kind: str) -> nn.Module:
    if kind == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
        from timm.layers import BatchNormAct2d

        return BatchNormAct2d(3).double()
    return nn.BatchNorm1d(3).double()


def _values(kind: str, start: int, end: int) -> Tensor:
    rows = ROWS[start:end]
    if kind == "timm":
        return rows.transpose(1, 2)[..., None]  # images of 4 x 1
    if kind == "several places, as many in each process":
        return rows.flatten(0, 1)
    return rows[:, : 4 if start == 0 else 2].flatten(0, 1)  # padded to the longest of the slice


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("timm", marks=pytest.mark.slow),  # its import takes seconds
        "several places, as many in each process",
        "fewer places in the second process",
    ],
)
def test_joined_norms_of_timm_and_of_reshaped_images_are_those_of_one_process(kind: str, tmp_path: Path) -> None:
    whole = torch.cat([_values(kind, 0, 3), _values(kind, 3, 5)])
    wanted, kept = _scaled_by(_norm(kind), whole, JoinedNorms(several=False), 0)
    first, second = of_ranks(
        tmp_path,
        lambda rank: _scaled_by(_norm(kind), _values(kind, STARTS[rank], ENDS[rank]), JoinedNorms(several=True), rank),
    )
    for rows, one, other in zip(wanted, first[0], second[0], strict=True):
        assert torch.allclose(torch.tensor(rows).double(), torch.tensor([*one, *other]).double(), atol=1e-6)
    for value, one, other in zip(kept, first[1], second[1], strict=True):
        assert torch.allclose(torch.tensor(value).double(), torch.tensor(one).double(), atol=1e-6)
        assert one == other


def test_double_precision_stays_double_in_a_joined_norm(tmp_path: Path) -> None:
    values = ROWS.flatten(0, 1)
    whole, _ = _scaled_by(_norm("double"), values, JoinedNorms(several=False), 0)
    joined = of_ranks(
        tmp_path, lambda rank: _scaled_by(_norm("double"), values[rank::2], JoinedNorms(several=True), rank)[0]
    )
    rows = torch.empty_like(values)
    rows[0::2], rows[1::2] = (torch.tensor(each[0], dtype=torch.float64) for each in joined)
    assert float((rows - torch.tensor(whole[0], dtype=torch.float64)).abs().max()) < 1e-12


def test_a_norm_that_torch_compiled_is_refused() -> None:
    require_joinable(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    with pytest.raises(InputError, match="model must have no batch norm that torch.jit compiled"):
        require_joinable(torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))))


def test_targets_have_one_form_in_all_processes(tmp_path: Path) -> None:
    classes, soft = torch.tensor([2, 0]), torch.tensor([[0.5, 0.5, 0.0]])

    def outcomes(rank: int) -> list[Any]:
        batch, found = GlobalBatch(rank, 2, 3), []
        for given in ((classes, classes), (classes, soft), (soft, soft), (soft.half(), soft), (soft[:, :2], soft)):
            try:
                own = batch.of_one_form(given[rank], 3)
                found.append([str(own.dtype), own.tolist()])
            except InputError as error:
                found.append(str(error))
        return found

    first, second = of_ranks(tmp_path, outcomes)
    assert first[0] == second[0] == ["torch.int64", [2, 0]]
    assert first[1] == ["torch.float32", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    assert second[1] == first[2] == second[2] == ["torch.float32", soft.tolist()]
    assert (
        first[3:]
        == second[3:]
        == [
            "augmentation must give classes (N,), or probabilities (N, 3) of one type in all processes, got "
            "(N, 3) float16 and (N, 3) float32",
            "augmentation must give classes (N,), or probabilities (N, 3) of one type in all processes, got "
            "(N, 2) float32 and (N, 3) float32",
        ]
    )
