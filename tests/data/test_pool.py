"""Images without labels are read from a folder, an array or a data source, and no label is used."""

import numpy as np
import pytest
import torch
from small_data import images_of, message_of, noise, saved

from diversify.data.pool import read_pool


def test_every_image_below_a_folder_is_read_by_its_path(tmp_path):
    pixels = {
        name: saved(tmp_path / name, key=key) for key, name in enumerate(("a.png", "deep/b.png", "deep/er/c.png"))
    }
    (tmp_path / "notes.txt").write_text("no image")
    pool = read_pool(f"folder:{tmp_path}", None)
    assert pool.names == tuple(sorted(pixels))
    for image, name in zip(images_of(pool.split), pool.names, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels[name])


def test_an_array_brings_its_groups_and_another_source_its_training_images(tmp_path):
    images = noise(6, 4, 4)
    np.savez(tmp_path / "pool.npz", images=images, groups=np.array(list("aabbcc")))
    pool = read_pool(f"npz:{tmp_path / 'pool.npz'}", None)
    assert np.array_equal(images_of(pool.split)[:, 0].numpy(), images)
    assert pool.split.groups is not None
    assert pool.split.groups.unique(return_inverse=True)[1].bincount().tolist() == [2, 2, 2]
    assert torch.equal(pool.split.groups[::2], pool.split.groups[1::2])
    digits = read_pool("digits", None)
    assert len(digits.split) > 1000
    assert not digits.split.labels.any()


def test_a_damaged_file_is_left_out_on_request_and_others_keep_their_place(tmp_path):
    for key, name in enumerate(("a.png", "c.png")):
        saved(tmp_path / name, key=key)
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert "b.png" in message_of(lambda: read_pool(f"folder:{tmp_path}", None))
    pool = read_pool(f"folder:{tmp_path}", None, skip_bad=True)
    assert pool.names == ("a.png", "c.png")
    assert pool.split.indices.tolist() == [0, 2]
    assert len(pool.skipped) == 1


@pytest.mark.parametrize("spec", ["folder:{}/none", "folder:{}", "npz:{}/none.npz"])
def test_a_pool_without_images_is_refused(tmp_path, spec):
    assert message_of(lambda: read_pool(spec.format(tmp_path), None)).startswith("pool must ")
