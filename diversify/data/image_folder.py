"""Read a folder of images with one subfolder per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

from torch import Tensor

from ..errors import must
from .images import IMAGE_ENDINGS, ImageFiles, Images
from .labels import check_labels
from .sources import Source, as_spelled, listed, read_as, split_of

OTHER_ENDINGS = (
    *(".apng", ".arw", ".avif", ".cr2", ".dng", ".eps", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl"),
    *(".nef", ".pbm", ".pnm", ".psd", ".svg", ".svgz", ".tga"),
)
"""Endings of image files that are not read; a note counts them."""
ARCHIVE_LEFTOVERS = "__MACOSX"
"""The folder of metadata in archives made by macOS."""


def read_folder(top: Path) -> Source:
    """Read a tree of image files with one folder per class, below `train`, `val` and `test` or without splits.

    `validation` and `valid` are read as val, `training` as train, `testing` as test, in upper or lower case. A folder `train`
    beside folders of other names is a class, unless it has subfolders. The same name in two Unicode normal forms is one
    class. Hidden files and folders are not read; links to folders are followed.

    Raises:
        InputError: There is no such folder, no class in it, or two folders for one split or class.
    """
    if not top.is_dir():
        raise must("image folder", "be an existing folder", top)
    places, notes = _split_folders(top)
    folders = {split: _class_folders(place) for split, place in places.items()}
    spellings_on_disk: dict[str, str] = {}
    for by_key in folders.values():
        for key, folder in by_key.items():
            spellings_on_disk.setdefault(key, folder.name)
    keys = sorted(spellings_on_disk, key=spellings_on_disk.__getitem__)
    if not keys:
        raise must("image folder", "have one folder per class", f"none in {places['train']}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    others: Counter[str] = Counter()
    for split, place in places.items():
        files: list[tuple[Path, int]] = []
        for number, key in enumerate(keys):
            if key in folders[split]:
                every = files_below(folders[split][key])
                files += [(path, number) for path in every if path.suffix.lower() in IMAGE_ENDINGS]
                others.update(ending for path in every if (ending := path.suffix.lower()) in OTHER_ENDINGS)
        labels = check_labels(f"image folder {place}", [number for _, number in files])
        splits[split] = (ImageFiles([path for path, _ in files], labels, top=top), labels)
    if others:
        endings = listed([f"{count:,} {ending}" for ending, count in sorted(others.items())])
        notes.append(f"not read: images with other endings than {' '.join(IMAGE_ENDINGS)}: {endings}")
    return Source(splits=splits, class_names=[spellings_on_disk[key] for key in keys], notes=tuple(notes))


def _split_folders(top: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, and notes on names that are read differently and on folders that are not read."""
    found = sorted(entry.name for entry in _subfolders(top))
    known = [name for name in found if split_of(name)]
    trains = [name for name in known if split_of(name) == "train"]
    if found and found == known and not trains:
        raise must("image folder", "have a folder train beside val and test", ", ".join(found))
    places, notes = {"train": top}, []
    if trains and (found == known or any(_subfolders(top / name) for name in trains)):
        spelled = as_spelled(found, "image folder")
        places = {split: top / name for split, name in spelled.items()}
        notes = [f"folder {line}" for line in read_as(spelled)]
        if extra := [name for name in found if name not in known]:
            notes.append(f"not read: {listed(extra)}, beside {spelled['train']} in {top}")
    if archives := [place for place in dict.fromkeys((top, *places.values())) if (place / ARCHIVE_LEFTOVERS).is_dir()]:
        notes.append(f"not read: {ARCHIVE_LEFTOVERS} in {listed([str(place) for place in archives])}")
    return places, notes


def _class_folders(place: Path) -> dict[str, Path]:
    """The class folders, by name in one Unicode normal form; macOS writes names in another form than most systems."""
    folders: dict[str, Path] = {}
    for folder in sorted(_subfolders(place)):
        key = unicodedata.normalize("NFC", folder.name)
        if key in folders:
            got = f"two that read {folder.name} in {place}, written with different characters"
            raise must("class folders", "have names of their own", got, "join the two")
        folders[key] = folder
    return folders


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == ARCHIVE_LEFTOVERS


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)]


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders, sorted, without hidden ones; broken links to files are included.

    Links to folders are followed, but no folder is read twice and none that contains this one, so links cannot form a circle.
    """
    place = folder.resolve()
    seen = {_identity(each) for each in place.parents}
    files: list[Path] = []
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        if (identity := _identity(here)) in seen:
            continue
        seen.add(identity)
        if not os.access(here, os.R_OK | os.X_OK):
            raise must("image folder", "be one that you may read", here)
        with os.scandir(here) as entries:
            found = [entry for entry in entries if not _is_hidden(entry.name)]
        folders += [here / entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        links += sorted(here / entry.name for entry in found if entry.is_symlink() and entry.is_dir())
        files += [here / entry.name for entry in found if entry.is_file() or _is_broken_link(entry)]
    return sorted(files)


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
