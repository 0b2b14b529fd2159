"""Pages made from the library itself before Sphinx reads its sources: measures, methods, the API reference, a sample report.

They are written to `docs/generated`, which git ignores, and only where their text has changed.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from torch import nn

import diversify as dv
from diversify import training
from diversify.diagnosis.catalogue import MEASURES, Measure
from diversify.plan import policies
from diversify.study.methods import METHODS
from diversify.study.protocol import Method

HERE = Path(__file__).parent.parent
OUT = HERE / "generated"
FOLDERS = ("data", "network", "diagnosis", "plan", "augment", "training", "repair", "study", "report", "functional")

_SENTENCE = re.compile(r"\n\n|(?<=\.)\s")

# Pages of the reference, in the order in which a reader meets them; every measure is in exactly one group.
GROUPS: Mapping[str, Callable[[str], bool]] = {
    "Size and accuracy": lambda name: name.startswith(("count", "recall", "precision", "ece", "margin", "size_and_")),
    "What a better head would gain": lambda name: name.startswith(("ceiling", "head_norm")),
    "Strongest features": lambda name: name.startswith(
        ("top_k", "needed", "ce_magnitude", "fe_magnitude", "identity", "feature_deviation", "range_gap")
    ),
    "Neighbours": lambda name: name in ("safe", "border", "rare", "outlier"),
    "Near copies and groups": lambda name: name.startswith(("effective", "near_copies", "groups")),
    "Suspect labels and failing clusters": lambda name: name.startswith(("suspect", "cluster")),
    "Diversity at matched n, coverage, and collapse": lambda name: name.startswith(("diversity_", "coverage", "nc1")),
}


def write(path: Path, text: str) -> None:
    """Write a page unless it already says this, so that Sphinx reads only what has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """The measures of each group: a measure belongs to the first group that takes it."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in names:
        found[next(group for group, takes in GROUPS.items() if takes(name))].append(name)
    return found


# Measures

_UNITS = {
    "share": "share, from 0 to 1",
    "ratio": "ratio",
    "logits": "logits",
    "features": "units of the features",
    "images": "images",
    "number": "number",
}


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if unit == "share" else f"{value:.0f}" if unit == "images" else f"{value:.2f}"


def _values(name: str, unit: str, diagnosis: dv.Diagnosis) -> str:
    """The measure on the synthetic example, one row per class."""
    if name not in diagnosis.columns:
        return ""
    rows = []
    for c, class_name in enumerate(diagnosis.class_names):
        value = _shown(float(diagnosis[name][c]), unit)
        if f"{name}_low" in diagnosis.columns:
            low, high = (_shown(float(diagnosis[f"{name}_{end}"][c]), unit) for end in ("low", "high"))
            value += f" [{low}, {high}]" if "–" not in (low, high) else ""
        rows.append(f"| {class_name} | {int(diagnosis['count'][c])} | {value} |")
    return "\n".join(("| class | training images | value |", "|:--|--:|--:|", *rows))


def measure_page(name: str, one: Measure, example: str) -> str:
    """The page of one measure."""
    bad = {"low": "A low value is bad.", "high": "A high value is bad.", "": "Neither end is bad by itself."}[one.bad]
    facts = [
        f'Column\n: `diagnosis["{name}"]`' + (f", with `{name}_low` and `{name}_high` (95%)" if one.interval else ""),
        f"Unit\n: {_UNITS[one.unit]}",
        f"Direction\n: {bad}",
    ]
    if one.evidence:
        facts.append(
            f"Does it add to class size?\n: {one.evidence[0].upper()}{one.evidence[1:]}."
            " Tested on 16 networks: {doc}`/results/diagnostics`."
        )
    parts = [f"# {one.title[0].upper()}{one.title[1:]}", one.meaning, "\n\n".join(facts)]
    if one.formula:
        parts.append(f"## Definition\n\n```{{code-block}} text\n{one.formula}\n```")
    reading = [f"**{word}:** {text}" for word, text in (("High", one.high), ("Low", one.low)) if text]
    if reading:
        parts.append("## How to read it\n\n" + "\n\n".join(reading))
    if one.pitfalls:
        parts.append(f"## Pitfalls\n\n{one.pitfalls}")
    if example:
        parts.append(f"## On synthetic embeddings\n\nFrom `dv.make_embeddings((400, 150, 60, 25, 10))`.\n\n{example}")
    if one.reference:
        parts.append(f"## Reference\n\n{one.reference}")
    return "\n\n".join(parts) + "\n"


def measures() -> None:
    """One page per measure, and their list."""
    train, heldout, head = dv.make_embeddings((400, 150, 60, 25, 10), num_features=32, spread=0.8)
    diagnosis = dv.diagnose(train, heldout, head=head)
    for name, one in MEASURES.items():
        write(OUT / "measures" / f"{name}.md", measure_page(name, one, _values(name, one.unit, diagnosis)))
    parts = [
        "# Measures",
        f"A diagnosis has {len(MEASURES)} columns with one number per class. This list is made from `dv.MEASURES`.",
    ]
    for group, names in grouped(MEASURES).items():
        rows = [
            f"| {{doc}}`{MEASURES[name].title} <{name}>` | `{name}` | {MEASURES[name].bad or '–'} |" for name in names
        ]
        parts.append("\n".join((f"## {group}", "", "| measure | column | bad when |", "|:--|:--|:--|", *rows)))
        parts.append("\n".join(("```{toctree}", ":hidden:", "", *names, "```")))
    write(OUT / "measures" / "index.md", "\n\n".join(parts) + "\n")


# Methods


def _searched(method: Method) -> str:
    return ", ".join(f"`{name}`" for name in method.space) or "–"


SCHEDULED = ("Always", "Deferred")  # which loss is used when, not losses themselves


def methods() -> None:
    """The contents page of methods: name, what it does, paper."""
    rows = [f"| `{one.name}` | {one.meaning} | {one.source or '–'} | {_searched(one)} |" for one in METHODS.values()]
    losses = [
        (name, inspect.getdoc(getattr(dv, name)) or "")
        for name in training.__all__
        if inspect.isclass(one := getattr(training, name)) and issubclass(one, nn.Module) and name not in SCHEDULED
    ]
    features = ", ".join(f"`{name}`" for name in get_args(policies.FeatureMethod))
    text = [
        "# Methods",
        "Every method that a study knows by name. A name can carry the suffixes `+images`, `+mix` and `+head`: the image"
        " augmentation, the mixing and the head step of `diversify`, without its diagnosis. These are the controls. Learning"
        " rate and weight decay are searched for every method; the last column lists what is searched beside them.",
        "## Methods of a study",
        "\n".join(("| name | what it does | paper | also searched |", "|:--|:--|:--|:--|", *rows)),
        "## Losses for your own loop",
        "\n".join(
            (
                "| name | what it does |",
                "|:--|:--|",
                *(f"| `dv.{name}` | {doc.splitlines()[0]} |" for name, doc in losses),
            )
        ),
        "`dv.Always(loss)` uses a loss in every epoch, `dv.Deferred(first, then, start_epoch)` changes it during training"
        " (deferred reweighting, Cao et al. 2019).",
        "## Feature methods of a plan",
        f"`FeaturePolicy.method` is one of {features}. {{doc}}`/generated/api/plan` defines them;"
        " `dv.DiversifyOverSampler` offers `eos`, `smote`, `borderline_smote`, `covariance` and `random` to scikit-learn.",
    ]
    write(OUT / "methods.md", "\n\n".join(text) + "\n")


# API reference


def _public(module: ModuleType) -> list[str]:
    return [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]


def _entry(path: str, value: Any) -> str:
    if inspect.isclass(value):
        options = ["   :members:"] if not issubclass(value, Exception) else []
        return "\n".join((f".. autoclass:: {path}", *options, ""))
    if callable(value):
        return f".. autofunction:: {path}\n"
    return f".. py:data:: {path}\n\n   {_shown_value(path, value)}\n"


def _shown_value(path: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"A mapping with {len(value)} entries: {', '.join(f'`{key}`' for key in list(value)[:40])}."
    if isinstance(value, tuple):
        names = [getattr(one, "name", one) for one in value]
        return f"{len(value)} entries: {', '.join(f'`{one}`' for one in dict.fromkeys(names))}."
    return f"An instance of {type(value).__name__}."


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def api() -> None:
    """One page per folder with its public names; a name that `diversify` itself offers is documented as `diversify.NAME`."""
    top = set(_public(dv))
    for folder in FOLDERS:
        module = importlib.import_module(f"diversify.{folder}")
        parts = [_title(f"diversify.{folder}"), f"{inspect.getdoc(module) or ''}\n"]
        if folder == "functional":
            for file in sorted(Path(str(module.__file__)).parent.glob("[a-z]*.py")):
                name = f"diversify.functional.{file.stem}"
                title = f"functional.{file.stem}"
                parts.append(f"{title}\n{'-' * len(title)}\n\n.. automodule:: {name}\n   :members:\n")
        else:
            for name in sorted(_public(module), key=str.lower):
                path = f"diversify.{name}" if name in top else f"diversify.{folder}.{name}"
                parts.append(_entry(path, getattr(module, name)))
        write(OUT / "api" / f"{folder}.rst", "\n".join(parts))
    rows = []
    for folder in FOLDERS:
        doc = inspect.getdoc(importlib.import_module(f"diversify.{folder}")) or ""
        first = _SENTENCE.split(doc)[0].replace("\n", " ")
        rows.append(f"| {{doc}}`diversify.{folder} <{folder}>` | {first} |")
    text = [
        "# API reference",
        "`import diversify as dv` offers the names that most programs need; each folder offers the rest, as in"
        " `from diversify.plan import RULES`. Names load when they are first used, so the import is quick.",
        "\n".join(("| folder | contents |", "|:--|:--|", *rows)),
        "\n".join(("```{toctree}", ":hidden:", "", *FOLDERS, "```")),
    ]
    write(OUT / "api" / "index.md", "\n\n".join(text) + "\n")


# The command line


def commands() -> None:
    """Every command with its options, as `--help` gives them."""
    import typer

    from diversify.cli.commands import app

    group = typer.main.get_command(app)
    parts = [
        "# Command line",
        "Every command writes its results into a folder, and ends with exit code 0 (done), 2 (wrong input, said in one line) or"
        " 130 (interrupted, what was finished is kept). `diversify COMMAND --help` prints the same as this page.",
    ]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        rows, arguments = [], []
        for one in command.params:
            if one.param_type_name == "argument":
                arguments.append((one.metavar or one.name).upper())
                continue
            options = ", ".join(f"`{option}`" for option in one.opts)
            rows.append(f"| {options} | {(getattr(one, 'help', None) or '').replace('|', chr(92) + '|')} |")
        usage = " ".join(("diversify", name, *arguments, "[OPTIONS]"))
        table = "\n".join(("| option | meaning |", "|:--|:--|", *rows))
        parts += [f"## {name}", inspect.cleandoc(command.help or ""), f"```console\n$ {usage}\n```", table]
    write(OUT / "commands.md", "\n\n".join(parts) + "\n")


# A report to look at


def sample_report() -> None:
    """`sample-report.html`: the whole report of a small network on long-tailed digits."""
    path = OUT / "extra" / "sample-report.html"
    sources = (Path(dv.__file__).parent).rglob("*.*")
    if path.exists() and path.stat().st_mtime > max(one.stat().st_mtime for one in sources if one.suffix != ".pyc"):
        return
    data = dv.load_data("digits", imbalance="exp:20", holdout=0.3)
    model = dv.build_model("small_cnn", num_classes=10, channels=1, seed=0)
    recipe = dv.Recipe(epochs=8, batch_size=32, learning_rate=0.1, warmup_epochs=1, precision="fp32")
    for _ in dv.fit(model, data.train.dataset, recipe=recipe, num_classes=10, prepare=data.view.normalize):
        pass
    split = dv.split_head(model)
    seen, unseen = (dv.extract(split, dv.make_loader(one, data.view)) for one in (data.train, data.val))
    diagnosis = dv.diagnose(seen, unseen, head=split.head, class_names=data.class_names)
    exhibits = dv.choose_exhibits(seen, unseen, head=split.head, diagnosis=diagnosis)
    exhibits = dv.take_pictures(exhibits, data.train.dataset, data.val.dataset)
    write(path, dv.render_html(diagnosis, {}, exhibits))


class _Shortened:
    """A default value that is too long for a signature."""

    def __repr__(self) -> str:
        return "..."


def shorten_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Write `...` for default values that would fill lines, such as a whole table of rules."""
    if not signature or len(signature) < 200:
        return None
    found = inspect.signature(obj)
    parameters = [
        one.replace(
            annotation=one.empty,
            default=_Shortened() if one.default is not one.empty and len(repr(one.default)) > 60 else one.default,
        )
        for one in found.parameters.values()
        if one.name not in ("self", "cls")
    ]
    return str(found.replace(parameters=parameters, return_annotation=found.empty)), returned


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write the bars of |x| in a docstring as bars: in reStructuredText they would begin a substitution."""
    for place, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith((">>>", "...")):
            parts = line.split("`")
            lines[place] = "`".join(part if at % 2 else part.replace("|", "\\|") for at, part in enumerate(parts))


def generate(app: Any) -> None:
    """Everything above, once the configuration is read."""
    for make in (measures, methods, api, commands, sample_report):
        make()


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", shorten_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
