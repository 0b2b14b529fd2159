"""Make an environment with the lowest versions that `pyproject.toml` allows: `python tests/lowest.py FOLDER [--torch-of FOLDER]`.

What the project asks for itself is as low as it may be; what its dependencies ask for is as new as they allow. PyTorch is gigabytes:
`--torch-of` takes it, and what it alone needs, from another environment instead, as links.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("docs", "peers")  # extras that no test needs
TORCH = re.compile(r"(torch|torchvision|triton|functorch|torchgen|nvidia|cuda)([-_./]|$)")


def requirements(left_out: Sequence[str] = LEFT_OUT) -> list[str]:
    """What the package and its extras ask for, but for some extras, as pyproject.toml says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"] + [one for name in extras if name not in left_out for one in extras[name]]


def constraints(required: list[str]) -> list[str]:
    """The lowest version of each, as `name==version`."""
    found = {}
    for one in required:
        bound = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)(?:,.*)?", one)
        assert bound, f"{one} has no lowest version"
        found.setdefault(bound[1], bound[2])
        assert found[bound[1]] == bound[2], f"{bound[1]} has two lowest versions"
    return sorted(f"{name}=={version}" for name, version in found.items())


def packages_of(environment: Path) -> Path:
    """Where an environment has its packages."""
    return next(environment.resolve().glob("lib/python*/site-packages"))


def borrow_torch(lender: Path, environment: Path) -> None:
    """Link PyTorch, its libraries and their metadata into another environment."""
    for source in packages_of(lender).iterdir():
        if TORCH.match(source.name):
            (packages_of(environment) / source.name).symlink_to(source)


def make(environment: Path, lender: Path | None) -> None:
    """Make the environment anew, with the package as it is here and all extras but `LEFT_OUT`."""
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    lowest = constraints(requirements())
    if lender:
        borrow_torch(lender, environment)
        lowest = [one for one in lowest if not TORCH.match(one.partition("==")[0])]
    (environment / "lowest.txt").write_text("\n".join(lowest) + "\n")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = f"{ROOT}[{','.join(name for name in extras if name not in LEFT_OUT)}]"
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)
    subprocess.run([*pip, "--constraint", environment / "lowest.txt", "--editable", wanted], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("--torch-of", type=Path, dest="lender")
    make(**vars(parser.parse_args()))
