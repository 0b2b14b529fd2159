"""
Augment in feature space
========================

Small classes have few images, but their features can be augmented too: with noise that has the covariance of larger
classes, or toward the classes that they are confused with. In PyTorch this is one line between backbone and head.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.decomposition import PCA

import diversify as dv

train, heldout, head = dv.make_embeddings((300, 100, 40, 12), num_features=32, spread=0.6)
plan = dv.Plan.from_counts(["ant", "bee", "cat", "dog"], torch.bincount(train.labels))
for policy in plan.classes[3].features:
    print(f"dog: {policy.share:.0%} of the draws by {policy.method}, strength {policy.strength:.2f}")

# %%
# `FeatureAugmenter` takes the training features as its bank: from it come neighbours and covariances. By default made plans
# use feature augmentation only when a head is retrained on a frozen backbone, where it helped most; `Schedule(features=0)`
# lets it act in training too.

from diversify.plan import Schedule

plan = plan.model_copy(update={"schedule": Schedule(features=0.0)})
augment = dv.FeatureAugmenter(plan, train, seed=0)
rare = train.features[train.labels == 3]
targets = torch.full((len(rare),), 3)
made = []
for epoch in range(8):
    augment.set_epoch(epoch, 8)
    made.append(augment(rare, targets)[0])
made = torch.cat(made)

# %%
# Eight epochs of the rarest class, seen in the plane of the first two principal components:

plane = PCA(2).fit(train.features.numpy())
figure, axes = plt.subplots(figsize=(7.2, 4.4))
for index, color in enumerate(("#8a939d", "#56b4e9", "#009e73")):
    points = plane.transform(train.features[train.labels == index].numpy())
    axes.scatter(*points.T, s=8, color=color, label=plan.classes[index].name)
axes.scatter(*plane.transform(made.numpy()).T, s=10, color="#e69f00", label="dog, augmented")
axes.scatter(*plane.transform(rare.numpy()).T, s=24, color="#d55e00", label="dog")
axes.legend(ncols=2)
axes.set(xticks=[], yticks=[])
plt.show()
