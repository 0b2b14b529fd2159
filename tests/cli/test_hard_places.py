"""Full disks, folders that vanish, signals at any moment, two runs at once, terminals of every kind.

Most runs here happen in processes of their own, forked from one that has imported everything already.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import default_signals, wait_until
from torch.utils.data import DataLoader, TensorDataset

from diversify.cli.entry import run
from diversify.errors import InputError
from diversify.files import atomic, staging
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.networks import build_model
from diversify.network.split import split_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("reports_without_figures"),
]

ROOT = Path(__file__).parents[2]
FULL = "No space left on device; make room and run the command again"

SERVER = """
import importlib, io, json, multiprocessing.util, os, resource, signal, sys, time
import accelerate, matplotlib.backends.backend_svg, matplotlib.figure, PIL.Image, rich.progress, scipy.optimize
import sklearn.datasets, sklearn.linear_model, torchvision, diversify.__main__, diversify.cli.entry, diversify.commands.options
from diversify.runtime import signals as process
import pytest, quick
quick.draw_nothing(pytest.MonkeyPatch())
signals, library = {signal.SIGINT, signal.SIGTERM}, os.path.dirname(diversify.__file__)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child and task["group"]:
        os.setpgid(child, child)
    if child == 0:
        if task["group"]:
            os.setpgid(0, 0)
        os.chdir(task["folder"])
        for descriptor, place in ((0, os.devnull), (1, task["out"]), (2, task["err"])):
            if place == "closed":
                os.close(descriptor)
            elif place == "nobody":
                read, write = os.pipe()
                os.dup2(write, descriptor)
                os.close(read)
                os.close(write)
            else:
                opened = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
                os.dup2(opened, descriptor)
                os.close(opened)
        encoding = task["env"].get("PYTHONIOENCODING", "utf-8")
        for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
            try:
                setattr(sys, name, io.TextIOWrapper(open(descriptor, "wb" if descriptor else "rb", closefd=False), encoding))
            except OSError:
                setattr(sys, name, None)
        for name in ("COLUMNS", "NO_COLOR", "TERM"):
            os.environ.pop(name, None)
        os.environ.update(task["env"])
        if task["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], resource.RLIM_INFINITY))
        for number in signals:  # not as this process was started: a shell starts background processes with SIGINT ignored
            signal.signal(number, signal.SIG_DFL)
        process.receive_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        sys.argv = ["diversify", *task["arguments"]]
        process.open_streams()
        commands = sorted(name for name in sys.modules if name.startswith("diversify.cli.") and name.endswith("_commands"))
        for name in ("screen", "tables", "multilabel_tables", *(name.rpartition(".")[2] for name in commands), "commands", "entry"):
            importlib.reload(sys.modules[f"diversify.cli.{name}"])
        begun, to_send = 0, list(task["at_calls"])
        def count(frame, event, _):
            global begun
            if event == "call" and library in frame.f_code.co_filename:
                begun += 1
                while to_send and begun >= to_send[0][1]:
                    os.kill(os.getpid(), getattr(signal, to_send.pop(0)[0]))
        if task["at_calls"] or task["count"]:
            sys.setprofile(count)
        try:
            diversify.__main__.main()
        except SystemExit as ended:  # taking down all that was imported takes seconds
            sys.setprofile(None)
            if task["count"]:
                open(task["count"], "w").write(str(begun))
            multiprocessing.util._exit_function()
            os._exit(ended.code)
    deadline = time.monotonic() + 60
    while task["after"] and not os.path.exists(task["after"]) and time.monotonic() < deadline:
        time.sleep(0.005)
    for name, wait in task["signals"]:
        time.sleep(wait)
        (os.killpg if task["group"] else os.kill)(child, getattr(signal, name))
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.005)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
    print(json.dumps([os.waitstatus_to_exitcode(ended[1]), child]), flush=True)
"""


class Commands:
    """Run commands in processes of their own; a call returns exit code, stdout, stderr and process number.

    Signals are sent as listed, each so many seconds after the one before, the first so long after the start or after
    the file `after` has appeared. Those of `at_calls` come when the command calls a function of the library for the
    n-th time, however fast the machine is; `count` is the file for the number of all its calls.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "COLUMNS": "120",
        }
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(
        self,
        *arguments: object,
        signals: list[tuple[str, float]] | None = None,
        after: Path | None = None,
        at_calls: list[tuple[str, int]] | None = None,
        count: Path | None = None,
        limit: int = 0,
        group: bool = False,
        env: dict[str, str] | None = None,
        out: str | None = None,
        err: str | None = None,
        while_it_runs: Callable[[], None] = lambda: None,
    ) -> tuple[int, str, str, int]:
        stdout, stderr = self.folder / "out", self.folder / "err"
        for path in (stdout, stderr):
            path.write_text("")
        task = {
            "arguments": list(map(str, arguments)),
            "folder": str(self.folder),
            "out": out or str(stdout),
            "err": err or str(stderr),
            "env": env or {"COLUMNS": "120"},
            "signals": signals or [],
            "after": after and str(after),
            "at_calls": at_calls or [],
            "count": count and str(count),
            "limit": limit,
            "group": group,
        }
        self.server.stdin.write(json.dumps(task) + "\n")
        self.server.stdin.flush()
        while_it_runs()
        code, process = json.loads(self.server.stdout.readline())
        return code, stdout.read_text(encoding="latin-1"), stderr.read_text(), process

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=60)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    assert server("--help")[0] == 0  # its imports are done
    yield server
    server.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of a few grey images, with a val split."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    labels = np.repeat([0, 1, 2], [14, 9, 6])
    noise = draws.uniform("tiny", torch.arange(29 * 64)).view(29, 8, 8).numpy()
    images = (noise * 90 + labels[:, None, None] * 60).astype(np.uint8)
    np.savez(path, train_images=images, train_labels=labels, val_images=images[::2], val_labels=labels[::2])
    return path


def training(data: Path, out: Path, *, epochs: int = 2) -> list[str]:
    recipe = ["--epochs", str(epochs), "--batch-size", "8", "--warmup-epochs", "0", "--precision", "fp32"]
    return ["train", "--data", f"npz:{data}", *recipe, "--out", str(out)]


def diagnosing(trained: Path, out: Path) -> list[str]:
    return ["diagnose", "--weights", str(trained / "model.safetensors"), "--top-k", "5", "--out", str(out)]


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    out = data.parent / "trained"
    assert run(training(data, out)) == 0
    return out


@pytest.fixture(scope="module")
def diagnosed(trained: Path) -> Path:
    out = trained.parent / "diagnosed"
    assert run(diagnosing(trained, out)) == 0
    return out


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1, shown
    assert shown.startswith("error: "), shown
    return shown.removeprefix("error: ").rstrip("\n")


def leftovers(folder: Path) -> list[str]:
    return [name for name in files(folder) if staging.is_temporary(Path(name).name)]


# A full disk


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes; the test is skipped where none may be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, data: Path, trained: Path, diagnosed: Path, commands: Commands
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        code, _, errors, _ = commands(*training(data, disk / "t"))
        assert (code, errors) == (2, f"error: {disk}/t/state/state.safetensors: {FULL}\n")
        assert files(disk) == ["ballast"]
        (disk / "more").write_bytes(bytes(free_bytes(disk) - 16_384))
        code, _, errors, _ = commands(*diagnosing(trained, disk / "d"))
        assert code == 2
        assert errors.endswith(f": {FULL}\n"), errors
        assert errors.startswith(f"error: {disk}/d/embeddings/"), errors
        assert errors.count("\n") == 1
        assert not leftovers(disk)
        (disk / "ballast").unlink()
        (disk / "more").unlink()
        assert commands(*diagnosing(trained, disk / "d"))[0] == 0
        assert (disk / "d" / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()


def test_the_space_of_an_array_is_taken_before_it_is_mapped(tmp_path: Path) -> None:
    array = atomic.create_array(tmp_path / "a.npy", (500, 300), "<f4")
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes
    with small_disk(tmp_path / "disk", "100k") as disk:
        with pytest.raises(OSError, match="No space left") as error:
            atomic.create_array(disk / "a.npy", (500, 300), "<f4")
        assert error.value.filename == str(disk / "a.npy")
        assert files(disk) == []


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_space_is_taken_by_zeros_where_the_system_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(refusal, "not here")

    if refusal is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    array = atomic.create_array(tmp_path / "a.npy", (700, 500), "<f4")
    assert array.shape == (700, 500)
    assert not array.any()
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes


@pytest.mark.slow
def test_files_beyond_the_limit_of_the_process(tmp_path: Path, data: Path, trained: Path, commands: Commands) -> None:
    code, _, errors, _ = commands(*training(data, tmp_path / "t"), limit=100_000)
    assert (code, errors) == (2, f"error: {tmp_path}/t/state/state.safetensors: File too large\n")
    code, _, errors, _ = commands(*diagnosing(trained, tmp_path / "d"), limit=5_000)
    assert (code, errors) == (2, f"error: {tmp_path}/d/embeddings/train/features.npy: File too large\n")
    assert files(tmp_path) == ["d", "d/embeddings", "d/run.json"]


def failing_at(monkeypatch: pytest.MonkeyPatch, place: int) -> list[int]:
    """The disk is full at the `place`-th file that is handed to it; the list says how many there were."""
    seen: list[int] = []
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(descriptor)
        if len(seen) == place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def at_every_write(
    start: list[str], go_on: Callable[[], list[str]], out: Path, capsys: pytest.CaptureFixture[str], whole: list[str]
) -> list[str]:
    """Runs once for every file that the command writes, each time failing at another; the files at which it failed."""
    failed = []
    for place in range(1, 60):
        with pytest.MonkeyPatch.context() as patch:
            seen = failing_at(patch, place)
            code = run(start)
        if len(seen) < place:
            assert code == 0
            return failed
        assert code == 2
        message = error_of(capsys)
        assert message.endswith(f": {FULL}"), message
        failed.append(Path(message.removesuffix(f": {FULL}")).relative_to(out).as_posix())
        assert not out.exists() or not leftovers(out)
        if out.exists():
            assert run(go_on()) == 0, capsys.readouterr().err
            assert files(out) == whole
            shutil.rmtree(out)
        capsys.readouterr()
    raise AssertionError("there is no end")


def test_every_file_of_a_training_run_may_find_the_disk_full(
    tmp_path: Path, data: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    start = training(data, out)
    failed = at_every_write(start, lambda: [*start, "--resume"], out, capsys, files(trained))
    state = "state/state.safetensors"
    assert failed == ["run.json", state, "metrics.jsonl", state, "metrics.jsonl", "model.safetensors", "run.json"]
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_every_file_of_a_diagnosis_may_find_the_disk_full(
    tmp_path: Path, trained: Path, diagnosed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d"
    start = diagnosing(trained, out)
    failed = at_every_write(start, lambda: start, out, capsys, files(diagnosed))
    assert set(failed) == set(content(diagnosed))
    assert (out / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()


def test_every_file_of_a_comparison_may_find_the_disk_full(
    tmp_path: Path, diagnosed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(1, 5):
        with monkeypatch.context() as patch:
            failing_at(patch, place)
            assert run(["compare", str(diagnosed), str(diagnosed), "--out", str(tmp_path / "c")]) == 2
        assert error_of(capsys).endswith(FULL)
        assert files(tmp_path) == []


def test_a_map_that_cannot_reach_the_disk_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = atomic.create_array(tmp_path / "a.npy", (3, 3), "<f4")

    def broken(self: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np.memmap, "flush", broken)
    with pytest.raises(OSError, match="Input/output error") as error:
        atomic.flush_array(array)
    assert error.value.filename == str(tmp_path / "a.npy")


# Folders that are read-only, in the way, or gone


def test_a_read_only_folder_is_refused_before_any_work(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK or Path(path) != tmp_path)
    (tmp_path / "empty").mkdir()
    advice = "choose another folder, or change its permissions"
    assert run(training(data, tmp_path / "t")) == 2
    assert error_of(capsys) == f"--out must be writable, got {tmp_path / 't'}; {advice}"
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK or Path(path) != tmp_path / "empty")
    assert run(training(data, tmp_path / "empty")) == 2
    assert error_of(capsys) == f"--out must be writable, got {tmp_path / 'empty'}; {advice}"
    assert files(tmp_path) == ["empty"]


def test_a_read_only_file_system(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for target in (disk / "t", disk):
            assert run(training(data, target)) == 2
            advice = "choose another folder, or change its permissions"
            assert error_of(capsys) == f"--out must be writable, got {target}; {advice}"


def test_a_file_where_a_folder_is_expected(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for target, message in (
        (tmp_path / "file", f"--out must be a folder, got the file {tmp_path / 'file'}"),
        (
            tmp_path / "file" / "d",
            f"--out must lie in a folder, got {tmp_path / 'file' / 'd'}, in the file {tmp_path / 'file'}",
        ),
    ):
        assert run(diagnosing(trained, target)) == 2
        assert error_of(capsys) == message
    assert files(tmp_path) == ["file"]


def test_a_folder_removed_between_epochs_ends_the_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import diversify.training.loop

    out = tmp_path / "t"
    evaluate = diversify.training.loop.evaluate
    turns: list[int] = []

    def removing(*arguments: Any, **options: Any) -> Any:
        turns.append(1)
        if len(turns) == 2:
            shutil.rmtree(out)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(diversify.training.loop, "evaluate", removing)
    assert run(training(data, out, epochs=4)) == 2
    assert error_of(capsys) == f"{out}: removed while the run was writing to it"
    assert files(tmp_path) == []  # not made again with half of a run
    assert len(turns) == 2


def test_a_folder_removed_while_a_diagnosis_reads_or_measures(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import diversify.commands.diagnose
    import diversify.network.resumable

    out = tmp_path / "d"

    def removing(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            shutil.rmtree(out, ignore_errors=True)
            return original(*arguments, **options)

        return wrapped

    for owner, name in (
        (diversify.network.resumable.Table, "record"),
        (diversify.commands.diagnose, "diagnose"),
        (diversify.commands.diagnose, "render_html"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, removing(getattr(owner, name)))
            assert run(diagnosing(trained, out)) == 2
        assert error_of(capsys).endswith(": removed while the run was writing to it") or name == "record"
        assert files(tmp_path) == []


def test_an_extraction_does_not_make_its_folder_again(tmp_path: Path) -> None:
    split = split_head(build_model("small_cnn", 3, channels=1))
    loader = DataLoader(TensorDataset(torch.zeros(6, 1, 8, 8), torch.arange(6) % 3), batch_size=2)

    def remove(done: int, rows: int | None) -> None:
        shutil.rmtree(tmp_path / "e", ignore_errors=True)

    with pytest.raises(FileNotFoundError, match="removed while the extraction was writing to it"):
        extract(split, loader, out=tmp_path / "e", progress=remove)
    assert files(tmp_path) == []


# Signals


def resumed(command: list[str], out: Path, commands: Commands) -> None:
    """The same command finishes what an interrupted one left."""
    finished = (out / "run.json").is_file() and json.loads((out / "run.json").read_text())["finished"]
    if finished:
        return
    begun = (out / "run.json").is_file()
    code, _, errors, _ = commands(*command, *(["--resume"] if command[0] == "train" and begun else []))
    assert code == 0, errors


def undisturbed(command: list[str], out: Path, commands: Commands) -> tuple[int, dict[str, bytes]]:
    """How many functions of the library the command calls, and what it leaves."""
    assert commands(*command, count=commands.folder / "calls")[0] == 0
    left = content(out)
    shutil.rmtree(out)
    return int((commands.folder / "calls").read_text()), left


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "diagnose"])
def test_signals_at_any_moment_lose_nothing(
    name: str, tmp_path: Path, data: Path, trained: Path, commands: Commands
) -> None:
    out = tmp_path / "run"
    command = training(data, out, epochs=12) if name == "train" else diagnosing(trained, out)
    result = "model.safetensors" if name == "train" else "diagnosis.json"
    calls, whole = undisturbed(command, out, commands)
    moments = (calls * draws.uniform("moments", name, torch.arange(5))).long().tolist()
    codes = []
    for number, moment in enumerate(moments):
        kind = ("SIGINT", "SIGTERM")[number % 2]
        twice = [(kind, moment), ("SIGINT", moment + number)] if number % 3 == 0 else [(kind, moment)]
        code, _, errors, _ = commands(*command, at_calls=twice)
        codes.append(code)
        assert code in (0, 130), (moment, errors)
        lines = [line for line in errors.splitlines() if line]
        assert lines == (["interrupted; what was finished is kept"] if code == 130 else []), errors
        resumed(command, out, commands)
        left = content(out)
        assert left.keys() == whole.keys()
        assert left[result] == whole[result]
        shutil.rmtree(out)
    assert 130 in codes
    assert files(tmp_path) == []


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, data: Path, commands: Commands) -> None:
    whole, out, epochs = tmp_path / "whole", tmp_path / "killed", 20
    assert commands(*training(data, whole, epochs=epochs), count=tmp_path / "calls")[0] == 0
    command, half = training(data, out, epochs=epochs), int((tmp_path / "calls").read_text()) // 2
    assert commands(*command, at_calls=[("SIGKILL", half)])[0] == -signal.SIGKILL
    assert 1 <= len(atomic.read_jsonl(out / "metrics.jsonl")) < epochs, "the kill was meant to fall in mid-run"
    assert not (out / "model.safetensors").exists()
    assert commands(*command, "--resume")[0] == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    lines = [atomic.read_jsonl(folder / "metrics.jsonl") for folder in (whole, out)]
    one, other = ([{k: v for k, v in line.items() if k != "seconds"} for line in found] for found in lines)
    assert one == other


def test_sigterm_keeps_the_state_and_says_130(tmp_path: Path, data: Path, commands: Commands) -> None:
    out = tmp_path / "t"
    command = training(data, out, epochs=5000)
    code, _, errors, _ = commands(*command, signals=[("SIGTERM", 0.0)], after=out / "metrics.jsonl")
    assert (code, errors.strip()) == (130, "interrupted; what was finished is kept")
    assert (out / "state" / "state.safetensors").exists()


def test_a_third_signal_ends_the_process_at_once(tmp_path: Path, data: Path, commands: Commands) -> None:
    out = tmp_path / "t"
    command = training(data, out, epochs=2000)
    code, _, errors, _ = commands(
        *command, signals=[("SIGINT", 0.0), ("SIGINT", 0.0005), ("SIGTERM", 0.0005)], after=out / "metrics.jsonl"
    )
    assert code == 130
    assert "Traceback" not in errors
    short = training(data, out, epochs=3)  # another recipe: what is there is still refused in one line
    code, _, errors, _ = commands(*short, "--resume")
    assert (code, errors) == (2, "error: --epochs of a resumed run must stay 2000, got 3; start it anew\n")


def ends_within(seconds: float, group: int) -> bool:
    """Whether no process of the group is left after so long."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_ctrl_c_reaches_the_loader_workers_too_and_leaves_none(tmp_path: Path, data: Path, commands: Commands) -> None:
    """A terminal sends the signal to the whole group of processes."""
    out = tmp_path / "t"
    for file in ("run.json", "metrics.jsonl"):
        command = [*training(data, out, epochs=2000), "--workers", "2"]
        code, _, errors, group = commands(*command, signals=[("SIGINT", 0.0)], after=out / file, group=True)
        assert code == 130, errors
        assert errors.split("\n") in (
            ["", "interrupted; what was finished is kept", ""],
            ["interrupted; what was finished is kept", ""],
        )
        assert ends_within(10, group)
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_is_starting(kind: signal.Signals, tmp_path: Path) -> None:
    """Torch takes seconds to import; an interruption there is as quiet as any other."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to see when the handlers are set")

    def handles_signals(number: int) -> bool:
        caught = Path(f"/proc/{number}/status").read_text().split("SigCgt:")[1].split()[0]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    moments: list[Callable[[int], bool]] = [
        handles_signals,
        lambda number: "libtorch_cpu" in Path(f"/proc/{number}/maps").read_text(),
        lambda number: (tmp_path / "t" / "run.json").exists(),
    ]
    for moment in moments:
        with subprocess.Popen(
            [sys.executable, "-m", "diversify", "train", "--epochs", "5000", "--out", str(tmp_path / "t")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=default_signals,
        ) as process:
            wait_until(functools.partial(moment, process.pid))
            process.send_signal(kind)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors.strip() == "interrupted; what was finished is kept"
    assert not (tmp_path / "t" / "model.safetensors").exists()


# Two runs into one folder


def in_use(folder: Path, name: str = "out") -> str:
    advice = "wait until it is done, or choose another folder"
    return f"{name} must not be in use by another run, got {folder} (process {os.getpid()}); {advice}"


def test_the_second_run_into_a_folder_is_refused_at_once(
    tmp_path: Path, data: Path, trained: Path, diagnosed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "new", trained, diagnosed):
        lines = [
            training(data, out),
            diagnosing(diagnosed.parent / "trained", out),
            ["compare", str(diagnosed), str(diagnosed), "--out", str(out)],
            ["demo", "--out", str(out)],
        ]
        lines += [[*line, "--overwrite"] for line in lines] + [[*lines[0], "--resume"]]
        with staging.claimed(out):
            before = content(out)
            for line in lines:
                assert run(line) == 2
                assert error_of(capsys) == in_use(out, "--out")
            assert content(out) == before
    assert files(tmp_path) == []


def test_a_run_holds_its_folder_until_it_is_done(
    tmp_path: Path, data: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import diversify.commands.diagnose
    import diversify.training.loop

    def meddling(original: Callable[..., Any], out: Path) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            with pytest.raises(InputError) as error, staging.claimed(out):
                raise AssertionError("the folder was free")
            assert str(error.value) == in_use(out)
            return original(*arguments, **options)

        return wrapped

    evaluate, diagnose = diversify.training.loop.evaluate, diversify.commands.diagnose.diagnose
    monkeypatch.setattr(diversify.training.loop, "evaluate", meddling(evaluate, tmp_path / "t"))
    monkeypatch.setattr(diversify.commands.diagnose, "diagnose", meddling(diagnose, tmp_path / "d"))
    assert run(training(data, tmp_path / "t")) == 0
    assert run(diagnosing(trained, tmp_path / "d")) == 0
    assert not leftovers(tmp_path)
    with staging.claimed(tmp_path / "t"):
        assert leftovers(tmp_path / "t") == [".lock"]


def test_the_lock_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with staging.claimed(tmp_path / "run"):
            os.write(write, b"held")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(read, 4) == b"held"
        message = f"out must not be in use by another run, got {tmp_path / 'run'} (process {child})"
        with pytest.raises(InputError) as error, staging.claimed(tmp_path / "run"):
            pass
        assert str(error.value).startswith(message)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert files(tmp_path) == ["run", "run/.lock"]
    staging.ensure_available(tmp_path / "run", False, owned=())  # no content
    with staging.claimed(tmp_path / "run"):
        atomic.write_json(tmp_path / "run" / "run.json", {})
    assert files(tmp_path) == ["run", "run/run.json"]


def test_a_claim_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("irreplaceable")
    with staging.claimed(tmp_path / "thesis"):
        assert files(tmp_path / "thesis") == ["thesis.tex"]
    with staging.claimed(tmp_path / "a" / "b"):
        assert files(tmp_path / "a") == ["b", "b/.lock"]
    assert files(tmp_path) == ["thesis", "thesis/thesis.tex"]


def test_a_claim_removes_what_a_killed_run_was_writing(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "run.json", {"schema_version": 1, "command": "train"})
    (tmp_path / "state").mkdir()
    (tmp_path / "notes").mkdir()
    for name in (".metrics.jsonl.0a.tmp", "state/.state.safetensors.0b.tmp", "notes/.mine.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / "state" / ".state.safetensors.0b.tmp.tmp").mkdir()
    (tmp_path / "state" / ".state.safetensors.0b.tmp.tmp" / "tensors").write_text("half")
    with staging.claimed(tmp_path, owned=("run.json", "state")):
        assert files(tmp_path) == [".lock", "notes", "notes/.mine.tmp", "run.json", "state"]


def test_file_systems_without_locks_go_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with staging.claimed(tmp_path / "run"):
        atomic.write_json(tmp_path / "run" / "run.json", {})
    assert files(tmp_path) == ["run", "run/run.json"]


def test_only_the_first_process_of_a_launcher_holds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diversify.commands.folders import alone
    from diversify.runtime import launched

    @alone
    def listed(out: Path) -> list[str]:
        return files(out) if out.exists() else ["not there"]

    assert listed(tmp_path / "run") == [".lock"]
    with staging.claimed(tmp_path / "run"):
        monkeypatch.setattr(launched, "_launched", launched.Launched(1, 2, store=None))
        assert listed(tmp_path / "run") == [".lock"]
        monkeypatch.setattr(launched, "_launched", launched.Launched(0, 2, store=None))
        with pytest.raises(InputError, match="out must not be in use by another run"):
            listed(out=tmp_path / "run")
    assert files(tmp_path) == []


def test_a_variable_rank_alone_makes_no_process_the_second(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(training(data, tmp_path / "t")) == 0
    assert {"model.safetensors", "metrics.jsonl", "run.json"} <= {each.name for each in (tmp_path / "t").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [True, False])
def test_one_of_a_process_group_ends_before_python_is_taken_down(grouped: bool, tmp_path: Path) -> None:
    lines = [
        "import atexit, sys, torch.distributed as distributed",
        "from diversify.runtime import signals",
        f"store = distributed.FileStore({str(tmp_path / 'store')!r}, 1)",
        f"if {grouped}: distributed.init_process_group('gloo', store=store, rank=0, world_size=1)",
        "atexit.register(print, 'taken down')",
        "print('done', end=' ')",  # not flushed yet
        "signals.leave(3)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout == ("done " if grouped else "done taken down\n")


# Clocks


def test_a_clock_that_jumps_back_changes_nothing(
    tmp_path: Path, data: Path, trained: Path, diagnosed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter(range(10_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    assert run(training(data, tmp_path / "t")) == 0
    assert run(diagnosing(trained, tmp_path / "d")) == 0
    assert (tmp_path / "t" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "d" / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()
    assert all(line["seconds"] > 0 for line in atomic.read_jsonl(tmp_path / "t" / "metrics.jsonl"))
    assert json.loads((tmp_path / "t" / "run.json").read_text())["seconds"] > 0


# Terminals


@pytest.fixture(scope="module")
def named(diagnosed: Path) -> Path:
    """A diagnosis of classes whose names no plain terminal can show."""
    folder = diagnosed.parent / "named"
    shutil.copytree(diagnosed, folder)
    path = folder / "diagnosis.json"
    path.write_text(path.read_text().replace('"class 1"', '"◆ Käfer – 甲虫"'), encoding="utf-8")
    return folder


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "xterm"}], ids=str)
def test_terminals(env: dict[str, str], tmp_path: Path, trained: Path, commands: Commands) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    shown = b""

    def watch() -> None:
        nonlocal shown
        while select.select([ours], [], [], 60)[0]:
            shown += (part := os.read(ours, 65536))
            if b"report.html" in part:
                break

    terminal = os.ttyname(theirs)
    code, *_ = commands(*diagnosing(trained, tmp_path / "d"), env=env, out=terminal, err=terminal, while_it_runs=watch)
    os.close(theirs)
    os.close(ours)
    text = shown.decode()
    assert code == 0
    assert "class 0" in text
    assert ("\x1b" in text) == (env["TERM"] != "dumb")
    assert not ("NO_COLOR" in env and re.search(r"\x1b\[[0-9;]*3[0-9]m", text))
    assert ("reading train" in text) == (env["TERM"] != "dumb")  # the bar


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_encodings_without_our_signs(encoding: str, tmp_path: Path, named: Path, commands: Commands) -> None:
    line = ["compare", named, named, "--out", tmp_path / "c"]
    code, out, errors, _ = commands(*line, env={"PYTHONIOENCODING": encoding, "COLUMNS": "200"})
    assert (code, errors) == (0, "")
    assert "\x1b" not in out
    shown = {"ascii": "* K?fer - ??", "latin-1": "* Käfer - ??", "utf-8": "◆ Käfer – 甲虫".encode().decode("latin-1")}
    assert shown[encoding] in out
    assert "◆ Käfer – 甲虫" in (tmp_path / "c" / "comparison.json").read_text(encoding="utf-8")
    if encoding == "ascii":
        code, _, errors, _ = commands("compare", "–", "–", "--out", tmp_path / "x", env={"PYTHONIOENCODING": encoding})
        assert (code, errors) == (2, "error: DIR_A must be a folder that `diversify diagnose` wrote, got -\n")


def test_output_into_a_pipe_holds_no_control_codes(tmp_path: Path, trained: Path, commands: Commands) -> None:
    code, out, errors, _ = commands(*diagnosing(trained, tmp_path / "d"), env={"TERM": "xterm-256color"})
    assert (code, errors) == (0, "")
    assert out.startswith("data: npz:")
    assert not [sign for sign in out if ord(sign) < 32 and sign != "\n"]


def test_nobody_reads_the_output(tmp_path: Path, trained: Path, diagnosed: Path, commands: Commands) -> None:
    code, _, errors, _ = commands(*diagnosing(trained, tmp_path / "d"), out="nobody")
    assert (code, errors) == (141, "")
    assert commands(*diagnosing(trained, tmp_path / "d"), out="nobody", err="nobody")[0] == 141
    assert run(diagnosing(trained, tmp_path / "d")) == 0
    assert (tmp_path / "d" / "diagnosis.json").read_bytes() == (diagnosed / "diagnosis.json").read_bytes()
    for line in (["--help"], ["train", "--help"], ["compare", "-h"]):
        assert commands(*line, out="nobody")[:3] == (141, "", "")
    assert commands("train", err="nobody")[0] in (2, 141)


def test_no_streams_at_all(tmp_path: Path, diagnosed: Path, commands: Commands) -> None:
    line = ["compare", str(diagnosed), str(diagnosed), "--out", str(tmp_path / "c")]
    assert commands(*line, out="closed", err="closed")[:3] == (0, "", "")
    assert files(tmp_path / "c") == ["comparison.json", "report.html", "report.md", "run.json"]
    assert json.loads((tmp_path / "c" / "run.json").read_text())["command"] == "compare"
    for streams in ("<&- >&- 2>&-", "<&-", ">&-"):
        given = ["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-m", "diversify", "compare"]
        done = subprocess.run(given, capture_output=True, cwd=ROOT, check=False)
        shown = b"" if "2>" in streams else b"error: DIR_A must be given, got none; see `diversify compare --help`\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", shown)


def test_a_full_device_as_output(diagnosed: Path, tmp_path: Path, commands: Commands) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code, _, errors, _ = commands("compare", diagnosed, diagnosed, "--out", tmp_path / "c", out="/dev/full")
    said = "error: standard output: No space left on device; what was finished is kept\n"
    assert (code, errors) == (2, said)
    assert not (tmp_path / "c").exists()  # its first line comes before its first file
    code, _, errors, _ = commands("train", "--help", out="/dev/full")
    assert (code, errors) == (2, said)
    assert commands("train", err="/dev/full")[:2] == (2, "")


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    """Linux allows any bytes; JSON keeps them as escapes, and reads them back."""
    name = b"caf\xe9".decode(errors="surrogateescape")
    atomic.write_json(tmp_path / "a.json", {"path": name})
    assert atomic.read_json(tmp_path / "a.json", "a") == {"path": name}
    atomic.append_jsonl(tmp_path / "a.jsonl", {"path": name})
    assert atomic.read_jsonl(tmp_path / "a.jsonl") == [{"path": name}]


def test_what_is_loaded_stays_whole_when_its_files_are_removed(tmp_path: Path, sides: tuple[Embeddings, ...]) -> None:
    sides[0].save(tmp_path / "e")
    loaded = Embeddings.load(tmp_path / "e")
    shutil.rmtree(tmp_path / "e")
    assert torch.equal(loaded.features, sides[0].features)
