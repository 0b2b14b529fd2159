"""
Diagnose several labels per image
=================================

An image may show any number of things, and the network has one sigmoid output for each. Every label is then a yes-or-no
question of its own, and a rare label is usually predicted too seldom: its threshold is wrong long before its ranking is.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import diversify as dv

# %%
# Two digits stand beside each other, and the labels of the image are both of them. Large digits are rare.

pixels, digits = load_digits(return_X_y=True)
pixels = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
digits = torch.from_numpy(digits)
chance = np.random.default_rng(0)
shares = 0.7 ** np.arange(10)


def canvases(rows, count):
    """Return images of two digits `(N, 1, 8, 16)` and their labels `(N, 10)`, drawn from some rows."""
    weights = shares[digits[rows]] / np.bincount(digits[rows], minlength=10)[digits[rows]]
    pairs = chance.choice(rows, size=(count, 2), p=weights / weights.sum())
    labels = torch.zeros(count, 10)
    for side in range(2):
        labels[torch.arange(count), digits[pairs[:, side]]] = 1
    return torch.cat([pixels[pairs[:, 0]], pixels[pairs[:, 1]]], dim=-1), labels


rows = chance.permutation(len(digits))
train, heldout = canvases(rows[:1000], 900), canvases(rows[1000:], 600)

# %%
# A small network is trained with binary cross entropy.

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(32 * 8 * 16, 64),
    torch.nn.ReLU(),
    torch.nn.Linear(64, 10),
)
optimizer, loss = torch.optim.Adam(model.parameters(), lr=1e-3), dv.MultilabelCrossEntropy()
for _ in range(4):
    for batch in torch.randperm(len(train[0])).split(64):
        optimizer.zero_grad()
        loss(model(train[0][batch]), train[1][batch]).backward()
        optimizer.step()

# %%
# The diagnosis takes two loaders. `dv.render_html(diagnosis)` makes a page of it.

loaders = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*side), 100) for side in (train, heldout)]
names = [str(digit) for digit in range(10)]
diagnosis = dv.diagnose_multilabel_model(model, *loaders, label_names=names)
for finding in diagnosis.findings[:2]:
    print(finding.text, "\n")

# %%
# The features are kept, and heads and thresholds are compared on held-out images. No threshold is judged on images that it
# was fitted on.

split = dv.split_head(model)
embeddings = [dv.extract_multilabel(split, loader) for loader in loaders]
choice = dv.choose_multilabel_head(*embeddings, split.head)
print(choice.in_words())

# %%
# What the repair gains for each label.

before, after = choice.f1_before.numpy(), choice.f1[choice.recommended].numpy()
place = np.arange(10)
figure, axes = plt.subplots()
axes.bar(place - 0.2, before, 0.4, color="#8a939d", label="today's head, thresholds at 0.5")
axes.bar(place + 0.2, after, 0.4, color="#0072b2", label="chosen head and thresholds")
axes.set(xticks=place, xlabel="digit (from frequent to rare)", ylabel="held-out F1", ylim=(0, 1.05))
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=2)
plt.show()
