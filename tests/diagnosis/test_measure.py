"""A diagnosis as a whole: the contract's columns, plain-Python values, laws, words, and the way to the disk and back."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import NAMES, embeddings_of, synthetic, synthetic_head

from diversify.diagnosis import columns as diagnosis_columns
from diversify.diagnosis import label_errors
from diversify.diagnosis import sides as measured_sides
from diversify.diagnosis.catalogue import MEASURES
from diversify.diagnosis.for_plan import PlanDiagnoser, diagnose_for_plan
from diversify.diagnosis.measure import diagnose, diagnose_model, parse_top_k
from diversify.diagnosis.result import Diagnosis
from diversify.diagnosis.sides import QUERY_ROWS, query_rows
from diversify.errors import InputError
from diversify.functional import draws, stats
from diversify.functional.ceiling import CrossFit
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.synthetic import make_embeddings
from diversify.plan.make import make_plan

MATCHED = [name for name in MEASURES if name.startswith("diversity_")] + ["feature_deviation", "range_gap"]


def test_small_classes_are_nan_at_matched_n_and_only_there(diagnosis: Diagnosis) -> None:
    for name in MATCHED:
        small = [9] if name.endswith("train") else []
        small = [8, 9] if name in ("feature_deviation", "range_gap") or name.endswith("_train") else small
        assert diagnosis[name].isnan().nonzero().flatten().tolist() == small, name


def test_top_k_columns_are_those_of_a_plain_loop(
    sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: Diagnosis
) -> None:
    train, heldout, head = sides
    weight = head.weight.tolist()
    for c in (0, 4, 9):

        def mean_embedding(side: Embeddings, keep: str, c: int = c) -> list[float]:
            predicted = side.logits.argmax(1).tolist()
            rows = [
                row
                for row, label, guess in zip(side.features.tolist(), side.labels.tolist(), predicted, strict=True)
                if label == c and (keep == "all" or (guess == c) == (keep == "tp"))
            ]
            return [
                math.fsum(row[d] * weight[c][d] for row in rows) / len(rows) if rows else math.nan for d in range(16)
            ]

        seen, unseen = mean_embedding(train, "all"), mean_embedding(heldout, "all")
        top = sorted(range(16), key=lambda d: -seen[d])[:5]
        assert diagnosis.top_k_features[c].tolist() == top
        strong = sum(seen[d] for d in top) / 5
        assert float(diagnosis["ce_magnitude_ratio"][c]) == pytest.approx(
            sum(unseen[d] for d in top) / 5 / strong, rel=1e-4
        )
        assert float(diagnosis["ce_magnitude_gap"][c]) == pytest.approx(
            strong - sum(unseen[d] for d in top) / 5, abs=1e-4
        )
        share = sum(max(seen[d], 0) for d in top) / sum(max(v, 0) for v in seen)
        assert float(diagnosis["top_k_share"][c]) == pytest.approx(share, rel=1e-4)
        top_unseen = sorted(range(16), key=lambda d: -unseen[d])[:5]
        assert float(diagnosis["identity_overlap"][c]) == pytest.approx(len(set(top) & set(top_unseen)) / 5)
        for name, keep in (("ce_magnitude_ratio_tp", "tp"), ("ce_magnitude_ratio_fn", "fn")):
            want = sum(mean_embedding(heldout, keep)[d] for d in top) / 5 / strong
            assert float(diagnosis[name][c]) == pytest.approx(want, rel=1e-4, nan_ok=True)
        assert diagnosis.top_k_train[c].tolist() == pytest.approx([seen[d] for d in top], rel=1e-4)


def test_classes_share_features_with_themselves(diagnosis: Diagnosis) -> None:
    overlap = diagnosis.top_k_overlap
    assert overlap.diagonal().tolist() == [1.0] * 10
    first, second = (set(diagnosis.top_k_features[c].tolist()) for c in (0, 3))
    assert float(overlap[0, 3]) == float(overlap[3, 0]) == len(first & second) / 5


def test_fragile_is_an_interval_below_the_mean(diagnosis: Diagnosis) -> None:
    recall = diagnosis["recall_heldout"].tolist()
    mean = sum(recall) / 10
    for c in range(10):
        assert bool(diagnosis["fragile"][c]) == (float(diagnosis["recall_heldout_high"][c]) < mean)
    assert 0 < sum(diagnosis["fragile"].tolist()) < 10


def test_intervals_allow_for_few_rows_and_for_neighbours_in_common(diagnosis: Diagnosis) -> None:
    for name in ("ceiling_gain", "safe"):
        known = ~diagnosis[name].isnan()
        assert bool(known.any())
        assert bool((diagnosis[f"{name}_low"] < diagnosis[f"{name}_high"])[known].all())
    safe, count = diagnosis["safe"], diagnosis["count"]
    low, high = stats.wilson_interval(safe * count, count)
    inner = (safe > 0) & (safe < 1)
    assert bool((diagnosis["safe_low"] < low)[inner].all())
    assert bool((diagnosis["safe_high"] > high)[inner].all())


def test_what_a_better_head_could_gain_has_the_interval_of_a_paired_difference(
    sides: tuple[Embeddings, Embeddings, LinearHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, heldout, head = sides

    def perfect(_: torch.Tensor, labels: torch.Tensor, num_classes: int, **__: object) -> CrossFit:
        return CrossFit(labels, torch.eye(num_classes)[labels])

    monkeypatch.setattr(label_errors, "cross_fit", perfect)
    found = diagnose(train, heldout, head=head, top_k=5)
    for c in range(10):
        right = (head.logits(heldout.features).argmax(1) == heldout.labels)[heldout.labels == c]
        hits, total = right.sum(), torch.tensor(len(right))
        assert float(found["ceiling_gain"][c]) == pytest.approx(float((total - hits) / total))
        low, high = stats.paired_difference_interval(hits, total, hits, total)
        assert float(found["ceiling_gain_low"][c]) == pytest.approx(float(low))
        assert float(found["ceiling_gain_high"][c]) == pytest.approx(float(high))
    ends = [found[f"ceiling_gain{end}"] for end in ("", "_low", "_high")]
    told = found.summary["head_ceiling_low"], found.summary["head_ceiling_high"]
    assert told == stats.mean_share_interval(*ends, least=-1.0)


def test_the_interval_of_safe_rows_allows_for_neighbours_in_common() -> None:
    # four classes that are all alike, drawn 150 times: how often does the interval of a class miss the share they have in truth?
    classes, size, width = 4, 50, 16
    labels = torch.arange(classes).repeat_interleave(size)
    counted = []
    for turn in range(150):
        features = draws.normal("safe", turn, torch.arange(len(labels) * width)).view(-1, width).float()
        features += 2 * torch.eye(classes, width)[labels]
        near = diagnosis_columns.neighbors.nearest_neighbors(features, features, 5, same=torch.arange(len(labels)))[1]
        safe = diagnosis_columns.neighbors.archetypes(labels[near], labels) == 0
        counted.append(torch.bincount(labels[safe], minlength=classes))
    found, total = torch.stack(counted).double(), torch.tensor(float(size))
    truth = float(found.mean() / size)

    def missed(variance: float) -> float:
        low, high = stats.wilson_interval(found / variance, total / variance)
        return float(((low > truth) | (high < truth)).double().mean())

    assert missed(diagnosis_columns.NEIGHBOR_VARIANCE) < 0.08
    assert missed(1.0) > 0.1, "as independent rows would have it"


def test_another_head_for_the_same_features_is_diagnosed_as_itself(
    sides: tuple[Embeddings, Embeddings, LinearHead],
) -> None:
    train, heldout, head = sides
    other = LinearHead(weight=head.weight, bias=head.bias + 4 * torch.eye(10)[3])
    found = diagnose(train, heldout, head=other, top_k=5)
    predicted = other.logits(heldout.features).argmax(1)
    for c in range(10):
        of_class = heldout.labels == c
        assert float(found["recall_heldout"][c]) == pytest.approx(float((predicted == c)[of_class].double().mean()))
    wanted = diagnose(train.seen_by(other), heldout.seen_by(other), head=other, top_k=5)
    for name, column in wanted.columns.items():
        torch.testing.assert_close(found[name], column, equal_nan=True, msg=name)


@pytest.mark.parametrize(("limit", "value"), [("BLOCK_ROWS", 64), ("_BLOCK", 640)])
def test_logits_of_another_head_are_never_held(
    limit: str, value: int, sides: tuple[Embeddings, Embeddings, LinearHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _, head = sides
    other, rows = LinearHead(weight=head.weight, bias=head.bias + 4 * torch.eye(10)[3]), []
    whole = other.logits(train.features).argmax(1)
    plain = LinearHead.logits
    monkeypatch.setattr(
        LinearHead, "logits", lambda self, features: rows.append(len(features)) or plain(self, features)
    )
    monkeypatch.setattr(measured_sides, limit, value)
    seen = measured_sides.make_side(train, other, seed=0, name="train")
    assert torch.equal(seen.predictions, whole)
    assert rows[0] == 256  # the sample that is compared with the stored logits
    assert max(rows[1:]) == 64
    assert len(seen.margins) == 0


def test_few_images_have_no_interval_and_say_nothing_of_size(
    sides: tuple[Embeddings, Embeddings, LinearHead],
) -> None:
    train, heldout, head = sides
    kept = torch.cat([(heldout.labels != 9).nonzero()[:, 0], (heldout.labels == 9).nonzero()[:2, 0]])
    wild = heldout.select(kept)
    wild = dataclasses.replace(
        wild, features=torch.where((wild.labels == 9)[:, None], 50 * wild.features, wild.features)
    )
    found = diagnose(train, wild, head=head, top_k=5)
    assert math.isnan(float(found["ce_magnitude_ratio_low"][9]))
    assert not math.isnan(float(found["ce_magnitude_ratio"][9]))
    assert math.isnan(float(found["identity_overlap_low"][9]))
    without = diagnose(train, heldout.select(heldout.labels != 9), head=head, top_k=5)
    for field in ("slope", "intercept"):
        assert found.log_count["ce_magnitude_ratio"][field] == pytest.approx(
            without.log_count["ce_magnitude_ratio"][field]
        )


def values_of(diagnosis: Diagnosis) -> dict[str, torch.Tensor]:
    """Columns that are not drawn at random."""
    drawn = {
        "recall_ceiling",
        "ceiling_gain",
        *(name for name in diagnosis.columns if name.startswith(("suspect_labels", "cluster"))),
    }
    return {
        name: column
        for name, column in diagnosis.columns.items()
        if name not in drawn | set(MATCHED) and not name.endswith(("_low", "_high"))
    }


def test_permuted_classes_permute_the_columns(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    place = torch.argsort(order)
    permuted_head = LinearHead(weight=head.weight[order], bias=head.bias[order])
    permuted = [
        dataclasses.replace(side, labels=place[side.labels], logits=side.logits[:, order]) for side in (train, heldout)
    ]
    before = values_of(diagnose(train, heldout, head=head, top_k=5))
    after = values_of(diagnose(*permuted, head=permuted_head, top_k=5))
    for name, column in before.items():
        torch.testing.assert_close(after[name], column[order], equal_nan=True, msg=name)


def test_permuted_features_change_nothing_but_their_names(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    permuted = [dataclasses.replace(side, features=side.features[:, order]) for side in (train, heldout)]
    before = diagnose(train, heldout, head=head, top_k=5)
    after = diagnose(*permuted, head=LinearHead(weight=head.weight[:, order], bias=head.bias), top_k=5)
    for name, column in before.columns.items():
        if name != "recall_ceiling" and not name.startswith(("ceiling_gain", "suspect_labels", "cluster")):
            torch.testing.assert_close(after[name], column, equal_nan=True, rtol=1e-4, atol=1e-5, msg=name)
    assert order[after.top_k_features].tolist() == before.top_k_features.tolist()


def test_a_scaled_head_changes_only_what_is_in_logits(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    scaled_head = LinearHead(weight=4 * head.weight, bias=4 * head.bias)
    scaled = [dataclasses.replace(side, logits=4 * side.logits) for side in (train, heldout)]
    before = diagnose(train, heldout, head=head, top_k=5)
    after = diagnose(*scaled, head=scaled_head, top_k=5)
    in_logits = {"ce_magnitude_gap", "margin", "head_norm"}
    for name, column in before.columns.items():
        base = name.removesuffix("_low").removesuffix("_high")
        if base != "ece":
            factor = 4 if base in in_logits else 1
            torch.testing.assert_close(after[name], factor * column, equal_nan=True, rtol=1e-4, atol=1e-5, msg=name)


def test_all_features_as_top_k(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    whole = diagnose(train, heldout, head=head, top_k="100%")
    assert whole.top_k == 16
    assert whole["top_k_share"].tolist() == pytest.approx([1.0] * 10)
    assert whole["identity_overlap"].tolist() == [1.0] * 10
    assert whole.summary["identity_chance"] == 1


def test_a_cosine_head_ignores_the_length_of_the_features(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    cosine = LinearHead(weight=head.weight, bias=torch.zeros(10), cosine=True, scale=30.0)
    plain, longer = (
        diagnose(
            *(
                embeddings_of(side.features * length.view(-1, 1)[: len(side)], side.labels, cosine)
                for side, length in ((train, lengths), (heldout, lengths))
            ),
            head=cosine,
            top_k=5,
        )
        for lengths in (torch.ones(1000), 1 + torch.arange(1000) % 3)
    )
    for name in (
        "ce_magnitude_ratio",
        "ce_magnitude_gap",
        "top_k_share",
        "identity_overlap",
        "needed_tp",
        "needed_error",
    ):
        torch.testing.assert_close(longer[name], plain[name], equal_nan=True, rtol=1e-4, atol=1e-4, msg=name)
    assert float(plain["ce_magnitude_gap"].abs().max()) < 1  # cosines: the scale of 30 stays outside


@pytest.mark.slow
def test_the_same_in_a_fresh_process(diagnosis: Diagnosis) -> None:
    program = (
        "import conftest as c\n"
        "from diversify.diagnosis.measure import diagnose\n"
        "t = c.synthetic([200, 120, 70, 40, 30, 25, 22, 20, 8, 3], 'train'); h = c.synthetic([50] * 10, 'heldout')\n"
        "head = c.synthetic_head(*t, 10)\n"
        "print(diagnose(c.embeddings_of(*t, head), c.embeddings_of(*h, head), head=head, class_names=c.NAMES, top_k=5).to_json())"
    )
    here = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here.parent), "PYTHONHASHSEED": "123"},
    )
    assert run.stdout.strip() == diagnosis.to_json()


def test_another_seed_moves_intervals_but_no_value(
    sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: Diagnosis
) -> None:
    train, heldout, head = sides
    other = diagnose(train, heldout, head=head, class_names=NAMES, top_k=5, seed=7)
    for name, column in values_of(diagnosis).items():
        assert torch.equal(other[name].nan_to_num(-1), column.nan_to_num(-1)), name
    assert not torch.equal(other["ce_magnitude_ratio_low"], diagnosis["ce_magnitude_ratio_low"])


def test_an_absent_class_is_nan_and_a_finding() -> None:
    seen, labels = synthetic([40, 30, 0, 25, 22], "train")
    unseen, unseen_labels = synthetic([25] * 5, "heldout")
    head = synthetic_head(seen, labels, 5)
    found = diagnose(embeddings_of(seen, labels, head), embeddings_of(unseen, unseen_labels, head), head=head, top_k=3)
    for name in (
        "recall_train",
        "ce_magnitude_ratio",
        "top_k_share",
        "identity_overlap",
        "safe",
        "nc1",
        "diversity_vendi_train",
    ):
        assert math.isnan(float(found[name][2])), name
    assert found.top_k_features[2].tolist() == [-1] * 3
    assert found.findings[0].class_index == 2
    assert found.findings[0].remedy == "collect images"
    assert Diagnosis.from_json(found.to_json()).to_json() == found.to_json()


def test_one_image_of_a_class_is_enough() -> None:
    seen, labels = synthetic([40, 30, 1], "train")
    unseen, unseen_labels = synthetic([25, 25, 1], "heldout")
    head = synthetic_head(seen, labels, 3)
    found = diagnose(embeddings_of(seen, labels, head), embeddings_of(unseen, unseen_labels, head), head=head, top_k=3)
    assert float(found["count"][2]) == 1
    assert math.isfinite(float(found["ce_magnitude_ratio"][2]))
    assert not found.log_count  # three classes: what log n predicts is undefined
    assert all("expected from class size alone is undefined" in finding.text for finding in found.findings)


def test_equal_counts_leave_log_n_undefined() -> None:
    seen, labels = synthetic([25] * 6, "train")
    unseen, unseen_labels = synthetic([25] * 6, "heldout", spread=1.5)
    head = synthetic_head(seen, labels, 6)
    found = diagnose(embeddings_of(seen, labels, head), embeddings_of(unseen, unseen_labels, head), head=head, top_k=3)
    assert not found.log_count
    assert found["recall_log_count"].isnan().all()


def test_test_is_a_dead_end(sides: tuple[Embeddings, Embeddings, LinearHead], diagnosis: Diagnosis) -> None:
    train, heldout, head = sides
    assert diagnosis.plan_ready
    on_test = diagnose(train, heldout, head=head, heldout_split="test", top_k=5)
    assert not on_test.plan_ready
    assert json.loads(on_test.to_json())["plan_ready"] is False
    assert not Diagnosis.from_json(on_test.to_json()).plan_ready


def test_inputs_are_not_changed(sides: tuple[Embeddings, Embeddings, LinearHead]) -> None:
    train, heldout, head = sides
    copies = [side.features.clone() for side in (train, heldout)]
    state = torch.get_rng_state()
    diagnose(train, heldout, head=head, top_k=5)
    assert all(torch.equal(side.features, copy) for side, copy in zip((train, heldout), copies, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_short_way_is_the_long_way() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    images = torch.randn(60, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=16)
    found = diagnose_model(model, loader, loader, class_names=("a", "b", "c"), top_k=2)
    logits = model(images)
    for c in range(3):
        assert float(found["recall_heldout"][c]) == pytest.approx(
            float((logits.argmax(1) == c)[labels == c].float().mean())
        )
    assert found["ce_magnitude_gap"].tolist() == pytest.approx([0.0] * 3, abs=1e-6)  # the same images on both sides


# Arguments and files


def test_top_k_is_an_integer_or_a_share() -> None:
    assert (parse_top_k(10, 64), parse_top_k("10", 64), parse_top_k("10%", 64), parse_top_k("0.1%", 64)) == (
        10,
        10,
        6,
        1,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t, h, w: diagnose(t, h, head=w, top_k=17),
            "top_k must lie in [1, 16], the number of features, got 17",
        ),
        (lambda t, h, w: diagnose(t, h, head=w, top_k=0), "top_k must lie in [1, 16], the number of features, got 0"),
        (
            lambda t, h, w: diagnose(t, h, head=w, top_k="0%"),
            "top_k must lie in [1, 16], the number of features, got 0%",
        ),
        (
            lambda t, h, w: diagnose(t, h, head=w, top_k="many"),
            "top_k must be an integer or a percentage of D, got 'many'",
        ),
        (
            lambda t, h, w: diagnose(t, h, head=w, class_names=["a"]),
            "class_names must be one per class of the head, 10, got 1",
        ),
        (lambda t, h, w: diagnose(t, h, head=w, heldout_split="dev"), "heldout_split must be val or test, got 'dev'"),
        (
            lambda t, h, w: diagnose(t, h, head=LinearHead(weight=torch.ones(3, 16), bias=torch.ones(3))),
            "train embeddings must have the head's 16 features and 3 classes, got 16 features and 10 classes",
        ),
        (lambda t, h, w: Diagnosis.from_json("{"), "diagnosis must be whole, valid JSON, got Expecting property name"),
        (lambda t, h, w: Diagnosis.from_json('{"schema_version": 9}'), "diagnosis must have schema_version 1, got 9"),
        (
            lambda t, h, w: Diagnosis.from_json('{"schema_version": 1}'),
            "heldout_split of the diagnosis must be given, got nothing",
        ),
    ],
)
def test_messages(sides: tuple[Embeddings, Embeddings, LinearHead], call: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(*sides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_query_rows_keep_small_classes_whole() -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([500, 90, 10]))
    rows = query_rows(labels, 3, 200, seed=0, name="queries")
    assert torch.bincount(labels[rows]).tolist() == [100, 90, 10]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(query_rows(labels, 3, QUERY_ROWS, seed=0, name="queries")) == 600


def test_a_plan_needs_no_more_than_the_measures_of_a_plan():
    train, heldout, head = make_embeddings((90, 40, 20, 8, 1), spread=1.2, seed=2)
    short, whole = diagnose_for_plan(train, heldout, head=head, seed=3), diagnose(train, heldout, head=head, seed=3)
    assert make_plan(short) == make_plan(whole)
    assert set(short.columns) < set(whole.columns)
    diagnoser = PlanDiagnoser(train, head=head, seed=3)
    diagnoser(heldout.select(torch.arange(0, len(heldout), 2)))
    assert diagnoser(heldout).to_dict() == short.to_dict()


def test_collapse_of_many_rows_is_that_of_a_draw_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    train, heldout, head = make_embeddings((900, 500, 100), heldout=300)
    whole = diagnose(train, heldout, head=head).summary
    monkeypatch.setattr(diagnosis_columns, "NC4_ROWS", 400)
    drawn, again = (diagnose(train, heldout, head=head).summary for _ in range(2))
    assert drawn == pytest.approx(again, rel=0, abs=0, nan_ok=True)
    for name in ("nc4_train", "nc4_heldout"):
        assert 0 < abs(drawn[name] - whole[name]) < 0.07, name
        assert drawn[name] * 400 == pytest.approx(round(drawn[name] * 400))
    others = whole | {name: drawn[name] for name in ("nc4_train", "nc4_heldout")}
    assert drawn == pytest.approx(others, rel=0, abs=0, nan_ok=True)
