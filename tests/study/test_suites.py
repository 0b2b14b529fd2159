"""The suites in the library are consistent, and the template for image folders runs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diversify.commands.benchmark import Benchmarked, benchmark_run
from diversify.data.imbalance import Imbalance, class_order
from diversify.data.public import SOURCES
from diversify.errors import InputError
from diversify.network.networks import MODELS
from diversify.study.methods import method_named
from diversify.study.protocol import Choice, Protocol
from diversify.study.suites import DIGITS, SUITES, THE_EIGHT

EVERY = pytest.mark.parametrize("protocol", SUITES.values(), ids=list(SUITES))


def test_suites_are_known_by_their_names() -> None:
    assert all(name == protocol.suite for name, protocol in SUITES.items())
    assert len(DIGITS.methods) == 12
    assert len(THE_EIGHT) == 8


@EVERY
def test_a_suite_is_a_valid_protocol_of_known_parts(protocol: Protocol) -> None:
    assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
    assert protocol.data in SOURCES
    assert protocol.model in MODELS
    assert str(Imbalance.parse(protocol.imbalance)) == protocol.imbalance
    assert all(sorted(class_order(order, 10)) == list(range(10)) for order in protocol.tail_orders)


@EVERY
def test_its_methods_are_known_and_begin_at_a_value_of_their_space(protocol: Protocol) -> None:
    for name in protocol.methods:
        space = protocol.space_of(method_named(name))
        assert {"learning_rate", "weight_decay"} <= set(space)
        for each in space.values():
            assert each.default in each.values if isinstance(each, Choice) else each.low <= each.default <= each.high


@EVERY
def test_what_is_compared_is_there(protocol: Protocol) -> None:
    assert {"ce", "balanced_softmax", "diversify", "balanced_softmax+images+mix+head"} <= set(protocol.methods)


TEMPLATE = Path(__file__).parents[2] / "benchmarks" / "own_folder.py"


def write_images(folder: Path, **sizes: tuple[int, ...]) -> None:
    """Write images of each split and class in two sizes: noise around a colour per class."""
    random = np.random.default_rng(0)
    for split, counts in sizes.items():
        for name, count, colour in zip(("ant", "bee", "cat"), counts, (60, 120, 180), strict=True):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (colour + random.normal(0, 30, (12, 12 + 4 * (number % 2), 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def test_the_template_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="DIR"):
        benchmark_run(
            str(TEMPLATE), out=Path("r.jsonl"), device="cpu", say=lambda line: None, progress=lambda step: None
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_template_runs_on_a_folder_of_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images", train=(20, 10, 5), test=(4, 4, 4))
    text, changes = (
        TEMPLATE.read_text(),
        {
            'DIR = "DIR"': f"DIR = {str(tmp_path / 'images')!r}",
            'MODEL = "torchvision:resnet18"': 'MODEL = "small_cnn"',
            "RESIZE = None": "RESIZE = 10",
            "CROP = None": "CROP = 8",
            "\nEPOCHS = 60": "\nEPOCHS = 2",
            "TRIAL_EPOCHS = 30": "TRIAL_EPOCHS = 1",
            "TRIALS = 4": "TRIALS = 1",
            "SEEDS = (0, 1, 2)": "SEEDS = (0,)",
        },
    )
    for before, after in changes.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (tmp_path / "mine.py").write_text(text)
    found = benchmark_run(
        str(tmp_path / "mine.py"),
        out=tmp_path / "r.jsonl",
        methods="ce,remix_drw,balanced_softmax+images",
        device="cpu",
        say=lambda line: None,
        progress=lambda step: None,
    )
    assert found == Benchmarked(trials=3, finals=3, new=6)
