"""Copies among perceptual hashes: as comparing every pair finds them, with limits that follow how alike a class is."""

import numpy as np
import pytest
import torch
from reference import near_copies as reference

from diversify.functional import draws
from diversify.functional.hash_copies import FEWEST, MOST, USUAL, hash_components, hash_limits, nearest_hash


def random_hashes(rows, key, share=0.5):
    return draws.uniform("hash", key, torch.arange(rows)[:, None], torch.arange(256)) < share


def changed(hashes, bits, key):
    """Each hash with so many bits flipped."""
    order = draws.uniform("flip", key, torch.arange(len(hashes))[:, None], torch.arange(256)).argsort(1)
    flips = torch.zeros_like(hashes).scatter_(1, order[:, :bits], True)
    return hashes ^ flips


def test_components_and_the_nearest_are_those_of_comparing_every_pair():
    hashes = torch.cat([random_hashes(12, 0), changed(random_hashes(4, 0), 10, 1), changed(random_hashes(3, 0), 25, 2)])
    component, nearest = reference.hash_copies(hashes.tolist(), 24)
    found = hash_components(hashes, 24.0).tolist()
    same = [[one == other for other in component] for one in component]
    assert [[one == other for other in found] for one in found] == same
    index, bits = nearest_hash(hashes, hashes, 24.0, same=True)
    assert [(i, b) for i, b in zip(index.tolist(), bits.tolist(), strict=True) if i >= 0] == [n for n in nearest if n]
    assert bool(bits[index < 0].isnan().all())


def test_the_limit_is_high_for_random_and_low_for_alike_images():
    apart, labels = random_hashes(200, 3), torch.zeros(200, dtype=torch.int64)
    alike = changed(random_hashes(1, 4).expand(200, 256), 20, 5)  # of one shape: about 37 bits apart
    speaks = torch.ones(400, dtype=torch.bool)
    own, other = hash_limits(
        torch.cat([apart, alike]), speaks, torch.cat([labels, labels + 1]), 2, torch.tensor([50, 50])
    )
    assert own.tolist()[0] == MOST
    assert FEWEST <= own.tolist()[1] < MOST
    assert bool((other <= own).all())
    assert len(hash_components(alike, float(own[1])).unique()) == 200


def test_bursts_do_not_lower_the_limit():
    bursts = changed(random_hashes(15, 6).repeat_interleave(12, 0), 6, 7)
    labels, speaks = torch.zeros(180, dtype=torch.int64), torch.ones(180, dtype=torch.bool)
    limit = float(hash_limits(bursts, speaks, labels, 1)[0])
    assert limit >= 24
    assert len(hash_components(bursts, limit).unique()) == 15


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_few_images_have_the_usual_limit(rows):
    limits = hash_limits(random_hashes(rows, 8), torch.ones(rows).bool(), torch.zeros(rows).long(), 1)
    assert limits[0].tolist() == [USUAL]
    assert hash_components(random_hashes(rows, 8), 20.0).tolist() == list(range(rows))


def test_different_images_of_fashion_like_classes_are_rarely_taken_for_copies():
    rng = np.random.Generator(np.random.PCG64(0))
    shape = rng.standard_normal((1, 256))
    hashes = torch.from_numpy(shape + 0.8 * rng.standard_normal((1500, 256)) > 0)
    labels, speaks = torch.zeros(1500, dtype=torch.int64), torch.ones(1500, dtype=torch.bool)
    limit = float(hash_limits(hashes, speaks, labels, 1)[0])
    assert 1500 - len(hash_components(hashes, limit).unique()) <= 2
