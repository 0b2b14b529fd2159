"""The house plan: who may import whom, who prints, who opens files, and where chance may come from."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "diversify"
ROOMS = {
    "errors": 0.0,
    "process": 0.0,
    "importing": 0.1,
    "validation": 0.1,
    "storage": 1.0,
    "origin": 1.0,
    "functional.counts": 1.1,
    "functional.draws": 1.1,
    "functional.image_changes": 1.2,
    "functional.stats": 1.2,
    "functional": 1.3,  # any other file of the pure core
    "functional.oversample": 1.4,
    "measures": 2.0,
    "heads": 2.0,
    "embeddings": 2.1,
    "extraction": 2.2,
    "findings": 2.9,
    "diagnosis": 3.0,
    "measuring": 3.05,
    "comparison": 3.1,
    "exhibits": 3.2,
    "policies": 3.8,
    "grading": 3.9,
    "rules": 3.9,
    "drafts": 3.95,
    "plan": 4.0,
    "eos": 5.0,
    "sampler": 5.0,
    "augment": 5.0,
    "augment_images": 5.1,
    "oversampling": 5.1,
    "augment_features": 5.1,
    "feature_bank": 5.2,
    "adaptive": 5.3,
    "images": 5.6,
    "array_ops": 5.65,
    "tables": 5.7,
    "sources": 5.8,
    "dataset": 5.85,
    "named_sources": 5.9,
    "losses": 5.9,
    "ingredients": 5.95,
    "training_state": 5.97,
    "training": 6.0,
    "data": 6.0,
    "models": 6.0,
    "head": 6.1,
    "duplicates": 6.1,
    "thumbnails": 6.1,
    "transforms": 6.1,
    "resident": 6.1,
    "head_choice": 6.15,
    "leak": 6.2,
    "study.protocol": 7.0,
    "study.records": 7.1,
    "study.methods": 7.2,
    "study.suites": 7.3,
    "study.trial": 7.3,
    "study.tune": 7.4,
    "study.run": 7.5,
    "study.compare": 7.5,
    "study": 7.6,
    "plots": 8.0,
    "layout": 8.1,
    "wording": 8.1,
    "sections": 8.2,
    "comparison_report": 8.2,
    "report": 8.3,
    "remedy_report": 8.3,
    "demo_report": 8.35,
    "benchmark_words": 8.2,
    "benchmark_statements": 8.25,
    "benchmark_tables": 8.25,
    "benchmark_sections": 8.3,
    "benchmark_report": 8.35,
    "runs.folders": 9.0,
    "runs.options": 9.0,
    "runs.recorded": 9.0,
    "runs.train": 9.01,
    "runs.diagnose": 9.02,
    "runs.compare": 9.03,
    "runs.plan": 9.03,
    "runs.remedy": 9.03,
    "runs.demo": 9.04,
    "runs.benchmark": 9.04,
    "runs.report": 9.04,
    "runs": 9.05,
    "cli": 9.1,
    "__main__": 9.2,
    "__init__": 9.2,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> float:
    module = module.removesuffix(".__init__")
    if module in ROOMS:
        return ROOMS[module]
    return ROOMS[module.split(".")[0]]


def imports_of(tree: ast.AST, module: str) -> list[str]:
    """Modules of ours that a file imports at run time, as dotted names below the package."""
    found = []
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("diversify")):
            if node.level:
                base = module.split(".")[: len(module.split(".")) - node.level]
                names = [*base, *((node.module or "").split(".") if node.module else [])]
            else:
                names = (node.module or "").split(".")[1:]
            for alias in node.names:
                candidate = [*names, alias.name]
                is_module = (PACKAGE.joinpath(*candidate).with_suffix(".py")).exists()
                found.append(".".join(candidate if is_module else names))
        elif isinstance(node, ast.Import):
            found += [
                alias.name.removeprefix("diversify.") for alias in node.names if alias.name.startswith("diversify")
            ]
    return [name for name in found if name]


def test_imports_are_read_in_every_form() -> None:
    tree = ast.parse(
        "from . import storage\nfrom .functional import draws\nfrom .errors import must\nimport diversify.data\n"
    )
    assert imports_of(tree, "runs") == ["storage", "functional.draws", "errors", "data"]
    assert imports_of(ast.parse("from ..errors import must\nfrom .counts import class_mean"), "functional.stats") == [
        "errors",
        "functional.counts",
    ]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_from_lower_rooms(path: Path) -> None:
    module = module_of(path)
    for imported in imports_of(ast.parse(path.read_text()), module):
        assert room_of(imported) < room_of(module), f"{module} imports {imported}"


def calls_of(path: Path) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if module_of(path) != "cli":
        assert "print" not in calls_of(path)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_storage_and_data_open_files(path: Path) -> None:
    if module_of(path) in (
        "storage",
        "data",
        "sources",
        "images",
        "process",
    ):  # the last one opens the null device only
        return
    opening = (
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "np.load",
        "np.save",
        "torch.load",
        "torch.save",
    )
    ours = [call for call in calls_of(path) if call.split(".")[-1] in opening or call in opening]
    ours = [call for call in ours if not call.startswith("storage.") and "files(" not in call]
    assert not ours


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_chance_is_never_global(path: Path) -> None:
    """Only states may be kept and restored; the loop seeds the users' own generators and puts them back."""
    allowed = {"np.random.RandomState", "np.random.get_state", "np.random.set_state", "torch.random.fork_rng"}
    allowed |= {"random.getstate", "random.setstate"}
    if module_of(path) in ("training", "models"):
        allowed |= {"torch.manual_seed", "np.random.seed", "random.seed"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or any(keyword.arg == "generator" for keyword in node.keywords):
            continue
        call = ast.unparse(node.func)
        if call.startswith(("np.random.", "torch.rand", "torch.manual_seed", "random.")):
            assert call in allowed, call


def test_the_public_names_are_there() -> None:
    import diversify

    assert len(diversify.__all__) == len(set(diversify.__all__))
    for name in diversify.__all__:
        assert getattr(diversify, name) is not None
