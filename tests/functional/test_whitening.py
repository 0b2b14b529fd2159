"""The directions within classes have unit variance, and leave out what does not vary."""

import torch

from diversify.functional import whitening
from diversify.functional.whitening import DIMENSIONS, within_class_directions


def test_rows_vary_by_one_along_each_direction():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    rows = (
        torch.randn(400, 6, generator=generator) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1e-4]) + 10 * labels[:, None]
    )
    means, directions = within_class_directions(rows, labels, 4)
    placed = (rows.double() - means[labels]) @ directions
    assert directions.shape == (6, 5)  # the last feature hardly varies
    assert torch.allclose(placed.T @ placed / 400, torch.eye(5, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(means[2], rows[labels == 2].mean(0), atol=1e-5)


def test_many_features_and_few_rows_give_few_directions():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(1000, 64, generator=generator)
    assert within_class_directions(wide, torch.zeros(1000, dtype=torch.int64), 1)[1].shape == (64, DIMENSIONS)
    assert within_class_directions(wide[:40], torch.zeros(40, dtype=torch.int64), 1)[1].shape == (64, 4)


def test_rows_that_are_all_alike_have_no_direction():
    means, directions = within_class_directions(torch.ones(8, 3), torch.arange(8) % 2, 3)
    assert directions.shape == (3, 0)
    assert means[2].isnan().all()


def test_many_features_have_the_directions_of_few(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(300, 40, generator=generator) * torch.arange(1, 41), torch.arange(300) % 3
    means, directions = within_class_directions(rows, labels, 3)
    monkeypatch.setattr(whitening, "_WIDE", 8)  # as many features
    quick_means, quick = within_class_directions(rows, labels, 3)
    assert torch.equal(quick_means, means)
    assert torch.allclose((directions.T @ quick).abs(), directions.T @ directions, atol=1e-4)


def test_a_covariance_of_more_features_is_of_fewer_rows():
    rows = [whitening.covariance_rows(width) for width in (16, 512, 768, 2048, 8192)]
    assert rows == [100_000, 100_000, 44_444, 20_480, 81_920]
