"""
Compare diversity at equal sample size
======================================

The most common mistake with diversity measures: they grow with the number of images. A small class then looks poor only
for being small. The library compares classes at the same n.
"""

import matplotlib.pyplot as plt
import torch

import diversify as dv
from diversify.functional.diversity import vendi_score

# %%
# One distribution, cut into samples of different size. Nothing differs but n, yet the Vendi score (the effective number of
# different images) rises.

generator = torch.Generator().manual_seed(0)
features = torch.randn(2000, 64, generator=generator)
sizes = (10, 20, 50, 100, 200, 500, 1000, 2000)
raw = [float(vendi_score(features[:n])) for n in sizes]
matched = [
    float(torch.stack([vendi_score(features[torch.randperm(n, generator=generator)[:10]]) for _ in range(20)]).mean())
    for n in sizes
]

figure, axes = plt.subplots()
axes.plot(sizes, raw, marker="o", color="#d55e00", label="all n images")
axes.plot(sizes, matched, marker="s", color="#0072b2", label="20 draws of 10 of them")
axes.set(xscale="log", xlabel="images n", ylabel="Vendi score")
axes.legend()
plt.show()

# %%
# `dv.diagnose` draws 20 images of every class, 50 times. A class with fewer has no value (NaN), not a low one.

train, heldout, head = dv.make_embeddings((400, 100, 30, 8))
diagnosis = dv.diagnose(train, heldout, head=head)
for name, value, low, high in zip(
    diagnosis.class_names,
    diagnosis["diversity_vendi_train"],
    diagnosis["diversity_vendi_train_low"],
    diagnosis["diversity_vendi_train_high"],
    strict=True,
):
    print(f"{name}: {value:.2f} [{low:.2f}, {high:.2f}]")
