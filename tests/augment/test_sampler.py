"""The properties of a plan's sampler: its shares, every image of a class before any again, the rest of an epoch, and its launchers.

Run as a script it is one of two processes: `loops DIR` under torchrun, `lightning DIR`, which starts the other itself.
"""

import copy
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from processes import end
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from diversify.augment.draw_key import Drawn
from diversify.augment.sampler import DiversifySampler
from diversify.errors import InputError
from diversify.functional import allocate
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan
from diversify.runtime.signals import leave

COUNTS = (40, 13, 7, 1, 6)
DRAWS = (0.3, 0.25, 0.2, 0.25, 0.0)
LABELS = torch.repeat_interleave(torch.tensor(COUNTS))[torch.randperm(67, generator=torch.Generator().manual_seed(1))]


def plan_of(draws=DRAWS, counts=COUNTS, **fields):
    classes = tuple(
        ClassPlan(name=f"class {c}", count=count, draws=share)
        for c, (count, share) in enumerate(zip(counts, draws, strict=True))
    )
    return Plan(classes=classes, **fields)


def examples():
    """One image per label, which is its own index."""
    return TensorDataset(torch.arange(len(LABELS), dtype=torch.float32)[:, None], LABELS)


def per_class(indices):
    return torch.bincount(LABELS[torch.as_tensor(indices)], minlength=len(COUNTS))


# The recipes: plain DistributedDataParallel, accelerate and Lightning, each collecting the indices that it saw.


def train_plain(epochs=2, batch_size=8):
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    dataset, network = examples(), nn.parallel.DistributedDataParallel(nn.Linear(1, 5))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    sampler = DiversifySampler(LABELS, plan_of(), seed=3, rank=rank, world_size=world_size)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    seen = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        seen.append([])
        for images, labels in loader:
            seen[-1].append(images[:, 0].tolist())
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {"seen": seen, "length": len(sampler)}


def train_accelerate(epochs=2, batch_size=8, stop_after=None, state=None):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    dataset, network = examples(), nn.Linear(1, 5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    sampler = DiversifySampler(LABELS, plan_of(), seed=3)  # global: accelerate shards it
    first = 0
    if state is not None:
        sampler.load_state_dict(state)
        first = sampler.epoch
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    seen = []
    for epoch in range(first, epochs):
        loader.set_epoch(epoch)
        seen.append([])
        for step, (images, labels) in enumerate(loader):
            seen[-1].append(images[:, 0].tolist())
            accelerator.backward(nn.functional.cross_entropy(network(images), labels))
            optimizer.step()
            optimizer.zero_grad()
            if (epoch, step + 1) == stop_after:
                consumed = (step + 1) * batch_size * accelerator.num_processes
                return {"seen": seen, "state": sampler.state_dict(consumed=consumed), "ahead": sampler.position}
    return {"seen": seen}


def train_lightning(folder, epochs=2, batch_size=8):
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.seen = nn.Linear(1, 5), [[] for _ in range(epochs)]

        def training_step(self, batch, step):
            images, labels = batch
            self.seen[self.current_epoch].append(images[:, 0].tolist())
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    sampler = DiversifySampler(LABELS, plan_of(), seed=3)  # global: Lightning shards it, and sets the epoch
    loader = DataLoader(examples(), batch_size=batch_size, sampler=sampler)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, default_root_dir=folder, **quiet
    )
    model = Model()
    trainer.fit(model, loader)
    return {"seen": model.seen}


def be_one_of_two(mode, folder):
    torch.set_num_threads(1)
    if mode == "loops":
        torch.distributed.init_process_group("gloo")
        result = {"plain": train_plain(), "whole": train_accelerate(), "stopped": train_accelerate(stop_after=(1, 2))}
        result["resumed"] = train_accelerate(state=json.loads(json.dumps(result["stopped"]["state"])))
    else:
        result = train_lightning(folder)
    rank = torch.distributed.get_rank()
    Path(folder, f"{mode}-{rank}.json").write_text(json.dumps(result))
    leave(0)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launchers")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    lines = {"loops": (*torchrun, __file__)}
    if importlib.util.find_spec("lightning"):
        lines["lightning"] = (__file__,)
    started = {
        mode: subprocess.Popen(
            [sys.executable, *line, mode, str(folder)], env=environment, start_new_session=True, **pipes
        )
        for mode, line in lines.items()
    }
    yield folder, started
    for process in started.values():
        end(process)


def results_of(processes, mode):
    """What the two processes saw, rank after rank."""
    folder, started = processes
    output, _ = started[mode].communicate(timeout=240)
    assert started[mode].returncode == 0, output
    return [json.loads((folder / f"{mode}-{rank}.json").read_text()) for rank in range(2)]


def order_of(epoch):
    sampler = DiversifySampler(LABELS, plan_of(), seed=3)
    sampler.set_epoch(epoch)
    return sampler.order().tolist()


def assert_whole(positions, epoch, fill):
    """Every position of the order once, and no more than `fill` of them again."""
    positions = [int(index) for index in positions]
    order = Counter(order_of(epoch))
    assert not order - Counter(positions)
    assert len(positions) - len(LABELS) <= fill
    assert (per_class(positions) - per_class(order_of(epoch))).abs().sum() <= fill


def dealt(first, second):
    """The batches of two processes in the order in which they were dealt: one to the first, one to the second."""
    assert len(first) == len(second)
    return [index for pair in zip(first, second, strict=True) for batch in pair for index in batch]


@pytest.mark.slow
def test_plain_processes_that_know_their_rank_share_an_epoch(processes):
    first, second = (one["plain"] for one in results_of(processes, "loops"))
    assert first["length"] == second["length"] == 34
    for epoch in range(2):
        flat = [[index for batch in one["seen"][epoch] for index in batch] for one in (first, second)]
        order = [index for pair in zip(*flat, strict=True) for index in pair]
        assert order[:67] == order_of(epoch)
        assert order[67:] == order_of(epoch)[:1]
    assert first["seen"][0] != first["seen"][1]


@pytest.mark.slow
def test_accelerate_shards_the_global_order(processes):
    first, second = (one["whole"] for one in results_of(processes, "loops"))
    for epoch in range(2):
        together = dealt(first["seen"][epoch], second["seen"][epoch])
        assert together[:67] == order_of(epoch)
        assert_whole(together, epoch, fill=2 * 8 - 1)


@pytest.mark.slow
def test_two_processes_of_accelerate_stop_in_mid_epoch_and_go_on_with_the_rest(processes):
    first, second = results_of(processes, "loops")
    assert first["stopped"]["state"] == second["stopped"]["state"]
    assert first["stopped"]["state"]["position"] == 32 < first["stopped"]["ahead"]
    before = dealt(first["stopped"]["seen"][1], second["stopped"]["seen"][1])
    after = dealt(first["resumed"]["seen"][0], second["resumed"]["seen"][0])
    assert before == order_of(1)[:32]
    assert after[:35] == order_of(1)[32:]
    assert len(after) - 35 <= 15


@pytest.mark.slow
def test_lightning_shards_the_global_order(processes):
    pytest.importorskip("lightning")
    first, second = results_of(processes, "lightning")
    for epoch in range(2):
        together = dealt(first["seen"][epoch], second["seen"][epoch])
        assert_whole(together, epoch, fill=1)
    assert first["seen"][0] != first["seen"][1]


# In one process


def test_the_order_is_that_of_plain_python():
    from reference import allocate as plain

    for seed, epoch, total in ((0, 0, 67), (3, 1, 200), (9, 7, 5), (4, 12, 31)):
        shares = torch.tensor(DRAWS, dtype=torch.float64)
        rows = allocate.apportion(shares, total, seed, torch.arange(epoch + 1)).tolist()
        assert rows == [plain.apportion(DRAWS, total, seed, number) for number in range(epoch + 1)]
        sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=total), seed=seed)
        sampler.set_epoch(epoch)
        assert sampler.order().tolist() == plain.epoch_order(LABELS.tolist(), DRAWS, total, seed, epoch)


@pytest.mark.parametrize("images", [1, 2, 20, 67, 1000])
def test_every_class_has_its_share_to_within_one_image(images):
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=images))
    wanted = images * torch.tensor(DRAWS, dtype=torch.float64)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        positions = list(sampler)
        assert len(positions) == len(sampler) == images
        assert ((per_class(positions) - wanted).abs() < 1).all()
        assert per_class(positions)[4] == 0  # a share of 0 is none at all


def test_who_is_rounded_up_is_drawn_as_often_as_its_remainder_says():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    counts = allocate.apportion(shares, 3, 0, torch.arange(1000))
    assert (counts.sum(1) == 3).all()
    assert (counts.double().mean(0) - 3 * shares).abs().max() < 0.06  # four standard errors of a share of 1/2
    assert len({tuple(row) for row in counts.tolist()}) > 3


def test_whole_shares_are_met_exactly():
    even = torch.full((7,), 1 / 7, dtype=torch.float64)
    assert (allocate.apportion(even, 7 * 13, 0, torch.arange(300)) == 13).all()


def test_epochs_are_apportioned_together_as_one_by_one():
    shares = torch.rand(700, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = allocate.apportioned(shares, 5000, 3, range(1600))  # more than are held in memory at once
    parts = [allocate.apportioned(shares, 5000, 3, epochs) for epochs in (range(1), range(1, 1), range(1, 1600))]
    assert torch.equal(whole, sum(parts))
    assert torch.equal(parts[0], allocate.apportion(shares, 5000, 3, torch.tensor([0]))[0])
    assert whole.sum() == 5000 * 1600


def orders_of(sampler, epochs):
    """The orders of these epochs, one after the other."""
    orders = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    return orders


def turns_of(orders, c):
    """The draws of a class in all of these epochs, cut into turns through its images; the last may be shorter."""
    members = set(torch.eq(LABELS, c).nonzero().flatten().tolist())
    mine = [index for order in orders for index in order if index in members]
    return [mine[start : start + COUNTS[c]] for start in range(0, len(mine), COUNTS[c])]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("images", [7, 67, 132, 500])  # of 132, class 0 has 0.99 draws per image
def test_epochs_go_on_with_the_images_of_a_class_until_all_of_them_have_come(images, seed):
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=images), seed=seed)
    drawn = torch.zeros(len(LABELS), dtype=torch.int64)
    for order in orders_of(sampler, range(12)):
        drawn += torch.bincount(torch.tensor(order), minlength=len(LABELS))
        for c in range(4):
            mine = drawn[torch.eq(LABELS, c)]
            together = int(mine.sum())
            assert set(mine.tolist()) <= {together // COUNTS[c], -(-together // COUNTS[c])}


@pytest.mark.slow
def test_every_turn_through_a_class_is_shuffled_anew_and_evenly():
    orders = orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=31), seed=2), range(1400))
    for c in (1, 2):
        turns = torch.tensor(turns_of(orders, c)[:-1])
        members = torch.eq(LABELS, c).nonzero().flatten()
        assert len(turns) > 800
        assert torch.equal(turns.sort(1).values, members.expand(len(turns), -1))
        at = torch.stack([(turns == member).sum(0) for member in members])  # how often each image is at each place
        expected = len(turns) / COUNTS[c]
        freedom = (COUNTS[c] - 1) ** 2
        assert abs(((at - expected) ** 2 / expected).sum() - freedom) < 5 * (2 * freedom) ** 0.5
        assert (turns[:-1] == turns[1:]).double().mean() < 1.2 / COUNTS[c]  # no place is kept from turn to turn


def test_all_images_of_a_class_come_before_any_of_them_again():
    order = DiversifySampler(LABELS, plan_of(images_per_epoch=500)).order().tolist()
    for c, count in enumerate(COUNTS[:4]):
        members = set(torch.eq(LABELS, c).nonzero().flatten().tolist())
        turns = turns_of([order], c)
        assert all(set(turn) == members for turn in turns[:-1])
        assert len(set(turns[-1])) == len(turns[-1])
        assert count < 7 or turns[0] != turns[1]


def test_a_plan_that_changes_nothing_gives_every_image_once():
    plan = Plan.untouched([f"class {c}" for c in range(5)], COUNTS)
    sampler = DiversifySampler(LABELS, plan)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(67))


def test_classes_are_spread_over_the_epoch():
    order = DiversifySampler(LABELS, plan_of(images_per_epoch=2000)).order()
    for half in order.split(1000):
        assert (per_class(half) / 1000 - torch.tensor(DRAWS)).abs().max() < 0.06


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = DiversifySampler(LABELS, plan_of(), seed=seed)
        list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    labels = (LABELS.numpy(), LABELS.tolist(), LABELS.to(torch.uint8))
    assert all(list(DiversifySampler(one, plan_of())) == order(0, 0) for one in labels)


def test_an_epoch_is_the_same_whichever_came_before_it():
    epochs = (0, 1, 2, 9, 3, 9, 0)
    fresh = [orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132)), [epoch])[0] for epoch in epochs]
    assert orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132)), epochs) == fresh


@pytest.mark.slow
def test_an_epoch_is_the_same_in_a_fresh_process():
    program = (
        "import test_sampler as here\n"
        "print(here.orders_of(here.DiversifySampler(here.LABELS, here.plan_of(images_per_epoch=132), seed=3), [6]))"
    )
    lines = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(lines, capture_output=True, text=True, check=True, env=environment)
    orders = orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132), seed=3), range(7))
    assert json.loads(done.stdout) == orders[6:]


@pytest.mark.slow
def test_a_million_images_of_a_thousand_classes():
    labels = torch.arange(1_000_000) % 1000
    shares = torch.arange(1, 1001, dtype=torch.float64) / 500_500
    orders = []
    for epoch in range(2):
        before = allocate.apportioned(shares, 1_000_000, 0, range(epoch))
        orders.append(allocate.epoch_order(labels, shares, 1_000_000, 0, epoch, before))
        assert (torch.bincount(labels[orders[-1]], minlength=1000) - 1e6 * shares).abs().max() < 1
        times = torch.bincount(torch.cat(orders), minlength=1_000_000).view(1000, 1000)  # column c: images of class c
        assert (times.max(0).values - times.min(0).values).max() == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 80])
def test_ranks_share_the_order_and_fill_it_up_with_its_beginning(world_size):
    whole = DiversifySampler(LABELS, plan_of(), seed=5)
    ranks = [
        DiversifySampler(LABELS, plan_of(), seed=5, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    parts = [list(sampler) for sampler in ranks]
    assert {len(part) for part in parts} == {len(sampler) for sampler in ranks} == {-(-67 // world_size)}
    dealt_out = [index for turn in zip(*parts, strict=True) for index in turn]
    order = whole.order().tolist()
    assert dealt_out == (order * 2)[: len(dealt_out)]


def numbered(positions):
    """Every index with how often it came before, in plain Python."""
    before = Counter()
    pairs = []
    for index in positions:
        pairs.append((index, before[index]))
        before[index] += 1
    return pairs


def pairs_of(positions):
    return [(int(index), getattr(index, "occurrence", 0)) for index in positions]


@pytest.mark.parametrize("images", [1, 67, 1000])
def test_an_index_says_how_often_it_came_before_in_the_epoch(images):
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=images))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert pairs_of(sampler) == numbered(sampler.order().tolist())
    once = DiversifySampler(LABELS, Plan.untouched([f"class {c}" for c in range(5)], COUNTS))
    assert {type(index) for index in once} == {int}


def test_a_drawn_index_is_an_int_that_keeps_its_occurrence():
    drawn = Drawn(7, 3)
    for one in (drawn, copy.copy(drawn), copy.deepcopy(drawn), pickle.loads(pickle.dumps(drawn))):  # noqa: S301
        assert (type(one), one.occurrence) == (Drawn, 3)
        assert one == 7
        assert hash(one) == hash(7)
        assert f"{one} {one!r}" == "7 7"
    assert torch.tensor([drawn, 8]).tolist() == [7, 8]
    assert list(range(10))[drawn] == torch.arange(10)[drawn] == torch.arange(10).numpy()[drawn] == 7
    assert json.dumps([drawn]) == "[7]"
    assert type(drawn + 1) is int


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_hand_out_the_occurrences_of_the_global_order(world_size):
    plan = plan_of(images_per_epoch=200)
    pairs = numbered(DiversifySampler(LABELS, plan, seed=5).order().tolist())
    ranks = [DiversifySampler(LABELS, plan, seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt_out = [pair for turn in zip(*map(pairs_of, ranks), strict=True) for pair in turn]
    assert dealt_out == (pairs * 2)[: len(dealt_out)]  # the fill is the beginning once more


@pytest.mark.parametrize(("number", "world_size"), [(0, 1), (70, 1), (199, 1), (70, 2), (70, 3)])
def test_a_resumed_epoch_goes_on_with_its_occurrences(number, world_size):
    plan = plan_of(images_per_epoch=200)
    sampler = DiversifySampler(LABELS, plan, seed=5)
    pairs = numbered(sampler.order().tolist())
    assert pairs_of(taken(sampler, number)) == pairs[:number]
    state = json.loads(json.dumps(sampler.state_dict()))
    ranks = [DiversifySampler(LABELS, plan, rank=rank, world_size=world_size) for rank in range(world_size)]
    for one in ranks:
        one.load_state_dict(state)
    rest = [pair for turn in zip(*map(pairs_of, ranks), strict=True) for pair in turn]
    assert rest[: 200 - number] == pairs[number:]
    assert rest[200 - number :] == pairs[: len(rest) - (200 - number)]


def taken(sampler, number):
    positions = iter(sampler)
    return [next(positions) for _ in range(number)]


@pytest.mark.parametrize("number", [0, 1, 30, 66, 67])
def test_a_state_gives_exactly_the_rest(number):
    sampler = DiversifySampler(LABELS, plan_of(), seed=5)
    sampler.set_epoch(4)
    before = taken(sampler, number)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert state["position"] == sampler.position == number
    resumed = DiversifySampler(LABELS, plan_of(), seed=8)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(4)  # as launchers do before every pass
    assert len(resumed) == 67
    assert before + list(resumed) == sampler.order().tolist() == list(resumed)  # the next pass is a whole one
    resumed.set_epoch(5)
    sampler.set_epoch(5)
    assert list(resumed) == list(sampler)


@pytest.mark.parametrize("number", [0, 50, 132])
def test_turns_go_on_after_a_resume(number):
    whole = orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132), seed=5), range(5))
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=132), seed=5)
    seen = orders_of(sampler, range(2))
    sampler.set_epoch(2)
    begun = taken(sampler, number)
    resumed = DiversifySampler(LABELS, plan_of(images_per_epoch=132), seed=8)
    orders_of(resumed, range(2))  # what it drew by its own seed is no part of what it goes on with
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    seen += [begun + list(resumed), *orders_of(resumed, (3, 4))]
    assert seen == whole
    assert len({*turns_of(seen, 0)[0]}) == COUNTS[0]


def test_a_resumed_pass_can_be_saved_again():
    sampler = DiversifySampler(LABELS, plan_of())
    seen = taken(sampler, 20)
    for number in (7, 0, 11):
        state = sampler.state_dict()
        sampler = DiversifySampler(LABELS, plan_of())
        sampler.load_state_dict(state)
        seen += taken(sampler, number)
    assert sampler.position == 38
    assert seen == sampler.order()[:38].tolist()


def test_another_epoch_begins_at_its_first_position():
    sampler = DiversifySampler(LABELS, plan_of())
    taken(sampler, 20)
    other = DiversifySampler(LABELS, plan_of())
    other.load_state_dict(sampler.state_dict())
    other.set_epoch(1)
    assert other.position == 0
    assert len(list(other)) == 67


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_ranks_go_on_in_a_world_of_another_size(before, after):
    def world(size):
        size_or_none = {"world_size": size} if size > 1 else {}
        return [
            DiversifySampler(LABELS, plan_of(), seed=5, **({"rank": rank} if size > 1 else {}), **size_or_none)
            for rank in range(size)
        ]

    samplers = world(before)
    parts = [taken(sampler, 10) for sampler in samplers]
    states = [sampler.state_dict() for sampler in samplers]
    assert {state["position"] for state in states} == {10 * before}
    resumed = world(after)
    for sampler in resumed:
        sampler.load_state_dict(states[0])
    rest = [index for turn in zip(*map(list, resumed), strict=True) for index in turn]
    order = DiversifySampler(LABELS, plan_of(), seed=5).order().tolist()
    assert [index for turn in zip(*parts, strict=True) for index in turn] + rest[: 67 - 10 * before] == order
    assert {sampler.position for sampler in resumed} == {67}


def test_a_loader_that_runs_ahead_is_told_what_was_consumed():
    sampler = DiversifySampler(LABELS, plan_of())
    loader = DataLoader(examples(), batch_size=5, sampler=sampler, num_workers=1, prefetch_factor=4)
    batches = iter(loader)
    seen = [int(index) for _ in range(3) for index in next(batches)[0][:, 0]]
    assert sampler.position > 15
    state = sampler.state_dict(consumed=15)
    del batches
    resumed = DiversifySampler(LABELS, plan_of())
    resumed.load_state_dict(state)
    seen += [
        int(index) for images, _ in DataLoader(examples(), batch_size=5, sampler=resumed) for index in images[:, 0]
    ]
    assert seen == sampler.order().tolist()
    assert sampler.state_dict(consumed=70)["position"] == 67  # the last batch was not full


def test_another_plan_acts_from_the_next_pass_on():
    other = plan_of((0.1, 0.2, 0.3, 0.0, 0.4), images_per_epoch=50)
    sampler, fresh = DiversifySampler(LABELS, plan_of()), DiversifySampler(LABELS, other)
    order = sampler.order().tolist()
    positions = iter(sampler)
    seen = [next(positions) for _ in range(20)]
    sampler.use(other)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert seen + list(positions) == order
    assert sampler.position == 67
    resumed = DiversifySampler(LABELS, plan_of())
    resumed.load_state_dict(state)
    assert seen + list(resumed) == order
    for one in (sampler, resumed):
        one.set_epoch(1)
        fresh.set_epoch(1)
        assert len(one) == 50
        assert list(one) == list(fresh)


def test_turns_go_on_under_another_plan_with_the_same_draws():
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=132))
    orders = orders_of(sampler, [0])
    sampler.use(plan_of(images_per_epoch=132))
    orders += orders_of(sampler, [1])
    assert orders == orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132)), range(2))


def test_an_epoch_under_other_draws_takes_those_for_the_draws_of_all_before_it():
    other = plan_of((0.1, 0.2, 0.3, 0.0, 0.4), images_per_epoch=50)
    sampler = DiversifySampler(LABELS, plan_of(images_per_epoch=132))
    orders_of(sampler, range(3))
    sampler.use(other)
    assert orders_of(sampler, (3, 4)) == orders_of(DiversifySampler(LABELS, other), range(5))[3:]
    sampler.use(plan_of(images_per_epoch=132))
    assert orders_of(sampler, [5]) == orders_of(DiversifySampler(LABELS, plan_of(images_per_epoch=132)), [5])


def test_an_epoch_of_the_reference_loop_has_the_shares_of_the_plan():
    from diversify.training.ingredients import Ingredients
    from diversify.training.loop import fit
    from diversify.training.recipe import Recipe

    class Watched(DiversifySampler):
        def __iter__(self):
            orders.append(self.order().tolist())
            return super().__iter__()

    orders = []
    images = torch.zeros(67, 1, 2, 2)
    recipe = Recipe(epochs=2, batch_size=16, warmup_epochs=0, precision="fp32")
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    ingredients = Ingredients(sampler=Watched(LABELS, plan_of(images_per_epoch=40), seed=1))
    records = list(fit(network, TensorDataset(images, LABELS), recipe=recipe, num_classes=5, ingredients=ingredients))
    assert [record.images for record in records] == [40, 40]
    assert orders[0] != orders[1]
    assert ingredients.state_dict()["sampler"]["epoch"] == 1
    assert ingredients.state_dict()["sampler"]["position"] == 40


def sampler_of(labels=LABELS, plan=None, **arguments):
    return DiversifySampler(labels, plan or plan_of(), **arguments)


class Silent(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(1), index


def test_every_form_of_labels_and_the_data_set_give_the_same_order():
    order = sampler_of().order()
    names = [f"class {c}" for c in LABELS.tolist()]
    forms = [examples(), Subset(examples(), range(67)), names, pd.Series(LABELS.numpy(), index=range(100, 167))]
    forms += [pd.Categorical(names), LABELS[:, None], LABELS.float(), nn.functional.one_hot(LABELS), list(LABELS)]
    for labels in forms:
        assert torch.equal(sampler_of(labels).order(), order)


def notes_of(labels, plan):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DiversifySampler(labels, plan)
    return [str(each.message) for each in caught]


def test_class_counts_that_are_not_the_plans_are_named():
    plan = plan_of((0.5, 0.3, 0.2), (60, 20, 4))
    labels = torch.repeat_interleave(torch.tensor([60, 20, 4]))
    assert notes_of(labels, plan) == []
    assert notes_of(2 - labels, plan) == [
        "labels: class 0 has 4 of 84 images, and in the plan 60 of 84; make sure that these are the labels of the images that "
        "are drawn, in the plan's order of classes"
    ]
    near = plan_of((0.5, 0.3, 0.2), (30, 29, 25))
    swapped = torch.repeat_interleave(torch.tensor([29, 30, 25]))
    assert "class 0 has 29 of 84 images, and in the plan 30 of 84" in notes_of(swapped, near)[0]
    larger, half = (torch.repeat_interleave(torch.tensor(counts)) for counts in ((75, 25, 5), (31, 10, 1)))
    assert notes_of(larger, plan) == notes_of(half, plan) == []
    balanced = torch.repeat_interleave(torch.tensor([100, 60, 44]))
    assert "class 2 has 44 of 204 images" in notes_of(balanced, plan)[0]


def test_an_image_folder_must_number_the_classes_as_the_plan_does(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "0.png")
    forth, back = (Plan.untouched(list(names), [1, 1, 1]) for names in ("abc", "cba"))
    folder = ImageFolder(str(tmp_path))
    assert len(DiversifySampler(folder, forth)) == 3
    message = "classes of ImageFolder must be numbered as in the plan, got c as 2 where the plan has it as 0; "
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        DiversifySampler(Subset(folder, [0, 1, 2]), back)
    folder = ImageFolder(str(tmp_path), target_transform=lambda label: 2 - label)
    assert DiversifySampler(folder, back).labels.tolist() == [2, 1, 0]


def loaded(**changes):
    sampler = sampler_of()
    sampler.load_state_dict({**sampler.state_dict(), **changes})


MESSAGES = {
    "labels must be classes of the plan, in [0, 4], got 5 at row 2": lambda: sampler_of([0, 1, 5, 5]),
    "labels must not be negative, got -1 at row 0; leave out the images without a label, 1 of 2": lambda: sampler_of(
        [-1, 1]
    ),
    "labels must hold class 1, which the plan draws, got none of it; set its draws to 0": lambda: sampler_of([0, 2, 3]),
    "labels must hold at least one image, got 0": lambda: sampler_of([]),
    "labels must be classes of the plan, in [0, 4], got 5 at row 1; they seem to count from 1: subtract 1 from all": (
        lambda: sampler_of([1, 5])
    ),
    "labels must be whole numbers, got 0.5 at row 0": lambda: sampler_of([0.5, 1.0]),
    "labels must be one of class 0, class 1, class 2, class 3, class 4, got 'a' at row 0": lambda: sampler_of(
        ["a", "b"]
    ),
    "labels must have 5 columns, one per class, where they are one-hot, got 2": lambda: sampler_of([[0, 1], [1, 0]]),
    "data set must show its labels, as an attribute `targets` or `labels`, got Silent; pass labels=, one class per image": (
        lambda: sampler_of(Silent())
    ),
    "seed must be an integer in [0, 2^63 - 1], got -1": lambda: sampler_of(seed=-1),
    "rank and world_size must be given together, got rank=0, world_size=None": lambda: sampler_of(rank=0),
    "rank must lie in [0, 1], got 2": lambda: sampler_of(rank=2, world_size=2),
    "world_size must be at least 1, got 0": lambda: sampler_of(rank=0, world_size=0),
    "plan must have 5 classes, as the one before, got 2": lambda: sampler_of().use(plan_of((0.5, 0.5), (3, 3))),
    "plan must have the classes of the one before, in their order, got 'a' for 'class 0'": lambda: sampler_of().use(
        Plan.untouched(list("abcde"), COUNTS)
    ),
    "epoch must not be negative, got -1": lambda: sampler_of().set_epoch(-1),
    "consumed must not be negative, got -1": lambda: sampler_of().state_dict(consumed=-1),
    "position of the sampler's state must lie in [0, 67], got 68": lambda: loaded(position=68),
    "position of the sampler's state must be at least 0, got -1": lambda: loaded(position=-1),
    "sampler's state must be of the same labels, got other labels; it belongs to other data": lambda: loaded(labels=1),
    "draws of the sampler's state must be 5, one per class, got 1": lambda: loaded(draws=[1.0]),
    "epoch of the sampler's state must be given, got nothing": lambda: sampler_of().load_state_dict(
        {name: value for name, value in sampler_of().state_dict().items() if name != "epoch"}
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_wrong_call_says_what_must_hold(message):
    with pytest.raises(InputError) as error:
        MESSAGES[message]()
    assert str(error.value) == message


if __name__ == "__main__":
    be_one_of_two(*sys.argv[1:])
