"""The processes of a launcher: which one is first, how they meet, and what counts as a lost one."""

import datetime
import socket
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
    with pytest.raises(RuntimeError, match="the size of the tensor"), group.connected_to("process 1"):
        raise RuntimeError("the size of the tensor")


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
