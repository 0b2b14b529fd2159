"""`remedy` for images with several labels each: a head, and a threshold for each label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import must
from ..files import atomic, digests, staging
from ..network.head_file import head_metadata
from ..network.linear_head import read_head
from ..repair.multilabel_choice import MultilabelChoice, choose_multilabel_head
from ..report.multilabel import render_multilabel_remedy_html, render_multilabel_remedy_markdown
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .diagnosed import require_recorded
from .folders import OWNED, SCHEMA_VERSION, alone
from .heldout import UNRECORDED
from .multilabel import load_multilabel_diagnosed
from .replaced_head import checkpoint_of, replaceable_head, with_head

THRESHOLDS = "thresholds.json"


@alone
def remedy_multilabel_run(
    folder: Path,
    *,
    out: Path,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[MultilabelChoice, dict[str, Any]]:
    """Repair the head of a diagnosed network with several labels per image, and fit a threshold for each label.

    The data is not needed, and the network is not built.

    Args:
        folder: A folder that `diagnose_multilabel_run` or `diagnose_multilabel_features` wrote, with a diagnosis on val.
        out: Receives `model.safetensors` (the user's checkpoint under its own tensor names, with the recommended head),
            `thresholds.json`, `remedy.json`, the report and `run.json`, all or none.
        seed: Random seed of the folds and of the bootstrap.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as heads are made.

    Returns:
        The comparison of heads, and the record that `run.json` holds.

    Raises:
        InputError: The diagnosis cannot serve to choose a head, or `out` cannot be written.
    """
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=[folder], beside=True)
    diagnosis, train, heldout, old, diagnosed = load_multilabel_diagnosed(folder)
    if diagnosis.heldout_split != "val":
        advice = "bring a validation set and diagnose on that: test is evaluated once, after choosing"
        raise must("diagnosis", "be made on val to choose a remedy", f"one made on {diagnosis.heldout_split}", advice)
    if diagnosed.get("finished") is False:
        raise must("diagnosis", "be finished", f"an interrupted one in {folder}", "run `diversify diagnose` again")
    require_recorded(folder, diagnosed)
    tensors = checkpoint_of(diagnosed, folder)
    old = replaceable_head(tensors, diagnosed, read_head(old))
    caveats = [UNRECORDED]
    if not old.has_bias and not old.cosine:
        caveats.append("the head has no bias: retrained heads have none")
    for caveat in caveats:
        say(f"note: {caveat}")
    choice = choose_multilabel_head(train, heldout, old, seed=seed, progress=stage(progress, "making heads"))
    repair = choice.repair
    assert repair is not None
    names = diagnosis.label_names
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "remedy",
        "several_labels": True,
        "finished": True,
        "started": provenance.now(),
        "of": {"path": str(folder), **diagnosed},
        "recommended": {"candidate": choice.names[choice.recommended], "text": choice.in_words()},
        "seed": seed,
        "caveats": caveats,
        **provenance.origin(torch.device("cpu")),
    }
    repaired = with_head(tensors, diagnosed, old, repair.head) if choice.recommended else tensors
    kept = MultilabelChoice.from_dict(choice.to_dict())  # rounded as in the file, as `report` reads it
    thresholds = {
        name: {"threshold": float(f"{value:.6g}"), "fitted": fitted}
        for name, value, fitted in zip(names, choice.thresholds.tolist(), choice.fitted.tolist(), strict=True)
    }
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        weights = staged / "model.safetensors"
        atomic.write_tensors(weights, repaired, head_metadata(old) if diagnosed.get("from_features") else None)
        record["weights"] = {"path": weights.name, "sha256": digests.sha256(weights)}
        atomic.write_json(staged / THRESHOLDS, thresholds)
        atomic.write_json(
            staged / "remedy.json", {"kind": "multilabel", "label_names": list(names), "choice": choice.to_dict()}
        )
        atomic.write_text(staged / "report.html", render_multilabel_remedy_html(kept, names, record))
        atomic.write_text(staged / "report.md", render_multilabel_remedy_markdown(kept, names, record))
        atomic.write_json(staged / "run.json", record)
    return choice, record
