"""Failing clusters: found where there are some, and no oftener than chance allows where errors are random."""

import dataclasses
import re
from contextlib import nullcontext

import pytest
import torch

import diversify as dv
from diversify.diagnosis import clusters
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.report.diagnosis.page import report_of


def noise(rows: int, features: int, key: str, seed: int = 0) -> torch.Tensor:
    return draws.uniform(key, seed, torch.arange(rows * features)).view(rows, features)


def predicted(labels: torch.Tensor, recall: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """Predictions that are right with the given chance, else the next class."""
    hit = draws.uniform("hit", seed, torch.arange(len(labels))) < recall
    return torch.where(hit, labels, (labels + 1) % classes)


def failing(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, labels and predictions of 3 classes of 80; a quarter of class 1 lies apart, with recall 20% and not 90%."""
    features, labels = noise(240, 6, "failing", seed), torch.arange(240) % 3
    apart = (labels == 1).nonzero()[:20, 0]
    features[apart] += 1.5
    recall = torch.full((240,), 0.9)
    recall[apart] = 0.2
    return features, labels, predicted(labels, recall, 3, seed)


def test_a_quarter_of_a_class_with_recall_20_against_90_is_found() -> None:
    for seed in range(5):
        features, labels, predictions = failing(seed)
        found = clusters.failing_clusters(features, labels, predictions, torch.arange(240), 3, seed=seed)
        (one,) = found
        apart = set((labels == 1).nonzero()[:20, 0].tolist())
        assert (one.class_index, one.predicted) == (1, 2)
        assert set(one.rows) == apart
        right = int((predictions == labels)[list(apart)].sum())
        assert (one.hits, one.recall) == (right, right / 20)
        assert one.low <= one.recall <= one.high < one.rest_recall
        assert one.p_value < 0.001


def test_random_errors_make_no_cluster_in_95_of_100_diagnoses(monkeypatch: pytest.MonkeyPatch) -> None:
    # clusters come from the features alone, so they may stay the same while errors are drawn 200 times
    labels, features, rows = torch.arange(80) % 2, noise(80, 4, "null"), torch.arange(80)
    real, kept = clusters.clusters.clusters_of, {}

    def remembered(values: torch.Tensor, **more: int) -> object:
        key = float(values.sum())
        kept[key] = kept[key] if key in kept else real(values, **more)
        return kept[key]

    monkeypatch.setattr(clusters.clusters, "clusters_of", remembered)
    monkeypatch.setattr(clusters, "threadpool_limits", nullcontext)
    alarms = [
        bool(
            clusters.failing_clusters(features, labels, predicted(labels, torch.tensor(0.6), 4, seed), rows, 4, seed=0)
        )
        for seed in range(200)
    ]
    assert len(kept) == 2
    assert sum(alarms) < 10


def test_predictions_play_no_part_in_the_clusters() -> None:
    features, labels, predictions = failing(0)
    found = clusters.failing_clusters(features, labels, predictions, torch.arange(240), 3, seed=0)
    other = predictions.clone()
    other[(labels == 1).nonzero()[70:, 0]] = 2  # more errors in the rest of the class
    again = clusters.failing_clusters(features, labels, other, torch.arange(240), 3, seed=0)
    assert [one.rows for one in again] == [one.rows for one in found]


def test_small_classes_and_classes_with_few_errors_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0] * 19 + [1] * 40 + [2] * 40)
    predictions = labels.clone()
    predictions[:10] = 1  # class 0 is too small
    predictions[19:23] = 2  # class 1 has 4 errors
    predictions[59:64] = 0
    divided = []
    monkeypatch.setattr(clusters.clusters, "clusters_of", lambda rows, **_: divided.append(len(rows)))
    assert clusters.failing_clusters(noise(99, 3, "few"), labels, predictions, torch.arange(99), 3, seed=0) == ()
    assert divided == [40]


@pytest.fixture(scope="module")
def sides() -> tuple[Embeddings, Embeddings, LinearHead]:
    """Clear classes; 20 of 60 held-out images of class 0 have features of class 1 with an offset."""
    train, heldout, head = dv.make_embeddings((80, 80, 80), heldout=60, num_features=24, spread=0.3)
    features = heldout.features.clone()
    features[:20] = heldout.features[60:80] + 0.3
    return train, Embeddings.from_arrays(features, heldout.labels, head=head), head


@pytest.fixture(scope="module")
def diagnosis(sides: tuple[Embeddings, Embeddings, LinearHead]) -> dv.Diagnosis:
    train, heldout, head = sides
    return dv.diagnose(train, heldout, head=head, class_names=("cat", "dog", "owl"), top_k=5)


def test_a_diagnosis_has_the_cluster_its_recall_and_a_finding(
    sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: dv.Diagnosis
) -> None:
    (one,) = diagnosis.failing_clusters
    assert diagnosis.failing_clusters == dv.find_failing_clusters(sides[1])
    assert set(one.rows) == set(range(20))
    assert float(diagnosis["cluster_recall"][0]) == one.recall
    assert diagnosis["cluster_recall"].isnan().tolist() == [False, True, True]
    (finding,) = [each for each in diagnosis.findings if each.kind == clusters.KIND]
    assert finding.text.startswith(f"20 of 60 held-out images of cat form a cluster with recall {one.recall:.0%}")
    assert "are predicted as dog" in finding.text
    assert dv.Diagnosis.from_json(diagnosis.to_json()).failing_clusters == diagnosis.failing_clusters
    assert diagnosis.permuted(1).failing_clusters == ()


def test_where_images_have_groups_the_test_is_said_to_count_images(
    sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: dv.Diagnosis
) -> None:
    train, heldout, head = sides
    assert not any("not groups" in one.text for one in diagnosis.findings)
    grouped = dv.diagnose(train, heldout, head=head, top_k=5, groups_heldout=list(range(len(heldout))))
    (finding,) = [each for each in grouped.findings if each.kind == clusters.KIND]
    assert (
        ". The test counts images, not groups, so one group that looks different can be the reason, too. Points"
        in finding.text
    )


def test_another_head_has_its_own_errors(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    blind = LinearHead(weight=torch.zeros(3, 24), bias=torch.tensor([1.0, 0.0, 0.0]))
    assert dv.find_failing_clusters(sides[1], head=blind) == ()


def test_the_report_shows_the_cluster_beside_the_rest(
    sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: dv.Diagnosis
) -> None:
    train, heldout, head = sides
    exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
    (one,) = exhibits.clusters
    assert {each.row for each in one.inside} < set(range(20))
    assert {each.row for each in one.outside} < set(range(20, 60))
    (section,) = [each for each in report_of(diagnosis, {}, exhibits).sections if each.anchor == "clusters"]
    assert section.table is not None
    assert section.table.rows[0].name == "cat"
    assert [len(album.pictures) for album in section.galleries[0].albums] == [8, 4]
    images = [(torch.full((1, 4, 4), row % 256, dtype=torch.uint8), 0) for row in range(240)]
    shown = dv.take_pictures(exhibits, images, images).clusters[0]
    assert all(each.picture for each in (*shown.inside, *shown.outside))
    plain = dataclasses.replace(diagnosis, failing_clusters=())
    assert not [each for each in report_of(plain, {}).sections if each.anchor == "clusters"]
    with pytest.raises(InputError, match="exhibits must be of the diagnosis's 0 failing clusters, got 0"):
        dv.render_html(plain, None, exhibits)


def test_a_damaged_cluster_is_refused(diagnosis: dv.Diagnosis) -> None:
    record = diagnosis.to_dict()
    record["failing_clusters"][0]["class_index"] = 7
    message = "failing_clusters.0.class_index of the diagnosis must be one of the 3 classes, got 7"
    with pytest.raises(InputError, match=re.escape(message)):
        dv.Diagnosis.from_dict(record)
