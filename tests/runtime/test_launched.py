"""The processes of a launcher: which one is first, how they meet, and what counts as a lost one."""

import datetime
import errno
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import of_ranks

from diversify.errors import InputError, must
from diversify.runtime import group, launched

GLOO = "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:4711"


def test_only_what_a_broken_connection_raises_counts_as_a_lost_process() -> None:
    distributed = torch.distributed
    for error, is_lost in (
        (RuntimeError(GLOO), True),
        (distributed.DistNetworkError("Connection reset by peer"), True),
        (distributed.DistStoreError("wait timeout after 300000ms"), True),
        (distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (distributed.DistBackendError("NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)"), False),
        (RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\n{GLOO}"), False),
        (distributed.DistBackendError("Caught DistBackendError in DataLoader worker: socket timeout"), False),
        (RuntimeError("the socket of nccl_lamp.png has no gloo"), False),
        (RuntimeError("[enforce fail at /src/gloo/allreduce.cc:21] 4 vs 8"), False),
        (ValueError(GLOO), False),
    ):
        assert group.is_lost(error) is is_lost, error
    closed = r"lost the connection to process 1 \(Connection closed by peer"
    with pytest.raises(ConnectionError, match=closed), group.connected_to("process 1"):
        raise RuntimeError(GLOO)
    advice = f"{GLOO}. This is typically caused by a remote worker crashing. GLHF!"
    assert str(group.lost("process 1", RuntimeError(advice))) == str(group.lost("process 1", RuntimeError(GLOO)))
    with pytest.raises(RuntimeError, match="the size of the tensor"), group.connected_to("process 1"):
        raise RuntimeError("the size of the tensor")


def test_an_error_names_a_file_whose_name_is_no_text() -> None:
    error = must("root", "be a folder", "birds\udcff")
    assert str(group.from_words(group.in_words(error))) == str(error)


def test_an_error_of_the_first_process_that_goes_ahead_reaches_the_others(tmp_path: Path) -> None:
    entered = tmp_path / "entered"

    def go(rank: int) -> None:
        launched._launched = launched.Launched(rank, 2, store=None)
        with launched.first_goes_ahead():  # all is well
            (tmp_path / str(rank)).write_text("")
            assert (tmp_path / "0").exists()
        with launched.first_goes_ahead():
            if rank:
                entered.write_text("")
            raise must("root", "be reachable", "nothing")

    assert of_ranks(tmp_path, go) == ["root must be reachable, got nothing"] * 2
    assert not entered.exists()


def test_an_error_of_another_kind_reaches_the_others_with_its_cause(tmp_path: Path) -> None:
    def go(rank: int) -> str:
        launched._launched = launched.Launched(rank, 2, store=None)
        try:
            with launched.first_goes_ahead():
                assert rank == 0
                raise OSError(errno.ENOSPC, "No space left on device", "birds.zip")
        except OSError as error:
            return f"{type(error).__name__}: {error}"

    own, told = of_ranks(tmp_path, go)
    assert own == "OSError: [Errno 28] No space left on device: 'birds.zip'"
    assert told.startswith(f"ProcessFailedError: process 0 failed ({own}); what was finished is kept")


STORE = """
import os, time
from diversify.runtime import launched, signals

class Store(dict):
    "The store of two processes; that of the first one ends as soon as the second has read the exit code."
    def check(self, keys):
        if self.get("readers"):
            raise RuntimeError("gone")
        return keys[0] in self
    def add(self, key, number):
        self[key] = self.get(key, 0) + number
        return self[key]

signals.receive_signals()
signals.begin_work()
launched._STUCK_SECONDS = 0.5
member = launched.Launched(1, 2, Store(ended=1, code="7"))
"""


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("time.sleep(60)", "interrupted"),
        ("while True:\n            try: time.sleep(60)\n            except KeyboardInterrupt: pass", ""),
        ("pass", "done"),
    ],
    ids=["that works on", "that the interruption does not end", "that is done"],
)
def test_a_process_ends_with_the_code_of_the_one_that_failed(block: str, said: str) -> None:
    script = f"""{STORE}
try:
    with member.ending_with_others():
        {block}
    print("done", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
os._exit(member.leave_with(130))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (7, said, "")


@pytest.mark.parametrize("rank", ["0", "1"], ids=["the port is in use", "nobody is there"])
def test_processes_that_do_not_find_each_other_end_with_one_line(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "_MEETING", datetime.timedelta(seconds=1))
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        if rank == "1":
            taken.close()
        found = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=f"MASTER_ADDR and MASTER_PORT must let all 2 .* got 127.0.0.1:{port}; "):
            launched.join()
    assert launched.launched() is None


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_launcher_that_does_not_say_where_to_meet_is_refused(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    launched.require_all_of_launcher()
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match=f"WORLD_SIZE above 1 must come with RANK, .* got no {missing}; .*torchrun"):
        launched.require_all_of_launcher()
    monkeypatch.setenv("WORLD_SIZE", "1")
    launched.require_all_of_launcher()
    monkeypatch.setenv("LOCAL_RANK", "0")
    needed = "LOCAL_RANK must come with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
    with pytest.raises(InputError, match=f"{needed}, got no {missing}; .* or unset LOCAL_RANK to train with one"):
        launched.require_all_of_launcher()


@pytest.mark.parametrize(
    ("name", "value", "law"),
    [
        ("RANK", "2", "RANK must be below WORLD_SIZE, 2, got 2"),
        ("RANK", "first", "the environment variable RANK must be an integer, as torchrun sets it, got 'first'"),
        ("WORLD_SIZE", "two", "the environment variable WORLD_SIZE must be an integer, as torchrun sets it, got 'two'"),
        ("LOCAL_RANK", "-1", "the environment variable LOCAL_RANK must be an integer, as torchrun sets it, got '-1'"),
        ("MASTER_PORT", "65536", "MASTER_PORT must be at most 65535, got 65536"),
    ],
)
def test_a_wrong_variable_of_the_launcher_is_refused(
    name: str, value: str, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for each, text in {**found, name: value}.items():
        monkeypatch.setenv(each, text)
    assert launched.is_one_of_several()
    with pytest.raises(InputError, match=law):
        launched.join()
