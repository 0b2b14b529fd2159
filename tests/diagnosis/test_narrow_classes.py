"""A class is called narrow where its training images surely do not cover its held-out images, and only there."""

import json

import pytest
import torch

import diversify as dv
from diversify.diagnosis.clusters import FailingCluster
from diversify.diagnosis.coverage import coverage_findings, put_size_and_diversity, without_suspects_where_known
from diversify.diagnosis.findings import narrow_classes, usual_coverage
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead

CLASSES = 8


def sides(narrow=(), *, heldout_alike=False, shift=0.0, seed=0):
    """Gaussian classes; training rows of narrow ones lie in a few small clusters, and held-out rows too if `heldout_alike`."""
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        return torch.randn(count, 6, generator=generator)

    def split(count, narrowed, moved):
        features, labels = [], []
        for c in range(CLASSES):
            own = rows(count)
            if c in narrowed:
                own = centres[c][torch.arange(count) % 3] + 0.3 * own
            features.append(own + 6 * torch.eye(6)[c % 6] * (1 + c // 6) + moved * rows(count))
            labels.append(torch.full((count,), c))
        return torch.cat(features), torch.cat(labels)

    centres = [rows(3) for _ in range(CLASSES)]
    weight = torch.stack([torch.eye(6)[c % 6] * (1 + c // 6) for c in range(CLASSES)])
    head = LinearHead(weight=weight, bias=torch.zeros(CLASSES))

    def embedded(features, labels):
        return Embeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    train = embedded(*split(80, narrow, 0.0))
    return train, embedded(*split(40, narrow if heldout_alike else (), shift)), head


def found(train, heldout, head):
    diagnosis = dv.diagnose(train, heldout, head=head, top_k=3)
    return diagnosis, [finding.class_index for finding in diagnosis.findings if finding.kind == "narrow"]


def test_narrow_classes_are_found_and_no_others():
    diagnosis, narrow = found(*sides(narrow=(1, 4, 6)))
    assert narrow == [1, 4, 6]
    assert [c for c, trouble in enumerate(diagnosis.troubles) if "narrow" in trouble] == [1, 4, 6]
    assert bool((diagnosis["coverage_heldout_high"][[1, 4, 6]] < 0.4).all())
    finding = next(one for one in diagnosis.findings if one.kind == "narrow")
    assert finding.remedy == "wider images"
    assert finding.evidence[0].measure == "coverage_heldout"
    assert "coverage is" in finding.text
    assert finding.text.endswith("than one that weights training images anew.")


def test_without_narrow_classes_hardly_any_class_is_called_narrow():
    assert sum(len(found(*sides(seed=seed))[1]) for seed in range(5)) <= 0.05 * 5 * CLASSES


def test_a_random_split_of_a_narrow_collection_shows_nothing():
    assert found(*sides(narrow=(1, 4), heldout_alike=True))[1] == []


def test_held_out_images_that_differ_in_every_class_accuse_no_class():
    """As those of an overfitting network, or of another camera: coverage is low in all classes alike."""
    diagnosis, narrow = found(*sides(shift=2.0))
    assert float(diagnosis["coverage_heldout"].max()) < 0.45
    assert narrow == []


def test_one_held_out_image_is_not_enough():
    train, heldout, head = sides(narrow=(1,))
    few = heldout.select(torch.cat([(heldout.labels == c).nonzero()[:1, 0] for c in range(CLASSES)]))
    assert found(train, few, head)[1] == []


def test_five_held_out_images_are_needed():
    columns = {"coverage_heldout": torch.tensor([0.5, 0.5, 0.0, 0.0])}
    columns |= {"coverage_heldout_high": torch.tensor([0.6, 0.6, 0.3, 0.3])}
    assert narrow_classes({**columns, "count_heldout": torch.tensor([9.0, 9.0, 4.0, 5.0])}) == [3]


def test_a_class_is_compared_with_those_that_are_covered_best():
    columns = {
        "coverage_heldout": torch.tensor([0.30, 0.29, 0.31, 0.05]),
        "coverage_heldout_high": torch.tensor([0.35, 0.34, 0.36, 0.10]),
    }
    assert usual_coverage(columns) == pytest.approx(0.3025)
    assert narrow_classes(columns) == [3]
    assert narrow_classes({}) == []
    high = {"coverage_heldout": torch.tensor([0.9, 0.9]), "coverage_heldout_high": torch.tensor([0.95, 0.95])}
    assert usual_coverage(high) == 0.5
    nothing = torch.full((2,), torch.nan)
    assert narrow_classes({"coverage_heldout": nothing, "coverage_heldout_high": nothing}) == []
    assert coverage_findings({"coverage_heldout": nothing, "coverage_heldout_high": nothing}, ["a", "b"]) == ()


def test_the_plane_is_that_of_least_squares():
    count = torch.tensor([10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0]).double()
    coverage = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.5, 0.1, 0.3]).double()
    columns = {
        "count": count,
        "coverage_heldout": coverage,
        "recall_heldout": 0.1 + 0.08 * count.log() + 0.5 * coverage,
    }
    put_size_and_diversity(columns)
    assert torch.allclose(columns["size_and_diversity_predict"], columns["recall_heldout"].clamp(0, 1))
    equal = {**columns, "count": torch.full((7,), 50.0).double(), "recall_heldout": 0.2 + coverage}
    put_size_and_diversity(equal)
    assert torch.allclose(equal["size_and_diversity_predict"], equal["recall_heldout"])
    few = {name: values[:5] for name, values in columns.items()}
    put_size_and_diversity(few)
    assert few["size_and_diversity_predict"].isnan().all()


def test_the_file_has_the_new_fields_and_reads_back():
    diagnosis, _ = found(*sides(narrow=(1,)))
    record = json.loads(diagnosis.to_json())
    assert record["classes"]["size_predicts"] == record["classes"]["recall_log_count"]
    assert len(record["classes"]["size_and_diversity_predict"]) == CLASSES
    assert ["narrow"] in [finding["trouble"] for finding in record["findings"]]
    again = dv.Diagnosis.from_json(diagnosis.to_json())
    assert again.troubles == diagnosis.troubles
    assert "size_predicts" not in again.columns
    for finding in record["findings"]:
        del finding["trouble"]  # as in an older file
    del record["classes"]["size_predicts"]
    assert dv.Diagnosis.from_dict(record).troubles == ((),) * CLASSES


def test_small_is_said_where_recall_surely_rises_with_log_n():
    train, heldout, head = dv.make_embeddings((400, 200, 100, 50, 20, 8), spread=1.5)
    diagnosis = dv.diagnose(train, heldout, head=head, top_k=3)
    small = [c for c, trouble in enumerate(diagnosis.troubles) if "small" in trouble]
    assert small
    assert min(small) >= 2
    equal = dv.diagnose(*(side.select(torch.arange(60)) for side in (train, heldout)), head=head, top_k=3)
    assert not any("small" in trouble for trouble in equal.troubles)


def test_suspect_labels_do_not_make_a_class_narrow():
    """A wrong label puts a held-out image far from the training images of its class, which are not to blame."""
    ends = ("", "_low", "_high")
    columns = {f"coverage_heldout{end}": torch.tensor([0.2, 0.5, 0.2]) for end in ends}
    columns["count_heldout"] = torch.tensor([50.0, 50.0, 50.0])
    assert [one.class_index for one in coverage_findings(columns, "abc")] == [0, 2]
    cleaned = {f"coverage_heldout{end}": torch.tensor([0.48, torch.nan, torch.nan]) for end in ends}
    judged = without_suspects_where_known(columns, cleaned)
    assert [one.class_index for one in coverage_findings(judged, "abc")] == [2]
    assert without_suspects_where_known(columns, {}) == columns


def test_coverage_is_measured_again_where_labels_are_surely_wrong():
    train, heldout, head = sides()
    labels = heldout.labels.clone()
    labels[torch.cat([(labels == c).nonzero()[:4, 0] for c in (1, 2, 3, 4, 5)])] = 0
    wrong = Embeddings(
        features=heldout.features, labels=labels, logits=heldout.logits, indices=torch.arange(len(labels))
    )
    diagnosis, narrow = found(train, wrong, head)
    assert "suspect labels" in diagnosis.troubles[0]
    assert narrow == []


def test_a_narrow_class_whose_errors_look_like_one_class_may_have_wrong_labels():
    train, heldout, head = one_direction(wrong=12)
    found = {(each.class_name, each.kind): each.text for each in dv.diagnose(train, heldout, head=head).findings}
    advice = "All 12 images of a failing cluster are predicted as class 2: look at them first. If these images show class 2, their labels"
    assert advice in found["class 3", "narrow"]
    assert "Look at them first: if they show class 2, their labels are wrong." in found["class 3", "failing cluster"]
    train, heldout, head = one_direction(wrong=0)
    assert not dv.diagnose(train, heldout, head=head).findings


def test_many_labels_wrong_in_one_direction_are_suspect_and_the_class_is_not_narrow():
    train, heldout, head = one_direction(wrong=25)
    kinds = {(each.class_name, each.kind) for each in dv.diagnose(train, heldout, head=head).findings}
    assert ("class 3", "suspect labels") in kinds
    assert ("class 3", "narrow") not in kinds


def test_of_several_clusters_the_largest_is_named():
    columns = {
        "coverage_heldout": torch.tensor([0.1, 0.5]),
        "coverage_heldout_low": torch.tensor([0.06, 0.4]),
        "coverage_heldout_high": torch.tensor([0.16, 0.6]),
        "count_heldout": torch.tensor([90.0, 90.0]),
    }
    common = {"class_index": 0, "rest": 40, "rest_hits": 40, "clusters": 3, "silhouette": 0.5, "p_value": 0.001}
    common |= {"recall": 0.0, "low": 0.0, "high": 0.1, "hits": 0}
    clusters = [
        FailingCluster(**common, rows=torch.arange(40), predicted=1, predicted_count=38),
        FailingCluster(**common, rows=torch.arange(10), predicted=1, predicted_count=8),
    ]
    (finding,) = coverage_findings(columns, ["ship", "car"], clusters)
    assert "38 of 40 images of a failing cluster are predicted as car" in finding.text
    assert "failing cluster" not in coverage_findings(columns, ["ship", "car"])[0].text


def one_direction(wrong):
    """Four classes far apart; some of the 50 held-out images of class 2 have the label 3."""
    centres = 2 * draws.normal("centres", torch.arange(4 * 16)).view(4, 16)
    head = torch.nn.Linear(16, 4)
    head.weight.data, head.bias.data = centres.clone(), -centres.square().sum(1) / 2
    sides = []
    for name, each in (("train", 200), ("heldout", 50)):
        labels = torch.arange(4).repeat_interleave(each)
        features = centres[labels] + draws.normal(name, torch.arange(len(labels) * 16)).view(-1, 16)
        if name == "heldout":
            labels[100 : 100 + wrong] = 3
        logits = head(features).detach()
        sides.append(Embeddings(features=features, labels=labels, indices=torch.arange(len(labels)), logits=logits))
    return *sides, head
