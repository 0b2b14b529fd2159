"""A small study in Python: methods at equal budget, chosen on val, read once on test, compared. Runs in seconds.

python examples/benchmark.py
"""

from pathlib import Path

import torch

from diversify.study.analysis import Comparison, compare
from diversify.study.protocol import Protocol
from diversify.study.read import load, load_protocol
from diversify.study.run import run_study
from diversify.study.study import Study

PROTOCOL = Protocol(
    suite="example",
    data="digits",
    imbalance="exp:20",
    model="small_cnn",
    epochs=5,
    batch_size=32,
    warmup_epochs=1,
    precision="fp32",
    learning_rate=(0.01, 0.05, 0.2),  # lowest, where the search begins, highest; the same for every method
    weight_decay=(1e-4, 5e-4, 5e-3),
    methods=("ce", "balanced_softmax", "diversify"),
    trials=1,
    seeds=(0, 1),
)


def main(results: Path = Path("runs/example.jsonl")) -> Comparison:
    """Run what `results` does not hold yet; called again after an interruption it goes on."""
    torch.set_num_threads(1)  # the network is too small for more to pay
    for step in run_study(Study(protocol=PROTOCOL, results=results)):
        print(f"{step.method}: {step.done} of {step.total} runs")
    comparison = compare(load(results), protocol=load_protocol(results))
    suite = comparison.suites[0]
    for method in suite.finished:
        accuracy, small = method.scores["balanced_accuracy"], method.scores["smallest_third"]
        print(f"{method.name}: balanced accuracy {accuracy.mean:.1%}, smallest third of the classes {small.mean:.1%}")
    for name, found in suite.references["baseline"].differences.items():
        low, mean, high = (100 * value for value in (found.paired.low, found.paired.mean, found.paired.high))
        print(f"{name} over ce, paired by seed: {mean:+.1f} points [{low:+.1f}, {high:+.1f}], {found.verdict}")
    return comparison


if __name__ == "__main__":
    main()
