"""The diagnosis of several labels per image: values, intervals, absent labels, findings, its JSON form, refusals."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from reference import multilabel as plain
from reference.compare import same
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.errors import InputError

NAMES = ("sky", "tree", "car", "bird")


@pytest.fixture(scope="module")
def sides():
    return dv.make_multilabel_embeddings(images=300, heldout=200)


@pytest.fixture(scope="module")
def diagnosis(sides):
    train, heldout, head = sides
    return dv.diagnose_multilabel(train, heldout, head=head, label_names=NAMES)


def test_recall_precision_and_average_precision_are_those_of_plain_python(sides, diagnosis):
    _, heldout, head = sides
    scores, labels = head.logits(heldout.features).tolist(), heldout.labels.int().tolist()
    for c in range(4):
        own = [(row[c], wanted[c]) for row, wanted in zip(scores, labels, strict=True)]
        hits = sum(1 for z, y in own if z >= 0 and y)
        assert float(diagnosis["recall_heldout"][c]) == pytest.approx(hits / sum(y for _, y in own))
        called = sum(1 for z, _ in own if z >= 0)
        assert same(float(diagnosis["precision_heldout"][c]), hits / called if called else math.nan)
        wanted = plain.average_precision(*zip(*own, strict=True))
        assert float(diagnosis["average_precision"][c]) == pytest.approx(wanted)
    assert diagnosis["count"].tolist() == sides[0].labels.sum(0).tolist()


def test_the_magnitude_ratio_is_that_of_the_positives(sides, diagnosis):
    train, heldout, head = sides
    for c in range(4):
        embedding = [side.features[side.labels[:, c]] * head.weight[c] for side in (train, heldout)]
        top = embedding[0].double().mean(0).topk(10).indices
        seen, unseen = (float(each[:, top].mean()) for each in embedding)
        assert float(diagnosis["ce_magnitude_ratio"][c]) == pytest.approx(unseen / seen, rel=1e-4)


def test_values_lie_in_their_intervals_or_near_them(diagnosis):
    for name, low in diagnosis.columns.items():
        if name.endswith("_low"):
            measure, high = name.removesuffix("_low"), diagnosis[name.removesuffix("_low") + "_high"]
            known = ~low.isnan() & ~diagnosis[measure].isnan()
            assert bool((low <= high)[known].all()), name
            assert bool((diagnosis[measure] >= low - 0.2)[known].all()), name


def test_a_threshold_per_label_changes_the_decisions_and_not_the_ranking(sides, diagnosis):
    train, heldout, head = sides
    other = dv.diagnose_multilabel(train, heldout, head=head, threshold=[0.5, 0.5, 0.5, 0.01])
    assert float(other["recall_heldout"][3]) > float(diagnosis["recall_heldout"][3])
    assert same(other["average_precision"].tolist(), diagnosis["average_precision"].tolist())


def test_labels_without_positives_are_nan_and_named(sides):
    train, heldout, head = sides
    no_birds = dataclasses.replace(heldout, labels=heldout.labels & torch.tensor([1, 1, 1, 0]).bool())
    no_cars = dataclasses.replace(train, labels=train.labels & torch.tensor([1, 1, 0, 1]).bool())
    found = dv.diagnose_multilabel(no_cars, no_birds, head=head, label_names=NAMES)
    assert (found.without_heldout, found.without_training) == (("bird",), ("car",))
    for measure in ("recall_heldout", "average_precision", "f1_heldout", "ce_magnitude_ratio", "threshold_best"):
        assert math.isnan(float(found[measure][3])), measure
    assert math.isnan(float(found["ce_magnitude_ratio"][2]))
    assert found.cooccurrence_heldout[3].isnan().all()
    assert found.findings[0].remedy == "collect images"
    assert math.isfinite(found.summary["mean_average_precision"])
    again = dv.MultilabelDiagnosis.from_json(found.to_json())
    assert all(same(again[name].tolist(), found[name].tolist(), 1e-5) for name in found.columns)


def test_a_label_that_is_recognised_only_with_another_is_found():
    """Tree is predicted exactly where sky is there too; car does not depend on anything."""
    turns = torch.arange(400)
    sky, tree, car = turns % 2 == 0, turns % 3 != 0, turns % 5 == 0
    labels = torch.stack([sky, (tree & sky) | (turns % 12 == 3), car], dim=1)
    features = torch.stack([sky, tree & sky, car], dim=1).float()
    head = dv.LinearHead(weight=4 * torch.eye(3), bias=torch.full((3,), -2.0))
    made = dv.MultilabelEmbeddings(features=features, labels=labels, logits=head.logits(features), indices=turns)
    found = dv.diagnose_multilabel(made, made, head=head, label_names=NAMES[:3], top_k=1)
    (one,) = found.companions
    assert (one.label, one.other, one.recall_with, one.recall_without) == (1, 0, 1.0, 0.0)
    (finding,) = [finding for finding in found.findings if finding.class_name == "tree"]
    assert "It depends on sky: recall is 100% with sky and 0% without it" in finding.text


def test_json_and_data_frame_keep_the_numbers(diagnosis):
    again = dv.MultilabelDiagnosis.from_json(diagnosis.to_json())
    assert again.to_json() == dv.MultilabelDiagnosis.from_json(again.to_json()).to_json()
    assert same(again["recall_heldout"].tolist(), diagnosis["recall_heldout"].tolist(), 1e-5)
    assert list(diagnosis.to_dataframe().index) == list(NAMES)
    record = json.loads(diagnosis.to_json())
    record["labels"]["count"] = [1]
    with pytest.raises(InputError, match=r"labels.count of the diagnosis must be one value per label, 4"):
        dv.MultilabelDiagnosis.from_dict(record)
    with pytest.raises(InputError, match="be one of several labels per image"):
        dv.MultilabelDiagnosis.from_dict({"schema_version": 1})


@pytest.mark.parametrize("activation", [None, torch.nn.Sigmoid()], ids=["logits", "sigmoid"])
def test_a_model_is_diagnosed_from_loaders_and_left_as_it_was(activation):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 8, generator=generator)
    labels = (images[:, :3] > 0.5).float()
    layers = [torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(6, 3)]
    model = torch.nn.Sequential(*layers, *([activation] if activation else []))
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, drop_last=True, generator=generator)
    state = torch.get_rng_state()
    made = dv.extract_multilabel(dv.split_head(model), loader)
    assert sorted(made.indices.tolist()) == list(range(40))
    assert torch.equal(made.labels, labels.bool()[made.indices])
    assert model[2].training
    assert torch.equal(torch.get_rng_state(), state)
    found = dv.diagnose_multilabel_model(model, loader, loader, top_k=3)
    assert found["count"].tolist() == labels.sum(0).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.0}, r"threshold must be a probability in \(0, 1\), got 1"),
        ({"threshold": [0.5]}, "threshold must be one number, or one per label, 4"),
        ({"label_names": ["a"]}, "must be one per"),
        ({"heldout_split": "train"}, "heldout_split must be val or test"),
        ({"top_k": 99}, r"top_k must lie in \[1, 16\]"),
    ],
)
def test_wrong_arguments_are_refused(sides, change, message):
    train, heldout, head = sides
    with pytest.raises(InputError, match=message):
        dv.diagnose_multilabel(train, heldout, head=head, **change)


def test_embeddings_of_one_label_are_refused_by_name(sides):
    single = dv.make_embeddings()
    with pytest.raises(InputError, match="for one label per image, use dv.diagnose"):
        dv.diagnose_multilabel(single[0], single[1], head=single[2])


class Stream(torch.utils.data.IterableDataset):
    """Gives the whole stream in every worker."""

    def __iter__(self):
        return ((torch.full((4,), float(row)), torch.tensor([row % 2, 1])) for row in range(20))


def loader_of(rows=20, **options):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(rows, 4, generator=generator)
    return DataLoader(TensorDataset(images, (images[:, :2] > 0.5).long()), batch_size=8, **options)


def tiny_split():
    return dv.split_head(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)))


@pytest.mark.slow
def test_a_stream_that_every_worker_repeats_is_refused():
    with pytest.raises(InputError, match="loader must give each image once"):
        dv.extract_multilabel(tiny_split(), DataLoader(Stream(), batch_size=10, num_workers=2))


def test_images_that_a_loader_leaves_out_are_in_the_notes_of_the_diagnosis():
    split, loader = tiny_split(), loader_of(sampler=range(15))
    made = dv.extract_multilabel(split, loader)
    found = dv.diagnose_multilabel(made, made, head=split.head, top_k=2)
    assert found.notes[0] == "The training loader left out 5 images of its data set."
    assert dv.MultilabelDiagnosis.from_json(found.to_json()).notes == found.notes


def test_an_extraction_into_a_folder_resumes_and_is_told_from_one_of_single_labels(tmp_path):
    split, loader = tiny_split(), loader_of()
    whole = dv.extract_multilabel(split, loader)

    def stop(done, rows):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dv.extract_multilabel(split, loader, out=tmp_path / "rows", progress=stop)
    seen = []
    made = dv.extract_multilabel(split, loader, out=tmp_path / "rows", progress=lambda done, rows: seen.append(done))
    assert seen == [16, 20]
    for name in ("features", "labels", "logits", "indices"):
        assert torch.equal(getattr(made, name), getattr(whole, name)), name
    with pytest.raises(InputError, match="be of images with one label each, got those in"):
        dv.Embeddings.load(tmp_path / "rows")
    dv.make_embeddings()[0].save(tmp_path / "single")
    with pytest.raises(InputError, match="be of images with several labels each"):
        dv.MultilabelEmbeddings.load(tmp_path / "single")


def test_labels_for_another_number_of_outputs_are_refused():
    wide = DataLoader(TensorDataset(torch.rand(4, 4), torch.ones(4, 3)), batch_size=2)
    with pytest.raises(InputError, match="labels must have one column per output of the head, 2, got 3"):
        dv.extract_multilabel(tiny_split(), wide)


def test_a_diagnosis_of_single_labels_refuses_the_file_of_several(diagnosis):
    with pytest.raises(InputError, match="diagnosis must be of images with one label each"):
        dv.Diagnosis.from_json(diagnosis.to_json())


def test_names_in_an_array_thresholds_in_a_mapping_and_no_labels_at_all():
    train, heldout, head = dv.make_multilabel_embeddings()
    found = dv.diagnose_multilabel(train, heldout, head=head, label_names=np.array(["a", "b", "c", "d"]))
    assert found.label_names == ("a", "b", "c", "d")
    with pytest.raises(
        InputError, match="threshold must be one number, or one per label, 4, in their order, got a dict"
    ):
        dv.diagnose_multilabel(train, heldout, head=head, threshold={"a": 0.5})
    none = dataclasses.replace(train, labels=torch.zeros_like(train.labels))
    found = dv.diagnose_multilabel(none, heldout, head=head)
    assert found["count"].tolist() == [0, 0, 0, 0]
    assert bool(found["diversity_vendi_heldout"][:2].isfinite().all())
    with pytest.raises(InputError, match="train must be of images with one label each, got a MultilabelEmbeddings"):
        dv.find_near_copies(train, heldout)


def test_keys_of_a_batch_and_held_out_images_that_are_training_images():
    images = torch.rand(40, 8, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    rows = [{"x": image, "marks": image[:2] > 0.5} for image in images]
    loader = DataLoader(rows, batch_size=10)
    found = dv.diagnose_multilabel_model(model, loader, loader, image_key="x", label_key="marks", top_k=2)
    assert found["count"].tolist() == (images[:, :2] > 0.5).sum(0).tolist()
    assert found.readings["heldout"].shared == 40
    assert "40 of the held-out images are training images" in found.notes[0]
