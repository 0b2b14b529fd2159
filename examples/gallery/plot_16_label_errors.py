"""
Find wrong labels
=================

A wrong label looks like an error of the model, and a hard image looks like a wrong label. The library tells the two apart:
it says how many images of a class would be suspect if every label were right.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import diversify as dv

# %%
# Digits, with 6% of the labels wrong. The features are the pixels here; for a model, take `dv.extract`.

images, truth = load_digits(return_X_y=True)
images, truth = torch.tensor(images, dtype=torch.float32), torch.tensor(truth)
generator = torch.Generator().manual_seed(0)
wrong = torch.rand(len(truth), generator=generator) < 0.06
labels = torch.where(wrong, (truth + torch.randint(1, 10, truth.shape, generator=generator)) % 10, truth)

# %%
# `dv.find_label_errors` ranks the suspects: images that a head fitted on the other images puts into another class with
# confidence. `expected` is the number of hard images among them.

errors = dv.find_label_errors(images, labels)
found = wrong[errors.rows]
print(f"{len(errors)} suspects, about {float(errors.expected.sum()):.0f} of them merely hard")
print(f"{int(found.sum())} of {int(wrong.sum())} wrong labels are among them")
print(f"classes with probably wrong labels: {errors.wrong_classes}")

# %%
# The most suspect images, with their label and the suggested class. A red title marks a label that is wrong in truth.

figure, grid = plt.subplots(2, 8, figsize=(9, 3))
for place, axes in enumerate(grid.flat):
    row, given, suggested = int(errors.rows[place]), int(errors.given[place]), int(errors.suggested[place])
    axes.imshow(images[row].view(8, 8), cmap="gray_r")
    axes.set_title(f"{given} → {suggested}", color="#d55e00" if wrong[row] else "black", fontsize=10)
    axes.axis("off")
figure.tight_layout()
plt.show()

# %%
# The last of the suspects are hard images: look at the pictures before you change a label.

print(f"wrong among the first 50: {int(found[:50].sum())}, among the last 20: {int(found[-20:].sum())}")
