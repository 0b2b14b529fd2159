"""The measures of a diagnosis of several labels per image: title, unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping

MULTILABEL_MEASURES: Mapping[str, tuple[str, str, str]] = {
    "count": ("training images", "images", "Training images with the label."),
    "count_heldout": ("held-out images", "images", "Held-out images with the label."),
    "prevalence": ("prevalence", "share", "Share of the training images with the label."),
    "prevalence_heldout": ("held-out prevalence", "share", "Share of the held-out images with the label."),
    "recall_train": ("training recall", "share", "Share of the training positives that are predicted as positive."),
    "recall_heldout": ("held-out recall", "share", "Share of the held-out positives that are predicted as positive."),
    "precision_heldout": (
        "precision",
        "share",
        "Share of the held-out images predicted as positive that are positive.",
    ),
    "f1_heldout": ("F1", "share", "Held-out F1 score at the threshold in use."),
    "average_precision_train": ("training average precision", "share", "Average precision on training images."),
    "average_precision": (
        "average precision",
        "share",
        "Area under the precision-recall curve of held-out images; by chance it is the held-out prevalence.",
    ),
    "ap_refitted": (
        "average precision of a refitted head",
        "share",
        "Average precision of a logistic regression on held-out features, fitted on the other folds.",
    ),
    "ap_gain": ("gain of a refitted head", "share", "Average precision of the refitted head minus that of this head."),
    "ce_magnitude_ratio": (
        "top-K magnitude ratio",
        "ratio",
        "Held-out over training mean of the label's top-K classification embeddings, over its positives.",
    ),
    "ce_magnitude_gap": ("top-K magnitude gap", "logits", "The same, training minus held-out."),
    "diversity_vendi_train": ("training diversity", "directions", "Vendi score of 20 training positives."),
    "diversity_vendi_heldout": ("held-out diversity", "directions", "Vendi score of 20 held-out positives."),
    "ece": ("calibration error", "share", "Expected calibration error of the label's held-out probability."),
    "calibration_bias": ("overconfidence", "share", "Mean held-out probability minus the held-out prevalence."),
    "threshold": ("threshold", "share", "Probability at and above which the label is predicted."),
    "threshold_best": ("best threshold", "share", "Probability threshold with the largest F1 on all held-out images."),
    "f1_best_threshold": ("F1 at best thresholds", "share", "F1 at thresholds fitted on the other folds."),
    "f1_gain": ("gain of the best threshold", "share", "That F1 minus the F1 at the threshold in use."),
    "recall_corrected": ("recall without the prior", "share", "Recall after the label's log odds are subtracted."),
    "precision_corrected": ("precision without the prior", "share", "Precision after the same correction."),
    "f1_corrected": ("F1 without the prior", "share", "F1 after the same correction."),
}
"""Title, unit and meaning of every column of a `MultilabelDiagnosis`, apart from the ends of intervals."""
