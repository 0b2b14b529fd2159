"""The command line: what it leaves, what it says, and one line for every wrong input."""

import dataclasses
import json
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from diversify.cli import screen, tables
from diversify.cli.entry import _with_flags, run
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError, must
from diversify.files import atomic, digests
from diversify.runtime.user_code import import_object

pytestmark = pytest.mark.usefixtures("reports_without_figures")

ROOT = Path(__file__).parents[2]
SHORT = ["--model", "small_cnn", "--epochs", "2", "--batch-size", "64", "--precision", "fp32"]
SHORT += ["--learning-rate", "0.05", "--schedule", "cosine", "--warmup-epochs", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run on long-tailed digits, with a hold-out."""
    out = tmp_path_factory.mktemp("cli") / "train"
    assert run(["train", "--imbalance", "exp:5", *SHORT, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def diagnosed(trained: Path) -> Path:
    """Its diagnosis on val."""
    out = trained.parent / "diagnosis"
    assert run(["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(out)]) == 0
    return out


def test_help_is_quick_and_does_not_load_torch() -> None:
    program = "import sys; from diversify.cli.entry import run; run(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    for name in ("demo", "train", "diagnose", "plan", "compare", "benchmark"):
        assert name in done.stdout
    assert done.stdout.strip().endswith("False False")


def test_train_leaves_the_files_of_the_contract(trained: Path) -> None:
    assert {entry.name for entry in trained.iterdir()} == {"model.safetensors", "state", "metrics.jsonl", "run.json"}
    record = atomic.read_json(trained / "run.json", "run.json")
    for field in ("data", "view", "model", "seed", "versions", "commit", "device", "weights", "recipe"):
        assert field in record
    assert record["weights"]["sha256"] == digests.sha256(trained / "model.safetensors")
    assert set(record["data"]["splits"]) == {"train", "val", "test"}
    metrics = atomic.read_jsonl(trained / "metrics.jsonl")
    assert [line["epoch"] for line in metrics] == [0, 1]
    assert 0 <= metrics[-1]["balanced_accuracy_val"] <= 1


def test_diagnose_leaves_the_files_of_the_contract(diagnosed: Path) -> None:
    left = {entry.relative_to(diagnosed).as_posix() for entry in diagnosed.rglob("*") if entry.is_file()}
    parts = {f"embeddings/{side}/{name}" for side in ("train", "heldout") for name in ("features.npy", "index.json")}
    assert {
        "diagnosis.json",
        "exhibits.json",
        "report.html",
        "report.md",
        "run.json",
        "embeddings/head.safetensors",
    } | parts <= left
    record = atomic.read_json(diagnosed / "run.json", "run.json")
    assert record["finished"] is True
    assert record["heldout_split"] == "val"
    diagnosis = atomic.read_json(diagnosed / "diagnosis.json", "diagnosis.json")
    assert diagnosis["plan_ready"] is True
    assert diagnosis["heldout_split"] == "val"
    assert diagnosis["classes"]["count"] == record["data"]["class_counts"]


def test_options_come_from_the_record_beside_the_weights(diagnosed: Path, trained: Path) -> None:
    ours, theirs = (atomic.read_json(folder / "run.json", "run.json") for folder in (diagnosed, trained))
    assert ours["data"] == theirs["data"]
    assert ours["model"]["name"] == "small_cnn"


def test_the_same_diagnosis_twice(diagnosed: Path, trained: Path, tmp_path: Path) -> None:
    assert run(["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()


def test_diagnose_prints_a_table_and_says_what_the_model_sees(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(trained / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--heldout", "test", "--out", str(tmp_path / "d")]) == 0
    shown = capsys.readouterr().out
    assert "the model sees: mean 0.3053, std 0.3762 (recorded)" in shown
    assert "recall held-out" in shown
    assert "This diagnosis was made on the test split" in shown


def test_compare_two_networks(
    diagnosed: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert run(["train", "--imbalance", "exp:5", *SHORT, "--seed", "1", "--out", str(other)]) == 0
    assert (
        run(["diagnose", "--weights", str(other / "model.safetensors"), "--out", str(tmp_path / "other-diagnosis")])
        == 0
    )
    assert run(["compare", str(diagnosed), str(tmp_path / "other-diagnosis"), "--out", str(tmp_path / "both")]) == 0
    assert "channels matched" in capsys.readouterr().out
    assert {entry.name for entry in (tmp_path / "both").iterdir()} == {
        "comparison.json",
        "report.html",
        "report.md",
        "run.json",
    }
    assert run(["compare", str(diagnosed), str(diagnosed), "--out", str(tmp_path / "self")]) == 0
    comparison = atomic.read_json(tmp_path / "self" / "comparison.json", "comparison.json")
    assert comparison["matched_by"] == "shared start"
    assert set(comparison["classes"]["identity_overlap"]) == {1.0}
    assert set(comparison["classes"]["recall_difference"]) == {0.0}


def test_the_report_is_made_again_from_its_numbers(
    diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(diagnosed), "--out", str(tmp_path / "again")]) == 0
    assert {entry.name for entry in (tmp_path / "again").iterdir()} == {"report.html", "report.md", "run.json"}
    for name in ("report.html", "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (diagnosed / name).read_bytes()
    assert atomic.read_json(tmp_path / "again" / "run.json", "run.json")["of"]["command"] == "diagnose"
    assert run(["compare", str(diagnosed), str(diagnosed), "--out", str(tmp_path / "both")]) == 0
    assert run(["report", str(tmp_path / "both"), "--out", str(tmp_path / "both-again")]) == 0
    assert (tmp_path / "both-again" / "report.md").read_bytes() == (tmp_path / "both" / "report.md").read_bytes()
    capsys.readouterr()
    assert run(["report", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    assert (
        "results.jsonl|DIR must be a folder that `diversify diagnose`, `compare` or `remedy` wrote"
        in capsys.readouterr().err
    )
    assert run(["report", str(tmp_path / "again"), "--out", str(tmp_path / "x")]) == 2
    assert "results.jsonl|DIR must hold a diagnosis.json, comparison.json or remedy.json" in capsys.readouterr().err
    assert run(["report", str(diagnosed), "--out", str(diagnosed), "--overwrite"]) == 2
    assert not (tmp_path / "x").exists()


def test_overwrite_is_asked_for(diagnosed: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (diagnosed / "diagnosis.json").read_bytes()
    arguments = ["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(diagnosed)]
    assert run(arguments) == 2
    assert "--out must be new or empty" in capsys.readouterr().err
    assert (diagnosed / "diagnosis.json").read_bytes() == before
    assert run([*arguments, "--overwrite"]) == 0
    assert (diagnosed / "diagnosis.json").read_bytes() == before


def test_an_interrupted_diagnosis_goes_on(
    diagnosed: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diversify.commands.diagnose

    arguments = ["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(tmp_path / "d")]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(diversify.commands.diagnose, "diagnose", interrupted)
        assert run(arguments) == 130
    assert (tmp_path / "d" / "embeddings" / "heldout" / "index.json").exists()
    assert run(arguments) == 0  # no --overwrite: it is the same run, unfinished
    assert (tmp_path / "d" / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()


@pytest.mark.parametrize(
    ("epochs", "given", "used", "note"),
    [
        (4, None, 1, "note: warm-up: over 1 of the 4 epochs, not 5; --warmup-epochs sets it"),
        (2, None, 0, "note: warm-up: none in 2 epochs; --warmup-epochs sets it"),
        (15, None, 5, None),
        (4, 3, 3, None),
        (4, 4, 4, "note: the warm-up of 4 epochs leaves none of 4 after it"),
        (4, 0, 0, None),
    ],
)
def test_a_warm_up_that_nobody_asked_for_leaves_most_of_the_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: int, given: int | None, used: int, note: str | None
) -> None:
    few = ["--imbalance", "exp:5:6", "--epochs", str(epochs), "--batch-size", "64", "--precision", "fp32"]
    asked = [] if given is None else ["--warmup-epochs", str(given)]
    assert run(["train", *few, *asked, "--schedule", "constant", "--out", str(tmp_path / "t")]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "warm-up" in line] == [note] * (note is not None)
    assert json.loads((tmp_path / "t" / "run.json").read_text())["recipe"]["warmup_epochs"] == used
    rates = [line["learning_rate"] for line in map(json.loads, (tmp_path / "t" / "metrics.jsonl").open())]
    assert rates == pytest.approx([0.1 * min(1, (epoch + 1) / max(used, 1)) for epoch in range(epochs)])


def test_a_refused_resume_changes_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    arguments = ["train", "--imbalance", "exp:5", *SHORT, "--out", str(trained), "--resume"]
    assert run([*arguments, "--weight-decay", "0.1"]) == 2
    assert "--weight-decay of a resumed run must stay 0.0002, got 0.1; start it anew" in capsys.readouterr().err
    assert run([*arguments, "--imbalance", "exp:6"]) == 2
    assert "a resumed run must have the data and the model it began with" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_run_stopped_in_its_first_epoch_begins_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    record = atomic.read_json(trained / "run.json", "run.json")
    atomic.write_json(out / "run.json", {**record, "finished": False, "weights": None})
    arguments = ["train", "--imbalance", "exp:5", *SHORT, "--out", str(out)]
    assert run(arguments) == 2
    assert "pass --resume to resume the run in it, or --overwrite" in capsys.readouterr().err
    assert run([*arguments, "--resume"]) == 0
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_overwrite_never_takes_what_the_command_reads(
    trained: Path, diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(trained / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--out", str(trained), "--overwrite"]) == 2
    assert "which the command reads" in capsys.readouterr().err
    assert run(["compare", str(diagnosed), str(diagnosed), "--out", str(diagnosed), "--overwrite"]) == 2
    assert (trained / "model.safetensors").exists()
    assert (diagnosed / "diagnosis.json").exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "run.json").write_text('{"mlflow": 1}')
    (tmp_path / "theirs" / "thesis.tex").write_text("irreplaceable")
    assert run(["demo", "--out", str(tmp_path / "theirs"), "--overwrite"]) == 2
    assert (tmp_path / "theirs" / "thesis.tex").exists()


@pytest.mark.parametrize("content", ["[]", "null", '{"schema_version": 1}'])
def test_a_foreign_run_json_is_no_run_of_ours(trained: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text(content)
    arguments = ["diagnose", "--weights", str(trained / "model.safetensors"), "--out", str(tmp_path / "d")]
    assert run(arguments) == run([*arguments, "--overwrite"]) == 2
    assert (tmp_path / "d" / "run.json").read_text() == content


def test_a_network_that_cannot_be_trained_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pair.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(64, 10)\n"
        "    def forward(self, images):\n        return self.linear(images.flatten(1)), None\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--model", "pair:Net", "--epochs", "1", "--out", "t"]) == 2
    assert not Path("t").exists()


def test_val_has_to_be_untrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cut val is only held out when the record shows that this checkpoint was trained without it."""
    out = tmp_path / "t"
    assert run(["train", "--imbalance", "exp:5", "--holdout", "0", *SHORT, "--out", str(out)]) == 0
    weights = str(out / "model.safetensors")
    for extra in ([], ["--holdout", "0.2"], ["--heldout", "val"]):
        assert run(["diagnose", "--weights", weights, *extra, "--out", str(tmp_path / "d")]) == 2
        assert "--heldout must be images that the model was not trained on" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, num_classes))\n"
        "def data():\n    images = torch.arange(60 * 64).view(60, 1, 8, 8) % 7 / 7\n"
        "    part = torch.utils.data.TensorDataset(images, torch.arange(60) % 3)\n    return {'train': part, 'val': part}\n"
    )
    monkeypatch.chdir(tmp_path)
    net = import_object("mine:net", "model")  # the working directory is searched
    torch.save({"state_dict": {f"module.{k}": v for k, v in net(3).state_dict().items()}}, "net.pt")
    arguments = [
        "diagnose",
        "--data",
        "mine:data",
        "--model",
        "mine:net",
        "--weights",
        "net.pt",
        "--top-k",
        "25%",
        "--out",
        "d",
    ]
    assert run(arguments) == 0
    record = json.loads(Path("d/run.json").read_text())
    assert record["model"]["head"] == "3"
    assert record["top_k"] == 3
    assert record["view_origin"] == "as the source gives them"


def test_no_arguments_print_the_help_and_no_empty_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) in (0, 2)
    shown = capsys.readouterr()
    assert "diagnose" in shown.out + shown.err
    assert "error" not in shown.out + shown.err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"diversify {metadata.version('diversify-imbalance')}\n"


TITLES = {
    40: {"class", "images", "recall"},
    80: {"class", "train", "images", "recall", "held-out", "log", "n", "predicts", "top-K", "magnitude"},
    100: {"class", "train", "images", "recall", "held-out", "log", "n", "predicts", "top-K", "magnitude", "coverage"},
}
TITLES[59], TITLES[60], TITLES[99], TITLES[160] = TITLES[40], TITLES[80], TITLES[80], TITLES[100]


@pytest.mark.parametrize("width", sorted(TITLES))
def test_the_class_table_keeps_its_words_whole(
    width: int, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "out", Console(width=width, highlight=False))
    tables.show_diagnosis(diagnosis)
    lines = capsys.readouterr().out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("airplane"))
    assert {word for line in lines[:first] for word in line.split()} == TITLES[width]
    assert all(len(line) <= width for line in lines[: first + 10])
    rows = [line for line in lines[first:] if line.startswith(diagnosis.class_names)][:10]
    assert [row.split()[0] for row in rows] == list(diagnosis.class_names)
    assert all("to" in row and "%" in row for row in rows)


def test_text_is_printed_as_it_is(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What rich takes for a picture's code or for markup is a name or a number."""
    names = (":dog:", "[red]fox[/]", *diagnosis.class_names[2:])
    finding = dataclasses.replace(diagnosis.findings[0], text="of :dog: and exp:100:100")
    monkeypatch.setattr(screen.out, "width", 200)
    screen.print_line("imbalance exp:100:100")
    tables.show_diagnosis(dataclasses.replace(diagnosis, class_names=names, findings=(finding,)))
    screen.out.print(tables.table_of(["class", "recall :cat:"], [[":dog:", "1"]]))
    shown = capsys.readouterr().out
    for text in ("imbalance exp:100:100", "\n:dog: ", "\n[red]fox[/] ", "of :dog: and exp:100:100", "recall :cat:"):
        assert text in shown
    assert run(["train", "--imbalance", "exp:100:-1:dog:", "--out", "x"]) == 2
    assert "exp:100:-1:dog:" in capsys.readouterr().err


def test_differences_of_recall_are_in_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = SimpleNamespace(
        first_name="A",
        second_name="B",
        identity_chance=0.1,
        class_names=("cat", "dog", "fox"),
        as_expected=None,
        columns={
            "recall_first": torch.tensor([0.9, 0.5, 0.5]),
            "recall_second": torch.tensor([0.45, 0.5, 0.6]),
            "recall_difference": torch.tensor([-0.45, -0.001, 0.1]),
            "recall_difference_low": torch.tensor([-0.49, -0.12, math.nan]),
            "recall_difference_high": torch.tensor([-0.41, 0.13, math.nan]),
            "magnitude_ratio": torch.tensor([1.0, 1.0, 1.0]),
            "identity_overlap": torch.tensor([0.2, 0.2, 0.2]),
        },
    )
    monkeypatch.setattr("diversify.commands.compare.compare_run", lambda *_, **__: (comparison, {}))
    monkeypatch.setattr(screen.out, "width", 200)
    assert run(["compare", "a", "b", "--out", str(tmp_path / "c")]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[:3]}
    assert "difference, points" in title
    assert " -45 (-49 to -41) " in rows["cat"]
    assert " +0 (-12 to +13) " in rows["dog"]
    assert " +10 " in rows["fox"]


@pytest.mark.slow
def test_commands_bring_neither_albumentations_nor_imbalanced_learn_before_they_need_them() -> None:
    code = "import sys, diversify.cli.entry, diversify.commands.options; print({'albumentations', 'imblearn', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("command", "error", "shown"),
    [
        ("train", must("tail_order", "be 1", 2), "--tail-order must be 1, got 2"),
        ("train", must("mean and std", "be 1", 2), "--mean and --std must be 1, got 2"),
        ("train", must("ratio of imbalance", "be 1", 2), "ratio of --imbalance must be 1, got 2"),
        ("train", must("epochs of a resumed run", "stay 1", 2), "--epochs of a resumed run must stay 1, got 2"),
        ("train", must("resume=True", "find a state", "none"), "--resume must find a state, got none"),
        (
            "train",
            must("images", "fit", 2, "pass resize=N, crop=N"),
            "images must fit, got 2; pass --resize N, --crop N",
        ),
        ("train", must("images", "fit", "a/seed=3/crop=4"), "images must fit, got a/seed=3/crop=4"),
        ("train", must("data set", "be 1", "seed=3"), "data set must be 1, got seed=3"),
        (
            "train",
            must("head", "be 1", 2, "pass head=NAME"),
            "head must be 1, got 2; pass head=NAME",
        ),  # it has no --head
        ("diagnose", must("head", "be 1", 2, "pass head=NAME"), "--head must be 1, got 2; pass --head NAME"),
        (
            "diagnose",
            must("weights a/w.pt", "fit", 2, 'heldout="test"'),
            "--weights a/w.pt must fit, got 2; --heldout test",
        ),
        ("plan", must("folder", "be 1", 2), "DIR must be 1, got 2"),
        ("benchmark", must("results", "be 1", 2), "--out must be 1, got 2"),
        ("train", InputError("images must fit, got 2; pass crop=N"), "images must fit, got 2; pass --crop N"),
        ("train", InputError("crop is wrong"), "crop is wrong"),
    ],
)
def test_parameters_that_the_command_has_are_shown_as_flags(command: str, error: InputError, shown: str) -> None:
    assert _with_flags(error, [command, "--out", "x"]) == shown
