"""
Compare your own method
=======================

A study gives every method the same loop, the same search budget and the same data. It chooses on the validation set and
reads the test set once. A method is a record: a name, what is searched, and what goes into the slots of the loop.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from diversify.study import Study, compare, load, load_protocol, run_study
from diversify.study.suites import DIGITS

# %%
# Methods live in a Python file as `METHODS`, so that the command line and worker processes find them too. This one is
# `examples/own_method.py`: cross entropy whose labels are smoothed by class size.
#
# .. literalinclude:: ../../../examples/own_method.py
#    :language: python
#    :start-at: class SmoothedByClass
#    :end-before: PROTOCOL

own = Path("../own_method.py")  # seen from this file

# %%
# The protocol is that of the suite `digits`, made shorter so that this page builds in seconds: 2 seeds and 4 epochs are far
# too few to rank methods.

torch.set_num_threads(1)
protocol = DIGITS.model_copy(
    update={
        "suite": "page",
        "methods": ("ce", "balanced_softmax", "smoothed_by_class"),
        "epochs": 4,
        "trials": 1,
        "seeds": (0, 1),
    }
)
results = Path(tempfile.mkdtemp()) / "results.jsonl"
for step in run_study(Study(protocol=protocol, results=results, declared=own)):
    if step.record is not None:
        print(f"{step.method}, {step.record.kind}: {step.record.balanced_accuracy:.1%} on {step.record.split}")

# %%
# One line per run lies in the file; run it again and it continues where it stopped. `compare` reads the lines. It gives no
# verdict for fewer than three seeds.

suite = compare(load(results), protocol=load_protocol(results)).suites[0]
figure, axes = plt.subplots()
for place, method in enumerate(suite.finished):
    runs = [
        one["balanced_accuracy"] for one in load(results) if one["kind"] == "final" and one["method"] == method.name
    ]
    axes.scatter(runs, [place] * len(runs), color="#0072b2")
axes.set(
    yticks=range(len(suite.finished)),
    yticklabels=[one.name for one in suite.finished],
    xlabel="balanced accuracy on test, one point per seed",
)
axes.set_ylim(-0.5, len(suite.finished) - 0.5)
plt.show()
