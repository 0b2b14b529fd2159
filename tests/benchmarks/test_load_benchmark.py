"""The fuzzer finds what it should find, and the library survives it."""

import json
import mmap
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import bombs, fuzz, mutate
from benchmarks.load.targets import files_of_arrays, files_of_weights, targets
from diversify.errors import InputError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs fork and /proc")


@pytest.mark.slow
def test_it_sees_every_bad_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT", 0.5)
    monkeypatch.setattr(fuzz, "MEMORY", 2**24)

    def spin(path: Path) -> None:
        while True:
            pass

    def refuse(text: str) -> None:
        raise InputError(text)

    def fill(path: Path) -> None:
        memory = mmap.mmap(-1, 2**26)  # not from the heap, which may have as much to spare
        for place in range(0, len(memory), mmap.PAGESIZE):
            memory[place] = 1
        memory.close()

    ends = {
        "KeyError: \"'x'\"": lambda path: {}["x"],
        "took longer than 0.5 s": spin,
        "an error of several lines or none": lambda path: refuse(""),
        "an error of 5001 characters": lambda path: refuse("x" * 5001),
        "GiB of memory": fill,
        "ended the process with status 9": lambda path: os.kill(os.getpid(), signal.SIGKILL),
    }
    fine = [lambda path: path.read_bytes(), lambda path: refuse("a must be b, got c")]
    readers = [*ends.values(), *fine]
    made = [
        fuzz.Target(kind="plan", file=str(place), valid=b"abc", damage=mutate.of_bytes, read=read)
        for place, read in enumerate(readers)
    ]
    counts, lost = fuzz.run_cases([(target, 0) for target in made])
    assert [one.file for one in lost] == [str(place) for place in range(len(ends))]
    assert all(how in one.how for how, one in zip(ends, lost, strict=True)), lost
    assert counts == {"plan read": 1, "plan refused": 1}


def test_a_case_is_the_same_file_every_time(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    every = [*files_of_weights(tmp_path / "made"), *files_of_arrays(tmp_path / "made")]
    for target in every:
        assert fuzz.damaged(target, 5) == fuzz.damaged(target, 5)
        assert len({fuzz.damaged(target, number) for number in range(8)}) > 4, target.file
        assert fuzz.outcome(target, fuzz.prepared(target, tmp_path / "case")) == "read", target.file


@pytest.mark.slow
def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    every = targets(tmp_path)
    counts, lost = fuzz.run_cases(fuzz.chosen(every, 2000, first=10**6))
    assert lost == []
    assert sum(counts.values()) == 2000
    assert all(counts[f"{kind} {how}"] for kind in fuzz.KINDS for how in ("read", "refused")), counts


@pytest.mark.slow
def test_files_made_to_harm(tmp_path: Path) -> None:
    every = targets(tmp_path)
    cases = [(target, 0) for target in bombs.bombs(every)]
    started = time.monotonic()
    cheap = [
        case for case in cases if case[0].file not in ("a.png", "a.ico", "clear.png", "deep.png", "data.npz", "m.pt")
    ]
    assert len(cheap) > 25
    assert max(len(fuzz.damaged(*case)) for case in cheap) <= bombs.LARGEST
    counts, lost = fuzz.run_cases(cheap)
    assert lost == [], time.monotonic() - started
    assert sum(counts.values()) == len(cheap)


def test_values_are_changed_and_stay_json() -> None:
    random, valid = np.random.default_rng(0), json.dumps({"a": [1, {"b": None}], "c": "d"}).encode()
    made = [mutate.of_values(json.loads(valid), random) for _ in range(50)]
    assert all(json.dumps(one) for one in made)
    assert sum(one != json.loads(valid) for one in made) > 40
