"""The same sources give the same wheel, byte by byte, wherever and whenever they are built."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "diversify")


def built(folder: Path, changed: float) -> Path:
    """The wheel of a copy of the sources whose files were changed at that time."""
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for file in folder.rglob("*"):
        os.utime(file, (changed, changed))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([*command, "--wheel-dir", folder / "dist", folder], check=True, env=environment, cwd=folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_two_builds_are_the_same_file(tmp_path: Path) -> None:
    first, second = built(tmp_path / "first", 1e9), built(tmp_path / "other" / "place", 1.6e9)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    files = set(zipfile.ZipFile(first).namelist())
    assert {"diversify/py.typed", "diversify/__init__.pyi", "diversify/cli/entry.py"} <= files
    assert not {name for name in files if name.startswith(("tests", "benchmarks"))}


def test_make_gives_the_build_the_time_of_the_commit() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nwheel:")[2].partition("\n\n")[0]
    assert "SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct)" in recipe
    assert "rm -rf build" in recipe
