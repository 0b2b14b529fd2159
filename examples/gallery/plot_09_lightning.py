"""
Train with Lightning
====================

Lightning shards the global sampler and sets its epoch. Lightning is not a dependency of this library: if it is not
installed, this page shows the code and the draws, and skips the training.
"""

import importlib.util

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader

import diversify as dv
from diversify.plan import Strengths

data = dv.load_data("digits", imbalance="exp:20", holdout=0.3)
even = Strengths(draws_exponent=0.0)  # every class equally often
plan = dv.Plan.from_counts(data.class_names, torch.bincount(data.train.labels), strengths=even)
sampler = dv.DiversifySampler(data.train.labels, plan, seed=0)
loader = DataLoader(data.train.dataset, batch_size=32, sampler=sampler)
model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)

# %%
# The module is an ordinary one. Only the sampler of the loader and the loss know about the plan.

if importlib.util.find_spec("lightning"):
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def training_step(self, batch, step):
            images, targets = batch
            logits = self.network(data.view.normalize(images))
            return nn.functional.cross_entropy(logits + plan.prior_correction.training * plan.log_prior, targets)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Classifier(model), loader)
else:
    print("lightning is not installed: nothing was trained")

# %%
# What the sampler hands out, epoch by epoch: every class is drawn equally often, so an image of a small class comes
# more often. Within a class, all images have come equally often after several epochs, to within one.

times = torch.zeros(len(data.train.labels), dtype=torch.int64)
for epoch in range(5):
    sampler.set_epoch(epoch)
    times += torch.bincount(torch.tensor(list(sampler)), minlength=len(times))
figure, axes = plt.subplots()
axes.scatter(data.train.labels, times, s=8, alpha=0.3)
axes.set(xticks=range(10), xlabel="class", ylabel="times drawn in five epochs", yscale="log")
plt.show()
