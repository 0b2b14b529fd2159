"""
See what a plan does to images
==============================

Look at augmented images before training with them. Strength 0 is the identity, 1 the full range of an operation.
"""

import matplotlib.pyplot as plt
import torch

import diversify as dv
from diversify.plan import Strengths

data = dv.load_data("digits", imbalance="exp:20", holdout=0.2)
counts = torch.bincount(data.train.labels)

# %%
# This plan is made from class sizes alone. Rare classes get stronger augmentation, but the difference between classes is
# bounded: if only rare classes looked distorted, the network would learn that distorted means rare.

plan = dv.Plan.from_counts(data.class_names, counts)
for one in plan.classes[::3]:
    print(
        f"{one.name}: {one.count} images, strength {one.image.strength:.2f} on {one.image.probability:.0%} of the draws"
    )

# %%
# `DiversifiedDataset` wraps a data set. What it does to an image depends on (seed, epoch, index), not on the number of
# loader workers.

dataset = dv.DiversifiedDataset(data.train.dataset, plan, seed=0)
shown = [int((data.train.labels == digit).nonzero()[0]) for digit in (0, 3, 6, 9)]
figure, axes = plt.subplots(4, 7, figsize=(7.2, 4.6))
for row, index in zip(axes, shown, strict=True):
    row[0].imshow(data.train.dataset[index][0][0], cmap="gray", vmin=0, vmax=255)
    row[0].set_title("original", fontsize=8)
    for epoch, cell in enumerate(row[1:]):
        dataset.set_epoch(epoch, 6)
        cell.imshow(dataset[index][0][0], cmap="gray", vmin=0, vmax=255)
        cell.set_title(f"epoch {epoch}", fontsize=8)
for cell in axes.flat:
    cell.axis("off")
plt.show()

# %%
# Milder augmentation is a number away. Every number behind a plan is a field of `Strengths`.

mild = dv.Plan.from_counts(data.class_names, counts, strengths=Strengths(image_least=0.2, image_most=0.3))
for line in plan.diff(mild)[:4]:
    print(line)
