"""What the commands do, without a word printed: each makes one folder whose `run.json` says where it comes from.

`say` takes a line for the reader, `progress` takes (what, done, in all).
"""

from .benchmark import benchmark_run
from .compare import compare_run
from .demo import demo_run
from .diagnose import diagnose_run, load_diagnosed, load_trained
from .options import DataOptions, recipe_from
from .plan import load_diagnosis, plan_run
from .recorded import recorded_training
from .remedy import remedy_run
from .report import report_run
from .train import train_run

__all__ = [
    "DataOptions",
    "benchmark_run",
    "compare_run",
    "demo_run",
    "diagnose_run",
    "load_diagnosed",
    "load_diagnosis",
    "load_trained",
    "plan_run",
    "recipe_from",
    "recorded_training",
    "remedy_run",
    "report_run",
    "train_run",
]
