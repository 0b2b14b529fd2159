"""Mixing images and labels: boxes, blends and Remix's rule against plain loops, and nothing where the share is 1."""

import pytest
import torch

from diversify.functional import draws, mixing

DTYPES = [torch.uint8, torch.float32, torch.bfloat16]


def batch(name, count=50, channels=3, height=9, width=12, dtype=torch.uint8):
    pixels = draws.integers(256, name, torch.arange(count * channels * height * width))
    images = pixels.view(count, channels, height, width)
    return images.to(torch.uint8) if dtype == torch.uint8 else (images / 255).to(dtype)


def numbers(name, count=50):
    return draws.uniform(name, torch.arange(count))


def test_boxes_are_those_of_the_paper_and_the_share_is_what_they_leave():
    share, vertical, horizontal = numbers("share"), numbers("vertical"), numbers("horizontal")
    boxes, left_over = mixing.cutmix_boxes(share, vertical, horizontal, 9, 12)
    for row in range(50):
        tall, wide = (int(side * (1 - float(share[row])) ** 0.5) for side in (9, 12))
        y, x = int(float(vertical[row]) * 9), int(float(horizontal[row]) * 12)
        top, bottom = max(y - tall // 2, 0), min(y + tall // 2, 9)
        left, right = max(x - wide // 2, 0), min(x + wide // 2, 12)
        assert boxes[row].tolist() == [top, left, bottom, right]
        assert float(left_over[row]) == pytest.approx(1 - (bottom - top) * (right - left) / 108)
    assert left_over.min() < 0.5 < left_over.max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cutmix_pastes_the_box_and_nothing_else(dtype):
    images, partners = batch("images", dtype=dtype), batch("partners", dtype=dtype)
    boxes, _ = mixing.cutmix_boxes(numbers("share"), numbers("vertical"), numbers("horizontal"), 9, 12)
    mixed = mixing.cutmix(images, partners, boxes)
    assert mixed.dtype == dtype
    for row, (top, left, bottom, right) in enumerate(boxes.tolist()):
        expected = images[row].clone()
        expected[:, top:bottom, left:right] = partners[row, :, top:bottom, left:right]
        assert torch.equal(mixed[row], expected)
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_share_of_1_leaves_the_image_and_one_of_0_gives_the_partner(dtype):
    images, partners = batch("images", dtype=dtype), batch("partners", dtype=dtype)
    boxes, left_over = mixing.cutmix_boxes(torch.ones(50), numbers("vertical"), numbers("horizontal"), 9, 12)
    assert torch.equal(mixing.cutmix(images, partners, boxes), images)
    assert left_over.tolist() == [1.0] * 50
    assert torch.equal(mixing.mixup(images, partners, torch.ones(50)), images)
    assert torch.equal(mixing.mixup(images, partners, torch.zeros(50)), partners)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixup_blends_by_each_image_s_own_share_and_never_less_for_less(dtype):
    images, partners, share = batch("images", dtype=dtype), batch("partners", dtype=dtype), numbers("share")
    mixed = mixing.mixup(images, partners, share)
    assert mixed.dtype == dtype
    part = share.double().view(-1, 1, 1, 1)
    expected = images.double() * part + partners.double() * (1 - part)
    assert float((mixed.double() - expected).abs().max()) <= (0.51 if dtype == torch.uint8 else 5e-3)
    before = torch.zeros(50)
    for partner_share in (0.0, 0.1, 0.35, 0.7, 1.0):
        change = mixing.mixup(images, partners, torch.full((50,), 1 - partner_share)).double() - images.double()
        after = change.abs().mean((1, 2, 3))
        assert (after >= before - 1e-6).all()
        before = after


def plain_remix(share, count, partner_count, kappa, tau):
    if count / partner_count >= kappa and share < tau:
        return 0.0
    if count / partner_count <= 1 / kappa and 1 - share < tau:
        return 1.0
    return share


@pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (2.0, 0.8), (1.0, 1.0), (3.0, 0.0)])
def test_remix_labels_are_those_of_a_plain_loop(kappa, tau):
    share = numbers("share", 400)
    counts, others = (1 + draws.integers(12, name, torch.arange(400)) for name in ("count", "other"))
    got = mixing.remix_shares(share, counts, others, kappa, tau)
    zipped = zip(share.tolist(), counts.tolist(), others.tolist(), strict=True)
    assert got.tolist() == [plain_remix(one, count, other, kappa, tau) for one, count, other in zipped]
    if tau:
        assert (got == 0).any()
        assert (got == 1).any()
    else:
        assert torch.equal(got, share)


def test_targets_are_probabilities_of_both_classes():
    targets, partners, share = torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]), torch.tensor([0.25, 0.4, 1.0])
    got = mixing.mix_targets(targets, partners, share, 3)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([[0.25, 0, 0.75], [0, 1, 0], [0, 0, 1.0]]))
