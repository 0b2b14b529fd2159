"""One run of a study: its training images, its evaluation images, and its outcome."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from PIL import Image
from tiny_study import COUNTS, but_for_time, protocol_of, run, write_data
from torch import nn

from diversify.data.load import load_data
from diversify.errors import InputError
from diversify.files import atomic
from diversify.files.schema import refusal
from diversify.functional import metrics
from diversify.network.linear_head import LinearHead
from diversify.network.networks import build_model
from diversify.network.wrappers import evaluating
from diversify.study import task as task_module
from diversify.study import trial
from diversify.study.methods import METHODS, method_named
from diversify.study.protocol import HeadStep, Method, Parameters, Protocol, Setting, Stopped, Trained
from diversify.study.suites import SUITES
from diversify.study.task import load_task, recipe_of
from diversify.training import loop
from diversify.training.ingredients import Ingredients
from diversify.training.resident import fit_resident

CE = METHODS["ce"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tiny.npz")


class Spy:
    """A method that records what it is given and changes nothing."""

    def __init__(self) -> None:
        self.settings: list[Setting] = []
        self.trained: list[Trained] = []

    @property
    def method(self) -> Method:
        def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
            self.settings.append(setting)
            return Ingredients(augment=setting.base)

        def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
            self.trained.append(trained)
            return HeadStep(head=trained.head)

        return Method(name="spy", meaning="m", source="s", ingredients=ingredients, head_step=step)


def pixels(images: torch.Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


# Images


def test_a_trial_is_trained_without_the_holdout_and_a_final_run_on_all(file: Path) -> None:
    spy, task = Spy(), load_task(protocol_of(file), device="cpu")
    run(task, spy.method, "val")
    run(task, spy.method, "test")
    data = load_data(f"npz:{file}", holdout=0.25, measure_view=True)
    val = pixels(torch.stack([data.val.dataset[row][0] for row in range(len(data.val))]))
    kept, everything = (pixels(setting.images) for setting in spy.settings)
    assert sorted([*kept, *val]) == everything
    assert [setting.class_counts.tolist() for setting in spy.settings] == [[36, 18, 9, 4], list(COUNTS)]
    assert all(torch.equal(one.labels.bincount(), one.class_counts) for one in spy.settings)
    in_trial, in_final = spy.trained
    assert len(in_trial.train) == len(kept)
    assert in_trial.heldout.labels.bincount().tolist() == [12, 6, 3, 2]
    assert len(in_final.train) == sum(COUNTS)
    assert in_final.heldout is None


def test_what_a_step_makes_from_val_is_not_judged_by_it(file: Path) -> None:
    """A step that memorises the validation set is wrong on every image of the fold it is evaluated on."""
    seen = []

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        if trained.heldout is None:
            return HeadStep(head=trained.head)
        seen.append(trained.heldout)
        return HeadStep(head=trained.head, carry={"rows": len(trained.heldout)})

    task = load_task(protocol_of(file), device="cpu")
    outcome = run(task, Method(name="maker", meaning="m", source="s", head_step=step), "val")
    whole, *folds = seen
    assert len(folds) == 5
    assert outcome.carried == {"rows": len(whole)}  # the final run gets the plan made from the whole validation set
    rows = [{tuple(row) for row in one.features.tolist()} for one in folds]
    absent = [{tuple(row) for row in whole.features.tolist()} - one for one in rows]
    assert sum(len(whole) - len(one) for one in folds) == len(whole)
    assert set.union(*absent) == {tuple(row) for row in whole.features.tolist()}
    assert outcome.balanced_accuracy == run(task, CE, "val").balanced_accuracy  # no step changed the head before


def test_a_fold_is_judged_by_the_head_made_without_it(file: Path) -> None:
    """A head made from four folds predicts class 0 or 1 for every image, depending on the number of rows it was given."""

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        shown = 99 if trained.heldout is None else len(trained.heldout)
        bias = torch.zeros_like(trained.head.bias)
        bias[0 if shown == 23 else 1] = 1e6
        return HeadStep(head=dataclasses.replace(trained.head, bias=bias), carry=shown)

    task = load_task(protocol_of(file), device="cpu")
    outcome = run(task, Method(name="maker", meaning="m", source="s", head_step=step), "val")
    assert outcome.carried == 23
    assert outcome.recall == (0.0, 1.0, 0.0, 0.0)  # evaluated with heads made from 18 or 19 rows, never from all 23


def test_a_step_that_makes_nothing_from_val_is_taken_once(file: Path) -> None:
    calls = []

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        calls.append(trained)
        return HeadStep(head=trained.head)

    run(
        load_task(protocol_of(file), device="cpu"),
        Method(name="plain", meaning="m", source="s", head_step=step),
        "val",
    )
    assert len(calls) == 1


@pytest.mark.slow
def test_a_trial_is_judged_by_val_and_a_final_run_by_test(tmp_path: Path) -> None:
    found = {}
    for name, rolled in {"as it is": {}, "val": {"val": 1}, "test": {"test": 1}}.items():
        task = load_task(protocol_of(write_data(tmp_path / f"{name}.npz", with_val=True, **rolled)), device="cpu")
        found[name] = [but_for_time(run(task, CE, split)) for split in ("val", "test")]
    assert found["val"][0] != found["as it is"][0] == found["test"][0]
    assert found["test"][1] != found["as it is"][1] == found["val"][1]


def test_seeds_of_final_runs_go_through_the_tail_orders_and_trials_stay_with_the_first(tmp_path: Path) -> None:
    even = write_data(tmp_path / "even.npz", counts=(20, 20, 20, 20))
    protocol = protocol_of(even, imbalance="exp:4", tail_orders=("canonical", "0"), seeds=(0, 1, 2), epochs=1, rungs=())
    task = load_task(protocol, device="cpu")
    trials = [run(task, CE, "val", seed=seed).class_counts for seed in (0, 1)]
    finals = [run(task, CE, "test", seed=seed).class_counts for seed in (0, 1, 2)]
    assert trials[0] == trials[1] == (15, 9, 5, 4)
    assert finals[0] == finals[2] == (20, 12, 7, 5)
    assert finals[1] != finals[0]
    assert sorted(finals[1]) == sorted(finals[0])


def test_trials_may_be_shorter_than_final_runs(file: Path) -> None:
    spy, task = Spy(), load_task(protocol_of(file, trial_epochs=2, epochs=3, rungs=(1,)), device="cpu")
    assert [run(task, spy.method, split).epochs for split in ("val", "test")] == [2, 3]
    assert [setting.epochs for setting in spy.settings] == [2, 3]


def test_a_warm_up_takes_a_third_of_the_epochs_at_most(file: Path) -> None:
    protocol = protocol_of(file, warmup_epochs=5, rungs=())
    found = {epochs: recipe_of(protocol, {}, epochs, 0).warmup_epochs for epochs in (1, 2, 3, 4, 6, 14, 15, 30, 200)}
    assert found == {1: 0, 2: 0, 3: 1, 4: 1, 6: 2, 14: 4, 15: 5, 30: 5, 200: 5}
    assert recipe_of(protocol.model_copy(update={"warmup_epochs": 0}), {}, 30, 0).warmup_epochs == 0


KEPT = (Path(__file__).parents[2] / "benchmarks" / "results").glob("*.protocol.json")
RECORDED = [Protocol.model_validate(atomic.read_json(path, "protocol")["protocol"]) for path in sorted(KEPT)]


@pytest.mark.parametrize("protocol", [*SUITES.values(), *RECORDED], ids=lambda one: one.suite)
def test_studies_are_warmed_up_as_their_protocol_says(protocol: Protocol) -> None:
    for split in ("val", "test"):
        recipe = recipe_of(protocol, {}, protocol.epochs_of(split), 0)
        assert recipe.warmup_epochs == protocol.warmup_epochs


def test_another_split_is_refused(file: Path) -> None:
    task = load_task(protocol_of(file), device="cpu")
    with pytest.raises(InputError, match="split must be one of val, test, got 'train'"):
        run(task, CE, "train")


# Outcomes


def test_balanced_accuracy_is_reported_at_the_rungs_of_a_trial(file: Path) -> None:
    """By hand: the same network in the loop, evaluated after every epoch."""
    protocol = protocol_of(file)
    task = load_task(protocol, device="cpu")
    reported: list[tuple[int, float]] = []
    outcome = run(task, CE, report=lambda epoch, value: reported.append((epoch, value)))
    sides = task.images("canonical", "val")
    model = build_model("small_cnn", 4, channels=1, seed=0)
    recipe = recipe_of(protocol, {}, 3, 0)
    by_hand = []
    setting = trial.build_setting(sides, 3, 0)
    for _ in fit_resident(
        model,
        sides.train,
        recipe=recipe,
        num_classes=4,
        ingredients=Ingredients(augment=setting.base),
        prepare=sides.view.normalize,
    ):
        with evaluating(model), torch.no_grad():
            predicted = model(sides.view.normalize(sides.evaluation.images)).argmax(1)
        by_hand.append(metrics.balanced_accuracy(sides.evaluation.labels, predicted, 4))
    assert reported == [(1, by_hand[0]), (2, by_hand[1])]
    assert outcome.curve == tuple(by_hand[:2])
    assert outcome.balanced_accuracy == by_hand[2]


def test_a_report_may_stop_a_trial(file: Path) -> None:
    task = load_task(protocol_of(file), device="cpu")
    seen: list[int] = []

    def report(epoch: int, value: float) -> None:
        seen.append(epoch)
        raise Stopped

    with pytest.raises(Stopped):
        run(task, CE, report=report)
    assert seen == [1]
    assert run(task, CE, "test", report=report).curve == ()
    assert seen == [1], "nothing is reported of a final run"


def interrupted_in(epoch: int, seen: list[int]) -> Callable[[int, int], None]:
    """Return a callback that raises after the first batches of an epoch of three."""

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done > epoch * total / 3:
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("name", ["balanced_softmax+images+mix", "diversify"])
def test_an_interrupted_run_goes_on_to_the_same_outcome(
    name: str, resident: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resident:
        monkeypatch.setattr(task_module, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(trial, "SAVE_EVERY", 0.0)
    method, state = method_named(name), tmp_path / "run.safetensors"
    task = load_task(protocol_of(file, rungs=()), device="cpu")
    whole, first, second = [], [], []
    wanted = run(task, method, progress=lambda done, _: whole.append(done))
    with pytest.raises(KeyboardInterrupt):
        run(task, method, state=state, progress=interrupted_in(2, first))
    seconds_in = trial.Run.seconds_in

    def an_hour_more(self: trial.Run, state: Path) -> float:
        return seconds_in(self, state) + 3600

    with monkeypatch.context() as patch:
        patch.setattr(trial.Run, "seconds_in", an_hour_more)
        found = run(task, method, state=state, progress=lambda done, _: second.append(done))
    assert but_for_time(found) == but_for_time(wanted)
    assert found.seconds > 3600, "with those before the interruption"
    assert set(second) < set(whole)
    state.write_bytes(b"half")
    assert but_for_time(run(task, method, state=state)) == but_for_time(wanted), "a damaged state is none"


def test_a_trial_with_rungs_leaves_no_state(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SAVE_EVERY", 0.0)
    task, state = load_task(protocol_of(file), device="cpu"), tmp_path / "run.safetensors"
    run(task, CE, state=state)
    assert not state.exists()
    run(task, CE, "test", state=state)
    assert state.exists()


def test_looking_at_val_changes_nothing(file: Path) -> None:
    looked, not_looked = (
        but_for_time(run(load_task(protocol_of(file, rungs=rungs), device="cpu"), CE)) for rungs in ((1, 2), ())
    )
    assert looked | {"curve": ()} == not_looked


def test_what_changed_inside_is_told_by_final_runs(file: Path) -> None:
    task = load_task(protocol_of(file), device="cpu")
    method = method_named("balanced_softmax+images")
    assert run(task, method).inside == {}
    inside = run(task, method, "test").inside
    assert set(inside) == {"magnitude_ratio", "diversity_heldout", "diversity_train", "leak"}
    assert all(len(column) == 4 for column in inside.values())
    assert "leak" not in run(task, CE, "test").inside, "no class has an image policy"


def test_the_leak_is_that_of_the_head_that_is_judged(file: Path) -> None:
    def always_first(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        return HeadStep(head=LinearHead(weight=torch.zeros_like(trained.head.weight), bias=-torch.arange(4.0)))

    images = method_named("ce+images")
    step = Method(
        name="first",
        meaning="m",
        source="s",
        space=images.space,
        ingredients=images.ingredients,
        head_step=always_first,
    )
    outcome = run(load_task(protocol_of(file), device="cpu"), step, "test", changed={"learning_rate": 0.3})
    assert outcome.recall == (1.0, 0.0, 0.0, 0.0)
    assert outcome.inside["leak"] == [0.0] * 4


@pytest.mark.parametrize("name", ["ce", "logit_adjustment"])
@pytest.mark.slow
def test_large_images_are_read_by_loaders_with_the_same_result(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, split = METHODS[name], "test"
    resident = run(load_task(protocol_of(file), device="cpu"), method, split)
    monkeypatch.setattr(task_module, "RESIDENT_BYTES", 0)
    used: list[Any] = []

    def fit(*args: Any, **options: Any) -> Any:
        used.append(options)
        return real(*args, **options)

    real = loop.fit
    monkeypatch.setattr(trial, "fit", fit)
    monkeypatch.setattr(trial, "fit_resident", None)
    spy = Spy()
    task = load_task(protocol_of(file), device="cpu")
    run(task, spy.method)
    assert spy.settings[0].images is None
    assert spy.settings[0].labels.bincount().tolist() == [36, 18, 9, 4]
    read = run(task, method, split)
    assert len(used) == 2
    assert read.recall == resident.recall
    assert read.ece == pytest.approx(resident.ece, abs=1e-5)
    assert read.inside["magnitude_ratio"] == pytest.approx(resident.inside["magnitude_ratio"], rel=1e-4)


PROGRAM = """
import functools
import sys
from diversify.study import methods
from diversify.study.task import load_task
from diversify.study.trial import run_trial
from tiny_study import protocol_of, run
methods.heads.retrain_head = functools.partial(methods.heads.retrain_head, steps=5)
task = load_task(protocol_of(sys.argv[1], epochs=1, rungs=()), device="cpu")
for name in ("diversify", "eos", "smote"):
    outcome = run(task, methods.METHODS[name])
    run(task, methods.METHODS[name], "test", carried=outcome.carried)
print([name for name in ("imblearn", "albumentations", "cv2") if name in sys.modules])
"""


@pytest.mark.slow
def test_a_run_imports_neither_imbalanced_learn_nor_albumentations(file: Path) -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# Errors before the first run


def three_outputs() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def wide(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(100, num_classes))


def ready() -> dict[str, Any]:
    """Return images that are already preprocessed."""
    return {
        split: torch.utils.data.TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8) % 4)
        for split in ("train", "test")
    }


def headless(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())


WRONG = [
    ({"data": "digit"}, "data must be one of digits,"),
    ({"data": "npz:none.npz"}, "none.npz"),
    ({"model": "resnet33"}, "model must be one of small_cnn,"),
    ({"model": "test_trial:three_outputs"}, "outputs of test_trial:three_outputs must be (N, 4) logits, got (2, 3)"),
    ({"model": "test_trial:wide"}, "model must take these images, got RuntimeError: "),
    (
        {"imbalance": "exp"},
        "imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'exp'",
    ),
    ({"tail_orders": ("canonical", "x")}, "tail_order must be canonical or a seed, got 'x'"),
    (
        {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
        "mean and std must have one number, or one per channel, 1, got 2",
    ),
    (
        {"data": "test_trial:ready", "crop": 4},
        "resize and crop must be left out for a data set of your own, got crop 4; let the data set resize",
    ),
    ({"holdout": 0.001}, "data of a study must have images for val, got none in npz:"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(next(iter(one.values()))) for one, _ in WRONG])
def test_what_no_run_could_be_made_with_is_said_at_the_door(changes: Any, message: str, file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_task(protocol_of(file, **changes), device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def write_images(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Write two classes, with one image of each size per split."""
    for split in ("train", "test"):
        for value, name in ((60, "ant"), (180, "bee")):
            (folder / split / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                Image.new("RGB", size, (value, value, 20 * number)).save(folder / split / name / f"{number}.png")
    return folder


def test_images_of_several_sizes_are_studied_at_one(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", (16, 16), (20, 24), (30, 20), (18, 18))
    protocol = protocol_of(folder, data=f"folder:{folder}", batch_size=4)
    with pytest.raises(InputError) as caught:
        load_task(protocol, device="cpu")
    assert str(caught.value) == (
        f"image files must have one size, got 16 x 16 in {folder}/train/ant/0.png and 20 x 24 in {folder}/train/ant/1.png;"
        " pass resize=N and crop=N"
    )
    changes: dict[str, Any] = {"resize": 12, "crop": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    task = load_task(protocol.model_copy(update=changes), device="cpu")
    for split in ("val", "test"):
        sides = task.images("canonical", split)
        assert {name: getattr(sides.view, name) for name in changes} == changes
        assert sides.train is not None
        assert sides.evaluation is not None
        assert sides.train.images.shape[1:] == sides.evaluation.images.shape[1:] == (3, 10, 10)
    assert run(task, CE, "test").epochs == 3


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", (16, 16), (16, 16))
    (folder / "train" / "ant" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"must be readable images, got 1 .*train/ant/1\.png"):
        load_task(protocol_of(folder, data=f"folder:{folder}"), device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": 0}, "resize of the protocol must be at least 1, got 0"),
        ({"crop": 2.5}, "crop of the protocol must be an integer, got 2.5"),
        ({"mean": (0.5,)}, "std of the protocol must have as many numbers as mean, got 0 for 1"),
        ({"mean": (0.5,), "std": (0.0,)}, "std of the protocol must be positive, got (0.0,)"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "mean.0 of the protocol must be finite, got nan"),
    ],
    ids=str,
)
def test_what_the_model_sees_is_checked_in_the_protocol(changes: Any, message: str, file: Path) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        protocol_of(file, **changes)
    assert str(refusal("protocol", caught.value, Protocol.model_fields)) == message


def test_a_network_without_a_linear_head_is_refused_at_the_door(file: Path) -> None:
    with pytest.raises(InputError):
        load_task(protocol_of(file, model="test_trial:headless"), device="cpu")


def test_data_without_test_are_refused_before_a_search(file: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(file))
    np.savez(tmp_path / "untested.npz", **{name: arrays[name] for name in ("train_images", "train_labels")})
    protocol = protocol_of(tmp_path / "untested.npz")
    with pytest.raises(InputError) as caught:
        load_task(protocol, device="cpu")
    assert str(caught.value) == f"data of a study must have images for test, got none in {protocol.data}"


def test_a_class_without_training_images_is_refused(file: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(file))
    kept = arrays["train_labels"] != 3
    arrays |= {name: arrays[name][kept] for name in ("train_images", "train_labels")}
    np.savez(tmp_path / "absent.npz", **arrays)
    with pytest.raises(InputError, match="every class must have a training image, got none of class 3"):
        load_task(protocol_of(tmp_path / "absent.npz"), device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:77"])
def test_a_device_that_is_not_there_is_refused_at_the_door(device: str, file: Path) -> None:
    with pytest.raises(InputError, match="^device must be "):
        load_task(protocol_of(file), device=device)


@pytest.mark.slow
def test_both_precisions_can_be_run_and_no_other(file: Path) -> None:
    protocol = protocol_of(file, precision="bf16")
    low = run(load_task(protocol, device="cpu"), CE, "test")
    high = run(load_task(protocol_of(file), device="cpu"), CE, "test")
    assert all(value is not None for value in low.recall)
    assert low.ece != high.ece
    with pytest.raises(InputError, match="precision must be one of fp32, bf16"):
        load_task(protocol.model_copy(update={"precision": "fp8"}), device="cpu")
