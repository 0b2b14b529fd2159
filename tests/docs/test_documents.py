"""The documents are true and complete: their code prints what they show, and the generated pages cover the library."""

import re
import sys
from pathlib import Path

import pytest

import diversify as dv

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "docs" / "ext")]
import outputs  # noqa: E402
import pages  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("document", [one for one in outputs.DOCUMENTS if one != "README.md"])
def test_code_prints_what_the_document_shows(document: str) -> None:
    text = (ROOT / document).read_text()
    assert outputs.filled(text, document)[0] == text, "run `python docs/outputs.py`"


def test_every_measure_has_a_place_in_the_reference() -> None:
    grouped = pages.grouped(dv.MEASURES)
    assert sorted(name for names in grouped.values() for name in names) == sorted(dv.MEASURES)
    assert all(grouped.values())


def test_the_page_of_a_measure_has_all_its_parts() -> None:
    page = pages.measure_page("ceiling_gain", dv.MEASURES["ceiling_gain"], "")
    for part in ("## Definition", "**High:**", "**Low:**", "## Pitfalls", "## Reference", "Does it add to class size?"):
        assert part in page


def test_every_folder_has_a_page_in_the_reference() -> None:
    inside = {path.parent.name for path in (ROOT / "diversify").glob("*/__init__.pyi")} | {"functional"}
    assert inside <= set(pages.FOLDERS)


def test_pages_that_documents_point_to_are_there() -> None:
    made = {
        "generated/measures/index",
        "generated/methods",
        "generated/commands",
        "generated/api/index",
        "generated/gallery/index",
    }
    made |= {f"generated/gallery/{path.stem}" for path in (ROOT / "examples" / "gallery").glob("*.py")}
    made |= {f"generated/api/{folder}" for folder in pages.FOLDERS}
    for path in (ROOT / "docs").rglob("*.md"):
        if "generated" in path.parts:
            continue
        for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", path.read_text()):
            file = ROOT / "docs" / target[1:] if target.startswith("/") else path.parent / target
            assert target.lstrip("/") in made or file.with_suffix(".md").exists(), f"{path.name}: {target}"
