"""Embeddings check their values, and load as they were saved."""

import torch
from small_network import equal, index_of, make_embeddings, message_of, seeded

from diversify.errors import InputError
from diversify.files import atomic
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead

torch.set_num_threads(1)


def test_embeddings_laws():
    bad = seeded(5, 4)
    bad[3, 1] = torch.nan
    infinite = seeded(5, 3)
    infinite[2, 0] = -torch.inf
    cases = (
        ({"features": bad}, "features must be finite, got nan at row 3, feature 1"),
        ({"logits": infinite}, "logits must be finite, got -inf at row 2, class 0"),
        ({"labels": torch.tensor([0, 1, 2, 12, 1])}, "labels must lie in [0, C - 1 = 2], got 12 at row 3"),
        ({"labels": torch.tensor([0, -1, 2, 0, 1])}, "labels must lie in [0, C - 1 = 2], got -1 at row 1"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels must have one row per image, 5, got 4"),
        ({"labels": torch.zeros(5)}, "labels must be int64, got float32"),
        ({"features": seeded(5, 4).double()}, "features must be float32, got float64"),
        ({"features": seeded(5)}, "features must have 2 dimensions, got shape (5,)"),
    )
    for changes, message in cases:
        assert message_of(InputError, make_embeddings, **changes) == message
    values = make_embeddings()
    assert (len(values), values.num_classes, values.num_features) == (5, 3, 4)
    chosen = values.select(torch.tensor([4, 0]))
    assert chosen.indices.tolist() == [4, 0]
    assert torch.equal(values.select(values.labels == 1).features, values.features[[1, 4]])


def test_finite_check_counts_rows_across_blocks():
    features = torch.zeros(10_000, 2)
    features[9_000, 1] = torch.inf
    assert (
        message_of(
            InputError,
            Embeddings,
            features=features,
            labels=torch.zeros(10_000, dtype=torch.int64),
            logits=torch.zeros(10_000, 2),
            indices=torch.arange(10_000),
        )
        == "features must be finite, got inf at row 9000, feature 1"
    )


def test_save_and_load(tmp_path):
    values = make_embeddings()
    values.save(tmp_path / "a")
    loaded = Embeddings.load(tmp_path / "a")
    assert equal(values, loaded)
    loaded.features[0] = 0  # in memory only
    assert equal(values, Embeddings.load(tmp_path / "a"))
    assert message_of(InputError, values.save, tmp_path / "a") == (
        f"embeddings folder must be new or empty, got {tmp_path / 'a'}"
    )


def test_load_errors(tmp_path):
    folder = tmp_path / "a"
    assert message_of(InputError, Embeddings.load, folder) == f"embeddings must be an existing folder, got {folder}"
    make_embeddings().save(folder)
    index = index_of(folder)

    atomic.write_json(folder / "index.json", {**index, "rows_done": 3})
    assert message_of(InputError, Embeddings.load, folder) == (
        f"embeddings must be complete, got 3 of 5 rows in {folder}; run the extraction again to finish it"
    )
    atomic.write_json(folder / "index.json", {**index, "schema_version": 9})
    assert message_of(InputError, Embeddings.load, folder) == "embeddings index must have schema_version 1, got 9"
    atomic.write_json(folder / "index.json", {"rows": 5})
    assert message_of(InputError, Embeddings.load, folder).startswith("embeddings index must hold rows, rows_done")
    atomic.write_json(folder / "index.json", {**index, "num_features": 9})
    assert message_of(InputError, Embeddings.load, folder) == (
        "embeddings features must be <f4 of shape (5, 9), got <f4 of shape (5, 4)"
    )
    atomic.write_json(folder / "index.json", index)
    path = folder / "logits.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert message_of(InputError, Embeddings.load, folder) == (
        f"embeddings logits must be a whole .npy file, got {path} (truncated, or not an array)"
    )
    path.unlink()
    assert message_of(InputError, Embeddings.load, folder) == f"embeddings logits must be an existing file, got {path}"


def test_logits_are_those_of_the_head_that_is_asked_about() -> None:
    head = LinearHead(weight=seeded(6, 8), bias=torch.zeros(6))
    features, rows = seeded(300, 8, seed=1), torch.arange(300)
    of_head = head.logits(features)
    own = Embeddings(features=features, labels=rows % 6, logits=of_head, indices=rows)
    assert own.seen_by(head) is own
    rounded = Embeddings(features=features, labels=rows % 6, logits=of_head.bfloat16().float(), indices=rows)
    assert rounded.seen_by(head) is rounded, "as a network in half precision gave them"
    for other in (
        LinearHead(weight=head.weight, bias=0.2 * torch.eye(6)[2]),
        LinearHead(weight=head.weight + 0.5 * torch.eye(6, 8), bias=head.bias),
    ):
        assert torch.equal(own.seen_by(other).logits, other.logits(features))
    assert torch.equal(own.logits, of_head)
