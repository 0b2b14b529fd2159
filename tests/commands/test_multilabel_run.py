"""`diagnose --multilabel`, `remedy`, `report`, and the commands that refuse several labels per image."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import diversify as dv
from diversify.commands.check import check_run
from diversify.commands.compare import compare_run
from diversify.commands.multilabel import CUT_HERE, diagnose_multilabel_features, diagnose_multilabel_run
from diversify.commands.multilabel_remedy import remedy_multilabel_run
from diversify.commands.options import DataOptions
from diversify.commands.plan import plan_run
from diversify.commands.remedy import remedy_run
from diversify.commands.report import report_run
from diversify.data.multilabel import load_multilabel_data
from diversify.errors import InputError

pytestmark = pytest.mark.slow

NAMES = ("sky", "tree", "car", "bird")


def quiet(line):
    pass


@pytest.fixture(scope="module")
def sides():
    return dv.make_multilabel_embeddings(images=300, heldout=200)


@pytest.fixture(scope="module")
def features(sides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    for name, side in zip(("train", "heldout"), sides, strict=False):
        np.savez(folder / f"{name}.npz", features=side.features, labels=side.labels, class_names=NAMES)
    head = sides[2]
    save_file({"weight": head.weight, "bias": head.bias}, folder / "head.safetensors")
    return folder


@pytest.fixture(scope="module")
def diagnosed(features, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "diagnosis"
    paths = (features / "train.npz", features / "heldout.npz")
    diagnose_multilabel_features(paths, head=features / "head.safetensors", out=out, say=quiet)
    return out


def test_features_are_diagnosed_as_in_python_and_reported_again(sides, diagnosed, tmp_path):
    train, heldout, head = sides
    expected = dv.diagnose_multilabel(train, heldout, head=head, label_names=NAMES)
    found = json.loads((diagnosed / "diagnosis.json").read_text())
    assert found == json.loads(expected.to_json())
    report_run(diagnosed, out=tmp_path / "report")
    assert (tmp_path / "report" / "report.html").read_text() == (diagnosed / "report.html").read_text()


def test_a_head_is_fitted_or_found_where_none_is_given(sides, features, tmp_path):
    paths = (features / "train.npz", features / "heldout.npz")
    said = []
    _, record = diagnose_multilabel_features(paths, out=tmp_path / "fitted", say=said.append)
    assert record["model"]["name"] == "a head fitted here"
    for name, side in zip(("train", "heldout"), sides, strict=False):
        np.savez(tmp_path / f"{name}.npz", features=side.features, labels=side.labels, logits=side.logits)
    paths = (tmp_path / "train.npz", tmp_path / "heldout.npz")
    diagnosis, record = diagnose_multilabel_features(paths, out=tmp_path / "found", say=quiet)
    assert record["model"]["name"] == "the head of the logits in the files"
    exact = dv.diagnose_multilabel(sides[0], sides[1], head=sides[2])
    assert diagnosis["recall_heldout"].tolist() == exact["recall_heldout"].tolist()


def test_the_remedy_writes_thresholds_and_a_head_and_reports_again(sides, diagnosed, tmp_path):
    choice, _ = remedy_multilabel_run(diagnosed, out=tmp_path / "remedy", say=quiet)
    thresholds = json.loads((tmp_path / "remedy" / "thresholds.json").read_text())
    assert list(thresholds) == list(NAMES)
    assert [one["threshold"] for one in thresholds.values()] == pytest.approx(choice.thresholds.tolist(), rel=1e-5)
    weight = load_file(tmp_path / "remedy" / "model.safetensors")["weight"]
    assert torch.equal(weight, choice.repair.head.weight)
    report_run(tmp_path / "remedy", out=tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text() == (tmp_path / "remedy" / "report.md").read_text()
    with pytest.raises(InputError, match="out must be"):
        remedy_multilabel_run(diagnosed, out=tmp_path / "remedy", say=quiet)


def test_commands_for_one_label_refuse_the_folder(diagnosed, tmp_path):
    law = "must be of images with one label each"
    with pytest.raises(InputError, match=rf"folder {law} for `diversify plan`"):
        plan_run(diagnosed)
    with pytest.raises(InputError, match=rf"diagnosis {law} for `diversify check`"):
        check_run(diagnosed / "diagnosis.json", worst_recall=0.5)
    with pytest.raises(InputError, match=rf"first {law} for `diversify compare`"):
        compare_run(diagnosed, diagnosed, out=tmp_path / "compared", say=quiet)
    with pytest.raises(InputError, match=f"diagnosis {law}"):
        remedy_run(diagnosed, out=tmp_path / "remedy", say=quiet)


def test_the_thresholds_of_a_remedy_are_those_in_use(features, diagnosed, tmp_path):
    choice, _ = remedy_multilabel_run(diagnosed, out=tmp_path / "remedy", say=quiet)
    paths, file = (features / "train.npz", features / "heldout.npz"), tmp_path / "remedy" / "thresholds.json"
    head = tmp_path / "remedy" / "model.safetensors"
    found, _ = diagnose_multilabel_features(paths, head=head, threshold=file, out=tmp_path / "again", say=quiet)
    assert found["threshold"].tolist() == pytest.approx(choice.thresholds.tolist(), rel=1e-5)
    assert float(found["f1_heldout"].mean()) > float(choice.f1_before.mean())
    file.write_text('{"sky": {"threshold": 0.5}}')
    with pytest.raises(InputError, match="threshold must name a threshold for each label, got none for tree"):
        diagnose_multilabel_features(paths, head=head, threshold=file, out=tmp_path / "wrong", say=quiet)


def test_a_diagnosis_on_test_chooses_no_remedy(features, tmp_path):
    paths = (features / "train.npz", features / "heldout.npz")
    diagnose_multilabel_features(paths, out=tmp_path / "test", heldout="test", say=quiet)
    with pytest.raises(InputError, match="diagnosis must be made on val to choose a remedy"):
        remedy_multilabel_run(tmp_path / "test", out=tmp_path / "remedy", say=quiet)


@pytest.fixture
def network(tmp_path):
    """Weights of a small network for 3 labels, and images with labels in a `.npz` file and in a table of files."""
    images = (torch.arange(60 * 64).view(60, 8, 8) * 37 % 251).to(torch.uint8).numpy()
    labels = np.stack([images[:, 0, 0] > 100, images[:, 3, 3] > 120, images[:, 5, 1] > 200], axis=1).astype(int)
    np.savez(
        tmp_path / "data.npz",
        train_images=images[:40],
        train_labels=labels[:40],
        val_images=images[40:],
        val_labels=labels[40:],
    )
    with (tmp_path / "data.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "split", "left", "middle", "right"])
        for row in range(60):
            Image.fromarray(images[row]).convert("RGB").save(tmp_path / f"{row}.png")
            table.writerow([f"{row}.png", "train" if row < 40 else "val", *labels[row]])
    for channels in (1, 3):
        model = dv.build_model("small_cnn", num_classes=3, channels=channels, seed=1)
        save_file(model.state_dict(), tmp_path / f"model{channels}.safetensors")
    return tmp_path


def options_of(spec):
    return DataOptions(spec=spec, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(("spec", "channels", "names"), [("npz", 1, "label 0"), ("csv", 3, "left")])
def test_a_checkpoint_is_diagnosed_and_repaired(network, spec, channels, names):
    out, data = network / "out", options_of(f"{spec}:{network}/data.{spec}")
    weights = network / f"model{channels}.safetensors"
    found, record = diagnose_multilabel_run(data, model=None, weights=weights, out=out, say=quiet)
    assert found.images == {"train": 40, "heldout": 20}
    assert found.label_names[0] == names
    assert record["finished"]
    with pytest.raises(InputError, match="out must"):
        diagnose_multilabel_run(data, model=None, weights=weights, out=out, say=quiet)
    before = (out / "diagnosis.json").read_text()
    unfinished = json.loads((out / "run.json").read_text()) | {"finished": False}
    (out / "run.json").write_text(json.dumps(unfinished))
    diagnose_multilabel_run(data, model=None, weights=weights, out=out, say=quiet)  # resumes
    assert (out / "diagnosis.json").read_text() == before
    remedy_multilabel_run(out, out=network / "remedy", say=quiet)
    assert load_file(network / "remedy" / "model.safetensors").keys() == load_file(weights).keys()
    repaired = network / "remedy" / "model.safetensors"
    _, record = diagnose_multilabel_run(data, model=None, weights=repaired, out=network / "again", say=quiet)
    assert any("the head was chosen on this validation set" in caveat for caveat in record["caveats"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": None}, "data must be given"),
        ({"imbalance": "exp:10"}, "imbalance must be left out for several labels per image"),
        ({"spec": "folder:somewhere"}, "data must be"),
        ({"mean": None, "std": None}, "mean and std must be those that the model was trained with"),
    ],
)
def test_options_that_do_not_apply_are_refused(network, change, message):
    data = DataOptions(**({"spec": f"npz:{network}/data.npz", "mean": (0.5,), "std": (0.5,)} | change))
    with pytest.raises(InputError, match=message):
        diagnose_multilabel_run(
            data, model=None, weights=network / "model1.safetensors", out=network / "out", say=quiet
        )
    assert not (network / "out").exists()


def test_without_a_validation_set_nothing_is_held_out(network):
    with np.load(network / "data.npz") as stored:
        np.savez(network / "one.npz", train_images=stored["train_images"], train_labels=stored["train_labels"])
    with pytest.raises(InputError, match="data must have a val split of images that the model was not trained on"):
        diagnose_multilabel_run(
            options_of(f"npz:{network}/one.npz"),
            model=None,
            weights=network / "model1.safetensors",
            out=network / "out",
            say=quiet,
        )


def test_a_hold_out_is_split_off_on_request_and_said(network):
    with np.load(network / "data.npz") as stored:
        np.savez(network / "one.npz", train_images=stored["train_images"], train_labels=stored["train_labels"])
        rows = len(stored["train_labels"])
    (network / "groups.txt").write_text("\n".join(str(row // 2) for row in range(rows)))
    group = str(network / "groups.txt")
    data = dataclasses.replace(options_of(f"npz:{network}/one.npz"), holdout=0.3, group=group)
    weights = network / "model1.safetensors"
    _, record = diagnose_multilabel_run(data, model=None, weights=weights, out=network / "cut", say=quiet)
    assert (record["data"]["holdout"], record["data"]["group"]) == (0.3, group)
    found = load_multilabel_data(data.spec, holdout=0.3, group=group, mean=(0.5,), std=(0.5,))
    assert record["data"]["splits"]["val"]["digest"] == found.val.digest()
    assert set(found.train.groups.tolist()).isdisjoint(found.val.groups.tolist())
    assert {"groups.txt", "one.npz"} == set(record["files"])
    assert CUT_HERE in record["caveats"]
    assert "split off from the training images here" in (network / "cut" / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a,b\n", "csv file must have a column path, got file, a, b"),
        ("path,a,b\n0.png,1\n", "line 2 of .* must have 3 fields, got 2"),
        ("path,a,b\n0.png,1,-1\n", "b in line 2 of .* must be 0 or 1, got '-1'"),
        ("path,split,a,b\n0.png,dev,1,0\n", "split in line 2 of .* must be one of train, val, test, got 'dev'"),
        ("path,a\n0.png,1\n", "labels must be at least 2"),
        ("path,a,b\nnone.png,1,0\n", "must be readable images"),
    ],
)
def test_tables_that_are_wrong_are_refused(network, text, message):
    (network / "wrong.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        diagnose_multilabel_run(
            options_of(f"csv:{network}/wrong.csv"),
            model=None,
            weights=network / "model3.safetensors",
            out=network / "out",
            say=quiet,
        )
