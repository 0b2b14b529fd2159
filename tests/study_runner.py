"""Runs of a study without training: an analytic objective."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from diversify.errors import InputError, unknown
from diversify.functional import draws
from diversify.study.protocol import Choice, Method, Outcome, Parameters, Protocol, Range
from diversify.study.study import Runner

PAUSE = 0.0  # shortest duration of a run in seconds
MOST: int | None = None  # runs after which a process makes no more, and waits to be ended
MADE: list[str] = []  # the methods of the runs that this process has begun

METHODS = {
    "plain": Method(name="plain", meaning="m", source="s"),
    "tuned": Method(
        name="tuned",
        meaning="m",
        source="s",
        space={
            "beta": Range(low=0.5, high=1.0, default=0.9),
            "layers": Range(low=1, high=4, default=2, integer=True),
            "kind": Choice(values=("a", "b", "c"), default="b"),
        },
    ),
    "fragile": Method(name="fragile", meaning="m", source="s", space={"gamma": Range(low=0.0, high=1.0, default=0.9)}),
    "hopeless": Method(name="hopeless", meaning="m", source="s"),
}


def protocol(**changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "suite": "fake",
        "data": "none",
        "epochs": 20,
        "methods": ("plain", "tuned"),
        "trials": 6,
        "seeds": (0, 1),
        "rungs": (5, 10),
    }
    return Protocol.model_validate({**values, **changes})


def load(protocol: Protocol, *, root: str, device: str, download: bool) -> Protocol:
    if root == "missing":
        raise InputError("data under --root must be there, got missing")
    return protocol


def run(
    task: Protocol,
    method: Method,
    parameters: Parameters,
    *,
    seed: int,
    split: str,
    carried: Any,
    report: Callable[[int, float], None],
) -> Outcome:
    """Return an outcome that is best near the middle of every parameter, with noise per seed."""
    if MOST is not None and len(MADE) >= MOST:
        time.sleep(120)
    MADE.append(method.name)
    if method.name == "hopeless" or (method.name == "fragile" and parameters["gamma"] < 0.5):
        raise InputError("training loss must stay finite, got nan in epoch 3; lower the learning rate")
    quality = 0.8 - 0.1 * abs(math.log10(float(parameters["learning_rate"])) + 1)
    quality -= 0.2 * abs(float(parameters.get("beta", 0.75)) - 0.75)
    quality -= 0.01 * (parameters.get("kind") == "c") + 0.01 * int(parameters.get("layers", 2))
    quality += 0.01 * draws.number("noise", method.name, seed, split)
    for epoch in task.rungs:
        time.sleep(PAUSE / 2)
        if split == "val":
            report(epoch, quality * epoch / task.epochs)
    accuracy = math.nan if method.name == "fragile" and parameters["gamma"] < 0.7 else quality
    return Outcome(
        recall=(accuracy, None, accuracy),
        balanced_accuracy=accuracy,
        macro_f1=quality,
        g_mean=quality,
        ece=0.1,
        class_counts=(100, 0, 10),
        epochs=task.epochs,
        seconds=0.5,
        images_per_second=1000.0,
        peak_memory=None,
        inside={} if split == "val" else {"leak": [0.1, math.nan, 0.2]},
        carried={"plan": dict(parameters)} if split == "val" else {"given": carried},
    )


def method_named(name: str) -> Method:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def fake() -> Runner:
    return Runner(load=load, run=run, method=method_named)


def slow() -> Runner:
    global PAUSE
    PAUSE = 0.05
    return fake()


def held() -> Runner:
    """Each process makes three runs, and waits in its fourth until it is ended."""
    global MOST
    MOST = 3
    return fake()


def by_distance(task: Protocol, method: Method, parameters: Parameters, **given: Any) -> Outcome:
    """Return the outcome of `run` with a score that is best where its balanced accuracy is worst."""
    report = given.pop("report")
    found = run(task, method, parameters, report=lambda epoch, value: report(epoch, 1 - value), **given)
    return dataclasses.replace(found, score=1 - found.balanced_accuracy)


def measuring() -> Runner:
    """A runner that gives outcomes a score."""
    return dataclasses.replace(fake(), run=by_distance, measures=True)
