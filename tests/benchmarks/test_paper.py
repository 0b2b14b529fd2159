"""The verdicts on the paper's claims follow from the records by the rules, and a record has what the claims read."""

import dataclasses
import math

import pytest
import torch

from benchmarks import paper, paper_claims
from benchmarks.paper_claims import DOES_NOT, HOLDS, UNTOLD
from diversify.errors import InputError
from diversify.files import atomic
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.synthetic import make_embeddings
from diversify.study import trial
from diversify.study.experiments import paper as runs_of_paper

CLASSES = 6
CLAIMS = {claim.measured: claim for claim in paper_claims.CLAIMS}


def claim_of(words):
    (found,) = [claim for name, claim in CLAIMS.items() if name.startswith(words)]
    return found


def made_record(seed=0, loss="ce", **changes):
    """A record in which all networks are alike and nothing goes with anything; `network__column` replaces a column."""
    level = [1.0] * CLASSES
    names = ["share_ce", "needed", "needed_shared", "diversity", "recall_test", "overlap_spaces"]
    names += [f"overlap_classes_{space}" for space in ("ce", "fe")]
    names += [f"magnitude_{s}_{side}" for s in ("ce", "fe") for side in ("train", "test", "hits", "misses", "shared")]
    networks = {one: {name: list(level) for name in names} for one in paper.NETWORKS}
    for one, counts in (("imbalanced", [60, 50, 40, 30, 20, 10]), ("balanced", [60] * 6), ("again", [60] * 6)):
        networks[one]["count"] = counts
    between = {one: {n: list(level) for n in ("identity_ce", "identity_fe", "frequency")} for one in paper.NETWORKS}
    for name, values in changes.items():
        where, _, column = name.partition("__")
        (between if column in between["again"] else networks)[where][column] = values
    design = paper.DESIGNS["digits"].record()
    numbers = {"num_features": 64, "top_k": 10}
    return {"design": design, "loss": loss, "seed": seed, "networks": networks, "against_balanced": between, **numbers}


def effect(words, **changes):
    return claim_of(words).effect(made_record(**changes))


def test_a_verdict_needs_the_whole_interval_on_one_side():
    one_sided = dataclasses.replace(claim_of("share of the positive"), effect=lambda value: value, threshold=0.5)
    two_sided = dataclasses.replace(one_sided, threshold=0.1, two_sided=True)

    def verdict(claim, *values):
        return paper_claims.judged(claim, values).verdict

    assert verdict(one_sided, 0.7, 0.71, 0.72) == HOLDS
    assert verdict(one_sided, 0.3, 0.31, 0.32) == DOES_NOT
    assert verdict(one_sided, 0.3, 0.6, 0.9) == UNTOLD
    assert verdict(one_sided, 0.7, 0.71) == UNTOLD  # two seeds
    assert verdict(one_sided, 0.7, 0.71, math.nan) == UNTOLD
    assert verdict(one_sided, math.nan) == UNTOLD
    assert verdict(two_sided, -0.3, -0.31, -0.32) == verdict(two_sided, 0.3, 0.31, 0.32) == HOLDS
    assert verdict(two_sided, 0.0, 0.01, 0.02) == DOES_NOT
    assert verdict(two_sided, 0.1, 0.11, 0.12) == UNTOLD  # it differs from 0, but perhaps by less than matters
    seen = paper_claims.judged(one_sided, (0.70, 0.74, 0.72))
    assert seen.shown() == "+0.72 (+0.67 to +0.77)"


def test_losses_that_disagree_cannot_be_told():
    assert paper_claims.overall([HOLDS, HOLDS]) == HOLDS
    assert paper_claims.overall([DOES_NOT]) == DOES_NOT
    assert paper_claims.overall([HOLDS, DOES_NOT]) == paper_claims.overall([HOLDS, UNTOLD]) == UNTOLD


def test_effects_are_over_the_rare_half():
    assert paper_claims.rare(made_record()).tolist() == [False] * 3 + [True] * 3
    half = [9.0] * 3 + [0.5] * 3
    assert effect("magnitude of the top-K CE, on the same", imbalanced__magnitude_ce_shared=half) == -0.5
    assert effect("number of CE needed", imbalanced__needed_shared=half) == -0.5
    assert effect("number of CE needed", imbalanced__needed_shared=[None] * 4 + [3.0, 3.0]) == 2
    assert effect("how much smaller the magnitude of the top-K CE", imbalanced__magnitude_ce_test=half) == 0.5
    assert effect("share of the features", imbalanced__needed=[16.0] * 6) == 0.75


def test_a_difference_counts_beyond_that_of_two_balanced_networks():
    changes = {"imbalanced__identity_ce": [0.2] * 6, "again__identity_ce": [0.6] * 6}
    assert effect("identity of the top-K CE", **changes) == pytest.approx(0.4)
    assert effect("identity of the top-K CE", **(changes | {"again__identity_ce": [0.2] * 6})) == 0
    changes = {"imbalanced__frequency": [0.5] * 6, "again__frequency": [0.2] * 6}
    assert effect("frequency", **changes) == pytest.approx(0.3)


def test_correlations_are_with_recall_and_beyond_size():
    up, mixed = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.1, 0.6, 0.2, 0.5, 0.4]
    down = up[::-1]  # as class sizes
    with_recall = "rank correlation over classes of test recall with the magnitude"
    assert effect(with_recall, imbalanced__magnitude_ce_test=mixed, imbalanced__recall_test=mixed) == 1
    assert effect(with_recall, imbalanced__magnitude_ce_test=up, imbalanced__recall_test=down) == -1
    assert effect("rank correlation with test recall", imbalanced__diversity=up, imbalanced__recall_test=down) == -2
    beyond = "rank correlation of diversity with test recall beyond"
    assert math.isnan(effect(beyond, imbalanced__diversity=down, imbalanced__recall_test=mixed))
    assert effect(beyond, imbalanced__diversity=mixed, imbalanced__recall_test=mixed) == pytest.approx(1)
    alone = "rank correlation of diversity with test recall in balanced"
    assert effect(alone, balanced__diversity=up, balanced__recall_test=up) == 1


def test_the_tables_come_from_the_records(tmp_path):
    def records(loss, share):
        return [made_record(seed, loss, imbalanced__share_ce=[share + 0.01 * seed] * 6) for seed in range(3)]

    made = [*records("ce", 0.8), *records("focal", 0.7), *records("ldam_drw", 0.2)]
    lines = paper_claims.table(made).splitlines()
    assert len(lines) == 2 + len(CLAIMS) + len({claim.group for claim in CLAIMS.values()})
    share = next(line for line in lines if "positive mean CE" in line)
    seen = "ce +0.81 (+0.79 to +0.83): holds<br>ldam_drw +0.21 (+0.19 to +0.23): does not hold<br>focal"
    assert seen in share
    assert share.endswith("| **cannot be told** |")
    alone = next(line for line in paper_claims.table(made[:6]).splitlines() if "positive mean CE" in line)
    assert alone.endswith("| ce +0.81 (+0.79 to +0.83)<br>focal +0.71 (+0.69 to +0.73) | **holds** |")
    assert list(paper_claims.experiments(tmp_path)) == []
    for record in made:
        atomic.append_jsonl(tmp_path / "paper_digits.jsonl", record)
    assert [len(one) for one in paper_claims.experiments(tmp_path)] == [9]
    assert "60 to 10 images a class against 60 of every class; K = 10 of 64 features" in paper_claims.described(made)


def network_of(train, test, head):
    return paper.Network(head=head, train=train, shared=train, test=test)


def with_order(side: Embeddings, order):
    return dataclasses.replace(side, features=side.features[:, order])


def test_a_network_with_its_channels_in_another_order_is_the_same():
    train, test, head = make_embeddings((60, 40, 20, 10))
    order = torch.arange(head.num_features).flip(0)
    moved = LinearHead(weight=head.weight[:, order], bias=head.bias)
    first, second = network_of(train, test, head), network_of(with_order(train, order), with_order(test, order), moved)
    found = paper.pair_columns(first, second, first.hits)
    assert found["identity_ce"].tolist() == found["identity_fe"].tolist() == [1.0] * 4
    assert found["frequency"].abs().max() < 1e-9
    assert paper.listed(paper.class_columns(first, 10)) == paper.listed(paper.class_columns(second, 10))


def test_measures_of_a_network_have_their_known_values():
    features = torch.tensor([[4.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    labels, head = (
        torch.tensor([0, 0, 1]),
        LinearHead(weight=torch.tensor([[1.0, 0, 0], [0.5, 0, 1]]), bias=torch.zeros(2)),
    )

    def side(scale):
        rows = features * scale
        return Embeddings(features=rows, labels=labels, logits=head.logits(rows), indices=torch.arange(3))

    found = paper.class_columns(network_of(side(1.0), side(0.5), head), 1)
    assert found["count"].tolist() == [2, 1]
    assert found["recall_test"].tolist() == found["share_ce"].tolist() == [1.0, 1.0]
    assert found["needed"].tolist() == [1.0, 0.0]  # the bias alone reaches the runner-up's logit in the second class
    assert found["magnitude_ce_train"].tolist() == pytest.approx(
        [1.0, 1.0]
    )  # of the logits 3 and 3, over K = 3 features
    assert found["magnitude_fe_train"].tolist() == pytest.approx([4 / 3, 1.0])
    assert found["magnitude_ce_test"].tolist() == pytest.approx([0.5, 0.5])
    assert found["magnitude_ce_misses"].isnan().all()


def test_a_run_is_recorded_once_and_leaves_no_state(tmp_path):
    small = {"imbalance": "exp:4:12", "balanced": "exp:1:12", "epochs": 1}
    design = dataclasses.replace(paper.DESIGNS["digits"], **small)
    path = tmp_path / "paper_digits.jsonl"
    record = paper.run_one(design, "ldam_drw", 1, "data", "cpu", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert {"versions", "commit", "device", "started"} <= set(record)
    assert sorted(record["networks"]["imbalanced"]["count"]) == sorted([12, 10, 8, 7, 6, 5, 4, 4, 3, 3])
    assert record["networks"]["balanced"]["count"] == record["networks"]["again"]["count"] == [12] * 10
    assert record["matched"] == 3
    for claim in paper_claims.CLAIMS:
        assert isinstance(claim.effect(record), float)
    weights = [record["networks"][name]["magnitude_ce_train"] for name in paper.NETWORKS]
    assert weights[0] != weights[1] != weights[2]  # three different networks
    atomic.append_jsonl(path, record)
    others = [dict(record, seed=seed) for seed in (0, 2)]
    for other in others:
        atomic.append_jsonl(path, other)
    assert list(paper.run(design, losses=("ldam_drw",), seeds=3, device="cpu", path=path)) == []


def test_a_stopped_run_goes_on_inside_a_network(tmp_path, monkeypatch):
    small = {"imbalance": "exp:2:6", "balanced": "exp:1:6", "epochs": 2}
    design = dataclasses.replace(paper.DESIGNS["digits"], **small)
    monkeypatch.setattr(trial, "SAVE_EVERY", 0.0)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs_of_paper, "record_of", stop)
        with pytest.raises(KeyboardInterrupt):
            paper.run_one(design, "ce", 0, "data", "cpu", tmp_path)
    assert len(list(tmp_path.iterdir())) == len(paper.NETWORKS)
    resumed = paper.run_one(design, "ce", 0, "data", "cpu", tmp_path)
    assert list(tmp_path.iterdir()) == []
    whole = paper.run_one(design, "ce", 0, "data", "cpu", tmp_path)
    assert resumed["networks"] == whole["networks"]
    assert resumed["against_balanced"] == whole["against_balanced"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 2}, "seeds must be at least 3, got 2"),
        ({"losses": ("ce", "ce")}, "losses must be different, got ce, ce"),
        ({"losses": ("plan",)}, "loss must be one of .*, got 'plan'"),
        ({"device": "tpu9"}, "device must be one that torch knows, got 'tpu9'"),
    ],
)
def test_what_cannot_be_judged_is_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        list(paper.run(paper.DESIGNS["digits"], path=tmp_path / "a.jsonl", **options))


def test_a_class_larger_than_in_balanced_training_is_refused(tmp_path):
    design = dataclasses.replace(paper.DESIGNS["digits"], imbalance="exp:4:12", balanced="exp:1:5")
    with pytest.raises(InputError, match="imbalanced training set must have no class that is larger"):
        paper.run_one(design, "ce", 0, "data", "cpu", tmp_path)
