"""The page on dependencies names those of pyproject.toml, and the library imports what it says, where it says."""

import re
import sys
from pathlib import Path

import lowest
import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"imbalanced-learn": "imblearn", "pillow": "PIL", "scikit-learn": "sklearn", "lazy-loader": "lazy_loader"}
MODULES |= {"faiss-cpu": "faiss", "grad-cam": "pytorch_grad_cam", "opencv-python-headless": "cv2"}
BROUGHT = {  # modules, and which package brings them
    "pydantic_core": "pydantic",
    "sqlalchemy": "optuna",
}
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
ROWS = {name: cells for name, *cells in re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.M)}


IMPORT = re.compile(r"""^ *(?:from ([\w.]+) import |import (\w[\w., ]*)$)|import_module\("([\w.]+)"\)""", re.M)


def imported(text: str) -> set[str]:
    """The packages that code imports, also by `importlib.import_module`."""
    names = (name for found in IMPORT.findall(text) for name in ",".join(found).split(","))
    return {re.split(r"\.| as ", name.strip())[0] for name in names} - {""}


def test_the_page_names_the_packages_of_pyproject() -> None:
    asked = {re.split(r"[\[<>=]", one)[0] for one in lowest.requirements(left_out=())}
    assert set(ROWS) == asked
    assert len(re.findall(r"^\| `", PAGE, re.M)) == len(ROWS)


def test_the_library_imports_each_package_where_the_page_says() -> None:
    for name, (_, place, _, _) in ROWS.items():
        file = (ROOT if place.startswith("`benchmarks/") else ROOT / "diversify") / place.strip("`")
        if place.endswith(".py`") and not place.startswith("`docs/"):
            module = MODULES.get(name, name)
            assert module in imported(file.read_text()), f"{place} does not import {module}"


def test_the_library_imports_no_package_that_pyproject_does_not_name() -> None:
    known = {MODULES.get(name, name) for name in ROWS} | set(BROUGHT) | {"diversify"} | set(sys.stdlib_module_names)
    for path in (ROOT / "diversify").rglob("*.py"):
        assert imported(path.read_text()) <= known, path


def test_imports_of_all_kinds_are_found() -> None:
    text = 'import a.b, c\n  import k.l as m\nfrom d.e import f\nfrom .g import h\none(import_module("i.j"))\nimport_module(name)\n'
    assert imported(text + "from the data. They import it, too.\n") == {"a", "c", "d", "i", "k"}


def test_lowest_versions_are_those_of_pyproject() -> None:
    assert lowest.constraints(["torch>=2.6", "optuna[x]>=4.4,<6"]) == ["optuna==4.4", "torch==2.6"]
    names = {one.partition("==")[0] for one in lowest.constraints(lowest.requirements(left_out=()))}
    assert names == set(ROWS)
    for wrong in (["torch"], ["torch<3"], ["timm>=1.0", "timm>=1.1"]):
        with pytest.raises(AssertionError):
            lowest.constraints(wrong)
