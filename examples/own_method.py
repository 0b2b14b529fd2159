"""A method of your own, in the same study as cross entropy and balanced softmax. Runs in seconds.

python examples/own_method.py
diversify benchmark examples/own_method.py --out runs/own_method.jsonl
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from diversify.report.benchmark.page import headline_table
from diversify.study.protocol import Method, Parameters, Range, Setting
from diversify.study.read import load, load_protocol
from diversify.study.run import run_study
from diversify.study.study import Study
from diversify.study.suites import DIGITS
from diversify.training.ingredients import Ingredients
from diversify.training.losses import Always


class SmoothedByClass(nn.Module):
    """Cross entropy whose labels are smoothed, the more the larger the class: a large class is learned with less certainty."""

    def __init__(self, class_counts: Tensor, most: float) -> None:
        super().__init__()
        self.register_buffer("smoothing", most * class_counts / class_counts.max())  # moves to the device that trains

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Targets are class indices, or class probabilities where images are mixed."""
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, logits.shape[1])
        smoothing = (targets * self.smoothing).sum(1, keepdim=True)
        return nn.functional.cross_entropy(logits, (1 - smoothing) * targets + smoothing / logits.shape[1])


def smoothed(setting: Setting, parameters: Parameters) -> Ingredients:
    """What the method brings to the loop: a loss made of the class counts and of what a trial is to try."""
    loss = SmoothedByClass(setting.class_counts, parameters["smoothing"])
    return Ingredients(augment=setting.base, criterion=Always(loss))


METHODS = (
    Method(
        name="smoothed_by_class",
        meaning="Cross entropy with labels smoothed by class size",
        source="after Zhong et al. 2021",
        space={"smoothing": Range(low=0.0, high=0.4, default=0.2)},  # learning rate and weight decay are in every space
        ingredients=smoothed,
    ),
)
PROTOCOL = DIGITS.model_copy(
    update={
        "suite": "own_method",
        "methods": ("ce", "balanced_softmax", "smoothed_by_class"),
        "epochs": 5,
        "trials": 1,
        "seeds": (0, 1),
    }
)


def main(results: Path = Path("runs/own_method.jsonl")) -> str:
    """Run what `results` does not hold yet, and say how the methods compare."""
    torch.set_num_threads(1)  # the network is too small for more to pay
    study = Study(protocol=PROTOCOL, results=results, declared=Path(__file__))
    for step in run_study(study):
        if step.record is not None:
            print(f"{step.method}, {step.record.kind}: {step.record.balanced_accuracy:.1%} on {step.record.split}")
    table = headline_table(load(results), load_protocol(results))
    print(table)
    return table


if __name__ == "__main__":
    main()
