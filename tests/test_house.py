"""Laws of the whole package: who opens files, where randomness comes from, and what every public name documents.

Which folder may import which other one is declared in `pyproject.toml` and checked by `lint-imports`; that only the command
line prints is checked by ruff (T20).
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diversify

PACKAGE = Path(diversify.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
OPENING = {"open", "read_text", "read_bytes", "write_text", "write_bytes"}
OPENING |= {"np.load", "np.save", "torch.load", "torch.save"}
OPENERS = ("files", "data")  # folders whose files open files
STARTS_STREAMS = "runtime.signals"  # opens the null device for closed standard streams
SEEDED = {"np.random.RandomState", "np.random.get_state", "np.random.set_state", "torch.random.fork_rng"}
SEEDED |= {"random.getstate", "random.setstate"}
SEEDS_USERS_GENERATORS = ("training.loop", "network.networks")  # and puts them back
FACES = ["diversify", *(f"diversify.{m.name}" for m in pkgutil.iter_modules([str(PACKAGE)]) if m.ispkg)]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def calls_of(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def opens_files(path: Path) -> list[str]:
    calls = [ast.unparse(call.func) for call in calls_of(path)]
    found = [call for call in calls if call in OPENING or call.split(".")[-1] in OPENING]
    return [call for call in found if not call.startswith(("atomic.", "staging."))]


def draws_globally(path: Path, allowed: set[str] = SEEDED) -> list[str]:
    calls = [ast.unparse(call.func) for call in calls_of(path) if all(k.arg != "generator" for k in call.keywords)]
    prefixes = ("np.random.", "torch.rand", "torch.manual_seed", "random.")
    return [call for call in calls if call.startswith(prefixes) and call not in allowed]


@pytest.mark.parametrize(
    "path", [path for path in FILES if module_of(path).split(".")[0] not in OPENERS], ids=module_of
)
def test_only_files_and_data_open_files(path: Path) -> None:
    if module_of(path) != STARTS_STREAMS:
        assert not opens_files(path)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_randomness_is_never_global(path: Path) -> None:
    seeding = {"torch.manual_seed", "np.random.seed", "random.seed"}
    assert not draws_globally(path, SEEDED | seeding if module_of(path) in SEEDS_USERS_GENERATORS else SEEDED)


def test_the_readers_of_code_find_what_they_look_for(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(
        "path.read_text()\nnp.random.seed(0)\ntorch.rand(3)\ntorch.rand(3, generator=g)\natomic.write_text()\n"
    )
    assert opens_files(file) == ["path.read_text"]
    assert draws_globally(file) == ["np.random.seed", "torch.rand"]


# Names


@pytest.mark.parametrize("face", FACES)
def test_every_folder_says_what_it_is_for_and_has_the_names_that_it_lists(face: str) -> None:
    folder = importlib.import_module(face)
    assert folder.__doc__
    if face != "diversify":
        first = re.search(r"Open `(\w+\.py)` first", folder.__doc__)
        assert first, f"{face} does not say which file to open first"
        assert (Path(folder.__path__[0]) / first[1]).is_file()
    names = getattr(folder, "__all__", [])
    assert len(names) == len(set(names))
    assert all(getattr(folder, name) is not None for name in names)


@pytest.mark.parametrize(
    "name",
    [
        "diversify.policies.Strengths",
        "diversify.policies.Schedule",
        "diversify.plan.RULES",
        "diversify.plan.Schedule",
        "diversify.functional.counts.class_mean",
        "diversify.functional.magnitude.top_k",
        "diversify.functional.diversity.vendi_score",
        "diversify.data.load_data",
        "diversify.training.fit",
        "diversify.study.protocol.Protocol",
        "diversify.study.run.run_study",
        "diversify.study.suites.DIGITS",
    ],
)
def test_a_name_that_was_documented_before_the_folders_is_still_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute) is not None


def test_an_import_loads_neither_torch_nor_the_network() -> None:
    program = (
        "import sys, diversify, diversify.cli.entry; print({'torch', 'numpy', 'optuna', 'socket'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() in ("set()", "{'socket'}")


def public_objects() -> dict[str, object]:
    """The functions and classes that users call: the names of the package and its folders, and the pure functions."""
    found: dict[str, object] = {}
    for face in FACES:
        folder = importlib.import_module(face)
        found |= {f"{face}.{name}": getattr(folder, name) for name in getattr(folder, "__all__", [])}
    for module in pkgutil.iter_modules([str(PACKAGE / "functional")]):
        functions = importlib.import_module(f"diversify.functional.{module.name}")
        own = {n: v for n, v in vars(functions).items() if getattr(v, "__module__", "") == functions.__name__}
        found |= {f"{functions.__name__}.{name}": value for name, value in own.items() if not name.startswith("_")}
    callables = {name: one for name, one in found.items() if inspect.isfunction(one) or inspect.isclass(one)}
    return {f"{one.__module__}.{one.__qualname__}": one for one in callables.values()}


PUBLIC = public_objects()


def test_the_public_names_are_those_of_the_package() -> None:
    assert {"diversify.diagnosis.measure.diagnose", "diversify.functional.diversity.vendi_score"} <= set(PUBLIC)
    assert len(PUBLIC) > 150


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    """`--doctest-modules` runs them; here each has to have one."""
    documented = inspect.getdoc(PUBLIC[name]) or ""
    assert ">>> " in documented, f"{name} has no example"


def test_files_of_tests_have_names_of_their_own() -> None:
    """Without packages, two test files with one name cannot be collected together."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
