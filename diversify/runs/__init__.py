"""What the commands do, without a word printed: each makes one folder whose `run.json` says where it comes from.

`say` takes a line for the reader, `progress` takes (what, done, in all).
"""

from .compare import compare_run
from .demo import demo_run
from .diagnose import diagnose_run, load_diagnosed, load_trained
from .options import DataOptions
from .plan import load_diagnosis, plan_run
from .report import report_run
from .train import recorded_training, train_run

__all__ = [
    "DataOptions",
    "compare_run",
    "demo_run",
    "diagnose_run",
    "load_diagnosed",
    "load_diagnosis",
    "load_trained",
    "plan_run",
    "recorded_training",
    "report_run",
    "train_run",
]
