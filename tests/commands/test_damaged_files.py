"""Files with a field missing, or made to last for ever, are refused in one line."""

from pathlib import Path

import pytest
import torch
from small_data import message_of

import diversify as dv
from diversify.errors import must
from diversify.files import atomic, checkpoints
from diversify.repair.candidate import Candidate
from diversify.study.read import load_protocol


@pytest.fixture(scope="module")
def sides():
    return dv.make_embeddings((12, 8, 5), heldout=6, num_features=6)


def test_a_diagnosis_without_a_column(sides) -> None:
    train, heldout, head = sides
    record = dv.diagnose(train, heldout, head=head, top_k=3).to_dict()
    for part, name in (("classes", "safe"), ("classes", "ce_magnitude_gap_high"), ("summary", "head_ceiling")):
        kept = {key: value for key, value in record[part].items() if key != name}
        expected = f"{part}.{name} of the diagnosis must be given, got nothing"
        assert message_of(lambda kept=kept, part=part: dv.Diagnosis.from_dict(record | {part: kept})) == expected
    assert "valid JSON" in message_of(lambda: dv.Diagnosis.from_json("[" * 100_000))


def test_a_remedy_whose_parts_do_not_fit(sides) -> None:
    train, heldout, head = sides
    candidates = [Candidate(name="one", meaning="m", options={"": lambda *_: head})]
    record = dv.choose_head(train, heldout, head, candidates, folds=2, repeats=1).to_dict()
    assert dv.HeadChoice.from_dict(record).names == ("untouched", "one")
    for change, expected in (
        ({"recommended": 2}, "recommended of the remedy must be one of the 2 candidates, got 2"),
        ({"meanings": ["m"]}, "meanings of the remedy must be 2, one per candidate, got 1"),
        (
            {"recall": [[0.5], [0.5]]},
            "recall of the remedy must have rows of 3, one value per class, got another length",
        ),
        ({"overall": {}}, "overall.gain of the remedy must be given, got nothing"),
        ({"final_option": [0, 1]}, "final_option.1 of the remedy must be one of 1 options, each with its count, got 1"),
    ):
        assert message_of(lambda change=change: dv.HeadChoice.from_dict(record | change)) == expected


def test_json_without_end_or_with_a_late_second_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x":[' * 100_000 + "\n")
    assert "on line 1" in message_of(lambda: atomic.read_jsonl(tmp_path / "a.jsonl"))
    (tmp_path / "a.json").write_text("{" + ",".join(f'"{n}":0' for n in range(20_000)) + ',"z":1,"z":1}')
    assert "'z' twice in one object" in message_of(lambda: atomic.read_json(tmp_path / "a.json", "plan"))


def test_a_checkpoint_of_dictionaries_within_dictionaries(tmp_path: Path) -> None:
    value: object = {"weight": torch.zeros(2)}
    for _ in range(4):
        value = {f"k{number}": value for number in range(30)}
    torch.save(value, tmp_path / "a.pt")
    assert "hold at most 10,000 dictionaries" in message_of(lambda: checkpoints.load_checkpoint(tmp_path / "a.pt"))


def test_a_protocol_and_an_index_with_other_things(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.protocol.json", {"protocol": {"methods": [[1]]}})
    assert "methods of a.protocol.json must be names" in message_of(lambda: load_protocol(tmp_path / "a.jsonl"))
    atomic.write_json(tmp_path / "i.json", {"weight_map": {"w": "x" * 4000}})
    message = message_of(lambda: checkpoints.load_checkpoint(tmp_path / "i.json"))
    assert "have every file that" in message
    assert len(message) < 1200


def test_a_very_long_value_is_shortened_in_errors() -> None:
    message = str(must("name", "be short", "x" * 9000 + "end"))
    assert len(message) < 600
    assert message.endswith("end")
