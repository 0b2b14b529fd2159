"""An interruption is never lost, wherever it arrives."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import default_signals

from diversify.runtime import signals

ROOT = Path(__file__).parents[2]

START = """
import signal, torch
from torch import nn
from torch.utils.data import TensorDataset
from diversify.runtime import signals
signals.receive_signals()
signals.begin_work()

class Unlucky:
    "Python drops every exception that is raised while it deletes an object."
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

"""

LOOPS = {
    "fit": """
from diversify.training import Recipe, fit
class Images(TensorDataset):
    def __getitem__(self, index):
        if index == 20:
            Unlucky()
        return super().__getitem__(index)
data = Images(torch.eye(4).repeat(10, 1), torch.arange(40) % 4)
steps = fit(nn.Linear(4, 4), data, recipe=Recipe(epochs=50, batch_size=4), num_classes=4, progress=print)
""",
    "fit_resident": """
from diversify.training import Recipe, ResidentImages, fit_resident
data = ResidentImages(images=torch.zeros(40, 1, 2, 2), labels=torch.arange(40) % 4)
model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
def report(done, total):
    print(done, total)
    Unlucky()
steps = fit_resident(model, data, recipe=Recipe(epochs=50), num_classes=4, progress=report)
""",
    "extract": """
from torch.utils.data import DataLoader
import diversify as dv
def report(done, total):
    print(done, total)
    Unlucky()
split = dv.split_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
data = TensorDataset(torch.zeros(40, 1, 2, 2), torch.arange(40) % 2)
steps = (dv.extract(split, DataLoader(data, batch_size=4), progress=report) for _ in range(1))
""",
    "retrain_head": """
import diversify as dv
from diversify.repair.candidate import even_plan
train, heldout, head = dv.make_embeddings()
def report(done, total):
    print(done, total)
    Unlucky()
steps = (dv.retrain_head(train, head, even_plan(torch.tensor([200, 80, 30, 10])), progress=report) for _ in range(1))
""",
}

END = """
try:
    for _ in steps:
        pass
except KeyboardInterrupt:
    print("stopped")
signals.end_work()
signals.leave(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_an_interruption_in_a_destructor_stops_the_loop_at_its_next_batch(name: str) -> None:
    program = [sys.executable, "-c", START + LOOPS[name] + END]
    ended = subprocess.run(
        program, capture_output=True, text=True, check=False, cwd=ROOT, preexec_fn=default_signals, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *steps, last = ended.stdout.split("\n")[:-1]
    assert last == "stopped"
    assert len(steps) < 15


def test_without_an_interruption_nothing_stops() -> None:
    assert not signals.was_interrupted()
    signals.stop_if_interrupted()
