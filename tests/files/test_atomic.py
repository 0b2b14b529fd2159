"""Files are written completely or not at all, and an unreadable file gives an error of one line."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from diversify.errors import InputError
from diversify.files import atomic, staging


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    atomic.write_json(path, {"old": 1})

    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"new": float("nan")})
    with pytest.raises(TypeError):
        atomic.write_tensors(path, {"a": torch.zeros(2)}, {"key": 3})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {"new": 2})

    assert atomic.read_json(path, "kept") == {"old": 1}
    assert names(tmp_path) == ["kept.json"]


def test_tensors_have_the_rights_of_any_new_file_and_names_that_are_known_until_then(tmp_path, monkeypatch):
    seen, save = [], atomic.save_file

    def watched(tensors, path, **options):
        path.with_name(".tmpAbCdEf").write_text("as the writer of safetensors does")
        seen.extend(names(tmp_path))
        save(tensors, path, **options)

    monkeypatch.setattr(atomic, "save_file", watched)
    before = os.umask(0o027)
    try:
        atomic.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640
    assert len(seen) == 2
    assert all(map(staging.is_temporary, seen))
    assert names(tmp_path) == ["a.safetensors"]


def test_json_keeps_order_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b.json"
    atomic.write_json(path, {"z": None, "a": [1, "é"]})
    assert list(atomic.read_json(path, "b")) == ["z", "a"]
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "diagnosis must be an existing file, got {path}"),
        (b"", "diagnosis must not be empty, got {path}"),
        (b'{"a": 1, "b', "diagnosis must be whole, valid JSON, got {path} (Unterminated string"),
        (b"<html>", "diagnosis must be whole, valid JSON, got {path} (Expecting value"),
        (b"\xff\xfe\x00", "diagnosis must be whole, valid JSON, got {path} ("),
    ],
)
def test_read_json_errors(tmp_path, content, message):
    path = tmp_path / "diagnosis.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        atomic.read_json(path, "diagnosis")
    assert str(error.value).startswith(message.format(path=path))
    assert "\n" not in str(error.value)


def test_read_json_of_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"diagnosis must be a file, got the folder"):
        atomic.read_json(tmp_path, "diagnosis")


def test_jsonl_appends_and_drops_a_torn_last_line(tmp_path):
    path = tmp_path / "results.jsonl"
    records = [{"seed": 0, "method": "ce"}, {"seed": 1, "method": "é"}]
    for record in records:
        atomic.append_jsonl(path, record)
    assert atomic.read_jsonl(path) == records

    whole = path.read_bytes()
    for cut in range(len(whole) - 3, len(whole)):
        path.write_bytes(whole[:cut])
        assert atomic.read_jsonl(path) == records[:1]
    atomic.append_jsonl(path, {"seed": 2})  # the torn line does not swallow the next record
    assert atomic.read_jsonl(path) == [records[0], {"seed": 2}]

    path.write_bytes(b'{"torn from the very first')
    assert atomic.read_jsonl(path) == []
    atomic.append_jsonl(path, {"seed": 3})
    assert atomic.read_jsonl(path) == [{"seed": 3}]


def test_jsonl_cuts_a_torn_line_longer_than_a_block(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    atomic.append_jsonl(path, {"c": 1})
    assert atomic.read_jsonl(path) == [{"a": 1}, {"c": 1}]


def test_a_record_that_the_disk_does_not_take_whole_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    atomic.append_jsonl(path, {"a": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:3]))
    with pytest.raises(OSError, match="No space left on device") as error:
        atomic.append_jsonl(path, {"a": 2})
    assert error.value.filename == str(path)
    assert path.read_text() == '{"a": 1}\n'


def test_jsonl_whole_and_damaged_in_the_middle(tmp_path):
    path = tmp_path / "results.jsonl"
    atomic.write_jsonl(path, [{"a": 1}, {"a": 2}])
    assert atomic.read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    message = f"records must hold one JSON object per line, got another thing on line 2 of {path}"
    with pytest.raises(InputError) as error:
        atomic.read_jsonl(path)
    assert str(error.value) == message


def test_arrays_are_mapped_and_changes_stay_in_memory(tmp_path):
    path = tmp_path / "a.npy"
    created = atomic.create_array(path, (3, 2), "<f4")
    created[1] = 5
    atomic.flush_array(created)
    opened = atomic.open_array(path, "array")
    opened[0] = 9
    np.testing.assert_array_equal(np.load(path), [[0, 0], [5, 5], [0, 0]])
    assert isinstance(opened, np.memmap)

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"^array must be a whole \.npy file, got .* \(truncated, or not an array\)$"):
        atomic.open_array(path, "array")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="must be a whole"):
        atomic.open_array(path, "array")


def test_empty_arrays(tmp_path):
    atomic.create_array(tmp_path / "a.npy", (0, 2), "<f4")
    assert atomic.open_array(tmp_path / "a.npy", "array").shape == (0, 2)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(InputError, match="must be a whole"):
        atomic.open_array(tmp_path / "a.npy", "array")
