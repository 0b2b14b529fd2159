"""An interrupted extraction resumes without reading an image twice."""

import warnings

import pytest
import torch
from small_network import Images, batch, equal, index_of, make_net, message_of, seeded
from torch.utils.data import DataLoader, Subset

from diversify.errors import InputError
from diversify.files import atomic
from diversify.network import resumable
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.split import split_head

torch.set_num_threads(1)


def test_memory_mapped_equals_in_memory_and_is_read_once(tmp_path):
    split, dataset = split_head(make_net()), Images()
    loader = DataLoader(dataset, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0))
    in_memory = extract(split, loader)
    mapped = extract(split, loader, out=tmp_path / "deep" / "train")
    assert equal(in_memory, mapped)
    dataset.read.clear()
    assert equal(in_memory, extract(split, loader, out=tmp_path / "deep" / "train"))
    assert dataset.read == []
    assert sorted(path.name for path in (tmp_path / "deep" / "train").iterdir()) == [
        "features.npy",
        "index.json",
        "indices.npy",
        "labels.npy",
        "logits.npy",
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_resume_after_an_interruption(tmp_path, shuffle):
    split = split_head(make_net())
    dataset = Images(error=KeyboardInterrupt(), at=13)
    loader = DataLoader(dataset, batch_size=3, shuffle=shuffle)  # another order each time, when it shuffles
    whole = extract(split, DataLoader(Images(), batch_size=20))
    folder = tmp_path / "train"
    with pytest.raises(KeyboardInterrupt):
        extract(split, loader, out=folder)
    done = index_of(folder)["rows_done"] if (folder / "index.json").exists() else 0
    assert shuffle or done == 12
    with pytest.raises(InputError, match="embeddings must be complete") if done else warnings.catch_warnings():
        Embeddings.load(folder) if done else None

    dataset.error = None
    dataset.read.clear()
    torch.manual_seed(99)
    resumed = extract(split, loader, out=folder)
    assert len(dataset.read) == 20 - done
    order = resumed.indices.argsort()
    assert resumed.indices[order].tolist() == list(range(20))
    again = resumed.select(order)
    assert torch.equal(again.labels, whole.labels)
    torch.testing.assert_close(again.features, whole.features)
    torch.testing.assert_close(again.logits, whole.logits)


def test_a_kill_between_two_records_costs_only_the_rows_after_the_last(tmp_path, monkeypatch):
    """The files of a run killed without warning: arrays further on than the index says."""
    monkeypatch.setattr(resumable, "BLOCK_ROWS", 6)
    split, dataset = split_head(make_net()), Images()
    loader = DataLoader(dataset, batch_size=3)
    folder = tmp_path / "train"
    seen = []

    def die(done, rows):
        seen.append(index_of(folder)["rows_done"])
        if done == 15:
            raise KeyboardInterrupt

    record = resumable.Table.record
    with monkeypatch.context() as patch:
        # what runs on the way out of an interrupt does not run when a process is killed
        patch.setattr(resumable.Table, "record", lambda table: None if table.done == 15 else record(table))
        with pytest.raises(KeyboardInterrupt):
            extract(split, loader, out=folder, progress=die)
    assert seen == [0, 6, 6, 12, 12]
    dataset.read.clear()
    resumed = extract(split, loader, out=folder)
    assert dataset.read == list(range(12, 20))
    assert equal(resumed, extract(split, loader))


def test_a_kill_before_the_first_record(tmp_path):
    split, loader = split_head(make_net()), DataLoader(Images(), batch_size=5)
    (tmp_path / ".index.json.0a1b2c3d.tmp").write_text('{"sch')
    atomic.create_array(tmp_path / "features.npy", (20, 6), "<f4")
    assert equal(extract(split, loader, out=tmp_path), extract(split, loader))


def test_another_model_or_other_data_is_refused(tmp_path):
    folder = tmp_path / "train"
    dataset = Images(error=KeyboardInterrupt(), at=13)
    loader = DataLoader(dataset, batch_size=3)
    model = make_net()
    with pytest.raises(KeyboardInterrupt):
        extract(split_head(model), loader, out=folder, fingerprint="a")
    dataset.error = None
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    message = f"out must be new or hold the same extraction, unfinished, got {folder} with {{}}; "
    message += "use another folder or delete it"
    shorter = DataLoader(Subset(dataset, range(19)), batch_size=3)
    other = DataLoader(dataset, batch_size=3, sampler=[*range(12), *range(20, 12, -1)])
    dataset.labels.append(0)
    cases = (
        (make_net(seed=1), loader, {"fingerprint": "a"}, "another model"),
        (model, loader, {"fingerprint": "b"}, "another data"),
        (model, loader, {"fingerprint": "a", "precision": "bf16"}, "another precision"),
        (model, shorter, {"fingerprint": "a"}, "20 rows, not 19"),
    )
    dataset.labels.pop()
    for net, data, options, what in cases:
        assert message_of(InputError, extract, split_head(net), data, out=folder, **options) == message.format(what)
    dataset.labels.append(0)
    dataset.images = seeded(21, 1, 8, 8)
    moved = DataLoader(dataset, batch_size=3, sampler=[*range(1, 21)])  # as many rows, but index 0 is not among them
    got = message_of(InputError, extract, split_head(model), moved, out=folder, fingerprint="a")
    assert got == message.format("other images")
    assert len(list(other)) == 7
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_bad_input_leaves_nothing_behind(tmp_path):
    dataset = Images()
    dataset.labels[13] = 9
    loader = DataLoader(dataset, batch_size=3)
    split = split_head(make_net())
    assert message_of(InputError, extract, split, loader, out=tmp_path / "train") == (
        "model must have one output per class, got 3 outputs and the label 9 at row 13"
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    assert message_of(InputError, extract, split, loader, out=tmp_path) == (
        f"out must be new, empty or an unfinished extraction, got {tmp_path} with notes.txt"
    )
    assert message_of(InputError, extract, split, loader, out=tmp_path / "notes.txt") == (
        f"out must be a folder, got the file {tmp_path / 'notes.txt'}"
    )
    assert message_of(InputError, extract, split, batch(torch.zeros(4).long()), out=tmp_path / "b") == (
        "loader must be a DataLoader over a map-style data set where out is given, got list; "
        "extract without out, then save the embeddings"
    )
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("size", [1, 3, 20])
def test_rows_of_unknown_number_are_those_of_a_known_number(monkeypatch, size):
    """The room doubles as the rows come; what is left of it is not kept."""
    split, loader = split_head(make_net()), DataLoader(Images(), batch_size=size)
    known = extract(split, loader)
    monkeypatch.setattr(resumable, "BLOCK_ROWS", 2)
    unknown = extract(split, (batch for batch in loader))
    for name in ("features", "logits", "labels"):
        assert torch.equal(getattr(unknown, name), getattr(known, name)), name
    assert unknown.features.untyped_storage().nbytes() == known.features.untyped_storage().nbytes()


@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("name", ["features", "logits"])
def test_a_batch_of_another_width_is_refused_and_not_repeated(rows, name):
    table = resumable.Table(rows, None, {})

    def block(**widths):
        sizes = {"features": 3, "logits": 2} | widths
        values = {each: torch.ones(2, width) for each, width in sizes.items()}
        return values | {"labels": torch.zeros(2, dtype=torch.int64), "indices": torch.arange(2)}

    table.add(block())
    width = 3 if name == "features" else 2
    with pytest.raises(InputError, match=f"model must give {width} {name} for every image, as for those before, got 1"):
        table.add(block(**{name: 1}))


def test_an_empty_first_batch_of_a_stream_is_kept_as_none():
    table = resumable.Table(None, None, {})
    table.add(
        {name: torch.zeros(0, 3)[:, :width] for name, width in (("features", 3), ("logits", 2))}
        | {name: torch.zeros(0, dtype=torch.int64) for name in ("labels", "indices")}
    )
    assert {name: len(table.filled(name)) for name in ("features", "labels")} == {"features": 0, "labels": 0}
