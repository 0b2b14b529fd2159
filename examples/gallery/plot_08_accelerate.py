"""
Train with accelerate
=====================

Accelerate shards any sampler by itself, so it gets the global one. The same script runs under `accelerate launch` on
several devices.
"""

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import diversify as dv
from diversify.functional.losses import prior_corrected_cross_entropy

data = dv.load_data("digits", imbalance="exp:20", holdout=0.3)
counts = torch.bincount(data.train.labels)
plan = dv.Plan.from_counts(data.class_names, counts)

# %%
# One line is new in the loop: the sampler. The loss takes the drawn class prior out (balanced softmax), as the plan says.

accelerator = Accelerator(cpu=True)
model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
sampler = dv.DiversifySampler(data.train.labels, plan, seed=0)
loader = DataLoader(data.train.dataset, batch_size=32, sampler=sampler)
val = dv.make_loader(data.val, data.view)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

log_prior = plan.log_prior.to(accelerator.device)
curve = []
for epoch in range(6):
    loader.set_epoch(epoch)  # accelerate passes it on to the sampler
    model.train()
    for images, targets in loader:
        logits = model(data.view.normalize(images))
        loss = prior_corrected_cross_entropy(logits, targets, log_prior, plan.prior_correction.training)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    curve.append(dv.evaluate(accelerator.unwrap_model(model), val, num_classes=10))
print(f"sampler is at epoch {sampler.epoch}; balanced accuracy {curve[-1].nanmean():.1%}")

# %%
# Recall of the three largest and the three smallest classes, on held-out images:

recall = torch.stack(curve)
figure, axes = plt.subplots()
axes.plot(range(1, 7), recall[:, :3].nanmean(1), marker="o", label="three largest classes")
axes.plot(range(1, 7), recall[:, -3:].nanmean(1), marker="s", label="three smallest classes")
axes.set(xlabel="epoch", ylabel="held-out recall", ylim=(0, 1.05))
axes.legend(loc="lower right")
plt.show()
