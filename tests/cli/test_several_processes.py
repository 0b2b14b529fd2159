"""`torchrun -m diversify`: several processes write what one writes, speak once, and end together.

All are slow: each starts processes that import torch.
"""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import default_signals, end, wait_until
from safetensors.torch import load_file

from diversify.cli.entry import run
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic
from diversify.network.embeddings import Embeddings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("reports_without_figures")]

MODULE = '''
import errno, inspect, os, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import Dataset

class Pictures(Dataset):
    """120 images of 3 classes; it can be told to be slow, or to fail where a network reads them."""
    def __init__(self, shift):
        generator = torch.Generator().manual_seed(shift)
        self.labels = torch.arange(120) % 3
        self.images = torch.rand(120, 1, 8, 8, generator=generator) * 0.7
        self.images[torch.arange(120), 0, 2 * self.labels] += 0.3
    def __len__(self):
        return 120
    def __getitem__(self, index):
        rank = os.environ.get("RANK", "0")
        if rank == os.environ.get("FAILS") and {"read_left", "run_epoch"} & {each.function for each in inspect.stack()}:
            raise OSError("half a download")
        if "SLOW" in os.environ:
            told = Path(os.environ["SLOW"], f"pid-{rank}")
            if not told.exists():  # written once, and whole: another process may read it at any time
                told.with_suffix(".new").write_text(str(os.getpid()))
                told.with_suffix(".new").replace(told)
            time.sleep(float(os.environ["SECONDS"]))
        return self.images[index], int(self.labels[index])

class Net(nn.Sequential):
    """It can be told to fail after a number of batches."""
    batches = 0
    def forward(self, images):
        self.batches += 1
        if os.environ.get("RANK", "0") == os.environ.get("BREAKS") and self.batches > int(os.environ.get("BATCHES", "1000")):
            raise ERRORS[os.environ["KIND"]]
        return super().forward(images)

ERRORS = {
    "disk": OSError(errno.ENOSPC, "No space left on device", "/cache/birds"),
    "bug": KeyError("no such bird"),
    "end": SystemExit("no licence"),
}

def data():
    if os.environ.get("RANK", "0") == os.environ.get("SEES_NOTHING"):
        raise OSError("no such disk")
    return {"train": Pictures(0), "val": Pictures(1), "class_names": ["ant", "bee", "cat"]}

def net(num_classes=3, channels=1):
    torch.manual_seed(0)
    return Net(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
'''

TRAIN = ("train", "--data", "several_data:data", "--model", "several_data:net", "--epochs", "3", "--batch-size", "16")
TRAIN = (*TRAIN, "--learning-rate", "0.05", "--precision", "fp32")


@dataclasses.dataclass
class Place:
    """A folder with the module of the data, and a network that was trained there by one process."""

    folder: Path

    def start(self, processes: int, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command in several processes."""
        paths = os.pathsep.join([str(self.folder), *sys.path])
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "diversify", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=default_signals,
        )

    def diagnose(self, out: Path) -> tuple[object, ...]:
        """The command that diagnoses the network."""
        weights = self.folder / "one" / "model.safetensors"
        return ("diagnose", "--weights", weights, "--batch-size", "8", "--out", out)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("several")
    (folder / "several_data.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    try:
        assert run([*TRAIN, "--out", str(folder / "one")]) == 0
        assert run([str(each) for each in Place(folder).diagnose(folder / "diagnosis")]) == 0
    finally:
        sys.path.remove(str(folder))
    return Place(folder)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=240)
    finally:
        end(process)
    return process.returncode, output, errors


def lines_of(errors: str) -> list[str]:
    """What the library says, without the report of torchrun, in which no file of the library comes."""
    assert "/diversify/" not in errors
    return [line for line in errors.splitlines() if line.startswith(("error:", "interrupted"))]


def exit_codes(errors: str) -> set[str]:
    """The codes with which the processes ended, from the report of torchrun; a process that it stopped itself has -15."""
    return {line.split(":")[1].split()[0] for line in errors.splitlines() if line.strip().startswith("exitcode")}


def assert_same_diagnosis(one: Path, other: Path) -> None:
    first, second = (
        Diagnosis.from_dict(atomic.read_json(folder / "diagnosis.json", "diagnosis")) for folder in (one, other)
    )
    assert [each.text for each in first.findings] == [each.text for each in second.findings]
    assert first.columns.keys() == second.columns.keys()
    for name, column in first.columns.items():
        assert torch.allclose(column.double(), second.columns[name].double(), rtol=1e-4, atol=1e-6, equal_nan=True), (
            name
        )
    for side in ("train", "heldout"):
        rows, again = (Embeddings.load(folder / "embeddings" / side) for folder in (one, other))
        assert torch.equal(rows.indices, again.indices)
        assert torch.equal(rows.labels, again.labels)
        assert torch.allclose(rows.features, again.features, atol=1e-5)
        assert torch.allclose(rows.logits, again.logits, atol=1e-5)


def test_three_processes_write_the_diagnosis_of_one_and_print_it_once(place: Place, tmp_path: Path) -> None:
    code, output, errors = ended(place.start(3, *place.diagnose(tmp_path / "run")))
    assert code == 0, errors
    assert output.count("balanced accuracy, held out") == 1
    assert output.count("report: ") == 1
    assert not lines_of(errors)
    assert_same_diagnosis(place.folder / "diagnosis", tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_diagnosis(place.folder / "diagnosis", _with_other_rows(tmp_path / "run"))


def _with_other_rows(folder: Path) -> Path:
    """The folder with two of its rows exchanged."""
    file = folder / "embeddings" / "train" / "indices.npy"
    bytes_of = bytearray(file.read_bytes())
    bytes_of[-8:], bytes_of[-16:-8] = bytes_of[-16:-8], bytes_of[-8:]
    file.write_bytes(bytes_of)
    return folder


def test_a_killed_process_ends_all_and_one_process_goes_on(place: Place, tmp_path: Path) -> None:
    slow = {"SLOW": str(tmp_path), "SECONDS": "0.1"}
    process = place.start(2, *place.diagnose(tmp_path / "run"), **slow)
    wait_until(lambda: len(list(tmp_path.glob("pid-?"))) == 2 or process.poll() is not None, 120)
    index = tmp_path / "run" / "embeddings" / "train" / "index.json"
    wait_until(lambda: index.exists() or process.poll() is not None, 120)
    time.sleep(1)  # the file is there before the rows of the first turn are; all turns take six seconds
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    code, _, errors = ended(process)
    assert code != 0
    assert len(lines_of(errors)) == 1, errors
    assert "was finished is kept" in lines_of(errors)[0]
    done = atomic.read_json(index, "index")["rows_done"]
    assert 0 < done < 120
    assert atomic.read_json(tmp_path / "run" / "run.json", "run")["finished"] is False
    sys.path.insert(0, str(place.folder))
    try:
        assert run([str(each) for each in place.diagnose(tmp_path / "run")]) == 0
    finally:
        sys.path.remove(str(place.folder))
    assert_same_diagnosis(place.folder / "diagnosis", tmp_path / "run")


def test_an_error_of_one_process_is_said_once_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    code, _, errors = ended(place.start(2, *place.diagnose(tmp_path / "run"), FAILS="1"))
    assert code != 0
    assert lines_of(errors) == [  # of the first batch that the second process reads
        "error: train of several_data:data() must give every example, got OSError: half a download (at row 8)"
    ]
    assert exit_codes(errors) <= {"2", "-15"}
    assert not (tmp_path / "run").exists()
    code, _, errors = ended(place.start(2, *TRAIN, "--out", tmp_path / "run", FAILS="1"))
    assert code != 0
    assert [line.split(" (at row")[0] for line in lines_of(errors)] == [
        "error: train of several_data:data() must give every example, got OSError: half a download"
    ]
    assert exit_codes(errors) <= {"2", "-15"}
    assert not (tmp_path / "run").exists()


DISK = "error: /cache/birds: No space left on device; make room and run the command again"


@pytest.mark.parametrize(
    ("rank", "kind", "line", "code"),
    [
        ("1", "disk", DISK, "2"),
        ("0", "bug", "KeyError: 'no such bird'", "1"),
        ("1", "bug", "KeyError: 'no such bird'", "1"),
        ("1", "end", "no licence", "1"),
    ],
    ids=[
        "a full disk",
        "a bug in the first process",
        "a bug in the second process",
        "an end that the user's code asks for",
    ],
)
def test_the_process_that_fails_says_why_and_what_was_finished_is_kept(
    rank: str, kind: str, line: str, code: str, place: Place, tmp_path: Path
) -> None:
    ends = {"BREAKS": rank, "KIND": kind}
    for command, batches, kept in (
        (place.diagnose(tmp_path / "diagnosis"), "6", "diagnosis/embeddings/train/index.json"),
        ((*TRAIN, "--out", tmp_path / "run"), "14", "run/state/state.safetensors"),  # in the second epoch
    ):
        ended_with, _, errors = ended(place.start(2, *command, BATCHES=batches, **ends))
        assert ended_with != 0
        assert errors.splitlines().count(line) == 1, errors
        assert "what was finished is kept" not in errors  # as the others would say
        assert errors.count("several_data.py") == (kind == "bug")
        assert exit_codes(errors) <= {code, "-15"}
        assert (tmp_path / kept).exists()


def test_a_process_that_cannot_begin_leaves_an_earlier_run_as_it_was(place: Place, tmp_path: Path) -> None:
    for name, command in (("one", TRAIN), ("diagnosis", place.diagnose(place.folder)[:-2])):
        out = shutil.copytree(place.folder / name, tmp_path / name)
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        code, _, errors = ended(place.start(2, *command, "--out", out, "--overwrite", SEES_NOTHING="1"))
        assert code != 0
        assert [line.partition(", got ")[2] for line in lines_of(errors)] == ["OSError: no such disk"]
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_what_all_processes_refuse_is_said_once(place: Place, tmp_path: Path) -> None:
    started = {
        "error: diversify plan must run in one process, got 2; run it without torchrun; diagnose and train share their work": (
            place.start(2, "plan", place.folder / "diagnosis", "--out", tmp_path / "plan.json")
        ),
        "error: --epochs must be at least 1, got 0": place.start(2, *TRAIN, "--epochs", "0", "--out", tmp_path / "run"),
    }
    for line, process in started.items():
        code, output, errors = ended(process)
        assert code != 0
        assert not output
        assert lines_of(errors) == [line]
        assert exit_codes(errors) <= {"2", "-15"}
    assert not list(tmp_path.iterdir())


def assert_same_training(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value.double(), second[name].double(), rtol=1e-3, atol=1e-4), name
    records, again = (atomic.read_jsonl(folder / "metrics.jsonl") for folder in (one, other))
    assert [each["images"] for each in records] == [each["images"] for each in again] == [120] * 3
    assert [each["loss"] for each in records] == pytest.approx([each["loss"] for each in again], rel=1e-4)


def test_training_by_two_processes_is_that_of_one_and_three_resume_it(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = place.start(2, *TRAIN, "--out", out, SLOW=str(tmp_path), SECONDS="0.03")
    metrics = out / "metrics.jsonl"
    wait_until(functools.partial(_has_lines, metrics, 1, process), 120)
    os.killpg(process.pid, signal.SIGKILL)  # torchrun
    for rank in (0, 1):
        os.kill(int((tmp_path / f"pid-{rank}").read_text()), signal.SIGKILL)
    ended(process)
    assert 1 <= len(atomic.read_jsonl(metrics)) < 3
    code, output, errors = ended(place.start(3, *TRAIN, "--out", out, "--resume"))
    assert code == 0, errors
    assert output.count("wrote ") == 1
    assert_same_training(place.folder / "one", out)


def _has_lines(file: Path, number: int, process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None or (file.exists() and file.read_bytes().count(b"\n") >= number)
