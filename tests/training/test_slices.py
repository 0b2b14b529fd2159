"""The slices of a batch, and batch norms over all of them."""

import copy

import torch
from torch import distributed, nn

from diversify.training.joined_norms import JoinedNorms
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
        norms = JoinedNorms(joined.modules())
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
    assert not any("forward" in vars(each) for each in joined.modules())
