"""`diversify diagnose --features`: a diagnosis and a remedy from arrays alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import diversify as dv
from diversify.cli.entry import run
from diversify.commands import remedy as module
from diversify.commands.diagnosed import load_diagnosed
from diversify.files import atomic

pytestmark = pytest.mark.usefixtures("reports_without_figures")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[dict, dict, dv.LinearHead]:
    train, heldout, head = dv.make_embeddings((40, 20, 10), heldout=20, num_features=8)
    pair = [{"features": one.features.numpy(), "labels": one.labels.numpy()} for one in (train, heldout)]
    return pair[0], pair[1], head


def npz(path: Path, columns: dict) -> str:
    np.savez(path, **columns)
    return str(path)


def pair(tmp_path: Path, sides: tuple) -> list[str]:
    return [npz(tmp_path / f"{name}.npz", side) for name, side in zip(("train", "heldout"), sides, strict=False)]


def head_file(path: Path, head: dv.LinearHead) -> str:
    if path.suffix == ".npz":
        np.savez(path, weight=head.weight.numpy(), bias=head.bias.numpy())
    else:
        atomic.write_tensors(path, {"weight": head.weight, "bias": head.bias})
    return str(path)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_the_diagnosis_is_that_of_the_same_embeddings(tmp_path: Path, sides: tuple, kind: str) -> None:
    out = tmp_path / "out"
    head = ["--head", head_file(tmp_path / f"head.{kind}", sides[2])]
    assert run(["diagnose", "--features", *pair(tmp_path, sides), *head, "--top-k", "4", "--out", str(out)]) == 0
    train, heldout = (dv.Embeddings.from_arrays(**side, head=sides[2]) for side in sides[:2])
    wanted = dv.diagnose(train, heldout, head=sides[2], top_k=4)
    assert atomic.read_json(out / "diagnosis.json", "diagnosis") == wanted.to_dict()
    assert atomic.read_json(out / "run.json", "run.json")["head_fitted"] is None


def test_labels_that_are_names_are_numbered_by_class_names_or_in_alphabetical_order(
    tmp_path: Path, sides: tuple
) -> None:
    names = np.array(["cat", "ant", "bee"])
    for side in sides[:2]:
        side["labels"] = names[side["labels"]]
    alphabetical, out = pair(tmp_path, sides), tmp_path / "out"
    assert run(["diagnose", "--features", *alphabetical, "--top-k", "4", "--out", str(out)]) == 0
    found = atomic.read_json(out / "diagnosis.json", "diagnosis")["classes"]
    assert (found["name"], found["count"]) == (["ant", "bee", "cat"], [20, 10, 40])
    for side in sides[:2]:
        side["class_names"] = names
    head = ["--head", head_file(tmp_path / "head.npz", sides[2])]
    named = ["diagnose", "--features", *pair(tmp_path, sides), *head, "--top-k", "4", "--overwrite", "--out", str(out)]
    assert run(named) == 0
    found = atomic.read_json(out / "diagnosis.json", "diagnosis")["classes"]
    assert (found["name"], found["count"]) == (["cat", "ant", "bee"], [40, 20, 10])


@pytest.mark.slow
def test_a_head_is_fitted_said_and_repaired(
    tmp_path: Path, sides: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diversify.repair.retrain import HeadRecipe

    monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(module, "HeadRecipe", lambda **options: HeadRecipe(steps=5, batch_size=16, **options))
    for side, name in zip(sides[:2], ("train", "heldout"), strict=True):  # a folder of memory maps, in half precision
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "features.npy", side["features"].astype(np.float16))
        np.save(tmp_path / name / "labels.npy", side["labels"].astype(np.uint8))
        np.save(tmp_path / name / "class_names.npy", np.array(["cat", "dog", "owl"]))
    out = tmp_path / "out"
    where = [str(tmp_path / name) for name in ("train", "heldout")]
    assert run(["diagnose", "--features", *where, "--top-k", "4", "--out", str(out)]) == 0
    record = atomic.read_json(out / "run.json", "run.json")
    assert record["head_fitted"]["loss"] == "cross entropy"
    assert record["notes"][0] in capsys.readouterr().out.replace("\n", " ")
    assert "fitted here" in (out / "report.md").read_text(encoding="utf-8")
    _, model, _ = load_diagnosed(out)
    fitted = dv.fit_head(model.train.features, model.train.labels, 3)
    assert torch.equal(model.head.weight, fitted.weight)
    assert run(["plan", str(out)]) == 0
    moved = out.rename(tmp_path / "moved")
    assert run(["remedy", str(moved), "--out", str(tmp_path / "remedy")]) == 0
    tensors = atomic.read_tensors(tmp_path / "remedy" / "model.safetensors")[0]
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {"weight": (3, 8), "bias": (3,)}
    assert run(["report", str(moved), "--out", str(tmp_path / "again")]) == 0


def test_the_fitted_head_minimises_the_loss(sides: tuple) -> None:
    features, labels = (torch.from_numpy(sides[0][name]) for name in ("features", "labels"))
    head = dv.fit_head(features, labels, 3)
    scale = features.square().mean().sqrt()
    weight, bias = (head.weight * scale).requires_grad_(), head.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(features / scale @ weight.T + bias, labels)
    (loss + 0.5 * 5e-4 * weight.square().sum()).backward()
    assert max(float(each.grad.abs().max()) for each in (weight, bias)) < 1e-3


WRONG = {
    "no labels": (lambda side: side.pop("labels"), "must hold features and labels, got no labels"),
    "nan": (lambda side: side["features"].__setitem__((1, 2), np.nan), "features must be finite, got nan at row 1"),
    "rows": (lambda side: side.update(labels=side["labels"][1:]), "labels must have one "),
    "negative": (lambda side: side["labels"].__setitem__(0, -1), "labels must lie in [0, C - 1 = 2], got -1 at row 0"),
    "huge": (lambda side: side["labels"].__setitem__(0, 10**12), "labels must number the classes from 0 without gaps"),
    "no rows": (lambda side: side.update(features=np.zeros((0, 8)), labels=np.zeros(0, int)), "with at least one row"),
    "a number": (lambda side: side.update(features=np.array(3.0)), "features must be real numbers in 2 dimensions"),
    "text": (
        lambda side: side.update(labels=side["labels"].astype(str)),
        "labels must be class indices where the files hold no class_names, got",
    ),
    "floats": (
        lambda side: side.update(labels=side["labels"] + 0.5),
        "labels must be integers in 1 dimension, got float64",
    ),
    "images": (
        lambda side: side.update(features=side["features"][None]),
        "features must be real numbers in 2 dimensions",
    ),
    "objects": (lambda side: side.update(features=np.array([{}], dtype=object)), "must be an array of numbers or text"),
    "logits": (lambda side: side.update(logits=np.zeros((70, 3))), "logits must differ from row to row"),
    "logits of other rows": (
        lambda side: side.update(logits=np.eye(3)),
        "logits must have one row per row of features",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, sides: tuple, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[case]
    change(sides[0])
    out = tmp_path / "out"
    assert run(["diagnose", "--features", *pair(tmp_path, sides), "--top-k", "4", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_logits_must_be_those_of_the_head(sides: tuple) -> None:
    train, head = sides[0], sides[2]
    logits = head.logits(torch.from_numpy(train["features"]))
    assert dv.Embeddings.from_arrays(**train, logits=logits.double(), head=head).logits.dtype == torch.float32
    with pytest.raises(dv.InputError, match="logits must be those of the head"):
        dv.Embeddings.from_arrays(**train, logits=-logits, head=head)
    with pytest.raises(dv.InputError, match="head must be given where there are no logits"):
        dv.Embeddings.from_arrays(**train)


def test_parquet_asks_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    files = [str(tmp_path / "a.parquet")] * 2
    assert run(["diagnose", "--features", *files, "--out", str(tmp_path / "out")]) == 2
    assert "pyarrow must be installed to read .parquet files" in capsys.readouterr().err


def test_parquet_files(tmp_path: Path, sides: tuple) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for side, name in zip(sides[:2], ("train", "heldout"), strict=True):
        table = arrow.table({"features": side["features"].tolist(), "labels": side["labels"]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("train", "heldout")]
    assert run(["diagnose", "--features", *files, "--top-k", "4", "--out", str(tmp_path / "out")]) == 0
