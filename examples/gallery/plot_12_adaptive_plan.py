"""
Adapt a plan while training
===========================

`AdaptivePlan` moves the strengths of a plan step by step. A class whose augmented training images are mostly classified
correctly gets stronger augmentation; a class whose are not gets weaker augmentation. Draws and mixing stay as planned.
"""

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader

import diversify as dv
from diversify.plan import Strengths

data = dv.load_data("digits", imbalance="exp:20", holdout=0.2)
plan = dv.Plan.from_counts(
    data.class_names, torch.bincount(data.train.labels), strengths=Strengths(image_least=0.3, image_most=0.5)
)
augment = dv.BatchAugmenter(plan, seed=0)
adaptive = dv.AdaptivePlan(plan, parts=(augment,), every=1, step=0.1, first=1)

# %%
# Two lines are new in the loop: `observe` after each forward pass, `update` after each epoch. Every part is told the new
# plan.

model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
order = torch.Generator().manual_seed(0)
loader = DataLoader(data.train.dataset, batch_size=32, shuffle=True, generator=order)
strengths = []
for epoch in range(6):
    augment.set_epoch(epoch, 6)
    for images, labels in loader:
        images, targets = augment(images, labels)
        logits = model(data.view.normalize(images))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        adaptive.observe(labels, logits.argmax(1))
    strengths.append(adaptive.update(epoch).image_column("strength"))

# %%
# Every change carries its reason:

for change in adaptive.history[:3]:
    print(
        f"epoch {change.epoch}, class {change.class_index}: {change.before:.2f} -> {change.after:.2f}. {change.reason.text}"
    )

# %%
# No two classes' policies may differ by more than the plan allows, so the strengths move together.

strengths = torch.stack(strengths)
figure, axes = plt.subplots()
for digit in (0, 3, 6, 9):
    axes.plot(range(1, 7), strengths[:, digit], marker="o", label=f"class {digit} ({plan.classes[digit].count} images)")
axes.set(xlabel="epoch", ylabel="strength of the image policy", ylim=(0, 1.05))
axes.legend()
plt.show()
