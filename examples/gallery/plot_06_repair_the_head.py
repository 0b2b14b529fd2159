"""
Repair the head
===============

Often the features of a rare class are good enough and only the last layer is at fault. Repairing it takes seconds, and the
backbone stays as it is.
"""

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader, Subset

import diversify as dv

# %%
# The held-out images are digits that the long tail left out, so that even the rarest class has many of them. Any images that the
# model did not learn from will do, if they are not the test set: `holdout=0.2` would keep a part of the training images aside.

data = dv.load_data("digits", imbalance="exp:20", holdout=0)
everything = dv.load_data("digits", holdout=0)
unused = torch.isin(everything.train.indices, data.train.indices, invert=True)
unseen = Subset(everything.train.dataset, unused.nonzero()[:, 0].tolist())

# %%
# A small network, trained in the reference loop.

model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)
recipe = dv.Recipe(epochs=6, batch_size=32, learning_rate=0.1, warmup_epochs=1, precision="fp32")
for _ in dv.fit(model, data.train.dataset, recipe=recipe, num_classes=10, prepare=data.view.normalize):
    pass

split = dv.split_head(model)
train_loader = dv.make_loader(data.train, data.view)
train = dv.extract(split, train_loader)  # the backbone's own training images
heldout = dv.extract(split, DataLoader(unseen, batch_size=256, collate_fn=train_loader.collate_fn))

# %%
# `choose_head` compares the candidates on held-out folds: an image is never judged by an option that was chosen with its
# help. If no candidate is better than the untouched head by more than one standard error, it recommends to leave it.

diagnosis = dv.diagnose(train, heldout, head=split.head, class_names=data.class_names)
plan = dv.make_plan(diagnosis)


def from_plan(train, head, seed):
    return dv.retrain_head(train, head, plan, seed=seed, steps=200)


ours = dv.Candidate(name="plan", meaning="head retrained by the plan", source="this library", options={"": from_plan})
choice = dv.choose_head(train, heldout, split.head, candidates=[*dv.default_candidates(train, split.head)[:5], ours])
print(choice.in_words())

# %%
# The plan above was made from the same held-out images that judge it here, so its bar is a little too high. The command
# `diversify remedy` avoids that: it makes the plan anew for each third of the images, from the other two thirds.

gain, low, high = (100 * choice.columns[f"gain{end}"] for end in ("", "_low", "_high"))
figure, axes = plt.subplots()
colors = ["#d55e00" if place == choice.recommended else "#0072b2" for place in range(len(choice.names))]
axes.barh(choice.names, gain, color=colors)
axes.errorbar(gain, range(len(gain)), xerr=torch.stack([gain - low, high - gain]), fmt="none", color="black", capsize=3)
axes.axvline(0, color="black", linewidth=1)
axes.set(xlabel="gain in balanced accuracy, points, with 95% interval", title="Orange: recommended")
axes.invert_yaxis()
plt.show()

# %%
# `choice.head` is the recommended head. `write_head` puts it into your model, which keeps its own parameter names.

before = dv.evaluate(model, dv.make_loader(data.test, data.view), num_classes=10)
dv.write_head(split.head, choice.head)
after = dv.evaluate(model, dv.make_loader(data.test, data.view), num_classes=10)
print(f"test, read once: {before.mean():.1%} before, {after.mean():.1%} after")
