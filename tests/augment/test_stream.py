"""A stream by a plan: classes come as often as planned, the same seed gives the same stream, and the buffer bounds memory."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

import diversify as dv
from diversify.augment.stream import DiversifyStream
from diversify.errors import InputError
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, ImagePolicy

COUNTS = (3000, 800, 200)
SHARES = (0.4, 0.35, 0.25)
LABELS = torch.repeat_interleave(torch.tensor(COUNTS))[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]


def plan_of(shares=SHARES, counts=COUNTS):
    return Plan(
        classes=tuple(
            ClassPlan(name=name, count=count, draws=share)
            for name, count, share in zip("abc", counts, shares, strict=True)
        )
    )


class Source:
    """Pairs of (number, label) that record how many were taken."""

    def __init__(self, labels=LABELS):
        self.labels, self.taken = labels.tolist(), 0

    def __iter__(self):
        for number, label in enumerate(self.labels):
            self.taken = number + 1
            yield torch.full((1, 2, 2), number / 4000), label


def read(stream):
    return [(round(float(image[0, 0, 0]) * 4000), label) for image, label in stream]


@pytest.mark.parametrize("frequencies", ["plan", "observed"])
def test_classes_come_as_often_as_planned(frequencies):
    counts = COUNTS if frequencies == "plan" else (1, 1, 1)
    stream = DiversifyStream(Source(), plan_of(counts=counts), frequencies=frequencies, buffer=50)
    seen = read(stream)
    shares = torch.bincount(torch.tensor([label for _, label in seen])) / len(seen)
    assert torch.allclose(shares, torch.tensor(SHARES), atol=0.03)
    assert abs(len(seen) - 4000) < 300
    assert all(LABELS[number] == label for number, label in seen)


def test_the_pass_is_a_function_of_seed_and_epoch():
    stream = DiversifyStream(Source(LABELS[:300]), plan_of(), seed=1)
    first = read(stream)
    assert read(stream) == first == read(DiversifyStream(Source(LABELS[:300]), plan_of(), seed=1))
    stream.set_epoch(1)
    second = read(stream)
    assert second != first
    assert second != read(DiversifyStream(Source(LABELS[:300]), plan_of(), seed=2))
    stream.set_epoch(0)
    assert read(stream) == first


def test_no_more_than_the_buffer_is_kept_and_the_order_is_mixed():
    source = Source()
    stream = DiversifyStream(source, plan_of(tuple(count / 4000 for count in COUNTS)), buffer=20)
    numbers = []
    for number, (image, _) in enumerate(stream):
        assert source.taken - number <= 21 + 4  # a share times a count is one only to rounding
        numbers.append(round(float(image[0, 0, 0]) * 4000))
    assert sorted(numbers) != numbers
    assert len(set(numbers)) >= 3990
    assert read(DiversifyStream(Source(LABELS[:9]), plan_of(tuple(c / 4000 for c in COUNTS)), buffer=1)) == [
        (number, int(LABELS[number])) for number in range(9)
    ]


def test_repeats_are_augmented_differently_and_classes_by_their_policy():
    policy = ImagePolicy(operations=("brightness",), layers=1, strength=1.0, probability=0.9)
    classes = (
        ClassPlan(name="a", count=90, draws=0.5),
        ClassPlan(name="b", count=10, draws=0.5, image=policy),
    )
    source = [(torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(n)), int(n % 10 == 0)) for n in range(100)]
    stream = DiversifyStream(source, Plan(classes=classes, largest_difference=1.0), backend="torch", buffer=30)
    originals = {image.numpy().tobytes() for image, _ in source}
    seen = list(stream)
    assert all(image.numpy().tobytes() in originals for image, label in seen if label == 0)
    rare = [image.numpy().tobytes() for image, label in seen if label == 1]
    assert len(rare) > 30
    assert len(set(rare)) > 15  # of 10 images, each darker, lighter or as it was
    assert all(torch.equal(one[0], other[0]) for one, other in zip(seen, stream, strict=True))


def test_workers_split_a_source_that_does_not_split_itself():
    natural = plan_of(tuple(count / 4000 for count in COUNTS))
    labels = torch.zeros(60, dtype=torch.int64)

    def numbers(**options):
        stream = DiversifyStream(Source(labels), natural, **options)
        return sorted(round(float(x[0, 0, 0]) * 4000) for x, _ in DataLoader(stream, batch_size=None, num_workers=2))

    assert numbers(split_workers=True) == list(range(60))
    assert numbers() == sorted([*range(60)] * 2)


def test_processes_split_a_source_and_draw_what_one_process_draws(monkeypatch):
    def numbers(rank, size, **options):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))
        stream = DiversifyStream(Source(LABELS[:90]), plan_of(), **options)
        return [number for number, _ in read(stream)]

    split = {"split_processes": True, "split_workers": True}
    parts = [numbers(rank, 3, **split) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == sorted(numbers(0, 1, **split))
    assert not set(parts[0]) & set(parts[1])
    # sources that split themselves: each process draws numbers of its own
    assert numbers(0, 2, split_workers=True) != numbers(1, 2, split_workers=True)


def test_a_stream_that_is_sent_to_a_worker_knows_which_process_it_came_from(monkeypatch):
    """Made before the processes met, without a launcher's variables; the worker is not forked, and has not met them either."""
    stream = DiversifyStream(Source(LABELS[:90]), plan_of(), split_processes=True)
    alone = read(stream)
    with monkeypatch.context() as met:
        met.setattr(torch.distributed, "is_initialized", lambda: True)
        met.setattr(torch.distributed, "get_rank", lambda: 1)
        met.setattr(torch.distributed, "get_world_size", lambda: 2)
        sent, part = copy.deepcopy(stream), read(stream)  # as pickling does
    assert read(sent) == part
    assert {number % 2 for number, _ in part} == {1}
    assert read(copy.deepcopy(sent)) == part
    assert read(stream) == alone


WRONG = {
    "stream must be an iterable of (image, label), got int": lambda: DiversifyStream(3, plan_of()),
    "stream must be iterable again for each epoch, got a list_iterator; pass an object whose __iter__ starts it anew": (
        lambda: DiversifyStream(iter([]), plan_of())
    ),
    "buffer must be at least 1 example, got 0": lambda: DiversifyStream([], plan_of(), buffer=0),
    "frequencies must be one of plan, observed, got 'plans'; did you mean 'plan'?": lambda: DiversifyStream(
        [], plan_of(), frequencies="plans"
    ),
    "label of an example must be a class of the plan, in [0, 2], got 3 at row 0": lambda: list(
        DiversifyStream([(0, 3)], plan_of())
    ),
    "an example of the data set must hold its label under one of labels, label, target, targets, fine_label, got nothing at"
    " row 0; name the entry with label_key=KEY": lambda: list(DiversifyStream([{}], plan_of())),
    "epoch must not be negative, got -1": lambda: DiversifyStream([], plan_of()).set_epoch(-1),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_inputs_are_named(message):
    with pytest.raises(InputError) as caught:
        WRONG[message]()
    assert str(caught.value) == message


def test_the_public_name():
    assert dv.DiversifyStream is DiversifyStream
