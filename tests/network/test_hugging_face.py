"""Classifiers of Hugging Face transformers, configured here and not downloaded, through the whole of the library."""

import contextlib

import numpy as np
import pytest
import torch
from hugging_face import COUNTS, LABELS, NAMES, package, pixels, table
from quick import draw_nothing, judge_once
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

import diversify as dv
from diversify.commands.diagnose import diagnose_run
from diversify.commands.options import DataOptions
from diversify.commands.remedy import remedy_run

pytestmark = pytest.mark.slow  # importing the packages takes seconds

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
KINDS = {
    "ViT": (SMALL, "classifier", 32),
    "DeiT": (SMALL, "classifier", 32),
    "Dinov2": (SMALL, "classifier", 64),
    "Beit": (SMALL, "classifier", 32),
    "ConvNext": ({**STAGES, "num_stages": 2}, "classifier", 16),
    "ResNet": ({**STAGES, "embedding_size": 8, "layer_type": "basic"}, "classifier.1", 16),
    "Swin": (SWIN, "classifier", 16),
}


@pytest.fixture(scope="module")
def transformers():
    return package("transformers")


@pytest.fixture(scope="module")
def rows():
    return table(package("datasets"))


def make(transformers, kind="ViT", names=NAMES, seed=0):
    options = {"id2label": dict(enumerate(names)), "label2id": {name: c for c, name in enumerate(names)}}
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind][0], **options)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return getattr(transformers, f"{kind}ForImageClassification")(config).eval()


def as_batch(batch):
    images = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in batch["image"]]
    return {"pixel_values": images, "labels": batch["label"]}


@pytest.fixture
def loader(rows):
    return DataLoader(rows.with_transform(as_batch), 12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_found_and_gives_the_logits(transformers, loader, kind):
    model = make(transformers, kind)
    split = dv.split_head(model)
    found = dv.extract(split, loader)
    assert split.head_name == KINDS[kind][1]
    assert found.features.shape == (36, KINDS[kind][2])
    assert found.labels.tolist() == LABELS
    images = torch.stack([torch.from_numpy(pixels(row)).permute(2, 0, 1) / 255 for row in range(36)])
    with torch.no_grad():
        assert torch.allclose(found.logits, model(pixel_values=images).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_save_pretrained_wrote_are_read(transformers, kind, tmp_path):
    model, other = make(transformers, kind), make(transformers, kind, seed=1)
    model.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    translated = load_file(tmp_path / "model.safetensors").keys() != model.state_dict().keys()
    with pytest.warns(UserWarning, match="save_pretrained") if translated else contextlib.nullcontext():
        dv.load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_weights_of_other_classes_and_with_parts_missing_are_refused(transformers, tmp_path):
    make(transformers).save_pretrained(tmp_path)
    with pytest.raises(dv.InputError, match="they are for 3 classes and the model has 4"):
        dv.load_weights(make(transformers, names=[*NAMES, "dog"]), tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    del saved[next(name for name in saved if name.endswith("output.dense.bias"))]
    save_file(saved, tmp_path / "part.safetensors")
    with pytest.raises(dv.InputError, match=r"part.safetensors must fit the model, got no vit\."):
        dv.load_weights(make(transformers), tmp_path / "part.safetensors")


def test_an_adapter_around_a_network_reads_its_weights(transformers, tmp_path):
    class Adapter(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images):
            return self.net(pixel_values=images).logits

    model, adapter = make(transformers), Adapter(make(transformers, seed=1))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="the names in the checkpoint are those of save_pretrained"):
        dv.load_weights(adapter, tmp_path / "model.safetensors")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(adapter(images), model(pixel_values=images).logits)


def test_a_diagnosis_takes_the_class_names_of_the_model(transformers, loader):
    diagnosis = dv.diagnose_model(make(transformers), loader, loader)
    assert diagnosis.class_names == tuple(NAMES)
    assert diagnosis["count"].tolist() == list(COUNTS)
    unnamed = make(transformers, names=[f"LABEL_{c}" for c in range(3)])
    assert dv.diagnose_model(unnamed, loader, loader).class_names == ("class 0", "class 1", "class 2")
    assert dv.diagnose_model(unnamed, loader, loader, class_names=NAMES).class_names == tuple(NAMES)


def test_a_plan_draws_and_augments_the_rows(rows):
    plan = dv.Plan.from_counts(NAMES, COUNTS)
    changed = rows.with_transform(as_batch)
    dataset = dv.DiversifiedDataset(changed, plan, backend="torch", seed=0)
    sampler = dv.DiversifySampler(dv.labels_of(changed), plan, seed=0)
    batches = list(DataLoader(dataset, 12, sampler=sampler))
    drawn = torch.cat([batch["labels"] for batch in batches]).bincount()
    wanted = plan.draws * len(LABELS)
    assert torch.all((drawn - wanted).abs() <= 1)
    plain = {image.sum().item() for image in changed[:]["pixel_values"]}
    assert any(image.sum().item() not in plain for batch in batches for image in batch["pixel_values"])
    pictures = dv.DiversifiedDataset(rows, plan, seed=0)
    assert pictures.targets.tolist() == LABELS
    assert {pictures[row]["file"] for row in range(36)} == {f"{row}.png" for row in range(36)}
    assert any(not np.array_equal(np.asarray(pictures[row]["image"]), pixels(row)) for row in range(26, 36))


def test_a_stream_of_rows_is_drawn_by_the_plan(rows):
    plan = dv.Plan.from_counts(NAMES, COUNTS)
    examples = list(dv.DiversifyStream(rows.to_iterable_dataset(num_shards=2), plan, seed=0))
    assert {example["label"] for example in examples} == {0, 1, 2}
    assert all(set(example) == {"image", "label", "file"} for example in examples)


def test_a_repaired_head_is_written_into_the_model(transformers, loader):
    model = make(transformers)
    split = dv.split_head(model)
    train = dv.extract(split, loader)
    head = dv.retrain_head(
        train, split.head, dv.make_plan(dv.diagnose(train, train, head=split.head, class_names=NAMES))
    )
    dv.write_head(split.head, head)
    images = next(iter(loader))["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=images).logits
    assert torch.allclose(logits, head.logits(train.features[:12]), atol=1e-4)
    assert not torch.allclose(logits, train.logits[:12], atol=1e-2)


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    source = (
        "from transformers import ViTConfig, ViTForImageClassification\n"
        f"def vit():\n    return ViTForImageClassification(ViTConfig(**{SMALL!r}, num_labels=3))\n"
    )
    (tmp_path / "own_vit.py").write_text(source)
    monkeypatch.chdir(tmp_path)


def test_the_commands_repair_what_save_pretrained_wrote(transformers, rows, tmp_path, own_models, monkeypatch):
    draw_nothing(monkeypatch)
    judge_once(monkeypatch)
    model = make(transformers)
    model.save_pretrained("vit")
    package("datasets").DatasetDict({"train": rows, "validation": rows.select(range(0, 36, 2))}).save_to_disk("animals")
    data = DataOptions(spec="folder:animals", mean=(0.0,) * 3, std=(1.0,) * 3)
    weights, said = tmp_path / "vit/model.safetensors", []
    diagnose_run(data, model="own_vit:vit", weights=weights, heldout="val", out=tmp_path / "diagnosis", say=said.append)
    choice, _ = remedy_run(tmp_path / "diagnosis", out=tmp_path / "repaired", say=said.append)
    (tmp_path / "repaired/config.json").write_bytes((tmp_path / "vit/config.json").read_bytes())
    repaired = type(model).from_pretrained(tmp_path / "repaired")
    assert torch.allclose(repaired.classifier.weight, choice.head.weight, atol=1e-5)
    others = [name for name in model.state_dict() if not name.startswith("classifier")]
    assert all(torch.equal(repaired.state_dict()[name], model.state_dict()[name]) for name in others)
