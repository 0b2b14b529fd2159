"""Near copies in a diagnosis: bursts are counted right, leaked held-out images are named, and groups widen intervals."""

import dataclasses

import pytest
import torch
from conftest import NAMES, embeddings_of, synthetic, synthetic_head
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.diagnosis import copy_pairs, near_copies
from diversify.diagnosis.near_copies import KIND, LEAK_KIND, NearCopies, find_near_copies
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.repair import choose, comparison

CLASSES, EACH, COPIES = 4, 12, 8


def pictures(number, key):
    """Smooth random images of 3 x 36 x 36 pixels."""
    coarse = draws.normal(key, torch.arange(number * 3 * 25)).view(number, 3, 5, 5)
    return functional.interpolate(coarse, size=36, mode="bicubic")


def bursts(images, copies, key):
    """Each image `copies` times, shifted by up to a pixel, and a little lighter or darker."""
    shifts = draws.integers(3, key, torch.arange(len(images) * copies * 2)).view(-1, 2) - 1
    light = 1 + 0.02 * draws.normal(key, torch.arange(len(images) * copies))
    many = images.repeat_interleave(copies, 0)
    moved = [image.roll(shift.tolist(), (1, 2)) for image, shift in zip(many, shifts, strict=True)]
    return torch.stack(moved)[:, :, 2:-2, 2:-2] * light[:, None, None, None]


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, CLASSES)),
    )


def trained(network, images, labels, steps=25):
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 25], ids=["untrained", "trained"])
def test_bursts_of_images_are_counted_once(steps):
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    train = bursts(pictures(len(labels), "train"), COPIES, "burst"), labels.repeat_interleave(COPIES)
    fresh = pictures(len(labels), "fresh")[:, :, 2:-2, 2:-2]
    leaked = bursts(pictures(len(labels), "train")[:3], 4, "leak")  # 12 images of class 0 that are in training, too
    heldout = torch.cat([fresh, leaked]), torch.cat([labels, torch.zeros(12, dtype=torch.int64)])
    network = trained(small_network(), *train, steps)
    loaders = [DataLoader(TensorDataset(*side), batch_size=200) for side in (train, heldout)]
    diagnosis = dv.diagnose_model(network, *loaders, class_names=NAMES[:CLASSES])
    assert diagnosis["count"].tolist() == [EACH * COPIES] * CLASSES
    assert torch.allclose(diagnosis["effective_count"], torch.full((CLASSES,), float(EACH)).double(), atol=2)
    assert diagnosis["near_copies_heldout"].tolist() == pytest.approx([0.5, 0, 0, 0], abs=0.05)
    kinds = [(one.kind, one.class_name) for one in diagnosis.findings if one.kind in (KIND, LEAK_KIND)]
    assert kinds == [*((KIND, name) for name in NAMES[:CLASSES]), (LEAK_KIND, NAMES[0])]
    right = network(heldout[0][:EACH]).argmax(1) == 0
    assert float(diagnosis["recall_heldout_clean"][0]) == pytest.approx(float(right.double().mean()), abs=0.1)
    assert torch.equal(diagnosis["recall_heldout_clean"][1:], diagnosis["recall_heldout"][1:])


def test_independent_images_have_no_finding(diagnosis):
    assert diagnosis["effective_count"].tolist() == diagnosis["count"].tolist()
    assert not [one for one in diagnosis.findings if one.kind in (KIND, LEAK_KIND)]


def copied(embeddings, rows):
    return embeddings.select(torch.cat([torch.arange(len(embeddings)), rows]))


def test_copies_of_training_images_among_the_held_out_are_left_out_of_the_clean_recall(sides):
    train, heldout, head = sides
    chosen = train.select((train.labels == 7).nonzero()[:15, 0])
    both = Embeddings(
        **{
            name: torch.cat([getattr(heldout, name), getattr(chosen, name)])
            for name in ("features", "labels", "logits", "indices")
        }
    )
    before, after = (dv.diagnose(train, side, head=head) for side in (heldout, both))
    assert float(after["near_copies_heldout"][7]) == pytest.approx(15 / 65)
    assert float(after["recall_heldout_clean"][7]) == pytest.approx(float(before["recall_heldout"][7]))
    assert float(after["recall_heldout_clean_low"][7]) == pytest.approx(float(before["recall_heldout_low"][7]))
    finding = next(one for one in after.findings if one.kind == LEAK_KIND)
    assert (finding.class_index, finding.evidence[0].measure) == (7, "near_copies_heldout")
    assert "23% of the 65 held-out images" in finding.text


def test_a_sample_of_a_class_estimates_its_effective_images(sides, monkeypatch):
    train, heldout, _ = sides
    many = train.select(torch.arange(len(train)).repeat_interleave(3))
    every = find_near_copies(many, heldout).effective_count
    assert every.tolist() == torch.bincount(train.labels).tolist()
    monkeypatch.setattr(near_copies, "QUERY_ROWS", 300)
    some = near_copies.copies_of_embeddings(many, heldout, seed=0)
    assert torch.allclose(some.effective_count, every)
    assert 280 < int((some.component >= 0).sum()) <= 300


def test_absent_classes_and_features_that_say_nothing_are_nan():
    features, labels = synthetic([20, 15], "absent")
    side = embeddings_of(features, labels, synthetic_head(features, labels, 3))
    assert find_near_copies(side).effective_count.tolist()[:2] == [20, 15]
    assert bool(find_near_copies(side).effective_count[2].isnan())
    blank = dataclasses.replace(side, features=torch.ones_like(side.features))
    assert bool(find_near_copies(blank).effective_count.isnan().all())


def test_two_sides_of_different_kinds_are_refused(sides):
    train, heldout, _ = sides
    with pytest.raises(InputError, match="heldout must be embeddings"):
        find_near_copies(train, TensorDataset(torch.zeros(1)))
    with pytest.raises(InputError, match="image_key must be left out for embeddings, which hold no images, got 'x'"):
        find_near_copies(train, heldout, image_key="x")
    with pytest.raises(
        InputError, match="heldout embeddings must have the features of the training embeddings, 16, got 8"
    ):
        find_near_copies(train, dataclasses.replace(heldout, features=heldout.features[:, :8]))


def detailed(number, key, size):
    """Random images with detail, in [0, 1]."""
    coarse = draws.normal(key, torch.arange(number * 3 * 14 * 14)).view(number, 3, 14, 14)
    return functional.interpolate(coarse, size=size, mode="bicubic").sigmoid()


def labelled(images, labels):
    data = TensorDataset(images, labels)
    data.labels = labels
    return data


def test_hashes_find_copies_that_were_resized_or_changed_in_light():
    pytest.importorskip("imagehash")
    images = detailed(12, "hash", 96)
    labels = torch.arange(12) % 2
    changed = functional.interpolate(functional.interpolate(images, size=64, mode="area"), size=96) * 0.9
    train = labelled(torch.cat([images, changed[:4]]), torch.cat([labels, labels[:4]]))
    copies = find_near_copies(train, labelled(changed[6:8], labels[6:8]))
    assert copies.effective_count.tolist() == [6, 6]
    assert copies.copy_of[:6].tolist() == [12, 13, 14, 15, -1, -1]
    assert copies.leaked_from.tolist() == [6, 7]
    assert copies.way == "image hash"
    assert float(copies.leaked_distance.max()) <= 32
    assert find_near_copies(train, most_bits=0).effective_count.tolist() == [8, 8]
    with pytest.raises(InputError, match=r"most_bits must lie in \[0, 255\], got 256"):
        find_near_copies(train, most_bits=256)


def test_images_of_mappings_are_found_by_their_key():
    pytest.importorskip("imagehash")

    class Scans(list):
        targets = (0, 1, 0)

    images = detailed(2, "keyed", 48)
    rows = Scans({"scan": image, "label": row % 2} for row, image in enumerate([*images, images[0]]))
    assert find_near_copies(rows, image_key="scan").copy_of.tolist() == [2, -1, 0]
    with pytest.raises(
        InputError, match="an example of the data set must hold its image under one of .* image_key=KEY"
    ):
        find_near_copies(rows)
    with pytest.raises(InputError, match="give the data set an attribute `targets`, one class per image"):
        find_near_copies(list(rows), image_key="scan")
    with pytest.raises(InputError, match=r"got NoneType \(at row 1\)"):
        find_near_copies([(images[0], 0), (None, 1)])


def test_images_of_one_colour_and_tiny_ones_are_copies_of_none():
    pytest.importorskip("imagehash")
    flat = torch.full((4, 3, 32, 32), 200, dtype=torch.uint8)
    flat[1:] += draws.integers(3, "noise", torch.arange(3 * 3 * 32 * 32)).view(3, 3, 32, 32).to(torch.uint8)
    mark = flat[:2].clone()
    mark[:, :, 10:18, 6:20] = 0  # the same drawing twice
    data = labelled(torch.cat([flat, mark]), torch.zeros(6, dtype=torch.int64))
    copies = find_near_copies(data, data)
    assert copies.copy_of.tolist() == [-1] * 4 + [5, 4]
    assert copies.leaked_from.tolist()[:4] == [-1] * 4
    assert copies.effective_count.tolist() == [5]
    tiny = labelled(pictures(1, "tiny")[:, :, :8, :8].repeat(3, 1, 1, 1).sigmoid(), torch.zeros(3, dtype=torch.int64))
    assert find_near_copies(tiny).effective_count.tolist() == [3]


@pytest.mark.slow
def test_copies_among_images_count_in_the_diagnosis(sides):
    """Images tell copies that features do not: class 9 has pairs of them, and two held-out images are in training."""
    pytest.importorskip("imagehash")
    train, heldout, head = sides
    seen, unseen = detailed(len(train), "seen", 32), detailed(len(heldout), "unseen", 32)
    rows = (train.labels == 7).nonzero()[:, 0]
    seen[rows[1]] = (seen[rows[0]] * 0.8).clamp(0, 1)
    away = (heldout.labels == 7).nonzero()[:4, 0]
    unseen[away] = seen[rows[2]] * 0.9
    found = find_near_copies(labelled(seen, train.labels), labelled(unseen, heldout.labels))
    plain = dv.diagnose(train, heldout, head=head)
    both = dv.diagnose(train, heldout, head=head, image_copies=found)
    assert (plain["effective_count"] - both["effective_count"]).tolist() == [0] * 7 + [1, 0, 0]
    assert both["near_copies_heldout"].tolist() == pytest.approx([0] * 7 + [4 / 50, 0, 0])
    kept = torch.ones(len(heldout), dtype=torch.bool)
    kept[away] = False
    right = (heldout.logits.argmax(1) == 7)[kept & (heldout.labels == 7)]
    assert float(both["recall_heldout_clean"][7]) == pytest.approx(float(right.double().mean()))
    assert [one.kind for one in both.findings if one.class_index == 7 and one.kind == LEAK_KIND] == [LEAK_KIND]
    same = [name for name in plain.columns if name not in CHANGED and not name.startswith("recall_heldout_clean")]
    assert all(torch.equal(plain[name].nan_to_num(), both[name].nan_to_num()) for name in same)
    exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=both, image_copies=found)
    assert exhibits.images_compared
    pairs = {(one.heldout, one.image.row, one.copy_of.row) for one in exhibits.copy_pairs}
    assert (False, int(rows[0]), int(rows[1])) in pairs
    assert len([one for one in pairs if one[0]]) == 2
    assert all(one.bits is not None and one.bits <= 32 and one.distance is None for one in exhibits.copy_pairs)
    assert dv.Exhibits.from_dict(exhibits.to_dict()) == exhibits
    order = torch.arange(len(train) - 1, -1, -1)  # embeddings in another order than the data set
    turned = dv.diagnose(train.select(order), heldout, head=head, image_copies=found)
    assert torch.equal(turned["effective_count"], both["effective_count"])
    assert torch.equal(turned["near_copies_heldout"], both["near_copies_heldout"])


CHANGED = ("effective_count", "near_copies_heldout", "near_copies_heldout_low", "near_copies_heldout_high")


def test_copies_of_other_rows_are_refused(sides):
    pytest.importorskip("imagehash")
    train, heldout, head = sides
    few = labelled(pictures(3, "few"), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="image_copies must be of the data set of the train embeddings, got 3 images"):
        dv.diagnose(train, heldout, head=head, image_copies=find_near_copies(few, few))
    with pytest.raises(
        InputError, match="image_copies must be what find_near_copies gives for two data sets of images"
    ):
        dv.diagnose(train, heldout, head=head, image_copies=find_near_copies(train, heldout))


def test_what_both_ways_find_is_one_pair_and_one_component():
    labels = torch.zeros(4, dtype=torch.int64)
    shared = {"effective_count": torch.tensor([3.0]).double(), "leaked_from": torch.tensor([2, -1])}
    features = NearCopies(
        copy_of=torch.tensor([1, 0, -1, -1]),
        component=torch.tensor([0, 0, 1, 2]),
        copy_distance=torch.tensor([0.1, 0.1, torch.nan, torch.nan]),
        leaked_distance=torch.tensor([0.2, torch.nan]),
        **shared,
    )
    images = NearCopies(
        copy_of=torch.tensor([-1, 2, 1, -1]),
        component=torch.tensor([0, 1, 1, 2]),
        copy_distance=torch.tensor([torch.nan, 4, 4, torch.nan]),
        leaked_distance=torch.tensor([7.0, torch.nan]),
        way="image hash",
        **shared,
    )
    both = near_copies.joined_copies(features, images, labels)
    assert both.component.tolist() == [0, 0, 0, 1]
    assert both.effective_count.tolist() == [2]
    pairs = copy_pairs.least_alike(both, labels, labels[:2])
    assert [(one.heldout, one.row, one.copy_of, one.bits, one.distance) for one in pairs] == [
        (True, 0, 2, 7, pytest.approx(0.2)),
        (False, 1, 2, 4, None),
    ]
    sampled = dataclasses.replace(features, component=torch.tensor([0, 0, 1, -1]), effective_count=torch.tensor([3.5]))
    assert near_copies.joined_copies(sampled, images, labels).effective_count.tolist() == [3]


def test_without_imagehash_the_error_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    data = TensorDataset(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="imagehash must be installed"):
        find_near_copies(data)


# Groups


@pytest.mark.slow
def test_groups_widen_intervals_and_are_reported(sides, tmp_path):
    train, heldout, head = sides
    groups = torch.arange(len(heldout)) // 10  # five groups of ten images in each class
    plain = dv.diagnose(train, heldout, head=head)
    grouped = dv.diagnose(train, heldout, head=head, groups_train=[-1] * len(train), groups_heldout=groups)
    for name in ("recall_heldout", "ce_magnitude_ratio", "precision_heldout"):
        assert torch.equal(plain[name].nan_to_num(), grouped[name].nan_to_num())
    width = [(one["recall_heldout_high"] - one["recall_heldout_low"]).mean() for one in (plain, grouped)]
    assert width[1] > width[0]
    assert grouped["groups_heldout"].tolist() == [5] * 10
    assert grouped["groups_train"].tolist() == [1] * 10
    assert grouped["groups_shared"].tolist() == [0] * 10
    assert bool(plain["groups_heldout"].isnan().all())
    assert [note for note in grouped.notes if "count groups, not images" in note]
    again = dv.Diagnosis.from_json(grouped.to_json())
    assert again.notes == grouped.notes
    heldout.with_groups(groups).save(tmp_path / "side")
    loaded = Embeddings.load(tmp_path / "side")
    assert torch.equal(loaded.groups, groups)
    own = dv.diagnose(train.with_groups(["all"] * len(train)), loaded, head=head)
    assert torch.equal(own["recall_heldout_low"], grouped["recall_heldout_low"])
    with pytest.raises(InputError, match="groups_heldout must be one value per row, 500, got 3"):
        dv.diagnose(train, heldout, head=head, groups_heldout=[1, 2, 3])


def test_groups_on_both_sides_are_reported_as_leaks(sides):
    train, heldout, head = sides
    found = dv.diagnose(
        train,
        heldout,
        head=head,
        groups_train=train.labels,
        groups_heldout=torch.where(heldout.labels < 2, 0, 100),
        class_names=NAMES,
    )
    assert found["groups_shared"].tolist() == [1, 1] + [0] * 8
    assert any("airplane 100%, automobile 100%" in note for note in found.notes)


def test_the_folds_of_choose_head_split_no_group(sides, monkeypatch):
    train, heldout, head = sides
    seen = []
    real = comparison.stratified_folds
    monkeypatch.setattr(comparison, "stratified_folds", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    groups = torch.arange(len(heldout)) % 60 // 4
    candidates = dv.default_candidates(train, head)[:2]
    choice = dv.choose_head(train, heldout.with_groups(groups), head, candidates)
    assert choice.folds == 5
    assert choice.notes == (choose.GROUPED,)
    assert len(seen) == 2
    assert all(len(fold[groups == group].unique()) == 1 for fold in seen for group in groups.unique())
    assert dv.choose_head(train, heldout.with_groups(groups % 3), head, candidates).folds == 3
    with pytest.raises(InputError, match="held-out groups must be at least 2"):
        dv.choose_head(train, heldout.with_groups(groups * 0), head, candidates)


def test_groups_are_of_the_images_of_the_data_set_however_the_loader_shuffles():
    images, labels = pictures(24, "groups"), torch.arange(24) % 2
    data = TensorDataset(images, labels)
    groups = [f"patient {int(label)}" for label in labels]  # one group in each class

    def found(groups, **options):
        loader = DataLoader(data, 6, generator=torch.Generator().manual_seed(0), **options)
        return dv.diagnose_model(small_network(), loader, DataLoader(data, 6), groups_train=groups)["groups_train"]

    assert found(groups, shuffle=True)[:2].tolist() == found(groups)[:2].tolist() == [1, 1]
    with pytest.raises(
        InputError, match="groups_train must be one value per image of the data set, 24, where the loader"
    ):
        found(groups[:3], sampler=[5, 1, 2])


def test_groups_of_text_and_of_integers_are_not_compared(sides):
    train, heldout, head = sides
    with pytest.raises(InputError, match="groups must be integers on both sides or text on both"):
        dv.diagnose(train, heldout, head=head, groups_train=train.labels, groups_heldout=["3"] * len(heldout))
