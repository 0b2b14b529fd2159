"""Diagnose, plan, and put the parts of the plan into a loop of your own: each alone, then all together. Runs in seconds.

python examples/own_loop.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

import diversify as dv
from diversify.functional.losses import prior_corrected_cross_entropy
from diversify.plan.policies import Schedule
from diversify.plan.strengths import Strengths

EPOCHS, BATCH_SIZE = 12, 32
PARTS = ("sampler", "dataset", "batch", "features")


def train(data: dv.Data, plan: dv.Plan, parts: tuple[str, ...]) -> nn.Module:
    """A plain PyTorch loop. Every `if` is a part of the plan; leave out what you do not want."""
    model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    # Which image, how often; the loss corrects for the frequencies that are drawn, the sampler's or those of the images
    drawn = dv.Plan.untouched(data.class_names, torch.bincount(data.train.labels).tolist())
    sampler = None
    if "sampler" in parts:
        sampler, drawn = dv.DiversifySampler(data.train.labels, plan, seed=0), plan
    correction = plan.prior_correction.training if parts else 0.0

    # Image space: one by one in the loader's workers, or whole batches on their device
    dataset = data.train.dataset
    if "dataset" in parts:
        dataset = dv.DiversifiedDataset(dataset, plan, seed=0)
    augment = dv.BatchAugmenter(plan, seed=0) if "batch" in parts else None

    # Feature space, between backbone and head; what rare classes borrow comes from a bank of training features
    split = dv.split_head(model)
    augment_features = None

    order = torch.Generator().manual_seed(0)
    loader = DataLoader(dataset, BATCH_SIZE, sampler=sampler, shuffle=sampler is None, generator=order)
    for epoch in range(EPOCHS):
        if "features" in parts and epoch >= EPOCHS // 2:
            bank = dv.extract(split, dv.make_loader(data.train, data.view))
            augment_features = dv.FeatureAugmenter(plan, bank, seed=0)
        for part in (sampler, dataset, augment, augment_features):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch, EPOCHS)  # fresh draws, and the plan's schedule
        model.train()
        for images, labels in loader:
            targets = labels
            if augment is not None:
                images, targets = augment(images, targets)
            features, logits = split(data.view.normalize(images))
            if augment_features is not None:
                features, targets = augment_features(features, targets)
                logits = split.head(features)
            loss = prior_corrected_cross_entropy(logits, targets, drawn.log_prior, correction)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model


def main() -> dv.Diagnosis:
    """Balanced accuracy on val without a plan, with each of its parts, and with all of them."""
    data = dv.load_data("digits", imbalance="exp:20", holdout=0.2)
    seen, val = dv.make_loader(data.train, data.view), dv.make_loader(data.val, data.view)
    plain = train(data, dv.Plan.untouched(data.class_names, torch.bincount(data.train.labels).tolist()), ())
    diagnosis = dv.diagnose_model(plain, seen, val, class_names=data.class_names)
    # Made plans keep feature policies for the head step on a frozen backbone; here they act in the second half of training too
    plan = dv.make_plan(diagnosis, strengths=Strengths(schedule=Schedule(features=0.5)))
    print(f"balanced accuracy on val {dv.evaluate(plain, val, num_classes=10).nanmean():.1%} without a plan")
    for parts in (*((part,) for part in PARTS), ("sampler", "batch", "features")):
        model = train(data, plan, parts)
        recall = dv.evaluate(model, val, num_classes=10)
        print(f"balanced accuracy on val {recall.nanmean():.1%} with {' + '.join(parts)}")
    return dv.diagnose_model(model, seen, val, class_names=data.class_names)


if __name__ == "__main__":
    main()
