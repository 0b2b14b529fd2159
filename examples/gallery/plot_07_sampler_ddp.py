"""
Sample with several processes
=============================

`DiversifySampler` decides which image comes how often. It is global: every process holds the same order, and a launcher
shards it. In a loop of your own with `DistributedDataParallel`, give it `rank` and `world_size` instead. Never do both:
the order would be cut twice.
"""

import matplotlib.pyplot as plt
import torch

import diversify as dv

labels = torch.repeat_interleave(torch.arange(4), torch.tensor([300, 120, 40, 12]))
plan = dv.Plan.from_counts(["ant", "bee", "cat", "dog"], torch.bincount(labels))

# %%
# This page runs in one process, so the two ranks are simulated: the sampler of rank 0 and the sampler of rank 1 are made
# side by side. With real processes, use `rank=dist.get_rank()` and `world_size=dist.get_world_size()`; the order depends
# on (seed, epoch) alone, so no communication is needed.

ranks = [dv.DiversifySampler(labels, plan, seed=0, rank=rank, world_size=2) for rank in range(2)]
whole = dv.DiversifySampler(labels, plan, seed=0)
for sampler in (*ranks, whole):
    sampler.set_epoch(3)  # every epoch has an order of its own
shards = [list(map(int, sampler)) for sampler in ranks]
assert shards[0] == list(map(int, whole))[0::2]
assert shards[1] == list(map(int, whole))[1::2]
print(f"{len(labels)} images, {len(shards[0])} + {len(shards[1])} draws in an epoch")

# %%
# Both ranks see the class shares of the plan. Even draws (exponent 0) show the difference to the data more clearly.

from diversify.plan import Strengths

even = dv.Plan.from_counts(
    ["ant", "bee", "cat", "dog"], torch.bincount(labels), strengths=Strengths(draws_exponent=0.0)
)
shards = [dv.DiversifySampler(labels, even, seed=0, rank=rank, world_size=2) for rank in range(2)]
figure, axes = plt.subplots()
axes.bar(torch.arange(4) - 0.3, torch.bincount(labels), width=0.28, color="#8a939d", label="images")
for rank, shard in enumerate(shards):
    drawn = torch.bincount(labels[list(shard)])
    axes.bar(torch.arange(4) + 0.3 * rank, drawn, width=0.28, label=f"draws of rank {rank}")
axes.set(xticks=range(4), xticklabels=[one.name for one in even.classes], ylabel="per epoch")
axes.legend()
plt.show()

# %%
# In a loop for `torchrun`:
#
# .. code-block:: python
#
#     sampler = dv.DiversifySampler(labels, plan, seed=0, rank=dist.get_rank(), world_size=dist.get_world_size())
#     loader = DataLoader(dataset, batch_size=128, sampler=sampler)
#     model = DistributedDataParallel(model)
#     for epoch in range(epochs):
#         sampler.set_epoch(epoch)
#         for images, targets in loader:
#             ...
