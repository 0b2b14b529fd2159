"""Diagnose a network of your own, in parts: split, extract, diagnose, read. Runs in seconds.

python examples/diagnose.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv


def main() -> dv.Diagnosis:
    """Train a tiny network on long-tailed digits in a plain loop, then ask what is wrong with it."""
    data = dv.load_data("digits", imbalance="exp:20", holdout=0.2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train_loader = dv.make_loader(data.train, data.view, batch_size=64)
    for _ in range(20):
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    # Unseen images: any the model did not learn from. Here the rest of the digits that the long tail left out, so that even
    # the rarest class has enough of them; val (data.val) is as good where it is large enough.
    everything = dv.load_data("digits", holdout=0)
    unused = torch.isin(everything.train.indices, data.train.indices, invert=True)
    images = torch.stack([everything.train.dataset[i][0] for i in unused.nonzero()[:, 0].tolist()])
    heldout = TensorDataset(data.view.normalize(images), everything.train.labels[unused])

    split = dv.split_head(model)
    seen = dv.extract(split, train_loader)
    unseen = dv.extract(split, DataLoader(heldout, batch_size=256))
    diagnosis = dv.diagnose(seen, unseen, head=split.head, class_names=data.class_names, top_k="25%")

    print(f"balanced accuracy on unseen images: {diagnosis.summary['balanced_accuracy_heldout']:.1%}")
    for finding in diagnosis.findings:
        print(f"\n{finding.text}")
    return diagnosis


if __name__ == "__main__":
    main()
