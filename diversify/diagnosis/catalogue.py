"""Every measure of a diagnosis: what it is called, its unit, which way is bad, what it means and where it comes from."""

from __future__ import annotations

import dataclasses
from typing import Literal

Unit = Literal["share", "ratio", "logits", "features", "images", "number"]
Direction = Literal["low", "high", ""]

_DABLAIN = "Dablain et al. 2023"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One column of a diagnosis. `bad` is the end of the scale that speaks of trouble, "" where neither does.

    `evidence` says whether it adds to class size in telling the recall gap of a class, and what a remedy gains there, on the
    runs of `benchmarks/validity.py`: "yes", "unsure", "no" or "not tested"; "" for what is no diagnostic.
    """

    title: str
    meaning: str
    unit: Unit
    bad: Direction = ""
    interval: bool = False
    source: str = ""
    evidence: str = ""


def _diversity(title: str, meaning: str, bad: Direction, source: str) -> dict[str, Measure]:
    name, long = title.split(":")
    return {
        f"diversity_{name}_{split}": Measure(
            title=f"{long}, {words}",
            meaning=f"{meaning}; {words} images, at matched n. The interval is over draws of n, and given from 2n images on.",
            unit="number",
            bad=bad if split == "heldout" else "",
            interval=True,
            source=source,
        )
        for split, words in (("train", "training"), ("heldout", "held-out"))
    }


_DEFINED: dict[str, Measure] = {
    "count": Measure(title="training images", meaning="Images of the class the model learned from.", unit="images"),
    "count_heldout": Measure(
        title="held-out images", meaning="Images of the class the model did not see.", unit="images"
    ),
    "recall_train": Measure(
        title="recall, training", meaning="Share of the training images found.", unit="share", interval=True
    ),
    "recall_heldout": Measure(
        title="recall, held-out",
        meaning="Share of the held-out images found; Wilson interval.",
        unit="share",
        bad="low",
        interval=True,
    ),
    "precision_heldout": Measure(
        title="precision, held-out",
        meaning="Share of the predictions of this class that are right.",
        unit="share",
        interval=True,
    ),
    "recall_log_count": Measure(
        title="recall that log n predicts",
        meaning="A line fitted to recall against log n, over the classes of this diagnosis; cut to [0, 1].",
        unit="share",
    ),
    "recall_ceiling": Measure(
        title="recall of a refitted head",
        meaning="Recall of a linear head fitted on class-balanced held-out features, each image by a head that did not see it;"
        " undefined below 5 images.",
        unit="share",
    ),
    "ceiling_gain": Measure(
        title="recall a better head could gain",
        meaning="Recall of the refitted head less today's, on the same held-out images.",
        unit="share",
        bad="high",
        interval=True,
        source="Kang et al. 2020, after their classifier re-training",
    ),
    "top_k_share": Measure(
        title="top-K share",
        meaning="Part of the positive mean classification embedding that the K strongest features hold, on training images.",
        unit="share",
        interval=True,
        source=_DABLAIN,
    ),
    "needed_tp": Measure(
        title="features needed, hits",
        meaning="How many of the strongest features it takes to beat the runner-up; held-out images that are found.",
        unit="number",
        interval=True,
        source=_DABLAIN,
    ),
    "needed_error": Measure(
        title="features needed, errors",
        meaning="How many of the strongest features of the class predicted instead it takes to beat the runner-up; held-out images"
        " of this class that are missed.",
        unit="number",
        interval=True,
        source=_DABLAIN,
    ),
    "ce_magnitude_ratio": Measure(
        title="top-K magnitude, held-out / train",
        meaning="Mean classification embedding over the class's top-K, on held-out over training images; 1 where they match."
        " Choosing the top-K on few images alone takes it somewhat below 1.",
        unit="ratio",
        bad="low",
        interval=True,
        source=_DABLAIN,
    ),
    "ce_magnitude_ratio_tp": Measure(
        title="top-K magnitude ratio, hits",
        meaning="Mean classification embedding over the class's top-K, on held-out images that are found over all training images.",
        unit="ratio",
        interval=True,
        source=_DABLAIN,
    ),
    "ce_magnitude_ratio_fn": Measure(
        title="top-K magnitude ratio, misses",
        meaning="Mean classification embedding over the class's top-K, on held-out images that are missed over all training images.",
        unit="ratio",
        interval=True,
        source=_DABLAIN,
    ),
    "ce_magnitude_gap": Measure(
        title="top-K magnitude gap",
        meaning="Training less held-out mean classification embedding over the class's top-K.",
        unit="logits",
        bad="high",
        interval=True,
        source=_DABLAIN,
    ),
    "fe_magnitude_ratio": Measure(
        title="top-K feature magnitude ratio",
        meaning="Mean of the class's K strongest features, without the head's weights, on held-out over training images.",
        unit="ratio",
        bad="low",
        interval=True,
        source=_DABLAIN,
    ),
    "identity_overlap": Measure(
        title="top-K identity overlap",
        meaning="Share of the class's top-K that are also the top-K of its held-out images; K / D by chance.",
        unit="share",
        bad="low",
        interval=True,
        source=_DABLAIN,
    ),
    "feature_deviation": Measure(
        title="feature deviation",
        meaning="Distance between the means of n training and n held-out images.",
        unit="features",
        bad="high",
        interval=True,
        source="Ye et al. 2020 (CDT)",
    ),
    "range_gap": Measure(
        title="range gap",
        meaning="How far n held-out images reach beyond the range of n training images, summed over features.",
        unit="features",
        bad="high",
        interval=True,
        source="Dablain et al. 2022 (EOS)",
    ),
    "safe": Measure(
        title="safe",
        meaning="Training images with 4 or 5 of 5 neighbours of their class; falls with class size by itself.",
        unit="share",
        bad="low",
        interval=True,
        source="Napierala and Stefanowski 2016",
    ),
    "border": Measure(
        title="border",
        meaning="Training images with 2 or 3 of 5 neighbours of their class.",
        unit="share",
        source="Napierala and Stefanowski 2016",
    ),
    "rare": Measure(
        title="rare",
        meaning="Training images with 1 of 5 neighbours of their class.",
        unit="share",
        source="Napierala and Stefanowski 2016",
    ),
    "outlier": Measure(
        title="outlier",
        meaning="Training images with no neighbour of their class among 5.",
        unit="share",
        source="Napierala and Stefanowski 2016",
    ),
    "head_norm": Measure(title="head norm", meaning="Length of the class's row of the head.", unit="number", bad="low"),
    "nc1": Measure(
        title="collapse (NC1), training",
        meaning="Scatter of the class around its mean over the scatter of the class means; 0 is collapsed.",
        unit="ratio",
        source="Papyan et al. 2020",
    ),
    "nc1_heldout": Measure(
        title="collapse (NC1), held-out",
        meaning="Scatter of the class around its mean over the scatter of the class means, on held-out images; far above the"
        " training value, the class was memorised.",
        unit="ratio",
        bad="high",
        source="Papyan et al. 2020",
    ),
    "margin": Measure(
        title="margin",
        meaning="Mean of the true class's logit less the best other, on held-out images; of the head's own logits.",
        unit="logits",
        bad="low",
        interval=True,
    ),
    "ece": Measure(
        title="calibration error",
        meaning="Expected calibration error over the held-out images predicted as this class, 15 bins; of the head's own logits.",
        unit="share",
        bad="high",
        source="Guo et al. 2017",
    ),
    **_diversity(
        "vendi:Vendi score", "Effective number of different directions among n images", "low", "Friedman and Dieng 2023"
    ),
    **_diversity(
        "effective_rank:effective rank",
        "Effective number of dimensions that n images span",
        "low",
        "Roy and Vetterli 2007",
    ),
    **_diversity("hill:features in use", "Effective number of features among n images' own top-K", "low", "Hill 1973"),
    **_diversity("spread:within-class spread", "Mean squared distance of n images to their mean", "low", ""),
    **_diversity("cosine:mean cosine", "Mean cosine between n images; high means alike", "high", ""),
}

# Whether a diagnostic adds to class size; printed by `python -m benchmarks.validity --evidence`, compared by a test.
EVIDENCE: dict[str, str] = {
    "recall_heldout": "no for the recall gap, not tested for the gain of a remedy",
    "precision_heldout": "no",
    "margin": "no",
    "ece": "no for the recall gap, unsure for the gain of a remedy",
    "ceiling_gain": "no for the recall gap, yes for the gain of a remedy",
    "ce_magnitude_ratio": "no",
    "ce_magnitude_gap": "no",
    "fe_magnitude_ratio": "no",
    "identity_overlap": "no",
    "top_k_share": "no for the recall gap, unsure for the gain of a remedy",
    "feature_deviation": "unsure for the recall gap, no for the gain of a remedy",
    "range_gap": "no",
    "nc1": "no",
    "nc1_heldout": "no",
    "head_norm": "unsure for the recall gap, no for the gain of a remedy",
    "safe": "unsure for the recall gap, no for the gain of a remedy",
    "diversity_vendi_train": "unsure for the recall gap, no for the gain of a remedy",
    "diversity_vendi_heldout": "no",
    "diversity_effective_rank_heldout": "no",
    "diversity_hill_heldout": "no",
    "diversity_spread_heldout": "no",
    "diversity_cosine_heldout": "no",
    "ce_magnitude_ratio_tp": "no for the recall gap, unsure for the gain of a remedy",
    "needed_tp": "no for the recall gap, unsure for the gain of a remedy",
    "border": "unsure for the recall gap, no for the gain of a remedy",
    "rare": "no for the recall gap, yes for the gain of a remedy",
    "outlier": "no",
}

MEASURES: dict[str, Measure] = {
    name: dataclasses.replace(one, evidence=EVIDENCE.get(name, "")) for name, one in _DEFINED.items()
}

# The diagnostics a class's recall may be explained with, beside its size.
EXPLANATIONS = (
    "ce_magnitude_ratio",
    "ce_magnitude_gap",
    "fe_magnitude_ratio",
    "identity_overlap",
    "top_k_share",
    "feature_deviation",
    "range_gap",
    "nc1",
    "nc1_heldout",
    "head_norm",
    "safe",
    "diversity_vendi_train",
    "diversity_vendi_heldout",
    "diversity_effective_rank_heldout",
    "diversity_hill_heldout",
    "diversity_spread_heldout",
    "diversity_cosine_heldout",
)
