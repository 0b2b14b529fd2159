"""`diversify train --plan`: what it leaves, what it says, what it refuses, and that it goes on where it was stopped."""

import shutil
from pathlib import Path

import pytest
import torch

from diversify.augment.leak import measure_leak
from diversify.cli.entry import run
from diversify.commands import train as module
from diversify.commands.diagnose import _training_plan, load_trained
from diversify.commands.options import DataOptions
from diversify.commands.train import train_run
from diversify.data.load import load_data
from diversify.errors import InputError
from diversify.files import atomic, digests
from diversify.functional.counts import class_counts
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Schedule
from diversify.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("reports_without_figures")

DATA = ("--imbalance", "exp:5:50")
SHORT = (
    "--epochs",
    "3",
    "--batch-size",
    "64",
    "--precision",
    "fp32",
    "--learning-rate",
    "0.05",
    "--warmup-epochs",
    "0",
)
RECIPE = Recipe(epochs=3, batch_size=64, precision="fp32", learning_rate=0.05, warmup_epochs=0)
NAMES = tuple(str(digit) for digit in range(10))


def counts_of(holdout: float = 0.2) -> list[int]:
    """Training images per class of `DATA`."""
    data = load_data("digits", imbalance="exp:5:50", holdout=holdout)
    assert data.class_names == NAMES
    return class_counts(data.train.labels, 10).tolist()


def full_plan(**changes: object) -> Plan:
    """Every slot in use, the draws even."""
    counts = counts_of()
    classes = [
        ClassPlan(
            name=name,
            count=count,
            draws=0.1,
            image=ImagePolicy(operations=("rotate", "brightness"), strength=0.3 + digit / 50, probability=0.5),
            mixing=Mixing(method="cutmix", probability=0.3),
            features=(FeaturePolicy(method="covariance", strength=0.3, share=0.4),),
        )
        for digit, (name, count) in enumerate(zip(NAMES, counts, strict=True))
    ]
    values = {"classes": tuple(classes), "prior_correction": PriorCorrection(training=0.5, after=0.5)}
    return Plan(**{**values, **changes})


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    path.write_text(full_plan().to_json())
    return path


def train(out: Path, *more: object) -> int:
    return run(["train", *DATA, *SHORT, "--out", str(out), *map(str, more)])


@pytest.fixture(scope="module")
def trained(plan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "run"
    assert train(out, "--plan", plan_file) == 0
    return out


def test_it_leaves_the_plan_and_says_so_in_the_record(trained: Path, plan_file: Path) -> None:
    assert {entry.name for entry in trained.iterdir()} == {
        "model.safetensors",
        "state",
        "metrics.jsonl",
        "run.json",
        "plan.json",
    }
    assert (trained / "plan.json").read_text() == plan_file.read_text()
    record = atomic.read_json(trained / "run.json", "run.json")
    assert record["method"] == "plan"
    assert record["plan"] == {
        "path": "plan.json",
        "digest": digests.digest_json(atomic.read_json(plan_file, "plan")),
        "made_from": "hand",
        "made_for_counts": counts_of(),
        "adapt": "none",
    }
    assert "plan_adapted" not in record


@pytest.mark.slow
def test_its_diagnosis_says_what_its_policies_leak(trained: Path, tmp_path: Path) -> None:
    assert run(["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(tmp_path / "d")]) == 0
    record = atomic.read_json(tmp_path / "d" / "run.json", "run.json")
    data = load_data("digits", imbalance="exp:5:50", holdout=0.2)
    network = load_trained("small_cnn", trained / "model.safetensors", 10, 1)
    assert data.val is not None
    assert data.view is not None
    found = measure_leak(network, full_plan(), data.val.dataset, prepare=data.view.normalize)
    assert record["leak"] == found.to_dict()
    assert any(found.leak.tolist())
    assert "largest leak of an image policy, points" in (tmp_path / "d" / "report.md").read_text()
    edited = full_plan(prior_correction=PriorCorrection(training=1.0)).to_json()
    shutil.copytree(trained, tmp_path / "t")
    file, weights = tmp_path / "t" / "plan.json", tmp_path / "t" / "model.safetensors"
    training = atomic.read_json(trained / "run.json", "run.json")
    assert _training_plan(weights, training) == full_plan()
    for text in (edited, "{", None):  # no longer the plan that it was trained with
        file.unlink() if text is None else file.write_text(text)
        assert _training_plan(weights, training) is None
    assert run(["diagnose", "--weights", str(weights), "--out", str(tmp_path / "without")]) == 0
    assert "leak" not in atomic.read_json(tmp_path / "without" / "run.json", "run.json")


def test_a_plan_that_changes_nothing_is_plain_training_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(Plan.untouched(NAMES, counts_of()).to_json())
    assert train(tmp_path / "with", "--plan", tmp_path / "plan.json") == 0
    assert train(tmp_path / "without") == 0
    weights = [digests.sha256(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("adapt", ["none", "hits"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, plan_file: Path, adapt: str) -> None:
    options = DataOptions(imbalance="exp:5:50")

    def go(out: Path, **more: object) -> None:
        train_run(options, model="small_cnn", plan=plan_file, adapt=adapt, recipe=RECIPE, out=out, say=str, **more)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 2 * total // 3 + 1:
            raise KeyboardInterrupt

    go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", progress=stop)
    assert len(atomic.read_jsonl(tmp_path / "parts" / "metrics.jsonl")) == 2
    go(tmp_path / "parts", resume=True)
    whole, parts = (atomic.read_json(tmp_path / name / "run.json", "run.json") for name in ("whole", "parts"))
    assert whole["weights"]["sha256"] == parts["weights"]["sha256"]
    assert whole.get("plan_adapted") == parts.get("plan_adapted")
    assert ("plan_adapted" in whole) == (adapt == "hits")


def test_hits_of_epochs_without_augmentation_adapt_nothing(tmp_path: Path) -> None:
    plan = full_plan(schedule=Schedule(start=1.0))
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert train(tmp_path / "out", "--plan", tmp_path / "plan.json", "--adapt", "hits") == 0
    record = atomic.read_json(tmp_path / "out" / "run.json", "run.json")
    assert Plan.from_dict(record["plan_adapted"]) == plan


def test_another_plan_or_none_is_refused_when_a_run_is_resumed(
    tmp_path: Path, trained: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text(full_plan(prior_correction=PriorCorrection()).to_json())
    before = digests.sha256(trained / "model.safetensors")
    kept = f"error: --plan of a resumed run must stay {trained / 'plan.json'} with --adapt none, got "
    for more, got in (
        (("--plan", tmp_path / "other.json"), "another plan, or adapt none"),
        ((), "none"),
        (("--plan", plan_file, "--adapt", "hits"), "another plan, or adapt hits"),
    ):
        assert train(trained, "--resume", *more) == 2
        assert capsys.readouterr().err.strip() == f"{kept}{got}; start a new run"
    assert digests.sha256(trained / "model.safetensors") == before
    assert train(trained, "--resume", "--plan", trained / "plan.json") == 0
    assert digests.sha256(trained / "model.safetensors") == before


def test_a_plan_for_other_counts_is_fitted_and_it_is_said(
    tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    assert train(out, "--plan", plan_file, "--holdout", "0") == 0
    made, have = counts_of(), counts_of(0.0)
    said = f"the plan was made for {sum(made)} training images and is applied to {sum(have)}"
    assert said in capsys.readouterr().out
    used = Plan.from_json((out / "plan.json").read_text())
    assert used.class_counts.tolist() == have
    assert torch.allclose(used.draws, torch.full((10,), 0.1, dtype=torch.float64))
    assert atomic.read_json(out / "run.json", "run.json")["plan"]["made_for_counts"] == made


def refused(out: Path, *more: object) -> int:
    code = train(out, *more)
    assert not out.exists()
    return code


def test_what_is_refused(tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = full_plan()
    for name, other in {
        "few": Plan.untouched(NAMES[:9], counts_of()[:9]),
        "named": Plan.untouched((*NAMES[:9], "ten"), counts_of()),
    }.items():
        (tmp_path / f"{name}.json").write_text(other.to_json())
    (tmp_path / "broken.json").write_text(plan.to_json()[:-30])
    (tmp_path / "edited.json").write_text(plan.to_json().replace('"strength": 0.3', '"strength": 3', 1))
    for more, message in {
        ("--plan", plan_file, "--method", "ce"): "--method and --plan must not be given together, got ce and",
        ("--plan", tmp_path / "none.json"): "--plan must be",
        ("--plan", tmp_path / "broken.json"): "--plan must be",
        ("--plan", tmp_path / "edited.json"): "strength of the plan must",
        ("--plan", tmp_path / "few.json"): "--plan must have the 10 classes of digits, got 9 classes",
        (
            "--plan",
            tmp_path / "named.json",
        ): "--plan must have the classes of digits, in their order, got 'ten' for '9'",
        ("--adapt", "hits"): "--adapt must be none without a plan, got hits; pass --plan FILE",
        ("--plan", plan_file, "--adapt", "leak"): "--adapt must be one of none, hits, got 'leak'",
    }.items():
        assert refused(tmp_path / "out", *more) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error
        assert message in error, error


def test_a_plan_for_other_counts_keeps_all_but_counts_draws_and_the_ratio_of_its_budget() -> None:
    plan = full_plan(images_per_epoch=300)
    other = [2 * count + 1 for count in counts_of()]
    fitted = plan.for_counts(other)
    assert fitted.class_counts.tolist() == other
    assert fitted.images_per_epoch == round(300 * sum(other) / sum(counts_of()))
    for one, before in zip(fitted.classes, plan.classes, strict=True):
        assert one.draws == pytest.approx(0.1)
        assert one.model_copy(update={"count": before.count, "draws": before.draws}) == before
    assert plan.for_counts(counts_of()) is plan
    assert fitted.prior_correction == plan.prior_correction
    untouched = Plan.untouched(NAMES, counts_of()).for_counts(other)
    assert torch.allclose(untouched.draws, torch.tensor(other) / torch.tensor(sum(other), dtype=torch.float64))
    for wrong, got in (([1, 2], "[1, 2]"), ([-1] * 10, str([-1] * 10)), ([0.5] * 10, str([0.5] * 10))):
        with pytest.raises(InputError, match="class counts must be 10 counts") as caught:
            plan.for_counts(wrong)
        assert str(caught.value).endswith(f"got {got}")
    with pytest.raises(InputError, match="class counts must hold an image of a class that the plan draws"):
        plan.for_counts([0] * 10)


def test_a_repaired_network_is_known_by_the_plan_of_its_training(trained: Path, tmp_path: Path) -> None:
    """What its policies do to its answers is measured of it too."""
    from diversify.commands.recorded import Recorded, carried

    weights = trained / "model.safetensors"
    known = Recorded.beside(weights)
    assert known is not None
    assert known.training is not None
    kept = carried(known.training, weights)
    folder = tmp_path / "remedy"
    folder.mkdir()
    shutil.copy(weights, folder)
    diagnosed = {name: known.values[name] for name in ("data", "view", "files", "model")}
    of = {**diagnosed, "training": kept, "heldout_split": "val"}
    record = {"command": "remedy", "of": of, "weights": {"sha256": digests.sha256(weights)}}
    atomic.write_json(folder / "run.json", record)
    arguments = ["diagnose", "--weights", str(folder / "model.safetensors"), "--out", str(tmp_path / "diagnosed")]
    assert run(arguments) == 0
    assert atomic.read_json(tmp_path / "diagnosed" / "run.json", "run.json")["leak"]["schema_version"] == 1


@pytest.mark.parametrize(
    ("schedule", "share", "left"),
    [
        (Schedule(features=1.0), 0.4, True),
        (Schedule(features=0.9), 0.4, True),  # the last of three epochs begins before
        (Schedule(start=1.0), 0.4, True),
        (Schedule(features=1.0), 0.0, False),
        (Schedule(features=0.5), 0.4, False),
        (Schedule(), 0.4, False),
    ],
)
def test_feature_policies_that_never_act_in_training_are_named(
    tmp_path: Path,
    schedule: Schedule,
    share: float,
    left: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped(monkeypatch)
    policy = FeaturePolicy(method="covariance", strength=0.3, share=share)
    classes = tuple(one.model_copy(update={"features": (policy,)}) for one in full_plan().classes)
    (tmp_path / "plan.json").write_text(full_plan(schedule=schedule, classes=classes).to_json())
    for name, more in (("with", ()), ("without", ("--holdout", "0"))):
        out = tmp_path / name
        assert train(out, "--plan", tmp_path / "plan.json", *more) == 130
        said = " ".join(capsys.readouterr().out.split())
        lines = (
            "its feature policies (covariance) do not act in training",
            f"run diagnose on {out / 'model.safetensors'}",
            f"then remedy with the plan {out / 'plan.json'}",
        )
        assert [line in said for line in lines] == [left] * 3
        assert ("this run has no validation set" in said) is (left and name == "without")


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if training were interrupted before its first step."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fit", interrupted)
