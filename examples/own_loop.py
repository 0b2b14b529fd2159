"""Train with the reference loop and an ingredient of your own, then diagnose. Runs in seconds.

python examples/own_loop.py
"""

import torch
from torch import Tensor

import diversify as dv
from diversify.data import collate
from diversify.functional import counts


def main() -> dv.Diagnosis:
    """Class-weighted cross entropy from the second half of training on, and what it does to the rare classes."""
    data = dv.load_data("digits", imbalance="exp:20", holdout=0.2)
    weight = 1 / counts.effective_number(counts.class_counts(data.train.labels, 10)).float()
    weight = weight / weight.mean()
    recipe = dv.Recipe(
        epochs=10, batch_size=32, learning_rate=0.05, schedule="cosine", warmup_epochs=1, precision="fp32"
    )

    def criterion_at(epoch: int):
        late = weight if epoch >= recipe.epochs // 2 else None

        def criterion(logits: Tensor, targets: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, targets, weight=late)

        return criterion

    model = dv.build_model("small_cnn", num_classes=10, channels=1)
    ingredients = dv.Ingredients(criterion=criterion_at, augment=dv.CropFlip(padding=1, mirror=False))
    val = dv.make_loader(data.val, data.view)
    for record in dv.fit(
        model,
        data.train.dataset,
        recipe=recipe,
        num_classes=10,
        ingredients=ingredients,
        val=val,
        collate=collate,
        prepare=data.view.normalize,
    ):
        print(
            f"epoch {record.epoch}: loss {record.loss:.3f}, balanced accuracy on val {record.balanced_accuracy_val:.1%}"
        )
    return dv.diagnose_model(model, dv.make_loader(data.train, data.view), val, class_names=data.class_names)


if __name__ == "__main__":
    main()
