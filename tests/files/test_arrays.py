"""Named columns are read from any of the three forms, and nothing is unpickled."""

import numpy as np
import pytest

from diversify.errors import InputError
from diversify.files.arrays import read_columns

FEATURES = np.arange(6.0).reshape(3, 2)


def message_of(path, columns=("features", "labels")):
    with pytest.raises(InputError) as caught:
        read_columns(path, columns, "features")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_and_a_folder_give_the_columns_that_they_have(tmp_path):
    np.savez(tmp_path / "both.npz", features=FEATURES, others=np.zeros(9))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "features.npy", FEATURES)
    for place in ("both.npz", "folder"):
        found = read_columns(tmp_path / place, ("features", "labels"), "features")
        assert found.keys() == {"features"}
        assert np.array_equal(found["features"], FEATURES)


def test_parquet_gives_rows_of_one_length(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"features": FEATURES.tolist(), "labels": [0, 1, 0]}), tmp_path / "a.parquet")
    found = read_columns(tmp_path / "a.parquet", ("features", "labels"), "features")
    assert np.array_equal(found["features"], FEATURES)
    assert found["labels"].tolist() == [0, 1, 0]
    parquet.write_table(arrow.table({"features": [[1.0], [1.0, 2.0]]}), tmp_path / "b.parquet")
    assert "have a value of the same length in every row" in message_of(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    assert "be a whole .parquet file" in message_of(tmp_path / "c.parquet")


def test_what_is_no_such_file_is_refused(tmp_path):
    assert "must be an existing file" in message_of(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("a")
    assert "be a .npz file, a folder of .npy files or a .parquet file" in message_of(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", features=np.array([{}], dtype=object))
    assert "be an array of numbers or text, got objects, fields or damage" in message_of(tmp_path / "objects.npz")
