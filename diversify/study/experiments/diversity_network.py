"""The small network of the experiment that takes class size and class diversity apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...data.view import View


class SmallNetwork(nn.Module):
    """Three convolutions; the head `linear` gets non-negative features, and `early` are those of the first convolution."""

    def __init__(self, channels: int, widths: Sequence[int], num_classes: int, side: int) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        one, two, three = widths
        self.first = layer(channels, one, 1 if side < 16 else 2)
        self.rest = nn.Sequential(
            layer(one, two), nn.MaxPool2d(2), layer(two, three), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.linear = nn.Linear(three, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, C)`."""
        found: Tensor = self.linear(self.rest(self.first(images)))
        return found


@torch.inference_mode()
def features_of(model: SmallNetwork, images: Tensor, view: View) -> dict[str, Tensor]:
    """Return the features of the first layer, averaged over a grid of 4 x 4, and of the last layer, in evaluation mode."""
    model.eval()
    parts = []
    for part in images.split(512):
        first = model.first(view.normalize(part))
        grid = nn.functional.adaptive_avg_pool2d(first, 4).flatten(1)
        parts.append((grid, model.rest(first)))
    return {"early": torch.cat([grid for grid, _ in parts]), "latent": torch.cat([last for _, last in parts])}
