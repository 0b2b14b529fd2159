"""`diversify remedy` on what `diagnose` left: what it writes, and what it refuses."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diversify.cli.entry import run
from diversify.commands import remedy as module
from diversify.commands import replaced_head
from diversify.commands.diagnosed import load_diagnosed
from diversify.files import atomic, checkpoints, digests
from diversify.functional.metrics import balanced_accuracy
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.networks import build_model, load_weights
from diversify.network.split import split_head
from diversify.plan.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("reports_without_figures")]

RECIPE = [
    "--epochs",
    "6",
    "--batch-size",
    "64",
    "--precision",
    "fp32",
    "--warmup-epochs",
    "0",
    "--learning-rate",
    "0.05",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained on long-tailed digits, its diagnosis, and the remedy."""
    from diversify.repair.retrain import HeadRecipe

    folder = tmp_path_factory.mktemp("remedy")
    options = ["--imbalance", "exp:20", "--holdout", "0.3"]
    assert run(["train", *options, *RECIPE, "--out", str(folder / "trained")]) == 0
    weights = str(folder / "trained" / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--out", str(folder / "diagnosed")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HeadRecipe", lambda **options: HeadRecipe(steps=40, batch_size=64, **options))
        assert run(["remedy", str(folder / "diagnosed"), "--out", str(folder / "remedy")]) == 0
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a head took five steps, and were judged on one cut into folds."""
    from diversify.repair.retrain import HeadRecipe

    monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(module, "HeadRecipe", lambda **options: HeadRecipe(steps=5, batch_size=16, **options))


def copied(place: Path, to: Path) -> Path:
    shutil.copytree(place / "diagnosed", to)
    return to


def changed(folder: Path, change) -> None:
    record = atomic.read_json(folder / "run.json", "run.json")
    change(record)
    atomic.write_json(folder / "run.json", record)


def test_the_checkpoint_has_another_head_and_nothing_else(place: Path) -> None:
    old, new = (checkpoints.load_checkpoint(place / name / "model.safetensors") for name in ("trained", "remedy"))
    assert {n: (t.shape, t.dtype) for n, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
    assert {n for n in old if not torch.equal(old[n], new[n])} <= {"linear.weight", "linear.bias"}
    record = atomic.read_json(place / "remedy" / "run.json", "run.json")
    assert record["weights"]["sha256"] == digests.sha256(place / "remedy" / "model.safetensors")


def test_the_model_that_is_written_does_what_the_report_says(place: Path) -> None:
    network = build_model("small_cnn", 10, channels=1)
    load_weights(network, place / "remedy" / "model.safetensors")
    head = read_head(split_head(network).head)
    _, model, _ = load_diagnosed(place / "diagnosed")
    found = balanced_accuracy(model.heldout.labels, head.logits(model.heldout.features).argmax(1), 10)
    choice = atomic.read_json(place / "remedy" / "remedy.json", "remedy.json")["choice"]
    recommended = choice["recommended"]
    before = choice["columns"]["balanced_accuracy"][0]
    assert choice["columns"]["balanced_accuracy"][recommended] >= before
    assert found >= before  # by the option that all held-out rows choose
    assert recommended > 0, "digits at ratio 20 leave something to repair"


def test_the_report_begins_with_what_is_recommended(place: Path) -> None:
    record = atomic.read_json(place / "remedy" / "run.json", "run.json")
    page = (place / "remedy" / "report.html").read_text(encoding="utf-8")
    lede = page.index('<p class="lede">')
    assert record["recommended"]["text"].split(" (")[0].split(",")[0] in page[lede : lede + 400]
    assert "interval" in record["recommended"]["text"]
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for name in ("untouched", "logit adjustment", "tau-norm", "nearest mean", "even draws", "SMOTE", "EOS", "plan"):
        assert name in page
    plan = Plan.from_dict(atomic.read_json(place / "remedy" / "plan.json", "plan.json"))
    assert plan.made_from == "diagnosis"


def test_the_report_is_made_again_from_the_files(place: Path, tmp_path: Path) -> None:
    assert run(["report", str(place / "remedy"), "--out", str(tmp_path / "again")]) == 0
    for name in ("report.html", "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (place / "remedy" / name).read_bytes()


def test_a_plan_of_ones_own_is_compared_and_kept(place: Path, tmp_path: Path, quick: None) -> None:
    plan = tmp_path / "plan.json"
    kept = atomic.read_json(place / "remedy" / "plan.json", "plan.json") | {"made_from": "hand"}
    atomic.write_json(plan, kept)
    out = tmp_path / "out"
    assert run(["remedy", str(place / "diagnosed"), "--plan", str(plan), "--out", str(out)]) == 0
    assert atomic.read_json(out / "plan.json", "plan.json")["made_from"] == "hand"
    assert run(["remedy", str(place / "diagnosed"), "--plan", str(plan), "--out", str(out)]) == 2
    assert run(["remedy", str(place / "diagnosed"), "--out", str(out), "--overwrite"]) == 0
    assert atomic.read_json(out / "plan.json", "plan.json")["made_from"] == "diagnosis"
    assert sorted(path.name for path in out.iterdir()) == [
        "model.safetensors",
        "plan.json",
        "remedy.json",
        "report.html",
        "report.md",
        "run.json",
    ]


def test_names_of_the_users_own_are_kept(place: Path, tmp_path: Path, quick: None) -> None:
    """A wrapped, nested checkpoint in half precision."""
    folder = copied(place, tmp_path / "diagnosed")
    weights = tmp_path / "mine.pt"
    tensors = checkpoints.load_checkpoint(place / "trained" / "model.safetensors")
    wrapped = {
        f"module.{name}": value.half() if value.is_floating_point() else value for name, value in tensors.items()
    }
    torch.save({"state_dict": wrapped, "epoch": 3}, weights)
    head = {"weight": wrapped["module.linear.weight"].float(), "bias": wrapped["module.linear.bias"].float()}
    atomic.write_tensors(folder / "embeddings" / "head.safetensors", head, {"cosine": "0", "scale": "1.0"})
    changed(folder, lambda record: record.update(weights={"path": str(weights), "sha256": digests.sha256(weights)}))
    assert run(["remedy", str(folder), "--out", str(tmp_path / "out")]) == 0
    found = atomic.read_tensors(tmp_path / "out" / "model.safetensors")[0]
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wrapped.items()}


def test_a_lightning_checkpoint_keeps_what_is_beside_the_network(place: Path, tmp_path: Path, quick: None) -> None:
    """Its averaged weights come last by default, and are what `--weights-key` repairs."""
    tensors = checkpoints.load_checkpoint(place / "trained" / "model.safetensors")
    wrapped = {f"model.{name}": value for name, value in tensors.items()}
    averaged = {f"ema.{name}": value for name, value in tensors.items()}
    averaged["ema.linear.bias"] = tensors["linear.bias"] + 1
    weights = tmp_path / "mine.ckpt"
    torch.save({"state_dict": {**wrapped, **averaged, "criterion.weight": torch.ones(10)}}, weights)
    pixels = np.arange(40 * 64).reshape(40, 8, 8).astype(np.uint8)
    labels = np.tile(np.arange(10), 4)
    arrays = {"train_images": pixels, "train_labels": labels, "val_images": pixels[::-1], "val_labels": labels}
    np.savez(tmp_path / "d.npz", **arrays)
    data = ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5", "--std", ".5", "--weights", str(weights)]
    for key, kept in (([], {*wrapped, *averaged, "criterion.weight"}), (["--weights-key", "ema"], {*averaged})):
        folders = [str(tmp_path / f"{name}{len(key)}") for name in ("diagnosed", "remedy")]
        assert run(["diagnose", *data, *key, "--out", folders[0]]) == 0
        assert run(["remedy", folders[0], "--out", folders[1]]) == 0
        record = atomic.read_json(Path(folders[0]) / "run.json", "run.json")
        assert any("averaged over training" in note for note in record["notes"])
        found = atomic.read_tensors(Path(folders[1]) / "model.safetensors")[0]
        assert set(found) == kept
        there = wrapped | averaged
        changed_in = {name for name in kept & there.keys() if not torch.equal(found[name], there[name])}
        assert changed_in <= {f"{'ema' if key else 'model'}.linear.{part}" for part in ("weight", "bias")}


def test_what_is_not_known_is_said(
    place: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(place, tmp_path / "diagnosed")
    changed(folder, lambda record: record.update(training=None))
    assert run(["remedy", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "it is assumed that train holds" in capsys.readouterr().out
    assert "it is assumed that train holds" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8").replace(
        "\n> ", " "
    )


def test_a_plan_that_has_seen_the_held_out_images_says_so(
    place: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*options: str) -> tuple[str, str]:
        assert run(["remedy", str(place / "diagnosed"), *options, "--out", str(tmp_path / "out"), "--overwrite"]) == 0
        page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").replace("\n> ", " ")
        return " ".join(capsys.readouterr().out.split()), page

    law = "has seen these same held-out images, so its own row is somewhat optimistic"
    for text in said():
        assert law not in text
    assert "judged by a plan made without it" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    counted = tmp_path / "counted.json"
    made = atomic.read_json(place / "remedy" / "plan.json", "plan.json")
    for text in said("--plan", str(place / "remedy" / "plan.json")):
        assert f"if it was this one, it {law}" in text
    atomic.write_json(counted, made | {"made_from": "counts"})
    for text in said("--plan", str(counted)):
        assert law not in text


def test_what_a_head_without_bias_changes_in_the_plan_is_said(
    place: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = module.read_head

    def without_bias(head: object) -> LinearHead:
        found = real(head)
        return dataclasses.replace(found, bias=torch.zeros_like(found.bias))

    monkeypatch.setattr(module, "read_head", without_bias)
    monkeypatch.setattr(replaced_head, "_takes_bias", lambda *_: False)
    monkeypatch.setattr(replaced_head, "replace_head", lambda tensors, *_: tensors)
    plan = tmp_path / "plan.json"
    made = atomic.read_json(place / "remedy" / "plan.json", "plan.json")
    atomic.write_json(plan, made | {"prior_correction": {"training": 0.5, "after": 0.25}})
    assert run(["remedy", str(place / "diagnosed"), "--plan", str(plan), "--out", str(tmp_path / "out")]) == 0
    assert "prior correction" in (said := " ".join(capsys.readouterr().out.split()))
    assert "0.75 in the loss, 0 afterwards" in said
    kept = atomic.read_json(tmp_path / "out" / "plan.json", "plan.json")["prior_correction"]
    assert kept == {"training": 0.75, "after": 0.0}


def test_an_interruption_leaves_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "render_remedy_html", interrupted)
    monkeypatch.setattr(module, "HeadRecipe", lambda **options: __import__("diversify").HeadRecipe(steps=2, **options))
    assert run(["remedy", str(place / "diagnosed"), "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


def other_images(folder: Path) -> None:
    from diversify.commands.heldout import OTHER_IMAGES

    changed(folder, lambda record: record.update(caveats=[OTHER_IMAGES]))


def made_on_test(folder: Path) -> None:
    record = atomic.read_json(folder / "diagnosis.json", "diagnosis.json")
    atomic.write_json(folder / "diagnosis.json", record | {"heldout_split": "test", "plan_ready": False})


def swapped(folder: Path) -> None:
    shutil.rmtree(folder / "embeddings" / "train")
    shutil.copytree(folder / "embeddings" / "heldout", folder / "embeddings" / "train")


def weights_at(path: str):
    return lambda folder: changed(folder, lambda record: record["weights"].update(path=path))


REFUSED = {
    "test": (
        made_on_test,
        "diagnosis must be made on the validation set to choose a remedy, got one made on test; bring a validation set, or train with a holdout,"
        " and diagnose on that: test is evaluated once, after choosing",
    ),
    "other images": (
        other_images,
        "train embeddings must be of the backbone's own training images, got others, by its record; diagnose with the data that it"
        " was trained on: a head made from other images does worse in use than measured here",
    ),
    "swapped": (
        swapped,
        "train embeddings must be those that the record names, got others in {folder}; run `diversify diagnose` again",
    ),
    "gone": (
        weights_at("/nowhere/model.pt"),
        "weights must be where they were diagnosed, got no file /nowhere/model.pt; put the file back, or run `diversify diagnose` on"
        " the present weights",
    ),
    "unfinished": (
        lambda folder: changed(folder, lambda record: record.update(finished=False)),
        "diagnosis must be finished, got an interrupted one in {folder}; run `diversify diagnose` again",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(place: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = REFUSED[kind]
    folder = copied(place, tmp_path / "diagnosed")
    change(folder)
    assert run(["remedy", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = " ".join(capsys.readouterr().err.split()).replace("--weights ", "weights ")
    assert error == f"error: {message.format(folder=folder)}"
    assert not (tmp_path / "out").exists()


def test_weights_that_have_changed_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(place, tmp_path / "diagnosed")
    weights = tmp_path / "w.safetensors"
    atomic.write_tensors(weights, build_model("small_cnn", 10, channels=1).state_dict())
    weights_at(str(weights))(folder)
    assert run(["remedy", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "weights must be those that were diagnosed, got another content of" in capsys.readouterr().err


def test_a_plan_of_other_classes_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    atomic.write_text(plan, Plan.untouched(["a", "b"], [3, 2]).to_json())
    assert run(["remedy", str(place / "diagnosed"), "--plan", str(plan), "--out", str(tmp_path / "out")]) == 2
    assert "--plan must be of the diagnosed classes and counts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_diagnosis_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remedy", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "DIR must be a folder that `diversify diagnose` wrote" in capsys.readouterr().err


def in_words(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\n> ", " ")


@pytest.fixture(scope="module")
def again(place: Path) -> Path:
    """The repaired network diagnosed, with nothing said but where it is."""
    out = place / "again"
    assert run(["diagnose", "--weights", str(place / "remedy" / "model.safetensors"), "--out", str(out)]) == 0
    return out


def test_a_repaired_network_is_diagnosed_on_the_images_of_the_one_before(place: Path, again: Path) -> None:
    before, after = (atomic.read_json(folder / "run.json", "run.json") for folder in (place / "diagnosed", again))
    for name in ("data", "files", "view", "model", "training", "heldout_split"):
        assert after[name] == before[name], name
    assert after["training"]["initial_weights"]
    assert after["view_origin"] == "recorded"
    features = [load_diagnosed(folder)[1].heldout.features for folder in (place / "diagnosed", again)]
    assert torch.equal(*features), "the backbone is as it was"


def test_that_this_val_chose_the_head_is_said_recorded_and_shown(
    place: Path, again: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from diversify.commands.heldout import CHOSE_HEAD, chose_head

    before = "this val chose the head and, where the plan was made from it, the plan, so what is measured on it is somewhat optimistic: test has the last word"
    assert chose_head([before])
    assert chose_head([CHOSE_HEAD])
    assert not chose_head([])
    assert "the head was chosen on this validation set" in CHOSE_HEAD
    assert "only test can judge the result" in CHOSE_HEAD
    assert atomic.read_json(place / "diagnosed" / "run.json", "run.json")["caveats"] == []
    assert atomic.read_json(again / "run.json", "run.json")["caveats"] == [CHOSE_HEAD]
    assert f"T{CHOSE_HEAD[1:]}" in in_words(again / "report.md")
    page = (again / "report.html").read_text(encoding="utf-8")
    assert f"T{CHOSE_HEAD[1:]}" in page[page.index("Note:") :]
    capsys.readouterr()
    assert run(["remedy", str(again), "--out", str(tmp_path / "twice")]) == 0
    assert f"note: {CHOSE_HEAD}" in " ".join(capsys.readouterr().out.split())
    assert atomic.read_json(tmp_path / "twice" / "run.json", "run.json")["caveats"] == [CHOSE_HEAD]
    weights = str(tmp_path / "twice" / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--out", str(tmp_path / "third")]) == 0
    third = atomic.read_json(tmp_path / "third" / "run.json", "run.json")
    assert third["training"] == atomic.read_json(again / "run.json", "run.json")["training"]


@pytest.mark.slow
def test_a_repaired_network_has_its_last_word_on_test(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(place / "remedy" / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--heldout", "test", "--out", str(tmp_path / "test")]) == 0
    record = atomic.read_json(tmp_path / "test" / "run.json", "run.json")
    assert record["caveats"] == []
    assert record["data"] == atomic.read_json(place / "diagnosed" / "run.json", "run.json")["data"]
    assert run(["remedy", str(tmp_path / "test"), "--out", str(tmp_path / "out")]) == 2
    assert "diagnosis must be made on the validation set to choose a remedy" in capsys.readouterr().err


def remedied(place: Path, to: Path, change) -> str:
    """The weights of a copy of the remedy with another record beside them."""
    shutil.copytree(place / "remedy", to)
    changed(to, change)
    return str(to / "model.safetensors")


def test_a_repaired_network_of_other_training_images_is_no_ground_for_a_remedy(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def others(record: dict) -> None:
        record["of"]["data"]["splits"]["train"]["digest"] = "0" * 64

    weights = remedied(place, tmp_path / "remedy", others)
    assert run(["diagnose", "--weights", weights, "--out", str(tmp_path / "out")]) == 2
    assert "no record beside the weights shows that the model was not trained on it" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run(["diagnose", "--weights", weights, "--heldout", "test", "--out", str(tmp_path / "out")]) == 0
    assert "these training images are not those" in capsys.readouterr().out


def test_what_was_taken_on_trust_before_the_remedy_still_is(place: Path, tmp_path: Path) -> None:
    weights = remedied(place, tmp_path / "remedy", lambda record: record["of"].update(training=None))
    assert run(["diagnose", "--weights", weights, "--heldout", "test", "--out", str(tmp_path / "out")]) == 0
    record = atomic.read_json(tmp_path / "out" / "run.json", "run.json")
    assert record["training"] is None
    assert record["data"] == atomic.read_json(place / "diagnosed" / "run.json", "run.json")["data"]
    assert "it is assumed that train holds" in record["caveats"][0]
    assert run(["diagnose", "--weights", weights, "--out", str(tmp_path / "val")]) == 2  # a val that may be trained on


def test_the_record_of_a_remedy_is_of_its_own_weights_and_of_any_age(place: Path, tmp_path: Path) -> None:
    from diversify.commands.recorded import Recorded

    def older(record: dict) -> None:
        del record["of"]["head_given"]

    assert Recorded.beside(Path(remedied(place, tmp_path / "older", older))) is not None
    for name, change in {
        "others": lambda record: record["weights"].update(sha256="0" * 64),
        "less": lambda record: record["of"].pop("data"),
    }.items():
        assert Recorded.beside(Path(remedied(place, tmp_path / name, change))) is None


@pytest.mark.parametrize(
    ("told", "chose"),
    [({}, True), ({"content": None}, True), ({"content": "others"}, False), ({"digest": "others"}, False)],
)
def test_only_the_val_that_chose_the_head_is_said_to_have(place: Path, told: dict, chose: bool) -> None:
    from diversify.commands.recorded import Recorded
    from diversify.data.load import load_data

    known = Recorded.beside(place / "remedy" / "model.safetensors")
    val = load_data("digits", imbalance="exp:20", holdout=0.3).val
    assert known is not None
    assert known.chosen_on is not None
    assert val is not None
    assert dataclasses.replace(known, chosen_on=known.chosen_on | told).chose_head_by(val) is chose
    assert not dataclasses.replace(known, chosen_on=None).chose_head_by(val)


@pytest.mark.slow
def test_the_head_is_chosen_by_the_metric_that_is_asked_for(
    place: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names = atomic.read_json(place / "remedy" / "remedy.json", "remedy.json")["class_names"]
    prior, cost = tmp_path / "prior.csv", tmp_path / "cost.json"
    shares = [0.55, *[0.05] * 9]
    prior.write_text("class,share\n" + "".join(f"{n},{s}\n" for n, s in zip(names, shares, strict=True)))
    atomic.write_json(cost, [[0 if i == j else 10 for j in range(10)] for i in range(10)])
    asked = {
        "prior": ["--target-prior", str(prior)],
        "cost": ["--cost", str(cost)],
        "worst": [],
    }
    titles = {
        "prior": "accuracy under the target prior",
        "cost": "negative expected cost",
        "worst": "recall of the worst class",
    }
    for name, options in asked.items():
        out = tmp_path / name
        assert run(["remedy", str(place / "diagnosed"), "--metric", name, *options, "--out", str(out)]) == 0
        choice = atomic.read_json(out / "remedy.json", "remedy.json")["choice"]
        assert (choice["metric"], len(choice["target_prior"]), len(choice["cost"])) == (
            name,
            10 * (name == "prior"),
            10 * (name == "cost"),
        )
        assert atomic.read_json(out / "run.json", "run.json")["metric"]["name"] == name
        for page in ("report.html", "report.md"):
            assert titles[name] in (out / page).read_text(encoding="utf-8")
        assert " ".join(titles[name].split()[:1]) in capsys.readouterr().out
        assert run(["report", str(out), "--out", str(tmp_path / f"{name} again")]) == 0
        assert (tmp_path / f"{name} again" / "report.md").read_bytes() == (out / "report.md").read_bytes()
    assert "points of" not in (tmp_path / "cost" / "report.md").read_text(encoding="utf-8")


WRONG_METRICS = {
    "--metric must be one of balanced, prior, macro-f1, worst, cost, got 'luck'": ["--metric", "luck"],
    "--target-prior must be given for --metric prior, got none": ["--metric", "prior"],
    "--target-prior must be an existing file": ["--metric", "prior", "--target-prior", "{dir}/none.csv"],
    "class of --target-prior must be one of the classes, got 'unicorn'": [
        *("--metric", "prior", "--target-prior", "{dir}/prior.csv")
    ],
    "--cost must have 10 rows of 10 numbers, one for each class, got 1 x 1": [
        *("--metric", "cost", "--cost", "{dir}/cost.json")
    ],
}


@pytest.mark.parametrize("message", WRONG_METRICS)
def test_a_metric_that_cannot_be_ends_in_one_line_before_any_work(
    message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prior.csv").write_text("class,share\nunicorn,1\n")
    (tmp_path / "cost.json").write_text("[[1]]")
    options = [one.format(dir=tmp_path) for one in WRONG_METRICS[message]]
    capsys.readouterr()
    assert run(["remedy", str(place / "diagnosed"), *options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_learned_from_held_out_images_is_recorded_and_shown(
    place: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from diversify.commands.remedy import FITTED_ON_HELDOUT

    out = tmp_path / "out"
    assert run(["remedy", str(place / "diagnosed"), "--objective", "worst-third", "--out", str(out)]) == 0
    record, remedy = (atomic.read_json(out / name, name) for name in ("run.json", "remedy.json"))
    choice = remedy["choice"]
    assert (choice["metric"], choice["objective"]) == ("worst third", "worst third")
    assert record["metric"]["objective"] == "worst third"
    dials = [name for name in choice["names"] if name.endswith("class offsets")]
    assert len(choice["curve"]) == 1 + 5 * len(dials)
    fitted = choice["fits_heldout"][choice["recommended"]]
    heldout = load_diagnosed(place / "diagnosed")[1].heldout
    assert remedy["unseen_used"] == (heldout.indices.tolist() if fitted else [])
    assert record["unseen"] == {"learned_from": "heldout", "rows_in_head": len(remedy["unseen_used"])}
    assert (FITTED_ON_HELDOUT in record["caveats"]) is fitted
    text = in_words(out / "report.md")
    assert "Mean against worst class" in text
    assert "Made from held-out images as well: fitted slope" in text
    assert "they chose and judged" in text
    capsys.readouterr()


def test_nothing_learns_from_held_out_images_unless_it_is_asked_for(place: Path) -> None:
    record, remedy = (atomic.read_json(place / "remedy" / name, name) for name in ("run.json", "remedy.json"))
    assert record["unseen"] == {"learned_from": "none", "rows_in_head": 0}
    assert remedy["unseen_used"] == []
    assert not any(remedy["choice"]["fits_heldout"])


def test_a_head_is_not_diagnosed_on_the_images_it_was_fitted_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = remedied(place, tmp_path / "remedy", lambda record: record["unseen"].update(rows_in_head=9))
    capsys.readouterr()
    assert run(["diagnose", "--weights", weights, "--out", str(tmp_path / "out")]) == 2
    wanted = "--heldout must be images that the head was not fitted on, got the validation set that `remedy` fitted it on; use --heldout test"
    assert wanted in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            ["--objective", "wurst"],
            "--objective must be one of mean, worst, worst third, or a number in [0, 1], got 'wurst'",
        ),
        (["--objective", "1.5"], "--objective must be one of mean, worst, worst third, or a number in [0, 1], got 1.5"),
        (["--objective", "0.5", "--metric", "macro-f1"], "--objective must be mean for --metric macro-f1, got 0.5"),
        (["--unseen", "all"], "--unseen must be one of heldout, none, got 'all'"),
    ],
)
def test_an_objective_that_cannot_be_ends_in_one_line(
    place: Path, tmp_path: Path, given: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["remedy", str(place / "diagnosed"), *given, "--out", str(tmp_path / "out")]) == 2
    assert wanted in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
