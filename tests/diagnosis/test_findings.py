"""The findings of a diagnosis: which rule fires on which evidence, and what the texts say."""

import math

import pytest
import torch
from conftest import embeddings_of, synthetic, synthetic_head

from diversify.diagnosis.findings import REMEDIES, RULES, find
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.functional import draws, stats
from diversify.network.linear_head import LinearHead


def columns_for(**changed: tuple[float, float, float]) -> dict[str, torch.Tensor]:
    """Three classes of which the last is fragile and otherwise like the others, until a measure is changed."""
    columns = {
        "count": torch.tensor([100.0, 50, 10]),
        "count_heldout": torch.tensor([50.0, 50, 50]),
        "fragile": torch.tensor([0.0, 0, 1]),
        "recall_log_count": torch.tensor([0.9, 0.8, 0.5]),
    }
    usual = {"recall_train": 0.99, "ceiling_gain": 0.0, "ce_magnitude_ratio": 1.0, "safe": 0.9, "identity_overlap": 0.9}
    for name in ("recall_heldout", *(rule.measure for rule in RULES)):
        value = {"recall_heldout": 0.9}.get(name, usual.get(name, 10.0))
        columns |= {name + end: torch.tensor([value] * 3) for end in ("", "_low", "_high")}
    changed = {"recall_heldout": (0.4, 0.3, 0.5), **changed}
    for name, values in changed.items():
        for end, value in zip(("", "_low", "_high"), values, strict=True):
            columns[name + end][2] = value
    return columns


LINES = {
    "recall_heldout": {"slope": 0.1, "intercept": 0.3, "r_squared": 0.5},
    "identity_overlap": {"slope": 0.0, "intercept": 0.9, "r_squared": 0.0},
    "safe": {"slope": 0.0, "intercept": 0.9, "r_squared": 0.0},
}


ENEMIES = torch.tensor([[0, 1, 0], [1, 0, 0], [0.8, 0.2, 0]], dtype=torch.float64)


TRIGGERS = {
    "recall_train": (0.5, 0.4, 0.6),
    "ceiling_gain": (0.2, 0.1, 0.3),
    "ce_magnitude_ratio": (0.6, 0.5, 0.7),
    "diversity_vendi_heldout": (5.0, 4.0, 6.0),
    "identity_overlap": (0.3, 0.2, 0.4),
    "safe": (0.3, 0.2, 0.4),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.measure)
def test_each_rule_fires_on_its_measure_and_on_nothing_else(rule: object) -> None:
    fired = find(columns_for(**{rule.measure: TRIGGERS[rule.measure]}), "abc", ENEMIES, LINES, top_k=10)
    (finding,) = fired
    assert finding.causes == (rule.remedy,)
    assert REMEDIES[rule.remedy] in finding.text
    assert [one.measure for one in finding.evidence] == ["recall_heldout", rule.measure]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.measure)
def test_no_rule_fires_on_an_interval_that_reaches_the_mean(rule: object) -> None:
    value, low, high = TRIGGERS[rule.measure]
    wide = (value, low, 1e3) if rule.bad == "low" else (value, -1e3, high)
    (finding,) = find(columns_for(**{rule.measure: wide}), "abc", ENEMIES, LINES, top_k=10)
    assert finding.remedy == "more images"


def test_a_finding_says_what_the_evidence_is_and_what_log_n_predicts() -> None:
    (finding,) = find(columns_for(safe=TRIGGERS["safe"]), "abc", ENEMIES, LINES, top_k=10)
    for sentence in (
        "Recall of c on held-out images is 40% (95% interval 30% to 50%; mean over classes 73%).",
        "It has 10 training and 50 held-out images.",
        "From class size alone a recall of 50% is expected (line on log n, R² 0.50): class size alone can explain the recall.",
        "Only 30% of its training images have mainly neighbours of their own class"
        " (95% interval 20% to 40%; expected for a class of its size 90%).",
        "Of the training images of other classes nearest to its errors, 80% belong to a.",
    ):
        assert sentence in finding.text


@pytest.mark.parametrize(
    ("scatter", "verdict"),
    [
        (
            0.05,
            "the recall is 20 points below that, which class size alone does not explain"
            " (standard deviation of the classes about the line: 5 points).",
        ),
        (
            0.15,
            "the recall is 20 points below that, within the usual variation between classes"
            " (standard deviation about the line: 15 points).",
        ),
        (None, "the recall is 20 points below that."),
    ],
)
def test_worse_than_its_size_explains_means_beyond_the_scatter_of_the_classes(
    scatter: float | None, verdict: str
) -> None:
    columns = columns_for(safe=TRIGGERS["safe"])
    columns["recall_log_count"] = torch.full_like(columns["recall_log_count"], 0.6)
    line = {"slope": 0.1, "intercept": 0.1, "r_squared": 0.5} | ({} if scatter is None else {"scatter": scatter})
    (finding,) = find(columns, "abc", ENEMIES, {"recall_heldout": line}, top_k=10)
    assert f"a recall of 60% is expected (line on log n, R² 0.50): {verdict}" in finding.text


def test_a_line_that_explains_nothing_is_said_to() -> None:
    columns = columns_for(safe=TRIGGERS["safe"])
    line = {"slope": 0.0, "intercept": 0.6, "r_squared": 0.01, "scatter": 0.2}
    (finding,) = find(columns, "abc", ENEMIES, {"recall_heldout": line}, top_k=10)
    assert "is expected (line on log n, R² 0.01, so size explains almost nothing here): " in finding.text


def test_what_follows_size_by_itself_is_compared_with_its_line() -> None:
    """A tiny class among few of its own is what its size predicts; one of four images cannot be safe at all."""
    expected = {**LINES, "safe": {"slope": 0.3, "intercept": -0.5, "r_squared": 0.9}}  # 0.19 at 10 images
    (finding,) = find(columns_for(safe=TRIGGERS["safe"]), "abc", ENEMIES, expected, top_k=10)
    assert finding.remedy == "more images"
    columns = columns_for(safe=(0.0, 0.0, 0.4))
    columns["count"][2] = 4
    assert find(columns, "abc", ENEMIES, LINES, top_k=10)[0].remedy == "more images"


def test_one_feature_in_ten_is_no_evidence() -> None:
    for value, remedy in ((0.8, "more images"), (0.6, "image space")):
        columns = columns_for(identity_overlap=(value, value - 0.1, value))
        assert find(columns, "abc", ENEMIES, LINES, top_k=10)[0].remedy == remedy


@pytest.mark.slow
def test_diversity_does_not_fall_with_size_where_there_is_nothing_to_find() -> None:
    """Classes of the same kind and very different size: held-out diversity at matched n has no trend."""
    sizes = [500, 300, 180, 110, 65, 40, 24, 14, 8, 4]
    trends = []
    for seed in range(4):
        base = 0.6 * draws.uniform("base", seed, torch.arange(640)).view(10, 64)
        for c in range(10):
            base[c, 6 * c : 6 * c + 6] += 1.2

        def side(
            sizes: list[int], name: str, base: torch.Tensor = base, seed: int = seed
        ) -> tuple[torch.Tensor, torch.Tensor]:
            labels = torch.repeat_interleave(torch.arange(10), torch.tensor(sizes))
            cell = torch.arange(len(labels) * 64).view(-1, 64)
            return base[labels] * -torch.log1p(-draws.uniform(name, seed, cell)), labels

        seen, unseen = side(sizes, "null train"), side([60] * 10, "null heldout")
        head = LinearHead(weight=base - base.mean(0) + 0.3, bias=-base.square().sum(1) / 2)
        found = diagnose(embeddings_of(*seen, head), embeddings_of(*unseen, head), head=head)
        trends.append(stats.spearman(found["diversity_vendi_heldout"], found["count"]))
    assert abs(sum(trends) / 4) < 0.45, trends


def test_few_images_are_not_certainty() -> None:
    """No interval where there is nothing to resample, and no verdict on a head that saw no other image of a class."""
    seen, labels = synthetic([40, 30, 1], "train")
    unseen, unseen_labels = synthetic([1, 1, 1], "heldout")
    head = synthetic_head(seen, labels, 3)
    found = diagnose(embeddings_of(seen, labels, head), embeddings_of(unseen, unseen_labels, head), head=head, top_k=3)
    assert found["margin_low"].isnan().all()
    assert found["ceiling_gain"].isnan().all()
    assert found["nc1_heldout"].isnan().all()
    low, high = (found.summary[f"balanced_accuracy_heldout_{end}"] for end in ("low", "high"))
    assert high - low > 0.3
    assert math.isnan(found.head_ceiling)


def test_a_sound_class_gets_no_finding(diagnosis: Diagnosis) -> None:
    assert {f.class_index for f in diagnosis.findings} == set(diagnosis["fragile"].nonzero().flatten().tolist())
    recalls = [float(diagnosis["recall_heldout"][f.class_index]) for f in diagnosis.findings]
    assert recalls == sorted(recalls)
