"""The held-out images of a checkpoint, and what is doubtful about the images that it learned from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..data.load import Data
from ..data.loader import Split
from ..errors import must, unknown
from .recorded import Recorded

UNRECORDED = "there is no training record beside the weights: it is assumed that train holds the images that the network was trained on"
OTHER_IMAGES = "these training images are not those that the checkpoint's record names"
CHOSE_HEAD = (
    "the head was chosen on this validation set, and perhaps the plan was made from it, so what is measured on it is somewhat"
    " optimistic: only test can judge the result"
)
_CHOSE_HEAD_BEFORE = (  # in records of earlier versions
    "this val chose the head and, where the plan was made from it, the plan, so what is measured on it is somewhat optimistic:"
    " test has the last word"
)


def chose_head(caveats: Iterable[str]) -> bool:
    """Return True if the caveats of a record say that the head was chosen on its held-out images."""
    return not {CHOSE_HEAD, _CHOSE_HEAD_BEFORE}.isdisjoint(caveats)


def trained_on(training: dict[str, Any] | None, data: Data, files: dict[str, str]) -> bool:
    """Return whether the record of a training run names exactly these training images.

    A record without a digest of the images' content, such as that of a user's own data set, is compared by its rows alone.
    """
    if training is None:
        return False
    recorded = training["data"]["splits"]["train"]
    same_rows = recorded["digest"] == data.train.digest() and training.get("files", files) == files
    return bool(same_rows and recorded.get("content") in (None, data.train.content))


def choose_heldout(
    data: Data, wanted: str | None, training: dict[str, Any] | None, files: dict[str, str]
) -> tuple[str, Split]:
    """The name and images of the held-out split.

    It is the validation set if the data set has one of its own, or if the checkpoint's record shows that the network was trained
    without it; test only on request.
    """
    if wanted not in (None, "val", "test"):
        raise unknown("heldout", str(wanted), ("val", "test"))
    if wanted == "test":
        if data.test is None:
            raise must('heldout="test"', "find a test split", f"none in {data.spec}")
        return "test", data.test
    if data.val is not None and (data.val.origin == "source" or trained_on(training, data, files)):
        return "val", data.val
    raise must(
        "heldout",
        "be images that the model was not trained on",
        "none: the data have no validation set, or no record beside the weights shows that the model was not trained on it",
        "give the data a val split (DIR/train and DIR/val in folder:DIR, val_images and val_labels in npz:FILE), or train with"
        ' `diversify train`, which holds images out; heldout="test" makes a diagnosis that is for reading only',
    )


def doubts_about(training: dict[str, Any] | None, data: Data, files: dict[str, str]) -> list[str]:
    """Doubts about which images the network was trained on, one sentence each."""
    if training is None:
        return [UNRECORDED]
    if not trained_on(training, data, files):
        return [OTHER_IMAGES]
    return []


def chosen_by(known: Recorded | None, heldout: Split) -> list[str]:
    """The caveat that these very images chose the head, if they did.

    Raises:
        InputError: The head was fitted on them.
    """
    if known is not None and known.fitted and known.chose_head_by(heldout):
        law = "be images that the head was not fitted on"
        raise must("heldout", law, "the validation set that `remedy` fitted it on", "use heldout=test")
    return [CHOSE_HEAD] if known is not None and known.chose_head_by(heldout) else []
