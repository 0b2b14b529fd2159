"""Suspect labels: what is found, what is refused, and what a diagnosis, its findings and its file say of them."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import diversify as dv
from diversify.diagnosis import findings, label_errors
from diversify.diagnosis.sides import make_side
from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.report.diagnosis.page import report_of

WRONG = {*range(6), *range(200, 206)}  # held-out rows of classes 0 and 2 with the label 1


@pytest.fixture(scope="module")
def sides() -> tuple[Embeddings, Embeddings, LinearHead]:
    """Three clear classes; 12 of 300 held-out images have a wrong label."""
    train, heldout, head = dv.make_embeddings((80, 80, 80), heldout=100, spread=0.3)
    labels = heldout.labels.clone()
    labels[list(WRONG)] = 1
    indices = torch.arange(len(labels)) + 1000
    return train, dataclasses.replace(heldout, labels=labels, indices=indices), head


@pytest.fixture(scope="module")
def diagnosis(sides: tuple[Embeddings, Embeddings, LinearHead]) -> dv.Diagnosis:
    train, heldout, head = sides
    return dv.diagnose(train, heldout, head=head, class_names=("cat", "dog", "owl"), top_k=5)


def test_wrong_labels_are_found_with_the_class_that_they_should_have(
    sides: tuple[Embeddings, Embeddings, LinearHead],
) -> None:
    found = dv.find_label_errors(sides[1])
    assert set(found.rows.tolist()) <= WRONG
    assert len(found) >= 10
    assert torch.equal(found.indices, found.rows + 1000)
    assert set(found.given.tolist()) == {1}
    assert torch.equal(found.suggested, torch.where(found.rows < 6, 0, 2))
    assert found.score.tolist() == sorted(found.score.tolist(), reverse=True)
    assert found.wrong_classes == (1,)
    assert len(found.most_suspect(3)) == 3
    assert found.most_suspect(3).count.tolist() == [0, len(found), 0]


def test_arrays_and_other_labels_give_the_same(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    heldout = sides[1]
    once = dv.find_label_errors(heldout)
    arrays = dv.find_label_errors(heldout.features.numpy(), np.array(heldout.labels.tolist()))
    assert arrays.rows.tolist() == once.rows.tolist() == arrays.indices.tolist()
    assert (
        dv.find_label_errors(heldout, sides[0].labels[:0].new_tensor([0] * 100 + [1] * 100 + [2] * 100)).count.sum()
        == 0
    )


def test_images_of_tiny_classes_are_not_looked_at() -> None:
    train, _, _ = dv.make_embeddings((60, 60, 3), heldout=1, num_features=32, spread=0.5)
    found = dv.find_label_errors(train)
    assert found.count[2].isnan()
    assert found.expected[2].isnan()
    assert 2 not in found.given.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: dv.find_label_errors(x), "labels must be given with features, got None"),
        (lambda x, y: dv.find_label_errors(x, y[:-1]), "labels must be as many as the images, 40, got 39"),
        (lambda x, y: dv.find_label_errors(x * torch.nan, y), "features must be finite, got nan at row 0, feature 0"),
        (lambda x, y: dv.find_label_errors(x, y * 0), "labels must have two classes with at least 5 rows, got 1"),
        (lambda x, y: dv.find_label_errors(x, y, folds=1), "folds must lie in [2, 40], the number of rows, got 1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(call: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        call(torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2)  # type: ignore[operator]


def test_a_diagnosis_counts_suspects_and_says_which_labels_are_wrong(diagnosis: dv.Diagnosis) -> None:
    found = len(diagnosis.label_errors["heldout"])
    assert diagnosis["suspect_labels"].tolist() == [0, found, 0]
    assert float(diagnosis["suspect_labels_expected"][1]) < 3
    assert diagnosis["suspect_labels_train"].tolist() == [0, 0, 0]
    (finding,) = [each for each in diagnosis.findings if each.kind == label_errors.KIND]
    assert finding.class_name == "dog"
    assert finding.text.startswith(
        f"{found} of 112 held-out images of dog look like images of another class: cat 6, owl"
    )
    assert finding.remedy == "check labels"
    assert set(diagnosis.summary) >= {"label_noise_heldout", "label_noise_train"}


def test_where_images_have_groups_the_test_is_said_to_count_images(diagnosis: dv.Diagnosis) -> None:
    told = [
        label_errors.label_findings(diagnosis.label_errors, diagnosis.class_names, sides)[0].text
        for sides in ((), ("train",), ("heldout",))
    ]
    assert ["counts images, not groups" in text for text in told] == [False, False, True]


def test_right_labels_make_no_finding() -> None:
    train, heldout, head = dv.make_embeddings((80, 40, 25), heldout=40, num_features=24, spread=0.9)
    diagnosis = dv.diagnose(train, heldout, head=head, top_k=5)
    assert not [each for each in diagnosis.findings if each.kind == label_errors.KIND]
    assert not any(one.wrong_classes for one in diagnosis.label_errors.values())


def test_a_file_keeps_suspects_and_an_old_file_has_none(diagnosis: dv.Diagnosis) -> None:
    record = diagnosis.to_dict()
    again = dv.Diagnosis.from_dict(record)
    kept, before = again.label_errors["heldout"], diagnosis.label_errors["heldout"]
    assert kept.indices.tolist() == before.indices.tolist()
    assert kept.wrong_classes == before.wrong_classes
    assert [each.kind for each in again.findings] == [each.kind for each in diagnosis.findings]
    for name in ("label_errors", "failing_clusters"):
        record.pop(name)
    old = dv.Diagnosis.from_dict(record)
    assert (old.label_errors, old.failing_clusters) == ({}, ())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda errors: errors["score"].pop(), "label errors must have one value per row and per class"),
        (lambda errors: errors["measured"].pop(), "label_errors.heldout.measured of the diagnosis must be 3 numbers"),
        (lambda errors: errors["given"].__setitem__(0, 9), "label errors must be of the 3 classes"),
        (lambda errors: errors.pop("rows"), "rows of the label errors must be given, got nothing"),
    ],
)
def test_damaged_suspects_are_refused(diagnosis: dv.Diagnosis, damage: object, message: str) -> None:
    record = diagnosis.to_dict()
    damage(record["label_errors"]["heldout"])  # type: ignore[operator]
    with pytest.raises(InputError, match=re.escape(message)):
        dv.Diagnosis.from_dict(record)


def test_evidence_is_measured_without_suspects(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    clean = dv.diagnose(train, heldout, head=head, top_k=5)
    seen, unseen = (make_side(side, head, seed=0, name=name) for side, name in ((train, "train"), (heldout, "heldout")))
    columns = label_errors.without_suspects(clean.label_errors, seen, unseen, head, 5, 0)
    keep = torch.ones(len(heldout), dtype=torch.bool)
    keep[clean.label_errors["heldout"].rows] = False
    without = dv.diagnose(train, heldout.select(keep), head=head, top_k=5)
    for name in label_errors.CLEANED:
        assert columns[name].isnan().tolist() == [True, False, True], name
        for end in ("", "_low", "_high"):
            assert float(columns[name + end][1]) == pytest.approx(float(without[name + end][1])), name
    assert float(clean["ce_magnitude_ratio"][1]) < float(without["ce_magnitude_ratio"][1])  # the column has every image


def test_a_finding_that_rests_on_suspects_is_not_made(diagnosis: dv.Diagnosis) -> None:
    nothing, three = torch.full((3,), torch.nan, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    low = three * torch.tensor([1.0, 0.4, 1.0])
    columns = {**diagnosis.columns, "fragile": torch.tensor([0.0, 1.0, 0.0]), "ce_magnitude_ratio": low}
    columns |= {"ce_magnitude_ratio_low": low - 0.1, "ce_magnitude_ratio_high": low + 0.1}
    arguments = (columns, diagnosis.class_names, diagnosis.enemies, diagnosis.log_count)

    def ratio_without(value: float) -> dict[str, torch.Tensor]:
        column = nothing.clone()
        column[1] = value
        ends = {"ce_magnitude_ratio_low": column - 0.1, "ce_magnitude_ratio_high": column + 0.1}
        return {"ce_magnitude_ratio": column, **ends}

    def made(**more: dict[str, torch.Tensor]) -> findings.Finding:
        (found,) = findings.find(*arguments, top_k=5, **more)  # type: ignore[arg-type]
        return found

    assert "feature space" in made().causes
    stands = made(without_suspects=ratio_without(0.5))
    assert "feature space" in stands.causes
    assert "reach 50% of their magnitude" in stands.text
    assert "Suspect labels are left out of these numbers." in stands.text
    falls = made(without_suspects=ratio_without(0.95))
    assert "feature space" not in falls.causes
    assert "is not counted: it is not sure without the suspect labels." in falls.text


@pytest.mark.slow
def test_the_report_shows_suspects(sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: dv.Diagnosis) -> None:
    train, heldout, head = sides
    exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
    assert {one.row for one in exhibits.suspects_heldout} == set(diagnosis.label_errors["heldout"].rows.tolist())
    assert {one.given for one in exhibits.suspects_heldout} == {1}
    assert exhibits.suspects_train == ()
    assert dv.Exhibits.from_dict(exhibits.to_dict()) == exhibits
    (section,) = [one for one in report_of(diagnosis, {}, exhibits).sections if one.anchor == "labels"]
    assert "Among held-out images, labels are probably wrong in: dog." in section.note
    assert section.table is not None
    assert section.table.rows[0].name == "dog"
    assert section.table.rows[0].cells[0].strong
    assert [len(album.pictures) for gallery in section.galleries for album in gallery.albums] == [
        len(exhibits.suspects_heldout)
    ]
    page = dv.render_html(diagnosis, None, exhibits)
    assert "dog: suspect labels" in page
    with pytest.raises(InputError, match="heldout embeddings must be those that the diagnosis was made from"):
        dv.choose_exhibits(train, heldout.select(torch.arange(100)), head=head, diagnosis=diagnosis)


def test_suspects_get_pictures(sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: dv.Diagnosis) -> None:
    train, heldout, head = sides
    heldout = dataclasses.replace(heldout, indices=torch.arange(len(heldout)))
    errors = {**diagnosis.label_errors}
    errors["heldout"] = dataclasses.replace(errors["heldout"], indices=errors["heldout"].rows)
    diagnosis = dataclasses.replace(diagnosis, label_errors=errors)
    exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
    images = [(torch.full((1, 4, 4), row % 256, dtype=torch.uint8), 0) for row in range(300)]
    shown = dv.take_pictures(exhibits, images, images)
    assert all(one.picture.startswith("data:image/png") for one in shown.suspects_heldout)


@pytest.fixture(scope="module")
def one_way() -> dict[str, tuple[Embeddings, Embeddings, LinearHead]]:
    """Thirty of 100 held-out rows of "cat" are predicted as "dog": rows of dog with a wrong label, or cats near the border."""
    train, heldout, head = dv.make_embeddings((150, 150, 150), heldout=100, spread=0.3)
    more = dv.make_embeddings((150, 150, 150), heldout=100, spread=0.3, seed=1)[1]
    far = heldout.features[heldout.labels == 0][:30] - heldout.features[heldout.labels == 0].mean(0)
    means = [heldout.features[heldout.labels == c].mean(0) for c in range(2)]

    def with_rows(rows: torch.Tensor) -> Embeddings:
        features = heldout.features.clone()
        features[(heldout.labels == 0).nonzero()[:30, 0]] = rows
        return Embeddings.from_arrays(features, heldout.labels, head=head)

    own = more.features - torch.stack([more.features[more.labels == c].mean(0) for c in range(3)])[more.labels]
    dogs = means[1] + own[more.labels == 1][:30]
    hard = 0.42 * means[0] + 0.58 * means[1] + far
    return {"wrong": (train, with_rows(dogs), head), "hard": (train, with_rows(hard), head)}


def test_labels_wrong_in_one_direction_are_told_from_hard_images(
    one_way: dict[str, tuple[Embeddings, Embeddings, LinearHead]],
) -> None:
    names = ("cat", "dog", "owl")
    (train, heldout, head) = one_way["wrong"]
    found = dv.diagnose(train, heldout, head=head, class_names=names, top_k=5)
    errors = found.label_errors["heldout"]
    assert errors.wrong_classes == (0,)
    assert errors.looks_alike.tolist() == [True, False, False]
    (finding,) = [one for one in found.findings if one.kind == "suspect labels"]
    assert finding.class_name == "cat"
    assert "predicted as dog from right images of it (AUC 0." in finding.text
    suspects = set(errors.rows[errors.given == 0].tolist())
    assert len(suspects & set(range(30))) >= 25
    assert errors.count[0] == len(suspects)
    assert len(set(errors.rows.tolist())) == len(errors)
    again = dv.Diagnosis.from_dict(found.to_dict()).label_errors["heldout"]
    assert torch.allclose(again.alike, errors.alike, equal_nan=True)
    (train, heldout, head) = one_way["hard"]
    found = dv.diagnose(train, heldout, head=head, class_names=names, top_k=5)
    assert found.columns["recall_heldout"][0] < 0.9
    assert not found.label_errors["heldout"].looks_alike.any()
