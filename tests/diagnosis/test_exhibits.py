"""Which images a report shows: the rules, transcribed; and the pictures themselves."""

import base64
import dataclasses
import io
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NAMES, embeddings_of
from PIL import Image
from torch.utils.data import Dataset, Subset

from diversify.data.images import ImageArray
from diversify.diagnosis.choose_exhibits import EACH, ERRORS, PER_ENEMY, PULLS, choose_exhibits
from diversify.diagnosis.exhibits import Exhibits
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.functional import draws, projection
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.report.thumbnails import SIDE, file_name, take_pictures, thumbnail

Sides = tuple[Embeddings, Embeddings, LinearHead]


@pytest.fixture(scope="module")
def exhibits(sides: Sides, diagnosis: Diagnosis) -> Exhibits:
    train, heldout, head = sides
    return choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)


def same_class_neighbors(side: Embeddings, row: int) -> int:
    """Of the 5 nearest other rows, how many have its label; distances one by one."""
    distances = [
        (float((side.features[row].double() - side.features[other].double()).square().sum()), other)
        for other in range(len(side))
        if other != row
    ]
    return sum(int(side.labels[other]) == int(side.labels[row]) for _, other in sorted(distances)[:5])


def test_fragile_classes_come_weakest_first(exhibits: Exhibits, diagnosis: Diagnosis) -> None:
    shown = [one.class_index for one in exhibits.examples]
    assert shown == [finding.class_index for finding in diagnosis.findings]
    assert exhibits.fragile == len(shown) > 1


def test_training_images_are_what_their_title_says(exhibits: Exhibits, sides: Sides) -> None:
    train = sides[0]
    outliers = 0
    for one in exhibits.examples:
        rows = [row for row in range(len(train)) if int(train.labels[row]) == one.class_index]
        mean = sum(train.features[row].double() for row in rows) / len(rows)
        nearest = sorted(rows, key=lambda row, mean=mean: float((train.features[row].double() - mean).norm()))
        assert [each.row for each in one.typical] == nearest[:EACH]
        alike = {row: same_class_neighbors(train, row) for row in rows}
        assert one.borders == sum(count in (2, 3) for count in alike.values())
        assert one.outliers == sum(count == 0 for count in alike.values())
        assert {alike[each.row] for each in one.border} <= {2, 3}
        assert {alike[each.row] for each in one.outlier} <= {0}
        assert len(one.border) == min(EACH, one.borders)
        assert len(one.outlier) == min(EACH, one.outliers)
        margins = [each.margin for each in one.border]
        assert margins == sorted(margins)
        outliers += one.outliers
        assert one.candidates == len(rows)
    assert outliers > 0


def test_errors_say_where_they_went_and_what_pulled_them(
    exhibits: Exhibits, sides: Sides, diagnosis: Diagnosis
) -> None:
    _, heldout, head = sides
    seen = 0
    for one in exhibits.examples:
        predictions = heldout.logits.argmax(1)
        wrong = [r for r in range(len(heldout)) if int(heldout.labels[r]) == one.class_index != int(predictions[r])]
        assert one.misses == len(wrong)
        assert len(one.errors) <= ERRORS
        went_to = [each.predicted for each in one.errors]
        sizes = [sum(int(predictions[row]) == enemy for row in wrong) for enemy in dict.fromkeys(went_to)]
        assert sizes == sorted(sizes, reverse=True)
        for enemy in set(went_to):
            margins = [each.margin for each in one.errors if each.predicted == enemy]
            assert margins == sorted(margins)
            assert len(margins) <= PER_ENEMY
        for each in one.errors:
            assert each.row in wrong
            logits = heldout.logits[each.row]
            assert each.margin == pytest.approx(float(logits[one.class_index] - logits[each.predicted]), abs=1e-4)
            parts = heldout.features[each.row] * (head.weight[each.predicted] - head.weight[one.class_index])
            ranked = sorted(range(len(parts)), key=lambda f, parts=parts: -float(parts[f]))
            assert [pull.feature for pull in each.pulls] == ranked[:PULLS]
            for pull in each.pulls:
                assert pull.logits == pytest.approx(float(parts[pull.feature]), abs=1e-4)
                assert pull.top_k == (pull.feature in diagnosis.top_k_features[each.predicted].tolist())
            seen += 1
    assert seen > 5


@pytest.mark.slow
def test_pulls_of_a_cosine_head_are_in_its_own_logits(sides: Sides) -> None:
    train, heldout, head = sides
    cosine = LinearHead(weight=head.weight, bias=torch.zeros(10), cosine=True, scale=16.0)
    seen, unseen = (embeddings_of(side.features, side.labels, cosine) for side in (train, heldout))
    made = choose_exhibits(seen, unseen, head=cosine, diagnosis=diagnose(seen, unseen, head=cosine, top_k=5))
    error = next(each for one in made.examples for each in one.errors)
    label = int(unseen.labels[error.row])
    feature = unseen.features[error.row] / unseen.features[error.row].norm()
    rows = head.weight / head.weight.norm(dim=1, keepdim=True)
    parts = 16 * feature * (rows[error.predicted] - rows[label])
    assert float(parts.sum()) == pytest.approx(-error.margin, abs=1e-3)
    assert error.pulls[0].logits == pytest.approx(float(parts.max()), abs=1e-4)


@pytest.mark.slow
def test_a_class_of_one_image_and_a_sound_network(sides: Sides) -> None:
    train, heldout, head = sides
    keep = torch.cat([(train.labels != 9).nonzero()[:, 0], (train.labels == 9).nonzero()[:1, 0]])
    few = train.select(keep)
    made = choose_exhibits(few, heldout, head=head, diagnosis=diagnose(few, heldout, head=head, top_k=5))
    alone = next(one for one in made.examples if one.class_index == 9)
    assert [each.row for each in alone.typical] == [len(few) - 1]
    perfect = dataclasses.replace(heldout, labels=heldout.logits.argmax(1))
    sound = choose_exhibits(train, perfect, head=head, diagnosis=diagnose(train, perfect, head=head, top_k=5))
    assert sound.examples == ()
    assert sound.feature_map is not None


def test_there_and_back_through_json(exhibits: Exhibits) -> None:
    assert Exhibits.from_dict(json.loads(json.dumps(exhibits.to_dict(), allow_nan=False))) == exhibits
    for record, message in (
        ({}, "exhibits must have schema_version 1, got None"),
        ([], "exhibits must have schema_version 1, got None"),
        ({**exhibits.to_dict(), "fragile": "x"}, "fragile of the exhibits must be valid"),
        ({**exhibits.to_dict(), "more": 1}, "more of the exhibits must not be there, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            Exhibits.from_dict(record)


def test_what_does_not_belong_to_the_diagnosis_is_refused(exhibits: Exhibits, diagnosis: Diagnosis) -> None:
    record = exhibits.to_dict()
    record["examples"][0]["class_index"] = 99
    with pytest.raises(InputError, match="exhibits must be of the diagnosis's classes, 0 to 9, got 99"):
        Exhibits.from_dict(record).require_of(diagnosis)
    exhibits.require_of(diagnosis)
    record = exhibits.to_dict()
    record["feature_map"]["x"].pop()
    with pytest.raises(
        InputError, match="feature_map of the exhibits must have as many rows, x, y, labels and predicted"
    ):
        Exhibits.from_dict(record)
    record = exhibits.to_dict()
    record["examples"][0]["typical"][0]["picture"] = "http://elsewhere/x.png"
    with pytest.raises(InputError, match=r"examples.0.typical.0.picture of the exhibits must be valid"):
        Exhibits.from_dict(record)


@pytest.mark.slow
def test_a_class_absent_from_training_shows_its_errors(sides: Sides) -> None:
    train, heldout, head = sides
    kept = train.select(train.labels != 9)
    found = diagnose(kept, heldout, head=head, top_k=5)
    wrong = dataclasses.replace(heldout, logits=heldout.logits - 1e3 * (torch.arange(10) == 9))
    made = choose_exhibits(kept, wrong, head=head, diagnosis=diagnose(kept, wrong, head=head, top_k=5))
    absent = next(one for one in made.examples if one.class_index == 9)
    assert absent.typical == absent.border == absent.outlier == ()
    assert len(absent.errors) > 0
    assert found["count"][9] == 0


def test_other_classes_are_refused(sides: Sides, diagnosis: Diagnosis) -> None:
    train, heldout, head = sides
    other = dataclasses.replace(train, logits=torch.zeros(len(train), 11))
    with pytest.raises(InputError, match="train embeddings must have the diagnosis's 10 classes, got 11"):
        choose_exhibits(other, heldout, head=head, diagnosis=diagnosis)


# The map


def test_the_map_keeps_neighbours_together_and_is_the_same_again(sides: Sides) -> None:
    labels = torch.arange(90) % 3
    noise = draws.uniform("noise", torch.arange(90 * 60)).view(90, 60)
    features = 3 * torch.nn.functional.one_hot(labels, 60) + noise
    places = projection.two_dimensions(features, seed=0)
    distances = torch.cdist(places, places).fill_diagonal_(torch.inf)
    assert torch.equal(labels[distances.argmin(1)], labels)
    state = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(projection.two_dimensions(features, seed=0), places)
    after = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(state[0], after[0])
    assert state[1:] == after[1:]


def test_a_map_is_not_made_of_nothing() -> None:
    assert projection.two_dimensions(torch.rand(9, 4, generator=torch.Generator().manual_seed(0)), seed=0) is None
    assert projection.two_dimensions(torch.ones(20, 4), seed=0) is None
    line = projection.two_dimensions(torch.arange(20.0)[:, None] * torch.ones(3), seed=0)
    assert line is not None
    assert torch.equal(line[:, 1], torch.zeros(20, dtype=torch.float64))
    assert line[:, 0].diff().sign().unique().numel() == 1
    single = projection.two_dimensions(torch.arange(20.0)[:, None], seed=0)
    assert single is not None
    assert single.isfinite().all()


# Pictures


def opened(address: str) -> Image.Image:
    kind, _, data = address.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{picture.format.lower()}"
    return picture


def test_small_pictures_are_kept_as_they_are() -> None:
    image = (draws.uniform("image", torch.arange(3 * 20 * 10)).view(3, 20, 10) * 255).to(torch.uint8)
    picture = opened(thumbnail(image))
    assert picture.format == "PNG"
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())
    grey = opened(thumbnail(image[:1]))
    assert grey.mode == "L"
    assert np.array_equal(np.asarray(grey), image[0].numpy())
    assert np.array_equal(np.asarray(opened(thumbnail(image[:1] / 255))), image[0].numpy())
    assert np.array_equal(np.asarray(opened(thumbnail(image[:1].long()))), image[0].numpy())
    assert opened(thumbnail(image[:2])).mode == "L"


def test_normalised_images_are_stretched_and_large_ones_made_small() -> None:
    ramp = torch.linspace(-2, 2, 16).view(1, 4, 4)
    assert np.asarray(opened(thumbnail(ramp))).min() == 0
    assert np.asarray(opened(thumbnail(ramp))).max() == 255
    assert opened(thumbnail(torch.full((3, 5, 5), torch.nan))).size == (5, 5)
    large = opened(thumbnail(torch.zeros(3, 400, 200, dtype=torch.uint8)))
    assert large.format == "JPEG"
    assert large.size == (SIDE // 2, SIDE)


class Drawing(Dataset):
    """Draws from every global state when it is read."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 8, 8) + random.random() + np.random.rand(), 0  # noqa: NPY002, S311


def test_pictures_are_taken_of_the_right_images_without_a_trace(exhibits: Exhibits, sides: Sides) -> None:
    train, heldout, _ = sides
    data = [
        ImageArray((torch.arange(len(side)) % 251).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8), side.labels)
        for side in (train, heldout)
    ]
    taken = take_pictures(exhibits, *data)
    for one, before in zip(taken.examples, exhibits.examples, strict=True):
        for kind in ("typical", "border", "outlier", "errors"):
            for each, old in zip(getattr(one, kind), getattr(before, kind), strict=True):
                assert np.asarray(opened(each.picture)).max() == each.index % 251
                assert each.model_copy(update={"picture": "", "name": ""}) == old
    assert exhibits.examples[0].typical[0].picture == ""
    state = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    take_pictures(exhibits, Drawing(), Drawing())
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert state[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002


def test_files_are_named() -> None:
    folder = SimpleNamespace(samples=[("a/1.png", 0), ("a/2.png", 0), ("b/3.png", 1)])
    paths = SimpleNamespace(paths=[Path("x") / name for name in NAMES])
    assert file_name(folder, 2) == "b/3.png"
    assert file_name(Subset(Subset(folder, [2, 1]), [1, 0]), 0) == "a/2.png"
    assert file_name(paths, 1) == str(Path("x") / NAMES[1])
    assert file_name(object(), 0) == ""
