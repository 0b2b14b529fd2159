"""The records of a study that is made of many runs: read, and made one by one or in several processes."""

from __future__ import annotations

from diversify.study.experiments.runs import kept as kept
from diversify.study.experiments.runs import made as made
from diversify.study.experiments.runs import one_thread as one_thread
