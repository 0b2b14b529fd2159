"""The `check` command."""

from __future__ import annotations

from pathlib import Path

from ..diagnosis.check import Check, check
from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files import atomic
from .folders import refuse_multilabel


def check_run(
    diagnosis: Path,
    *,
    worst_recall: float | None = None,
    gap_ratio: float | None = None,
    against: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> Check:
    """Judge a diagnosis on disk, and write the outcome to the files that are named.

    Args:
        diagnosis: A folder that `diagnose_run` wrote, or its `diagnosis.json`.
        worst_recall: See `check`, as for the next.
        gap_ratio: See `check`.
        against: An older diagnosis, a folder or a file.
        junit: Receives JUnit XML; an existing file is replaced.
        markdown: Receives a Markdown table; an existing file is replaced.

    Returns:
        The outcome.

    Raises:
        InputError: A file is no diagnosis, no bar is given, or a bar is out of its range.
    """
    read = [_file(place).resolve() for place in (diagnosis, against) if place is not None]
    for name, file in (("junit", junit), ("markdown", markdown)):
        if file is not None and file.resolve() in read:
            raise must(name, "be another file than the diagnoses that are read", file)
    if junit is not None and markdown is not None and junit.resolve() == markdown.resolve():
        raise must("markdown", "be another file than junit", markdown)
    older = None if against is None else _read(against, "against")
    outcome = check(_read(diagnosis, "diagnosis"), worst_recall=worst_recall, gap_ratio=gap_ratio, against=older)
    for file, text in ((junit, outcome.to_junit), (markdown, outcome.to_markdown)):
        if file is not None:
            atomic.write_text(file, text())
    return outcome


def _file(place: Path) -> Path:
    return place / "diagnosis.json" if place.is_dir() else place


def _read(place: Path, name: str) -> Diagnosis:
    file = _file(place)
    if not file.is_file():
        raise must(name, "be a folder that `diversify diagnose` wrote, or its diagnosis.json", place)
    refuse_multilabel("check", place, name)
    return Diagnosis.from_dict(atomic.read_json(file, name))
