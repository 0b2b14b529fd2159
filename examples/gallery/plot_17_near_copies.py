"""
Near copies: 120 images, 10 of them different
=============================================

Bursts, frames of a film and copies make a class look large. The model learns little from them, and if some of them are held out,
the recall measured there is too high. The library finds them in the features.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import diversify as dv

# %%
# Digits from scikit-learn, eight pixels wide. The even digits get 10 images, each 12 times with a little noise and light, as a camera
# gives them in a burst; the odd digits get 120 images.

pixels, digits = load_digits(return_X_y=True)
pixels = (pixels / 16).astype(np.float32)
rng = np.random.Generator(np.random.PCG64(0))


def burst(rows, copies):
    """Each row `copies` times, a little changed."""
    many = np.repeat(rows, copies, 0)
    return (many * (1 + 0.03 * rng.standard_normal((len(many), 1))) + 0.01 * rng.standard_normal(many.shape)).clip(0, 1)


places = [np.flatnonzero(digits == digit) for digit in range(10)]
train_x = np.concatenate(
    [pixels[own[:120]] if digit % 2 else burst(pixels[own[:10]], 12) for digit, own in enumerate(places)]
)
train_y = np.arange(10).repeat(120)
heldout_x, heldout_y = np.concatenate([pixels[own[120:160]] for own in places]), np.arange(10).repeat(40)

# %%
# A careless split: 20 more images of the bursts of digit 4 are held out.

heldout_x = np.concatenate([heldout_x, burst(pixels[places[4][:10]], 2)]).astype(np.float32)
heldout_y = np.concatenate([heldout_y, np.full(20, 4)])
train_x = train_x.astype(np.float32)
head = dv.fit_head(torch.from_numpy(train_x), torch.from_numpy(train_y), 10)
train, heldout = (
    dv.Embeddings.from_arrays(rows, labels, head=head) for rows, labels in ((train_x, train_y), (heldout_x, heldout_y))
)
diagnosis = dv.diagnose(train, heldout, head=head, class_names=[str(digit) for digit in range(10)])
for finding in diagnosis.findings:
    if finding.class_name == "4" and finding.kind != "low recall":
        print(finding.text, "\n")

# %%
# `find_near_copies` names the rows. Every class has 120 training images; the bars show how many there are after near copies.

copies = dv.find_near_copies(train, heldout)
print("held-out rows with a copy in training:", int((copies.leaked_from >= 0).sum()))

# %%
# If it is known which images belong together, say so, as `groups_train` and `groups_heldout` of `dv.diagnose` or `--group` on the
# command line: intervals then count groups, and the hold-out splits none.

figure, axes = plt.subplots(figsize=(7, 3.4))
axes.bar(range(10), diagnosis["count"].numpy(), color="#d5dae0", label="training images")
axes.bar(range(10), diagnosis["effective_count"].numpy(), color="#0072b2", label="after near copies")
axes.set(xticks=range(10), xlabel="digit (even digits are bursts)", ylabel="images")
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
plt.show()
