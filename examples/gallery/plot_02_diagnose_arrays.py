"""
Diagnose from arrays
====================

The library needs no images and no PyTorch model. Features, labels and a linear head are enough, so it can diagnose an
embedding from any framework, or a linear probe on frozen features.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import diversify as dv

# %%
# Here the "features" are the 64 pixels of a digit, and the head is a logistic regression. The even digits are made rare.

pixels, digits = load_digits(return_X_y=True)
pixels = (pixels / 16).astype(np.float32)
train_x, heldout_x, train_y, heldout_y = train_test_split(
    pixels, digits, test_size=0.4, stratify=digits, random_state=0
)
kept = np.concatenate([np.flatnonzero(train_y == digit)[: 100 if digit % 2 else 8] for digit in range(10)])
train_x, train_y = train_x[kept], train_y[kept]
probe = LogisticRegression(max_iter=2000).fit(train_x, train_y)

# %%
# `LinearHead` and `Embeddings` hold the numbers. Every row of the training side has to come from the images that the head
# was fitted on: features of other images would hide that it overfits.

head = dv.LinearHead(
    weight=torch.tensor(probe.coef_, dtype=torch.float32), bias=torch.tensor(probe.intercept_, dtype=torch.float32)
)


def embed(rows, labels):
    features = torch.from_numpy(rows)
    return dv.Embeddings(
        features=features,
        labels=torch.from_numpy(labels).long(),
        logits=head.logits(features),
        indices=torch.arange(len(rows)),
    )


train, heldout = embed(train_x, train_y), embed(heldout_x, heldout_y)
diagnosis = dv.diagnose(train, heldout, head=head, class_names=[str(digit) for digit in range(10)])
for finding in diagnosis.findings[:2]:
    print(finding.text, "\n")

# %%
# What would a better head gain on the same features? The grey bars show today's recall; the blue part on top is what a
# head refitted on balanced held-out features reaches, each image judged by a head that did not see it.

now, ceiling = diagnosis["recall_heldout"].numpy(), diagnosis["recall_ceiling"].numpy()
figure, axes = plt.subplots()
axes.bar(range(10), ceiling, color="#56b4e9", label="refitted head")
axes.bar(range(10), np.minimum(now, ceiling), color="#8a939d", label="today's head")
axes.set(xticks=range(10), xlabel="digit (even digits are rare)", ylabel="held-out recall", ylim=(0, 1.05))
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=2)
plt.show()
