"""The loop: its results, the inputs of each ingredient, and that a killed run ends as one never interrupted.

Run as a script it is the other process: `fresh`, `killed DIR` or `sharded DIR` (under torchrun).
"""

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from processes import end
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, default_collate

from diversify.cli import entry
from diversify.data.load import load_data
from diversify.errors import InputError
from diversify.files import atomic, digests
from diversify.functional import draws
from diversify.network.networks import build_model
from diversify.runtime.signals import leave
from diversify.training.ingredients import Ingredients
from diversify.training.loop import evaluate, fit, require_resumable
from diversify.training.recipe import Recipe

CLASSES = 3
COUNT = 41
RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=0.1, warmup_epochs=1, precision="fp32")


class Pictures(Dataset):
    """`(1, 6, 6)` images: the class is a bright row, the first pixel says which example it is."""

    def __init__(self, count=COUNT, classes=CLASSES):
        self.labels = torch.arange(count) % classes
        self.images = draws.uniform("pictures", torch.arange(count * 36)).view(count, 1, 6, 6) * 0.5
        self.images[torch.arange(count), 0, 2 + self.labels] += 1
        self.images[:, 0, 0, 0] = torch.arange(count) / 64

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Noisy(Pictures):
    """Draws from every generator that a user's transform may draw from."""

    def __getitem__(self, index):
        noise = torch.rand(1, 6, 6) * 0.2 + random.random() * 0.2 + np.random.rand() * 0.2  # noqa: NPY002, S311
        return self.images[index] + noise, self.labels[index]


def make_net(outputs=CLASSES):
    """A network with dropout, which draws on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d((4, 1)),
            nn.Flatten(),
            nn.Linear(32, outputs),
        )


def val_loader(dataset=None):
    return DataLoader(dataset or Pictures(20), batch_size=6)


def train(recipe=RECIPE, *, net=None, dataset=None, **options):
    net = net or make_net()
    dataset = Pictures() if dataset is None else dataset
    history = list(fit(net, dataset, recipe=recipe, num_classes=CLASSES, **options))
    return net, history


RUNS = {
    "sgd": {"val": True},
    "adamw": {"recipe": dataclasses.replace(RECIPE, optimizer="adamw", learning_rate=0.01, schedule="cosine")},
    "bf16": {"recipe": dataclasses.replace(RECIPE, precision="bf16")},
    "plain sgd": {"recipe": dataclasses.replace(RECIPE, momentum=0.0)},
    "global chance": {"noisy": True, "val": True},
    "workers": {"noisy": True, "workers": 2, "val": True},
}


def train_named(name, *, net=None, until=None, kill_at=None, **options):
    """Train one of `RUNS`; stopped after `until` epochs, or killed within an epoch, when `kill_at` batches are done."""
    run = dict(RUNS[name])
    dataset = Noisy if run.pop("noisy", False) else Pictures
    run["val"] = val_loader(dataset(20)) if run.pop("val", False) else None
    if kill_at is not None:
        run["progress"] = lambda done, total: done == kill_at and os.kill(os.getpid(), signal.SIGKILL)
    net = net or make_net()
    run = {"recipe": RECIPE, **run, **options}
    loop = fit(net, dataset(), num_classes=CLASSES, identity=name, **run)
    history = [record for _, record in zip(range(until or run["recipe"].epochs), loop, strict=False)]
    loop.close()
    return net, history


def digest(net):
    return digests.digest_tensors(net.state_dict())


def timeless(history):
    return [{**dataclasses.asdict(record), "seconds": None} for record in history]


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def uninterrupted():
    return {name: train_named(name) for name in RUNS}


# Other processes: all started at once, since most of their time is the import of torch


def start(*arguments):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, start_new_session=True, **pipes)


def cli_train(out, *more):
    data = ("--data", "digits", "--imbalance", "exp:20:60", "--model", "small_cnn")
    recipe = ("--epochs", "8", "--batch-size", "16", "--learning-rate", "0.05", "--warmup-epochs", "2")
    return ("train", *data, *recipe, "--out", str(out), *more)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    started = {
        "fresh": start(__file__, "fresh"),
        "killed": start(__file__, "killed", folder),
        "command line": start("-m", "diversify", *cli_train(folder / "run")),
        "sharded": start(*torchrun, __file__, "sharded", folder),
    }
    deadline = time.monotonic() + 120
    metrics = folder / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and started["command line"].poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 2:
            started["command line"].kill()
        time.sleep(0.002)
    yield folder, started
    for process in started.values():
        end(process)


def result_of(process):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_a_fresh_process_ends_with_the_same_weights_to_the_bit(processes, uninterrupted):
    fresh = result_of(processes[1]["fresh"])
    assert fresh["weights"] == {name: digest(net) for name, (net, _) in uninterrupted.items()}
    assert fresh["history"] == {name: timeless(history) for name, (_, history) in uninterrupted.items()}
    assert fresh["data"] == load_data("digits", imbalance="exp:10", tail_order="2").record()
    assert fresh["model"] == digest(build_model("small_cnn", 10, seed=5))
    assert len(set(fresh["weights"].values())) == len(RUNS)


@pytest.mark.slow
def test_a_process_killed_within_an_epoch_is_taken_up_by_another(processes, uninterrupted):
    folder, started = processes
    _, errors = started["killed"].communicate(timeout=240)
    assert started["killed"].returncode == -signal.SIGKILL, errors
    net, history = train_named("workers", state=folder / "killed.safetensors")
    assert digest(net) == digest(uninterrupted["workers"][0])
    assert timeless(history) == timeless(uninterrupted["workers"][1])


@pytest.mark.slow
def test_a_killed_command_is_resumed_to_the_same_files(processes, tmp_path):
    folder, started = processes
    started["command line"].communicate(timeout=240)
    assert started["command line"].returncode == -signal.SIGKILL
    lines = atomic.read_jsonl(folder / "run" / "metrics.jsonl")
    assert 2 <= len(lines) < 8
    assert not (folder / "run" / "model.safetensors").exists()
    assert entry.run(cli_train(folder / "run", "--resume")) == 0
    assert entry.run(cli_train(tmp_path / "whole")) == 0
    resumed, whole = (
        [{**line, "seconds": None} for line in atomic.read_jsonl(out / "metrics.jsonl")]
        for out in (folder / "run", tmp_path / "whole")
    )
    assert len(whole) == 8
    assert resumed == whole
    assert [digests.sha256(out / "model.safetensors") for out in (folder / "run", tmp_path / "whole")] == [
        digests.sha256(tmp_path / "whole" / "model.safetensors")
    ] * 2


@pytest.mark.slow
def test_two_processes_share_every_epoch_and_keep_the_same_weights(processes):
    folder, started = processes
    output, errors = started["sharded"].communicate(timeout=240)
    assert started["sharded"].returncode == 0, (output, errors)
    first, second = (atomic.read_json(folder / f"rank-{rank}.json", "rank") for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["losses"] == second["losses"]
    assert first["images"] == [COUNT, COUNT]
    for epoch in (0, 1):
        order = draws.permutation(COUNT, "order", 0, epoch).tolist()
        batches = [order[start : start + 4] for start in range(0, COUNT, 4)]
        assert first["indices"][epoch] == [index for batch in batches for index in batch[:2]]
        # no row is left for it in the last batch, of one image, which then does not count
        assert second["indices"][epoch] == [index for batch in batches for index in batch[2:]] + order[-1:]
    assert first["noise"] != second["noise"]


# What it computes


def test_the_loss_falls_and_the_classes_are_learnt():
    _, history = train(dataclasses.replace(RECIPE, epochs=8), val=val_loader())
    assert [record.epoch for record in history] == list(range(8))
    assert history[-1].loss < 0.3 < history[0].loss
    assert history[-1].accuracy_train > 0.95
    assert history[-1].balanced_accuracy_val == 1.0
    assert history[-1].recall_val == [1.0, 1.0, 1.0]
    assert all(record.images == COUNT and record.seconds > 0 for record in history)
    assert train()[1][0].balanced_accuracy_val is None


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_a_plain_loop_to_the_bit(optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, learning_rate=0.05, weight_decay=0.01)
    net, history = train(recipe)
    plain, dataset = make_net().to(memory_format=torch.channels_last).train(), Pictures()
    if optimizer == "sgd":
        steps = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=0.01)
    else:
        steps = torch.optim.AdamW(plain.parameters(), lr=1, weight_decay=0.01)
    for epoch in range(4):
        steps.param_groups[0]["lr"] = [0.05, 0.05, 0.05, 0.0005][epoch]  # 80% of 4 is epoch 3; 90% would be 4
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.seed_for("epoch", 0, epoch, 0))  # dropout
            for rows in draws.permutation(COUNT, "order", 0, epoch).split(8):
                images = dataset.images[rows].contiguous(memory_format=torch.channels_last)
                loss = functional.cross_entropy(plain(images), dataset.labels[rows])
                steps.zero_grad()
                loss.backward()
                steps.step()
                losses += [loss.item()] * len(rows)
        assert history[epoch].loss == pytest.approx(sum(losses) / COUNT, rel=1e-6)
    assert digest(net) == digest(plain)


def test_rates_are_those_of_cao_et_al_and_of_the_cosine():
    recipe = Recipe()
    for epoch in range(200):
        number = epoch + 1  # LDAM-DRW, cifar_train.py, adjust_learning_rate
        if number <= 5:
            expected = 0.1 * number / 5
        elif number > 180:
            expected = 0.1 * 0.0001
        elif number > 160:
            expected = 0.1 * 0.01
        else:
            expected = 0.1
        assert recipe.rate_at(epoch) == pytest.approx(expected)
    cosine = Recipe(schedule="cosine", epochs=20, warmup_epochs=4, learning_rate=0.5)
    for epoch in range(20):
        expected = 0.5 * (epoch + 1) / 4 if epoch < 4 else 0.25 * (1 + math.cos(math.pi * (epoch - 4) / 16))
        assert cosine.rate_at(epoch) == pytest.approx(expected)
    constant = Recipe(schedule="constant", warmup_epochs=0, epochs=3)
    assert [constant.rate_at(epoch) for epoch in range(3)] == [0.1] * 3
    _, history = train(dataclasses.replace(RECIPE, epochs=5, warmup_epochs=2))
    assert [record.learning_rate for record in history] == pytest.approx([0.05, 0.1, 0.1, 0.1, 1e-5])


class Watched(nn.Module):
    """Keeps the inputs of the network and its modes."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = make_net(), []

    def forward(self, images):
        logits = self.net(images)
        self.seen.append((images.is_contiguous(memory_format=torch.channels_last), images.shape[0], logits.dtype))
        return logits


def test_images_and_weights_are_channels_last_and_bf16_is_only_within():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        net, history = train(dataclasses.replace(RECIPE, precision=precision), net=Watched(), val=val_loader())
        assert {(last, kind) for last, _, kind in net.seen} == {(True, dtype)}
        assert net.net[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert {value.dtype for value in net.parameters()} == {torch.float32}
        assert [size for _, size, _ in net.seen[:6]] == [8] * 5 + [1]
        assert history[-1].loss < history[0].loss


# What each ingredient sees


def test_the_criterion_of_each_epoch_is_used():
    epochs = []

    def scaled(epoch):
        epochs.append(epoch)
        return lambda logits, targets: (epoch + 1) * functional.cross_entropy(logits, targets)

    frozen = dataclasses.replace(RECIPE, learning_rate=1e-12)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    _, history = train(frozen, net=net, ingredients=Ingredients(criterion=scaled))
    assert epochs == [0, 1, 2, 3]
    assert [record.loss / history[0].loss for record in history] == pytest.approx([1, 2, 3, 4], rel=1e-4)


class Twice(Sampler):
    """Every index twice in a row, beginning at the epoch."""

    def __init__(self):
        self.epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 2 * COUNT

    def __iter__(self):
        return iter([(self.epoch + place // 2) % COUNT for place in range(2 * COUNT)])


class Dated(Dataset):
    """Adds the epoch to every image."""

    def __init__(self, dataset):
        self.dataset, self.epoch = dataset, None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image + self.epoch, label


class Recorder:
    """Keeps the inputs of an augmentation."""

    def __init__(self):
        self.batches = []

    def __call__(self, images, targets, key):
        self.batches.append((images[:, 0, 0, 0] * 64, targets, key))
        return images, targets


@pytest.mark.parametrize("workers", [0, 2])
def test_every_part_is_told_the_epoch_and_augment_which_example_is_which(tmp_path, workers):
    state = tmp_path / "state.safetensors"
    recipe = dataclasses.replace(RECIPE, epochs=3, seed=7)

    def run(until):
        recorder = Recorder()
        ingredients = Ingredients(sampler=Twice(), wrap_dataset=Dated, augment=recorder)
        loop = fit(
            make_net(),
            Pictures(),
            recipe=recipe,
            num_classes=CLASSES,
            ingredients=ingredients,
            workers=workers,
            state=state,
        )
        for _ in range(until):
            next(loop)
        loop.close()
        return recorder.batches

    batches = run(2) + run(3)  # the second goes on from the state of the first
    labels = Pictures().labels
    assert len(batches) == 3 * math.ceil(2 * COUNT / 8)
    for epoch in range(3):
        of_epoch = [batch for batch in batches if batch[2].epoch == epoch]
        assert [key.step for *_, key in of_epoch] == list(range(11))
        indices = torch.cat([key.indices for *_, key in of_epoch])
        assert indices.tolist() == [(epoch + place // 2) % COUNT for place in range(2 * COUNT)]
        assert torch.equal(torch.cat([marks for marks, *_ in of_epoch]), indices + 64.0 * epoch)
        assert torch.equal(torch.cat([targets for _, targets, _ in of_epoch]), labels[indices])
        assert {key.seed for *_, key in of_epoch} == {7}


def test_augment_may_soften_targets_and_comes_before_prepare():
    def one_hot(images, targets, key):
        assert images.max() < 2
        return images, functional.one_hot(targets, CLASSES).float()

    hard_net, hard = train(prepare=lambda images: images * 3)
    soft_net, soft = train(prepare=lambda images: images * 3, ingredients=Ingredients(augment=one_hot))
    assert [record.loss for record in soft] == pytest.approx([record.loss for record in hard], rel=1e-4)
    assert [record.accuracy_train for record in soft] == [record.accuracy_train for record in hard]
    assert torch.allclose(soft_net[-1].weight, hard_net[-1].weight, atol=1e-4)


def test_augmented_features_train_backbone_and_head_and_their_number_may_change():
    seen = []

    def thrice(features, targets, key):
        seen.append((features.shape, len(key.indices)))
        return features.repeat(3, 1), targets.repeat(3)

    plain, history = train()
    net, thriced = train(ingredients=Ingredients(augment_features=thrice))
    assert set(seen) == {((8, 32), 8), ((1, 32), 1)}
    assert [record.images for record in thriced] == [3 * COUNT] * 4
    assert [record.loss for record in thriced] == pytest.approx([record.loss for record in history], rel=1e-4)
    for name, value in net.state_dict().items():
        assert torch.allclose(value.float(), plain.state_dict()[name].float(), atol=1e-4), name
        assert not torch.equal(value, make_net().state_dict()[name])

    def silent(features, targets, key):
        return torch.zeros_like(features), targets

    deaf, _ = train(
        ingredients=Ingredients(augment_features=silent), recipe=dataclasses.replace(RECIPE, weight_decay=0)
    )
    assert torch.equal(deaf[0].weight, make_net()[0].weight)
    assert torch.equal(deaf[-1].weight, make_net()[-1].weight)
    assert not torch.equal(deaf[-1].bias, make_net()[-1].bias)


class Fading:
    """An augmentation with a state: it brightens by the number of its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, images, targets, key):
        self.calls += 1
        return images + self.calls / 10, targets

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def test_a_part_with_a_state_is_resumed_with_it(tmp_path):
    whole, _ = train(ingredients=Ingredients(augment=Fading()))
    state, fading = tmp_path / "state.safetensors", Fading()
    loop = fit(
        make_net(),
        Pictures(),
        recipe=RECIPE,
        num_classes=CLASSES,
        ingredients=Ingredients(augment=Fading()),
        state=state,
    )
    next(loop)
    loop.close()
    before = state.read_bytes()
    expected = "ingredients with a state of a resumed run must stay augment, got none; start it anew"
    assert message_of(lambda: train(state=state)) == expected
    assert state.read_bytes() == before
    resumed, _ = train(ingredients=Ingredients(augment=fading), state=state)
    assert fading.calls == 4 * math.ceil(COUNT / 8)
    assert digest(resumed) == digest(whole)


# No trace


def random_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_no_state_of_chance_changes_and_nothing_is_left_on_the_model(workers):
    net = make_net()
    attributes = [set(vars(module)) for module in net.modules()]
    torch.manual_seed(11)
    before = random_states()
    ingredients = Ingredients(augment_features=lambda features, targets, key: (features, targets))
    for record in fit(
        net,
        Noisy(),
        recipe=dataclasses.replace(RECIPE, epochs=2),
        num_classes=CLASSES,
        val=val_loader(Noisy(20)),
        ingredients=ingredients if workers else None,
        workers=workers,
    ):
        assert random_states() == before, record.epoch
    assert random_states() == before
    assert [set(vars(module)) for module in net.modules()] == attributes
    for module in net.modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            assert not getattr(module, kind)
    assert all(not parameter._backward_hooks for parameter in net.parameters())


def test_an_error_leaves_chance_as_it_was():
    before = random_states()

    def fail(images, targets, key):
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="own"):
        train(ingredients=Ingredients(augment=fail))
    assert random_states() == before


# Evaluation


class Echo(nn.Module):
    """Predicts the number in the first pixel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout, self.norm = nn.Dropout(0.9), nn.BatchNorm2d(1)

    def forward(self, images):
        wanted = self.dropout(images)[:, 0, 0, 0].long()
        return functional.one_hot(wanted, 4).float() * self.scale


def test_evaluate_gives_the_recall_of_each_class_and_restores_every_mode():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    predictions = torch.tensor([0, 0, 0, 2, 1, 0, 3])
    images = predictions.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    net = Echo().train()
    net.norm.eval()
    before = random_states()
    for column in (labels, labels[:, None]):
        loader = DataLoader(torch.utils.data.TensorDataset(images, column), batch_size=3, shuffle=True)
        recall = evaluate(net, loader, num_classes=4)
        assert recall.dtype == torch.float64
        assert recall[:2].tolist() == [0.75, 0.5]
        assert recall[2].isnan()
        assert recall[3] == 1
    assert (net.training, net.dropout.training, net.norm.training) == (True, True, False)
    assert random_states() == before
    loader = DataLoader(torch.utils.data.TensorDataset(images, labels + 1), batch_size=7)
    assert message_of(lambda: evaluate(net, loader, num_classes=4)) == "labels must lie in [0, 3], got 4"


def test_the_balanced_accuracy_of_a_record_skips_an_absent_class():
    dataset = Pictures(20)
    dataset.labels = dataset.labels.clamp(max=1)  # class 2 has no image, and class 1 two kinds
    _, history = train(dataclasses.replace(RECIPE, epochs=1), val=val_loader(dataset))
    recall = history[0].recall_val
    assert recall[2] is None
    assert history[0].balanced_accuracy_val == pytest.approx((recall[0] + recall[1]) / 2)


def test_a_val_set_that_draws_draws_the_same_every_epoch():
    frozen = dataclasses.replace(RECIPE, learning_rate=1e-12)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    _, history = train(frozen, net=net, val=val_loader(Noisy(300)))
    assert len({tuple(record.recall_val) for record in history}) == 1


# Resuming


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_at_any_epoch_ends_as_one_never_stopped(tmp_path, name, uninterrupted):
    whole, history = uninterrupted[name]
    for stopped in (1, 2, 3, 4) if name == "sgd" else (2,):
        state = tmp_path / f"{stopped}" / "state.safetensors"
        _, first = train_named(name, until=stopped, state=state)
        torch.rand(7), random.random(), np.random.rand()  # noqa: NPY002, S311 - the resuming process has another past
        net, resumed = train_named(name, state=state)
        assert resumed[:stopped] == first  # the same records, seconds and all
        assert timeless(resumed) == timeless(history)
        assert digest(net) == digest(whole)


def test_a_run_stopped_at_every_epoch_and_within_one(tmp_path, uninterrupted):
    state = tmp_path / "state.safetensors"

    def stop(done, total):
        assert total == 4 * 6
        if done == 14:
            raise KeyboardInterrupt

    train_named("sgd", until=1, state=state)
    train_named("sgd", until=2, state=state)
    kept = state.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train_named("sgd", state=state, progress=stop)
    assert state.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    train_named("sgd", until=3, state=state)
    net, history = train_named("sgd", state=state)
    assert digest(net) == digest(uninterrupted["sgd"][0])
    finished, again = train_named("sgd", state=state)
    assert digest(finished) == digest(net)
    assert again == history


@pytest.fixture(scope="module")
def stopped_state(tmp_path_factory):
    state = tmp_path_factory.mktemp("stopped") / "state.safetensors"
    train_named("sgd", until=2, state=state)
    return state.read_bytes()


def with_recipe(**changes):
    return {"recipe": dataclasses.replace(RECIPE, **changes)}


OTHER_RUNS = [
    (with_recipe(learning_rate=0.2), "learning_rate of a resumed run must stay 0.1, got 0.2; start it anew"),
    (with_recipe(epochs=9), "epochs of a resumed run must stay 4, got 9; start it anew"),
    (with_recipe(seed=1), "seed of a resumed run must stay 0, got 1; start it anew"),
    (with_recipe(milestones=(0.5,)), "milestones of a resumed run must stay [0.8, 0.9], got [0.5]; start it anew"),
    ({"identity": "other"}, "a resumed run must have the data and the model it began with, got others; start it anew"),
    (
        {"net": nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))},
        "a resumed run must have the data and the model it began with, got another model; start it anew",
    ),
]


@pytest.mark.parametrize(("changes", "message"), OTHER_RUNS, ids=[text[:40] for _, text in OTHER_RUNS])
def test_the_state_of_another_run_is_refused_and_kept(tmp_path, stopped_state, changes, message):
    state = tmp_path / "state.safetensors"
    state.write_bytes(stopped_state)
    net = changes.get("net", make_net())
    before = digest(net)
    arguments = {"recipe": RECIPE, "identity": "sgd", **changes, "net": net}
    assert message_of(lambda: train(state=state, val=val_loader(), **arguments)) == message
    assert state.read_bytes() == stopped_state
    assert digest(net) == before
    if "net" not in changes:
        arguments.pop("net")
        assert message_of(lambda: require_resumable(state, **arguments)) == message
    require_resumable(state, recipe=RECIPE, identity="sgd")


def rewritten(path, change):
    tensors, metadata = atomic.read_tensors(path)
    header = json.loads(metadata["state"])
    change(header)
    atomic.write_tensors(path, tensors, {"state": json.dumps(header)})


STATE = "state must be the state of a training run, got {path}; start the run anew"
WHOLE = "state must be a whole safetensors file, got {path}"
BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), WHOLE),
    "text": (lambda path: path.write_text("weights" * 9), WHOLE),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), WHOLE),
    "header cut": (lambda path: path.write_bytes(path.read_bytes()[:100]), WHOLE),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "state must be a file, got the folder {path}"),
    "no header": (lambda path: atomic.write_tensors(path, {"model.a": torch.zeros(1)}), STATE),
    "no JSON": (lambda path: atomic.write_tensors(path, {"model.a": torch.zeros(1)}, {"state": "{"}), STATE),
    "no records": (lambda path: rewritten(path, lambda header: header.pop("history")), STATE),
    "other records": (lambda path: rewritten(path, lambda header: header["history"][0].pop("loss")), STATE),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_state_that_is_damaged(tmp_path, stopped_state, kind):
    state = tmp_path / "state.safetensors"
    state.write_bytes(stopped_state)
    damage, message = BROKEN[kind]
    damage(state)
    text = message_of(lambda: train(state=state, identity="sgd"))
    assert text.startswith(message.format(path=state))


# Errors


class ByKeyword(nn.Linear):
    def forward(self, *, pixel_values):
        return super().forward(pixel_values)


class ADictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(36, CLASSES)

    def forward(self, images):
        return {"logits": self.linear(images.flatten(1))}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(36, CLASSES)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits, logits


def exploding(images, targets, key):
    return images * (math.inf if key.epoch == 1 else 1), targets


class Mislabelled(Pictures):
    def __getitem__(self, index):
        return self.images[index], self.labels[index] + 10 * (index == 3)


def with_labels(**options):
    return lambda: train(dataset=Mislabelled(), **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_train_alike(dtype):
    dataset = Pictures()
    dataset.labels = dataset.labels.to(dtype)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    assert train(recipe, dataset=dataset)[1][0].loss == train(recipe)[1][0].loss


def test_labels_that_are_no_integers_are_refused():
    dataset = Pictures()
    dataset.labels = dataset.labels.float()
    assert message_of(lambda: train(dataset=dataset)) == "labels must be integers, got float32"


class Failing(Pictures):
    def __getitem__(self, index):
        if index == 3:
            raise OSError(f"no file {index}\nand more")
        return super().__getitem__(index)


class Refusing(nn.Module):
    """Raises the error at one call, counted from 0."""

    def __init__(self, error, at=0):
        super().__init__()
        self.net, self.error, self.left = make_net(), error, at

    def forward(self, images):
        self.left -= 1
        if self.left == -1:
            raise self.error
        return self.net(images)


UNREADABLE = "training set must give its images, got OSError: no file 3"
LOOP_ERRORS = [
    (lambda: train(dataset=Failing()), UNREADABLE),
    (lambda: train(dataset=Failing(), workers=1), UNREADABLE),
    (
        lambda: train(net=Refusing(AssertionError("Wrong image height!"))),
        "model must take these images, got AssertionError: Wrong image height!; they have shape (N, 1, 6, 6)",
    ),
    (
        lambda: train(net=Refusing(RuntimeError("too small\nby far"))),
        "model must take these images, got RuntimeError: too small; they have shape (N, 1, 6, 6)",
    ),
    (lambda: Recipe(seed=-1), "seed must lie in [0, 2^63 - 1], got -1"),
    (lambda: Recipe(seed=1 << 63), f"seed must lie in [0, 2^63 - 1], got {1 << 63}"),
    (
        lambda: train(ingredients=Ingredients(augment=exploding)),
        "training loss must stay finite, got nan in epoch 1; lower the learning rate",
    ),
    (
        lambda: train(net=TwoHeads()),
        "model must return one tensor of logits, got a tuple with tensors of shape (8, 3), (8, 3); wrap it in a module that "
        "does, for example one that model=package.module:function builds",
    ),
    (
        lambda: evaluate(ADictionary(), val_loader(), num_classes=3),
        "model must return one tensor of logits, got a dict with tensors of shape (6, 3); wrap it in a module that "
        "does, for example one that model=package.module:function builds",
    ),
    (
        lambda: train(net=make_net().requires_grad_(False)),
        "model must have a parameter that requires a gradient, got none; unfreeze some with requires_grad_(True)",
    ),
    (
        lambda: train(net=nn.Sequential(nn.Flatten(), nn.LazyLinear(3))),
        "model must have initialised weights, got the lazy LazyLinear '1'; run a batch of images through it first",
    ),
    (
        lambda: train(net=ByKeyword(36, CLASSES)),
        "model must take these images, got TypeError: ByKeyword.forward() takes 1 positional argument but 2 were given; "
        "they have shape (N, 1, 6, 6)",
    ),
    (lambda: train(net=make_net(7)), "model must return logits of shape (N, 3), got (8, 7)"),
    (lambda: train(net=nn.Conv2d(1, 3, 3)), "model must return logits of shape (N, 3), got (8, 3, 4, 4)"),
    (
        lambda: evaluate(make_net(7), val_loader(), num_classes=3),
        "model must return logits of shape (N, 3), got (6, 7)",
    ),
    (lambda: train(dataset=Pictures(0)), "training set must have at least one image, got 0"),
    (with_labels(), "labels must lie in [0, 2], got 10"),
    (with_labels(workers=1), "labels must lie in [0, 2], got 10"),
    (
        lambda: Recipe(optimizer="adam"),
        "optimizer must be one of sgd, adamw, got 'adam'; did you mean 'adamw'?",
    ),
    (
        lambda: Recipe(schedule="step"),
        "schedule must be one of steps, cosine, constant, got 'step'; did you mean 'steps'?",
    ),
    (lambda: Recipe(precision="fp16"), "precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?"),
    (lambda: Recipe(epochs=0), "epochs must be at least 1, got 0"),
    (lambda: Recipe(batch_size=-3), "batch_size must be at least 1, got -3"),
    (lambda: Recipe(learning_rate=0), "learning_rate must be positive and finite, got 0"),
    (lambda: Recipe(learning_rate=math.nan), "learning_rate must be positive and finite, got nan"),
    (lambda: Recipe(decay=math.inf), "decay must be positive and finite, got inf"),
    (lambda: Recipe(weight_decay=-1e-4), "weight_decay must not be negative, got -0.0001"),
    (lambda: Recipe(warmup_epochs=-1), "warmup_epochs must not be negative, got -1"),
    (lambda: Recipe(momentum=1.0), "momentum must lie in [0, 1), got 1.0"),
    (lambda: Recipe(milestones=(0.8, 160)), "milestones must be shares of the epochs, in (0, 1], got (0.8, 160)"),
]


@pytest.mark.parametrize(("call", "message"), LOOP_ERRORS, ids=[text[:60] for _, text in LOOP_ERRORS])
def test_what_cannot_be_trained(call, message):
    assert message_of(call) == message


def test_later_errors_of_the_network_and_scarce_memory_stay_as_they_are():
    memory = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    for error, at in (
        (RuntimeError("later"), 1),
        (memory, 0),
        (torch.OutOfMemoryError("CUDA out of memory."), 0),
        (MemoryError(), 0),
        (KeyError("own"), 0),
    ):
        with pytest.raises(type(error)) as caught:
            train(net=Refusing(error, at))
        assert caught.value is error
    with pytest.raises(InputError) as caught:
        train(net=Refusing(error := ValueError("first")))
    assert caught.value.__cause__ is error
    assert Recipe(seed=(1 << 63) - 1).seed == (1 << 63) - 1


def test_a_loss_that_is_not_finite_keeps_the_last_whole_epoch(tmp_path):
    state = tmp_path / "state.safetensors"
    message_of(lambda: train(ingredients=Ingredients(augment=exploding), state=state))
    _, metadata = atomic.read_tensors(state)
    assert len(json.loads(metadata["state"])["history"]) == 1


# The other process


def write_fresh():
    runs = {name: train_named(name) for name in RUNS}
    result = {
        "weights": {name: digest(net) for name, (net, _) in runs.items()},
        "history": {name: timeless(history) for name, (_, history) in runs.items()},
        "data": load_data("digits", imbalance="exp:10", tail_order="2").record(),
        "model": digest(build_model("small_cnn", 10, seed=5)),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def test_a_sampler_of_one_process_is_refused():
    sampler = DistributedSampler(Pictures(), num_replicas=2, rank=0)
    assert message_of(lambda: train(ingredients=Ingredients(sampler=sampler))) == (
        "sampler must be global: the same in all processes, of which each then takes a slice, got DistributedSampler with "
        "num_replicas=2; leave out rank and num_replicas"
    )


def write_sharded(folder):
    rank, indices, noise = int(os.environ["RANK"]), {0: [], 1: []}, []

    def note(images, targets, key):
        indices[key.epoch] += key.indices.tolist()
        noise.append(float(images[0, 0, 5, 5]))
        return images, targets

    net = make_net()
    ingredients = Ingredients(augment=note, augment_features=lambda features, targets, key: (features, targets))
    recipe = dataclasses.replace(RECIPE, epochs=2, batch_size=4)
    history = list(
        fit(net, Noisy(), recipe=recipe, num_classes=CLASSES, ingredients=ingredients, collate=default_collate)
    )
    result = {
        "indices": [indices[epoch] for epoch in (0, 1)],
        "weights": digests.digest_tensors(dict(net.named_parameters())),
        "losses": [record.loss for record in history],
        "images": [record.images for record in history],
        "noise": noise,
    }
    atomic.write_json(folder / f"rank-{rank}.json", result)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "fresh":
        write_fresh()
    elif kind == "killed":
        train_named("workers", state=Path(rest[0]) / "killed.safetensors", kill_at=6 + 6 + 4)
    elif kind == "sharded":
        torch.set_num_threads(1)
        write_sharded(Path(rest[0]))
        leave(0)


# Batch norms that their owner froze


def norm_net() -> nn.Module:
    """Three batch norms before a head; the last has neither weight nor bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def freeze(*norms: nn.Module) -> None:
    for norm in norms:
        norm.eval().requires_grad_(False)


def first_in_eval(net: nn.Module) -> None:
    net.train()
    net[1].eval()


def first_without_gradients(net: nn.Module) -> None:
    net.eval()
    freeze(net[1])


def without_gradients_in_training_mode(net: nn.Module) -> None:
    net.train()
    net[1].requires_grad_(False)


def all_in_eval(net: nn.Module) -> None:
    net.train()
    for index in (1, 3):
        net[index].eval()
    net[2].eval()


FROZEN = {  # which of the three norms do not move
    "training mode": (lambda net: net.train(), (False, False, False)),
    "eval mode": (lambda net: net.eval(), (False, False, False)),
    "one in eval mode": (first_in_eval, (True, False, False)),
    "all in eval mode": (all_in_eval, (True, True, True)),
    "without gradients, model in eval mode": (first_without_gradients, (True, False, False)),
    "without gradients, but in training mode": (without_gradients_in_training_mode, (False, False, False)),
}


@pytest.mark.parametrize("features", [False, True], ids=["plain", "features augmented"])
@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_batch_norm_stays_frozen(kind, features):
    prepare, frozen = FROZEN[kind]
    net = norm_net()
    prepare(net)
    norms = [net[1], net[2][1], net[3]]
    before = [norm.running_mean.clone() for norm in norms]
    modes = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, _: modes.append(norm.training) if torch.is_grad_enabled() else None)
    ingredients = Ingredients(augment_features=lambda rows, targets, key: (rows, targets)) if features else None
    recipe = dataclasses.replace(RECIPE, epochs=2)
    list(fit(net, Pictures(), recipe=recipe, num_classes=CLASSES, ingredients=ingredients, val=val_loader()))
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert moved == [not each for each in frozen]
    assert modes == [not each for each in frozen] * (len(modes) // 3)
    assert len(modes) == 2 * 3 * math.ceil(COUNT / RECIPE.batch_size)
    assert [norm.training for norm in norms] == [not each for each in frozen]


def test_a_batch_norm_frozen_by_its_class_or_by_the_model_itself():
    class Freezing(nn.Sequential):
        def train(self, mode: bool = True):
            super().train(mode)
            self[1].eval()
            return self

    for net in (
        nn.Sequential(nn.Conv2d(1, 4, 3), torchvision.ops.FrozenBatchNorm2d(4), nn.Flatten(), nn.Linear(64, CLASSES)),
        Freezing(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, CLASSES)),
    ):
        before = net[1].running_mean.clone()
        train(net=net)
        assert torch.equal(net[1].running_mean, before)


def test_the_rest_of_a_frozen_network_is_trained():
    net = norm_net().requires_grad_(False).eval()
    net[5].requires_grad_(True)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    train(net=net)
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {
        "5.weight",
        "5.bias",
        *(f"3.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
    }
