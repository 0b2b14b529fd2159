"""
Diagnose a torchvision model
============================

Start here with a trained model and two loaders: one with the model's own training images, without augmentation, and one
with images that it did not learn from.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.models.resnet import BasicBlock, ResNet

import diversify as dv

# %%
# The model is a ResNet of torchvision with one block per stage, trained on long-tailed digits: the largest class has twenty
# times the images of the smallest.
#
# The held-out images are digits that the long tail left out, so that even the rarest class has many of them. Any images that the
# model did not learn from will do, if they are not the test set: `holdout=0.2` would keep a part of the training images aside.

data = dv.load_data("digits", imbalance="exp:20", holdout=0)
everything = dv.load_data("digits", holdout=0)
unused = torch.isin(everything.train.indices, data.train.indices, invert=True)
unseen = Subset(everything.train.dataset, unused.nonzero()[:, 0].tolist())


class Digits(nn.Module):
    """A small ResNet for grey images of 8 x 8 pixels: enlarged, with three equal channels."""

    def __init__(self):
        super().__init__()
        self.network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)

    def forward(self, images):
        images = nn.functional.interpolate(images.expand(-1, 3, -1, -1), size=32, mode="bilinear")
        return self.network(images)


torch.manual_seed(0)
model = Digits()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _epoch in range(6):
    for images, labels in DataLoader(data.train.dataset, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.view.normalize(images)), labels).backward()
        optimizer.step()

# %%
# One call finds the linear head, extracts features and logits from both loaders, and measures every class. The model,
# its mode and the random state stay as they were.

train_loader = dv.make_loader(data.train, data.view)
heldout_loader = DataLoader(unseen, batch_size=256, collate_fn=train_loader.collate_fn)
diagnosis = dv.diagnose_model(model, train_loader, heldout_loader, class_names=data.class_names)
print(f"balanced accuracy: {diagnosis.summary['balanced_accuracy_heldout']:.1%}")
for finding in diagnosis.findings[:2]:
    print(f"\n{finding.text}")

# %%
# Every measure is a column with one number per class, most with a 95% interval. A low bar with a long whisker is not
# yet evidence: a class is fragile when its whole interval lies below the mean of the classes.

recall = diagnosis["recall_heldout"]
low, high = diagnosis["recall_heldout_low"], diagnosis["recall_heldout_high"]
figure, axes = plt.subplots()
axes.bar(range(10), recall, color=["#d55e00" if one else "#0072b2" for one in diagnosis["fragile"]])
axes.errorbar(range(10), recall, yerr=torch.stack([recall - low, high - recall]), fmt="none", color="black", capsize=3)
axes.set(
    xlabel="class, largest first",
    ylabel="recall on held-out images",
    title="Orange: fragile beyond doubt",
    ylim=(0, 1.05),
)
plt.show()

# %%
# With pandas, `diagnosis.to_dataframe()` gives all columns as a table. `dv.render_html(diagnosis)` makes the report.
