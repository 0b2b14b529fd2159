"""Losses for several labels per image as modules, made from counts; the formulas are in `functional/multilabel_losses.py`.

They take logits `(N, C)` and targets `(N, C)` of 0 and 1 in any training loop of yours. The tensors that a module computes
move with it to another device, and are not part of its `state_dict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import multilabel_losses

Numbers = Tensor | Sequence[float]


class MultilabelCrossEntropy(nn.Module):
    """Binary cross entropy over several labels; given counts, the positives of rare labels weigh more.

    Args:
        positives: Training images with each label, `(C,)`; None weighs positives and negatives equally.
        images: Number of training images; needed with `positives`.
        most: Largest weight of a positive.

    Raises:
        InputError: Counts are negative or exceed the images, or `images` is missing.

    Example:
        >>> loss = MultilabelCrossEntropy([50, 10], images=100)
        >>> loss.pos_weight.tolist()
        [1.0, 9.0]
        >>> round(float(MultilabelCrossEntropy()(torch.zeros(2, 3), torch.ones(2, 3))), 4)
        0.6931
    """

    pos_weight: Tensor | None

    def __init__(self, positives: Numbers | None = None, *, images: int | None = None, most: float = 100.0) -> None:
        super().__init__()
        weight = None
        if positives is not None:
            weight = multilabel_losses.positive_weights(*_counted(positives, images), most).float()
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; see `functional.multilabel_losses.binary_cross_entropy`."""
        return multilabel_losses.binary_cross_entropy(logits, targets, self.pos_weight)


class MultilabelFocal(MultilabelCrossEntropy):
    """Focal loss over several labels.

    Args:
        gamma: At least 0; 0 is binary cross entropy.
        positives: As in `MultilabelCrossEntropy`.
        images: Number of training images; needed with `positives`.
        most: Largest weight of a positive.

    Raises:
        InputError: Gamma is negative or infinite, or as in `MultilabelCrossEntropy`.

    References:
        Lin et al. 2017, "Focal Loss for Dense Object Detection".

    Example:
        >>> round(float(MultilabelFocal(gamma=2.0)(torch.tensor([[2.0]]), torch.tensor([[1.0]]))), 3)
        0.002
    """

    def __init__(
        self,
        positives: Numbers | None = None,
        *,
        gamma: float = 2.0,
        images: int | None = None,
        most: float = 100.0,
    ) -> None:
        super().__init__(positives, images=images, most=most)
        if not 0 <= gamma < float("inf"):
            raise must("gamma of the focal loss", "not be negative, and finite", gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; see `functional.multilabel_losses.binary_focal_loss`."""
        return multilabel_losses.binary_focal_loss(logits, targets, self.gamma, self.pos_weight)


class MultilabelAsymmetric(nn.Module):
    """Asymmetric loss over several labels, with the defaults of its authors.

    Args:
        gamma_positive: Focusing exponent of positives.
        gamma_negative: Focusing exponent of negatives.
        clip: Probability below which a negative costs nothing, in [0, 1).

    Raises:
        InputError: A number is out of its range.

    References:
        Ridnik et al. 2021, "Asymmetric Loss for Multi-Label Classification".

    Example:
        >>> loss = MultilabelAsymmetric(gamma_negative=0.0, clip=0.0)  # binary cross entropy
        >>> round(float(loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))), 4)
        0.6931
    """

    def __init__(self, *, gamma_positive: float = 0.0, gamma_negative: float = 4.0, clip: float = 0.05) -> None:
        super().__init__()
        self.gamma_positive, self.gamma_negative, self.clip = gamma_positive, gamma_negative, clip
        multilabel_losses.multilabel_asymmetric_loss(
            torch.zeros(1, 1), torch.zeros(1, 1), gamma_positive, gamma_negative, clip
        )  # refuses wrong numbers now, not in the first step

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; see `functional.multilabel_losses.multilabel_asymmetric_loss`."""
        return multilabel_losses.multilabel_asymmetric_loss(
            logits, targets, self.gamma_positive, self.gamma_negative, self.clip
        )


class DistributionBalanced(nn.Module):
    """Distribution-balanced loss: labels that come together share their weight, and negatives are tolerated.

    Args:
        positives: Training images with each label, `(C,)`.
        images: Number of training images.
        alpha: Smallest weight.
        beta: Steepness of the smoothing of weights.
        mu: Its centre.
        negative_scale: The paper's lambda; 1 treats negatives as positives.
        kappa: Strength of the bias for the label's prior.

    Raises:
        InputError: Counts are negative or exceed the images, or a number is out of its range.

    References:
        Wu et al. 2020, "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets".

    Example:
        >>> loss = DistributionBalanced([80, 5], images=100)
        >>> round(float(loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))), 3)
        0.481
    """

    positives: Tensor

    def __init__(
        self,
        positives: Numbers,
        *,
        images: int,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        negative_scale: float = 2.0,
        kappa: float = 0.05,
    ) -> None:
        super().__init__()
        counted, self.images = _counted(positives, images)
        self.register_buffer("positives", counted, persistent=False)
        self.numbers = {
            "alpha": alpha,
            "beta": beta,
            "mu": mu,
            "negative_scale": negative_scale,
            "kappa": kappa,
        }
        nothing = torch.zeros(1, len(counted))
        self.forward(nothing, nothing)  # refuses wrong numbers now, not in the first step

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss; see `functional.multilabel_losses.distribution_balanced_loss`."""
        return multilabel_losses.distribution_balanced_loss(
            logits, targets, self.positives, self.images, **self.numbers
        )


def _counted(positives: Numbers, images: int | None) -> tuple[Tensor, int]:
    """Counts `(C,)` float64, and the number of images; an InputError if they are impossible."""
    if images is None or images < 1:
        raise must("images", "be the number of training images where positives are given", images)
    counted = torch.as_tensor(positives).detach().cpu().double()
    if counted.ndim != 1 or not len(counted):
        raise must("positives", "be one number per label", f"shape {tuple(counted.shape)}")
    wrong = ~((counted >= 0) & (counted <= images))
    if bool(wrong.any()):
        raise must("positives", f"lie in [0, {images}], the number of images", f"{float(counted[wrong][0]):g}")
    return counted, images
