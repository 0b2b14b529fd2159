"""The catalogue of measures: the name, unit, definition, reading and source of every column of a diagnosis."""

from __future__ import annotations

import dataclasses
from typing import Literal

Unit = Literal["share", "ratio", "logits", "features", "images", "number"]
Direction = Literal["low", "high", ""]

_DABLAIN = "Dablain et al. 2023"
_DABLAIN_FULL = (
    "Dablain, Jacobson, Bellinger, Roberts and Chawla (2023), Understanding CNN fragility when learning with imbalanced"
    " data, Machine Learning, arXiv:2210.09465"
)
_NAPIERALA = "Napierala and Stefanowski 2016"
_NAPIERALA_FULL = (
    "Napierala and Stefanowski (2016), Types of minority class examples and their influence on learning classifiers from"
    " imbalanced data, Journal of Intelligent Information Systems 46"
)
_NORTHCUTT = "Northcutt et al. 2021"
_NORTHCUTT_FULL = (
    "Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels, Journal of Artificial"
    " Intelligence Research 70, equations 1 and 2, arXiv:1911.00068"
)
_PAPYAN = "Papyan et al. 2020"
_PAPYAN_FULL = (
    "Papyan, Han and Donoho (2020), Prevalence of neural collapse during the terminal phase of deep learning training,"
    " PNAS 117(40), arXiv:2008.08186"
)
_WILSON_FULL = (
    "Interval: Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal of the"
    " American Statistical Association 22"
)
_STANDARD = "Standard definition."
_OURS = "Defined by this library."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """The description of one measure: one column of a diagnosis, with one number per class.

    Attributes:
        title: Short name, as in the headings of tables and plots.
        meaning: What the number is, in one or two sentences.
        unit: "share" lies in [0, 1] and is printed as a percentage ("ceiling_gain" in points); "logits" and "features"
            are in the unit of the head's output and input.
        formula: The definition as plain text. `n` counts images; `z` is a feature vector `(D,)`, `w_c` the head's row
            of class c, `CE = z * w_c` (elementwise) the classification embedding and `top-K` the K features with the
            largest mean CE of the class on its training images.
        high: What a high value tells about the class.
        low: What a low value tells about the class.
        pitfalls: What to watch out for when reading or comparing the number.
        bad: The end of the scale that indicates a problem; "" where neither does.
        interval: True if the diagnosis also holds `<name>_low` and `<name>_high`, the ends of a 95% interval.
        source: Short citation; "" for a standard definition or one of this library.
        reference: Full citation.
        evidence: Whether the measure adds information about the recall gap of a class, and about what a remedy gains
            there, beyond class size, in the runs of `benchmarks/validity.py`: "yes", "unsure", "no" or "not tested",
            with the outcome where the two differ; "" for a measure that is not a diagnostic.

    Example:
        >>> from diversify.diagnosis import MEASURES
        >>> measure = MEASURES["recall_heldout"]
        >>> measure.title, measure.unit, measure.bad
        ('recall, held-out', 'share', 'low')
        >>> measure.formula
        'recall = TP / (TP + FN), over the held-out images of the class'
    """

    title: str
    meaning: str
    unit: Unit
    formula: str
    high: str
    low: str
    pitfalls: str
    bad: Direction = ""
    interval: bool = False
    source: str = ""
    reference: str = _STANDARD
    evidence: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Diversity:
    """The entries for the two columns of one diversity measure, of training and of held-out images."""

    title: str
    meaning: str
    formula: str
    high: str
    low: str
    pitfalls: str
    bad: Direction
    source: str
    reference: str


_DIVERSITIES = {
    "vendi": _Diversity(
        title="Vendi score",
        meaning="Effective number of different directions among the features of the images",
        formula="exp(-sum_i p_i log p_i), p = eigenvalues of S / n, S_ij = cos(z_i - m, z_j - m), m = mean of the training"
        " class means",
        high="The images point in many different directions of the feature space: the class is diverse.",
        low="The images point in few directions: the class is narrow, and may not cover the variation of new images.",
        pitfalls="It grows with n, so compare it only at equal n. Training features collapse as training goes on: the"
        " held-out value describes the diversity of a class better.",
        bad="low",
        source="Friedman and Dieng 2023",
        reference="Friedman and Dieng (2023), The Vendi Score: a diversity evaluation metric for machine learning,"
        " Transactions on Machine Learning Research, definition 3.1, arXiv:2210.02410",
    ),
    "effective_rank": _Diversity(
        title="effective rank",
        meaning="Effective number of dimensions that the features of the images span",
        formula="exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j, s = singular values of the n features minus m, the mean of"
        " the training class means",
        high="The images vary in many dimensions of the feature space.",
        low="The images vary in few dimensions of the feature space.",
        pitfalls="It grows with n and is at most min(n, D). Unlike the Vendi score it weighs an image by the length of its"
        " feature vector.",
        bad="low",
        source="Roy and Vetterli 2007",
        reference="Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality, EUSIPCO,"
        " definition 1",
    ),
    "hill": _Diversity(
        title="features in use",
        meaning="Effective number of features that are among the K strongest of an image (Hill number of order 1)",
        formula="exp(-sum_d p_d log p_d), p_d = share of feature d in the top-K lists of the n images, each ranked by its own"
        " CE",
        high="Different images of the class rely on different features.",
        low="All images of the class rely on the same few features.",
        pitfalls="It grows with n, lies between K and D, and depends on K: compare it only at equal n and K.",
        bad="low",
        source="Hill 1973",
        reference="Hill (1973), Diversity and evenness: a unifying notation and its consequences, Ecology 54",
    ),
    "spread": _Diversity(
        title="within-class spread",
        meaning="Mean squared distance of the features of the images to their mean",
        formula="(1/n) sum_i |z_i - mean(z)|^2",
        high="The features of the class are scattered widely.",
        low="The features of the class lie close together.",
        pitfalls="It has the squared unit of the features, so it cannot be compared between networks. A class with larger"
        " features has a larger spread without being more diverse.",
        bad="low",
        source="",
        reference="Standard definition: the trace of the covariance within the class.",
    ),
    "cosine": _Diversity(
        title="mean cosine",
        meaning="Mean cosine similarity between the features of the images; a high value means that they are alike",
        formula="(1/n^2) sum_ij cos(z_i - m, z_j - m), with i = j included, m = mean of the training class means",
        high="The images are alike: the class has LITTLE diversity.",
        low="The images differ: the class is diverse.",
        pitfalls="A HIGH value is less diverse, unlike for the other diversity measures. The pairs of an image with itself"
        " count, so n orthogonal features give 1 / n and not 0.",
        bad="high",
        source="",
        reference="Standard definition: the mean pairwise cosine similarity.",
    ),
    "distinct": _Diversity(
        title="distinct images",
        meaning="Effective number of distinct images among 20 (Vendi score of order 2 with a Gaussian kernel)",
        formula="1 / mean_ij exp(-|x_i - x_j|^2 / h^2), x = P z, P = at most 32 directions of largest variance within classes,"
        " divided by their standard deviations, h = 0.35 times the mean distance between nearest images in the draws of the"
        " median class",
        high="Near n: no two images of the class lie unusually close together.",
        low="Far below n: images of the class lie closer together than those of the usual class, as those of a burst or of a"
        " narrow collection do.",
        pitfalls="Classes differ in how alike their images are by nature, so a low value alone does not show that images are"
        " missing; `coverage_heldout` does. P is learned from at most 100,000 images; beyond 512 features from 100,000"
        " (512 / D)^2, but at least 10 D, which a note then says.",
        bad="low",
        source="Pasarkar and Dieng 2024",
        reference="Pasarkar and Dieng (2024), Cousins of the Vendi Score: a family of similarity-based diversity metrics for"
        " science and machine learning, AISTATS, arXiv:2310.12952",
    ),
}


def _diversity_columns() -> dict[str, Measure]:
    """Two columns per diversity measure; only the held-out one has a bad end."""
    return {
        f"diversity_{name}_{split}": Measure(
            title=f"{one.title}, {words}",
            meaning=f"{one.meaning}; on {words} images, at matched n (20 images of every class). The interval is the"
            " spread over 50 draws, given for classes with at least 40 images.",
            unit="number",
            formula=f"{one.formula}; over n = 20 {words} images of the class, mean of 50 draws",
            high=one.high,
            low=one.low,
            pitfalls=f"{one.pitfalls} Undefined for a class with fewer than 20 {words} images.",
            bad=one.bad if split == "heldout" else "",
            interval=True,
            source=one.source,
            reference=one.reference,
        )
        for name, one in _DIVERSITIES.items()
        for split, words in (("train", "training"), ("heldout", "held-out"))
    }


_DEFINED: dict[str, Measure] = {
    "count": Measure(
        title="training images",
        meaning="Number of images of the class that the model was trained on.",
        unit="images",
        formula="n_train",
        high="The model saw many images of the class.",
        low="The class is rare in training. The fewer images, the wider most intervals.",
        pitfalls="A large class can still be narrow: near copies count in full.",
    ),
    "count_heldout": Measure(
        title="held-out images",
        meaning="Number of images of the class that the model was not trained on and that this diagnosis uses.",
        unit="images",
        formula="n_heldout",
        high="The held-out measures of the class are precise.",
        low="The held-out measures of the class have wide intervals, and few findings can be supported.",
        pitfalls="It limits the precision of every held-out measure, not the quality of the model.",
    ),
    "effective_count": Measure(
        title="training images after near copies",
        meaning="Number of training images of the class that differ: near copies of each other, directly or through others,"
        " count as one.",
        unit="images",
        formula="number of connected components of the pairs of training images of the class with distance below the limit."
        " Distance: |P (z_i - z_j)| / median over the class, P = at most 32 directions of largest variance within classes,"
        " divided by their standard deviations. Limit: the smallest of 1/3, 0.9 of the smallest distance between images of"
        " different classes, and the distance below which 0.05 pairs are expected if squared distances are chi-squared;"
        " learned again with each group of copies as one image."
        " Of a class with more images than are measured: n_train times the mean of 1 / (1 + near copies of an image)."
        " Where the images are compared, too, also pairs whose perceptual hashes differ in at most 16 to 32 of 256 bits",
        high="Near n_train: the images differ.",
        low="Far below n_train: the class consists of bursts, frames of a film, or copies of few images, and teaches the model as"
        " little as a class of this size.",
        pitfalls="Strongly changed copies are not found, so it is an upper bound. In simulations, a class of independent images"
        " has a false pair in about 1 case of 100; a class of a few kinds that are each very alike can look like bursts.",
        source="",
        reference=_OURS,
    ),
    "near_copies_heldout": Measure(
        title="near copies among held-out images",
        meaning="Share of the held-out images of the class that are near copies of its training images; Wilson interval.",
        unit="share",
        formula="share of held-out images whose distance to a training image of the class is below the limit of `effective_count`,"
        " which is lower here: 0.01 pairs are expected; where the images are compared, too, also by their hashes",
        high="The held-out images are not new: the cut put near copies on both sides, and held-out recall is too high.",
        low="The held-out images are new.",
        pitfalls="Copies under another label are not found.",
        bad="high",
        interval=True,
        reference=_WILSON_FULL,
    ),
    "recall_heldout_clean": Measure(
        title="recall, held-out without near copies",
        meaning="Held-out recall over the images that are no near copies of training images; the recall of all where there are"
        " none, undefined where there are no others.",
        unit="share",
        formula="recall over the held-out images that are no near copies of a training image of their class",
        high="New images of the class are recognised.",
        low="Far below the held-out recall: the held-out recall is due to copies that the model has memorised.",
        pitfalls="Fewer images, so a wider interval. Copies that are hard for other reasons are left out too.",
        bad="low",
        interval=True,
        reference=_WILSON_FULL,
    ),
    "coverage_heldout": Measure(
        title="coverage of held-out images",
        meaning="How often a held-out image of the class is nearer to its training images than a training image is to the others."
        " 50% if both were drawn from the same images.",
        unit="share",
        formula="share of pairs (i, j) with min_t |x_i - x_t| < min_(t != j) |x_j - x_t|, ties half; i = held-out, j and t ="
        " training images of the class, x = P z, P = at most 32 directions of largest variance within classes, divided by their"
        " standard deviations. With groups, t is of another group than j",
        high="Near 50%: the training images show what the held-out images show. Far above: the held-out images repeat training"
        " images.",
        low="The held-out images show what the training images do not: the class is narrow, or the network has drawn its"
        " training features together (then coverage is low in all classes).",
        pitfalls="It needs held-out images from where the model will be used. If they were split at random from the same narrow"
        " collection, it is 50%, and nothing shows that images are missing. A few held-out images give a wide interval.",
        bad="low",
        interval=True,
        source="",
        reference="Mann and Whitney (1947), On a test of whether one of two random variables is stochastically larger than the"
        " other, Annals of Mathematical Statistics 18. Interval: Newcombe (2006), Confidence intervals for an effect size measure"
        " based on the Mann-Whitney statistic, part 2, Statistics in Medicine 25, method 5",
    ),
    "groups_train": Measure(
        title="groups, training",
        meaning="Number of groups (patients, cameras, bursts) with training images of the class; undefined without groups.",
        unit="images",
        formula="number of different groups among the training images of the class",
        high="The images of the class come from many sources.",
        low="The images of the class come from few sources and depend on each other.",
        pitfalls="The groups are those that were given: the library does not check that they are independent.",
    ),
    "groups_heldout": Measure(
        title="groups, held-out",
        meaning="Number of groups with held-out images of the class; undefined without groups. The intervals of recall, precision and"
        " magnitudes then count groups, not images.",
        unit="images",
        formula="number of different groups among the held-out images of the class",
        high="The held-out measures of the class are precise.",
        low="The held-out measures of the class have wide intervals, however many images there are.",
        pitfalls="With fewer than 5 groups the magnitudes have no interval. Groups that span several classes make these depend on each"
        " other, which intervals of means over classes ignore.",
        reference="Intervals: Korn and Graubard (1998), Confidence intervals for proportions with small expected number of positive"
        " counts estimated from survey data, Survey Methodology 24; cluster bootstrap for the magnitudes.",
    ),
    "groups_shared": Measure(
        title="held-out images of training groups",
        meaning="Share of the held-out images of the class whose group also has training images; undefined without groups.",
        unit="share",
        formula="share of the held-out images of the class whose group is among the groups of the training images",
        high="The model has seen these patients, cameras or scenes: recall on new ones may be lower.",
        low="The held-out images come from groups that the model has never seen.",
        pitfalls="A leak only if the model will meet new groups in use.",
        bad="high",
    ),
    "recall_train": Measure(
        title="recall, training",
        meaning="Share of the class's training images that the model predicts as this class; Wilson interval.",
        unit="share",
        formula="recall = TP / (TP + FN), over the training images of the class, without augmentation",
        high="The class is learned (or overfitted: compare it with held-out recall).",
        low="The class is underfitted: the model does not even recognise images that it was trained on.",
        pitfalls="A value near 100% is normal for a network trained to the end, and says nothing about new images.",
        interval=True,
        reference=_WILSON_FULL,
    ),
    "recall_heldout": Measure(
        title="recall, held-out",
        meaning="Share of the class's held-out images that the model predicts as this class; Wilson interval.",
        unit="share",
        formula="recall = TP / (TP + FN), over the held-out images of the class",
        high="New images of the class are recognised.",
        low="New images of the class are missed. The class is fragile if the upper end of its interval lies below the mean"
        " over the classes.",
        pitfalls="With few held-out images the interval is wide: read the interval, not the value. A class that is predicted"
        " too often has a high recall and a low precision.",
        bad="low",
        interval=True,
        reference=_WILSON_FULL,
    ),
    "precision_heldout": Measure(
        title="precision, held-out",
        meaning="Share of the held-out images predicted as this class that belong to it; Wilson interval.",
        unit="share",
        formula="precision = TP / (TP + FP), over the held-out images predicted as the class",
        high="A prediction of this class can be trusted.",
        low="Images of other classes are often predicted as this class.",
        pitfalls="It depends on the class frequencies of the held-out images. Undefined for a class that is never"
        " predicted.",
        interval=True,
        reference=_WILSON_FULL,
    ),
    "recall_log_count": Measure(
        title="recall that log n predicts",
        meaning="Held-out recall expected from the number of training images alone: a line fitted to recall against log n"
        " over the classes of this diagnosis, clipped to [0, 1].",
        unit="share",
        formula="clip(a + b log n_train, 0, 1), a and b by least squares over the classes",
        high="A class of this size is expected to be recognised well.",
        low="A class of this size is expected to be recognised poorly.",
        pitfalls="Undefined with fewer than 5 classes or when all classes are equally large. The line describes the classes"
        " of this diagnosis and no others.",
        reference=f"{_OURS} Ordinary least squares.",
    ),
    "size_and_diversity_predict": Measure(
        title="recall that log n and coverage predict",
        meaning="Held-out recall expected from the number of training images and from how well they cover the held-out images:"
        " a plane fitted to recall over the classes of this diagnosis, clipped to [0, 1].",
        unit="share",
        formula="clip(a + b log n_train + c coverage_heldout, 0, 1), a, b and c by least squares over the classes",
        high="A class of this size and coverage is expected to be recognised well.",
        low="Far below `recall_log_count`: the class is recognised poorly because its training images do not cover what it looks"
        " like, not because they are few.",
        pitfalls="Undefined with fewer than 6 classes that have a coverage. Over few classes a plane fits well by chance.",
        reference=f"{_OURS} Ordinary least squares.",
    ),
    "recall_ceiling": Measure(
        title="recall of a refitted head",
        meaning="Recall that a new linear head reaches on the same features, fitted on class-balanced held-out images by"
        " 5-fold cross-fitting (no image is predicted by a head that was fitted on it); undefined below 5 images.",
        unit="share",
        formula="recall over the held-out images of the class, each predicted by a class-balanced logistic regression fitted"
        " on the other 4 folds",
        high="The features separate the class linearly.",
        low="No linear head fitted on these images recognises the class: the features are at fault.",
        pitfalls="With few held-out images per class the refitted head is itself poorly fitted, so the value is not an upper"
        " bound.",
        source="Kang et al. 2020, after their classifier re-training",
        reference="Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis (2020), Decoupling representation and classifier for"
        " long-tailed recognition, ICLR, arXiv:1910.09217 (classifier re-training)",
    ),
    "ceiling_gain": Measure(
        title="recall a better head could gain",
        meaning="Recall of the refitted head minus recall of the model's own head, on the same held-out images.",
        unit="share",
        formula="recall_ceiling - recall of the model's head, over the same held-out images",
        high="The features separate the class better than the head does: repair the head.",
        low="Near or below 0: a new head would not help; the features have to change.",
        pitfalls="The gain of a rare class usually costs recall of a frequent one: look at the mean over the classes too."
        " Undefined below 5 held-out images.",
        bad="high",
        interval=True,
        source="Kang et al. 2020, after their classifier re-training",
        reference="Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis (2020), Decoupling representation and classifier for"
        " long-tailed recognition, ICLR, arXiv:1910.09217 (classifier re-training). Interval: Newcombe (1998), Improved"
        " confidence intervals for the difference between binomial proportions based on paired data, Statistics in"
        " Medicine 17, method 10",
    ),
    "top_k_share": Measure(
        title="top-K share",
        meaning="Share of the class's positive evidence that its K strongest features hold: their part of the positive mean"
        " classification embedding, on training images.",
        unit="share",
        formula="sum of mean(CE_d) over the top-K / sum of max(mean(CE_d), 0) over all features; means over training images",
        high="The class depends on a few features.",
        low="The evidence for the class is distributed over many features.",
        pitfalls="It depends on K and D: it is at least K / D, and 1 at K = D. The sum of the positive means is the"
        " denominator, not the logit, because negative parts cancel.",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "needed_tp": Measure(
        title="features needed, hits",
        meaning="Number of the strongest features that are needed to beat the logit of the runner-up class; mean over the"
        " held-out images that are predicted correctly (hits).",
        unit="number",
        formula="mean of the smallest k with: sum of the k largest positive CE + bias + all negative CE >= logit of the"
        " runner-up; CE of the predicted class",
        high="The decisions are close, or rest on many features.",
        low="A few features decide.",
        pitfalls="It is 0 where the bias alone decides. Undefined for a class without a correctly predicted image; images"
        " that are recognised are the easy ones.",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "needed_error": Measure(
        title="features needed, errors",
        meaning="Number of the strongest features of the wrongly predicted class that are needed to beat the runner-up's logit;"
        " mean over the held-out images of this class that are predicted as another.",
        unit="number",
        formula="as needed_tp, over the class's misclassified held-out images, with CE of the class predicted instead",
        high="The errors are close decisions.",
        low="A few features of the other class decide: the errors are confident.",
        pitfalls="The features belong to the predicted class, not to this one. Undefined for a class without errors.",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "ce_magnitude_ratio": Measure(
        title="top-K magnitude, held-out / train",
        meaning="How strong the class's top-K features are on held-out images, relative to training images: the ratio of the"
        " mean classification embedding over the top-K. 1 where both match; a little below 1 is expected in small"
        " classes, because the top-K were chosen on few images.",
        unit="ratio",
        formula="mean over held-out images of mean CE over the top-K / the same over training images",
        high="Near 1: the features that the class relies on respond to new images as they do to training images.",
        low="The features that the class relies on respond less to new images: the class is overfitted.",
        pitfalls="The top-K are selected on training images, so the ratio is biased below 1, most in small classes."
        " Undefined where the training magnitude is not positive.",
        bad="low",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "ce_magnitude_ratio_tp": Measure(
        title="top-K magnitude ratio, hits",
        meaning="The top-K magnitude ratio of the held-out images that are predicted correctly (hits), relative to all training"
        " images of the class.",
        unit="ratio",
        formula="as ce_magnitude_ratio, with the class's correctly predicted held-out images in the numerator",
        high="Recognised images excite the class's top-K features as strongly as training images do.",
        low="Even recognised images excite the class's top-K features less than training images do.",
        pitfalls="It is selected: images are recognised because they excite these features. Compare it with the ratio of the"
        " misses, not with 1.",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "ce_magnitude_ratio_fn": Measure(
        title="top-K magnitude ratio, misses",
        meaning="The top-K magnitude ratio of the held-out images of the class that are predicted as another (misses),"
        " relative to all training images of the class.",
        unit="ratio",
        formula="as ce_magnitude_ratio, with the class's misclassified held-out images in the numerator",
        high="Missed images excite the class's features, but another class wins: the head or the overlap is at fault.",
        low="Missed images hardly excite the class's features: the features do not carry over to them.",
        pitfalls="It is selected: images are missed because they do not excite these features. Undefined for a class without"
        " errors.",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "ce_magnitude_gap": Measure(
        title="top-K magnitude gap",
        meaning="Mean classification embedding over the class's top-K on training images minus the same on held-out images.",
        unit="logits",
        formula="mean over training images of mean CE over the top-K - the same over held-out images",
        high="The features that the class relies on are weaker on new images: the class is overfitted.",
        low="Near 0: training and new images excite the features alike.",
        pitfalls="In logits, so it grows with the scale of the logits: weak classes have small logits and so small gaps. Use"
        " the ratio to compare classes or networks. Noisy for classes with few images.",
        bad="high",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "fe_magnitude_ratio": Measure(
        title="top-K feature magnitude ratio",
        meaning="Mean of the class's K strongest features on held-out images relative to training images, without the weights"
        " of the head.",
        unit="ratio",
        formula="mean over held-out images of the mean of the K features with the largest class mean on training images / the"
        " same over training images",
        high="Near 1: the features respond to new images as they do to training images.",
        low="The features respond less to new images.",
        pitfalls="Its K features are ranked by activation and need not be those the head uses for the class. Biased below 1"
        " like the ratio with the head's weights.",
        bad="low",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "identity_overlap": Measure(
        title="top-K identity overlap",
        meaning="Share of the class's top-K features that are also the top-K of its held-out images; K / D is expected by"
        " chance.",
        unit="share",
        formula="number of features in both the top-K on training images and the top-K on held-out images / K",
        high="New images excite the same features as training images.",
        low="New images excite other features than those the class was learned by.",
        pitfalls="Features of nearly equal strength change places by chance, more so with few images. Compare it with K / D"
        " and with classes of the same size. No interval below 20 images on either side.",
        bad="low",
        interval=True,
        source=_DABLAIN,
        reference=_DABLAIN_FULL,
    ),
    "feature_deviation": Measure(
        title="feature deviation",
        meaning="Distance between the mean features of 20 training images and of 20 held-out images of the class.",
        unit="features",
        formula="|mean of z over n training images - mean of z over n held-out images|, n = 20, mean of 50 draws",
        high="New images of the class lie elsewhere in the feature space than its training images.",
        low="New and training images have nearly the same mean.",
        pitfalls="It is never 0: without any shift it is about sqrt((spread_train + spread_heldout) / n). In feature units, so"
        " it cannot be compared between networks. Undefined below 20 images on either side.",
        bad="high",
        interval=True,
        source="Ye et al. 2020 (CDT)",
        reference="Ye, Chen, Zhan and Chao (2020), Identifying and compensating for feature deviation in imbalanced deep"
        " learning, arXiv:2001.01385",
    ),
    "range_gap": Measure(
        title="range gap",
        meaning="How far the features of 20 held-out images reach beyond the range of those of 20 training images, summed over"
        " the features.",
        unit="features",
        formula="sum over d of max(0, max held-out z_d - max training z_d) + max(0, min training z_d - min held-out z_d), n = 20"
        " on either side, mean of 50 draws",
        high="New images have feature values that the class never had in training.",
        low="New images stay within the range of the training images.",
        pitfalls="Ranges grow with n, so only values at equal n can be compared. It is above 0 even without a shift, and is"
        " sensitive to single images. Undefined below 20 images on either side.",
        bad="high",
        interval=True,
        source="Dablain et al. 2022 (EOS)",
        reference="Dablain, Bellinger, Krawczyk and Chawla (2022), Efficient augmentation for imbalanced deep learning,"
        " arXiv:2207.06080",
    ),
    "safe": Measure(
        title="safe",
        meaning="Share of the class's training images of whose 5 nearest neighbours in the feature space 4 or 5 belong to the"
        " class. It falls with class size by itself.",
        unit="share",
        formula="share of the training images with 4 or 5 of 5 nearest training neighbours (Euclidean) of the same class",
        high="The training images of the class lie among themselves.",
        low="The training images of the class lie among those of other classes.",
        pitfalls="A small class has few possible neighbours of its own: compare it with classes of the same size. Below 6"
        " images an image cannot have 5 neighbours of its class, and below 5 images the share is always 0.",
        bad="low",
        interval=True,
        source=_NAPIERALA,
        reference=f"{_NAPIERALA_FULL}. {_WILSON_FULL}, with the counts divided by 2.25 because neighbouring images are not"
        " independent",
    ),
    "border": Measure(
        title="border",
        meaning="Share of the class's training images with 2 or 3 of 5 nearest neighbours of the class.",
        unit="share",
        formula="share of the training images with 2 or 3 of 5 nearest training neighbours (Euclidean) of the same class",
        high="Many training images lie at the boundary to other classes.",
        low="Few training images lie at the boundary: read safe, rare and outlier for where they lie instead.",
        pitfalls="safe, border, rare and outlier add up to 100%, and all four depend on class size.",
        source=_NAPIERALA,
        reference=_NAPIERALA_FULL,
    ),
    "rare": Measure(
        title="rare",
        meaning="Share of the class's training images with 1 of 5 nearest neighbours of the class.",
        unit="share",
        formula="share of the training images with 1 of 5 nearest training neighbours (Euclidean) of the same class",
        high="Many training images lie in small groups among other classes.",
        low="Few training images lie in small groups among other classes.",
        pitfalls="safe, border, rare and outlier add up to 100%, and all four depend on class size.",
        source=_NAPIERALA,
        reference=_NAPIERALA_FULL,
    ),
    "outlier": Measure(
        title="outlier",
        meaning="Share of the class's training images with none of 5 nearest neighbours of the class.",
        unit="share",
        formula="share of the training images with 0 of 5 nearest training neighbours (Euclidean) of the same class",
        high="Many training images lie alone among other classes: unusual images, or wrong labels.",
        low="Few training images lie alone.",
        pitfalls="safe, border, rare and outlier add up to 100%, and all four depend on class size. A class with one"
        " image has 100%.",
        source=_NAPIERALA,
        reference=_NAPIERALA_FULL,
    ),
    "head_norm": Measure(
        title="head norm",
        meaning="Euclidean norm of the class's row of the head.",
        unit="number",
        formula="|w_c|",
        high="The head tends to give the class large logits.",
        low="The head tends to give the class small logits, so that it is rarely predicted; typical of rare classes.",
        pitfalls="It has no absolute scale: compare classes of one head. A head that normalises its rows is not affected.",
        bad="low",
        reference="Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis (2020), Decoupling representation and classifier for"
        " long-tailed recognition, ICLR, arXiv:1910.09217 (tau-normalisation)",
    ),
    "nc1": Measure(
        title="collapse (NC1), training",
        meaning="Scatter of the class's training features around their mean, relative to the scatter of the class means; 0 where"
        " the class has collapsed to a point.",
        unit="ratio",
        formula="[sum_i |z_i - mu_c|^2 / (n_c - 1)] / [(1/C) sum_k |mu_k - mean of the class means|^2], training images",
        high="The features of the class vary much compared with the distance between the classes.",
        low="The features of the class have collapsed to its mean, as at the end of training.",
        pitfalls="Low is normal for training images. Read it beside the held-out value. Undefined below 2 images.",
        source=_PAPYAN,
        reference=f"{_PAPYAN_FULL} (their NC1, here per class)",
    ),
    "nc1_heldout": Measure(
        title="collapse (NC1), held-out",
        meaning="Scatter of the class's held-out features around their mean, relative to the scatter of the class means. Far above"
        " the training value, the class is overfitted.",
        unit="ratio",
        formula="as nc1, over held-out images",
        high="New images of the class scatter widely: if the training value is near 0, the class is overfitted.",
        low="New images collapse to the class mean as training images do.",
        pitfalls="Class means are those of the held-out images, so a shift of the whole class does not show: see feature"
        " deviation. Undefined below 2 images.",
        bad="high",
        source=_PAPYAN,
        reference=f"{_PAPYAN_FULL} (their NC1, here per class)",
    ),
    "margin": Measure(
        title="margin",
        meaning="Logit of the true class minus the largest other logit, as the head gives them; mean over the class's held-out"
        " images. Negative where the prediction is wrong.",
        unit="logits",
        formula="mean over held-out images of logit_c - max over k != c of logit_k",
        high="New images of the class are recognised clearly.",
        low="New images of the class are recognised narrowly (near 0) or missed (below 0).",
        pitfalls="In logits, so it grows with their scale: a longer trained network has larger margins without being better. A"
        " mean hides a mixture of clear hits and clear errors.",
        bad="low",
        interval=True,
        reference="Cao, Wei, Gaidon, Arechiga and Ma (2019), Learning imbalanced datasets with label-distribution-aware margin"
        " loss, NeurIPS, arXiv:1906.07413 (the margin of an example)",
    ),
    "ece": Measure(
        title="calibration error",
        meaning="Expected calibration error: how far the model's confidence is from its accuracy, over the held-out images"
        " predicted as this class, in 15 bins of the confidence; from the logits as the head gives them.",
        unit="share",
        formula="sum over bins b of (n_b / n) |accuracy_b - mean confidence_b|, 15 bins of equal width, held-out images predicted"
        " as the class",
        high="The confidence in predictions of this class cannot be trusted; usually it is too high.",
        low="The confidence in predictions of this class matches its accuracy.",
        pitfalls="It is per PREDICTED class. With few predictions it is biased upward. It does not say in which direction the"
        " confidence is wrong.",
        bad="high",
        source="Guo et al. 2017",
        reference="Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML, equation 3,"
        " arXiv:1706.04599",
    ),
    "suspect_labels": Measure(
        title="suspect labels, held-out",
        meaning="Held-out images of the class that a head fitted on other held-out images puts into another class with confidence:"
        " wrong labels, or hard images.",
        unit="images",
        formula="number of images i of class c for which k exists, k != c, with p_i(k) >= t_k, p_i(k) > p_i(c) and the largest such"
        " p_i(k); t_k = mean of p_j(k) over the images j of class k; p cross-fitted on held-out features in 5 folds",
        high="Many labels look wrong. Compare with the expected number: only the excess speaks for wrong labels.",
        low="The images look like their label.",
        pitfalls="Hard images are suspect, too. Where two classes are mixed up often, wrong labels look like overlap and are expected."
        " Counts the measured images, at most 10,000. Undefined below 5 images.",
        source=_NORTHCUTT,
        reference=_NORTHCUTT_FULL,
    ),
    "suspect_labels_expected": Measure(
        title="suspect labels expected, held-out",
        meaning="How many held-out images of the class would be suspect if every label were right, because they are hard.",
        unit="images",
        formula="n_c sum_i q_i(c) s_i(c) / sum_i q_i(c); q = p calibrated by vector scaling, with a share of random labels fitted beside"
        " it; s_i(c) = 1 if image i would be suspect with label c",
        high="The class overlaps with others: suspects are mostly hard images.",
        low="The class is clear: suspects are mostly wrong labels.",
        pitfalls="An estimate, too uncertain to judge a class with fewer than 20 images. The test for a finding adds 10% and 1 image in"
        " 100.",
        reference=f"{_OURS} Calibration: Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML,"
        " arXiv:1706.04599",
    ),
    "suspect_labels_train": Measure(
        title="suspect labels, training",
        meaning="Training images of the class that a head fitted on other training images puts into another class with confidence.",
        unit="images",
        formula="as suspect_labels, over training images",
        high="Many labels look wrong. Compare with the expected number: only the excess speaks for wrong labels.",
        low="The images look like their label; or the model has memorised them with their wrong label.",
        pitfalls="A model that has memorised a wrong label gives the image features of the wrong class. So few suspects do not prove"
        " that labels are right: features of a model that was not trained on the images show more.",
        source=_NORTHCUTT,
        reference=_NORTHCUTT_FULL,
    ),
    "suspect_labels_train_expected": Measure(
        title="suspect labels expected, training",
        meaning="How many training images of the class would be suspect if every label were right, because they are hard.",
        unit="images",
        formula="as suspect_labels_expected, over training images",
        high="The class overlaps with others: suspects are mostly hard images.",
        low="The class is clear: suspects are mostly wrong labels.",
        pitfalls="An estimate, too uncertain to judge a class with fewer than 20 images.",
        reference=_OURS,
    ),
    "cluster_recall": Measure(
        title="recall of the failing cluster",
        meaning="Recall of a cluster of the class's held-out images whose recall is surely below that of the rest of the class; the"
        " lowest if there are several. Undefined if there is none.",
        unit="share",
        formula="hits / images of the cluster; k-means on the held-out features of the class, 2 to 4 clusters of at least 10 images,"
        " their number by the largest silhouette; Fisher's exact test against the rest of the class, Holm over all clusters, 5%",
        high="The cluster is weaker than the rest of the class, but most of its images are recognised.",
        low="The model fails on a kind of image, not on the class: look at the pictures of the cluster.",
        pitfalls="The part of a class that lies nearest to another class is often weaker; pictures tell whether it is a kind of image."
        " At most 500 images of a class, and the 100 classes with the most errors, are divided. Below 5 errors or 20 images a"
        " class has no value.",
        bad="low",
        interval=True,
        reference="Clusters: Rousseeuw (1987), Silhouettes: a graphical aid to the interpretation and validation of cluster analysis,"
        " Journal of Computational and Applied Mathematics 20. Test: Fisher (1922) and Holm (1979). " + _WILSON_FULL,
    ),
    **_diversity_columns(),
}

# Whether a measure adds information beyond class size: the output of `python -m benchmarks.validity --evidence`, which a test
# compares with this table.
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

# The diagnostics whose rank correlation with held-out recall, given class size, a diagnosis reports (`beyond_log_count`).
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
