"""No finding on a class or label whose images the loader did not give, and no gate that judges nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

import diversify as dv
from diversify.cli.entry import run
from diversify.commands.check import check_run
from diversify.data.stratify import multilabel_holdout
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError

ROWS = 60
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(ROWS, 8, generator=GENERATOR)
LABELS = torch.arange(ROWS) % 5 % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


class OtherInPlace(Dataset):
    """Gives the next image where one is of class 3, as data sets do with images that they cannot read."""

    targets = LABELS.tolist()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int):
        return self[(row + 1) % ROWS] if self.targets[row] == 3 else (IMAGES[row], self.targets[row])


def test_a_class_in_whose_place_other_images_came_could_not_be_measured() -> None:
    whole = DataLoader(TensorDataset(IMAGES, LABELS), 16)
    diagnosis = dv.diagnose_model(network(), DataLoader(OtherInPlace(), 16), whole, top_k=2)
    text = next(one.text for one in diagnosis.findings if one.class_index == 3)
    assert "cannot have learned" not in text
    assert text.startswith(
        "class 3 has no training images among those that the loader gave. The data set shows 12 of it"
    )
    again = Diagnosis.from_json(diagnosis.to_json())
    assert again.notes == diagnosis.notes
    assert again.readings["train"].other_labels_by_class == (0, 0, 0, 12)
    absent = TensorDataset(IMAGES[LABELS != 3], LABELS[LABELS != 3])
    plain = dv.diagnose_model(network(), DataLoader(absent, 16), whole, top_k=2)
    assert "so the model cannot have learned it" in next(one.text for one in plain.findings if one.class_index == 3)


class Several(Dataset):
    """Images with several labels each."""

    targets = torch.stack([LABELS == 0, LABELS < 2, LABELS == 3], 1).long().numpy()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int):
        return IMAGES[row], torch.from_numpy(self.targets[row])


def without_the_last(batch: list[tuple[torch.Tensor, torch.Tensor]]):
    return default_collate([one for one in batch if not one[1][2]])


def test_a_label_whose_images_were_left_out_could_not_be_measured() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), Several()
    some, whole = DataLoader(data, 20, collate_fn=without_the_last), DataLoader(data, 20)
    text = next(
        one.text for one in dv.diagnose_multilabel_model(model, some, whole, top_k=2).findings if one.class_index == 2
    )
    assert text.startswith("label 2 is on none of the training images that the loader gave; it left out 12 images")
    page = dv.render_html(dv.diagnose_multilabel_model(model, some, whole, top_k=2))
    assert "Make the training loader give every image, and diagnose again." in page
    absent = TensorDataset(IMAGES, torch.from_numpy(data.targets) * torch.tensor([1, 1, 0]))
    found = dv.diagnose_multilabel_model(model, DataLoader(absent, 20), whole, top_k=2)
    text = next(one.text for one in found.findings if one.class_index == 2)
    assert text == "label 2 is on no training image, so the model cannot have learned it."


def test_means_say_over_which_labels_and_classes_they_are() -> None:
    train, heldout, head = dv.make_multilabel_embeddings()
    labels = heldout.labels.clone()
    labels[:, 2] = 0
    some = dv.MultilabelEmbeddings.from_arrays(heldout.features, labels, head=head)
    found = dv.diagnose_multilabel(train, some, head=head)
    name = found.label_names[2]
    assert f"No held-out image has {name}: means are over the other labels." in found.notes
    said = [one.text for one in found.findings if "mean over" in one.text]
    assert said
    assert all(f"mean over the {len(found.label_names) - 1} labels with held-out images" in text for text in said)
    train, heldout, head = dv.make_embeddings((60, 30, 20))
    choice = dv.choose_head(train, heldout.select(heldout.labels != 2), head, repeats=1)
    assert "Means and choice are over the 2 classes with held-out images; without any: class 2." in choice.notes


def test_an_empty_side_is_refused() -> None:
    train, heldout, head = dv.make_embeddings((60, 30, 20))
    for name, sides in (("heldout", (train, heldout.select([]))), ("train", (train.select([]), heldout))):
        with pytest.raises(InputError, match=f"^{name} embeddings must hold at least one image, got 0$"):
            dv.diagnose(*sides, head=head)


def test_a_gate_that_judges_nothing_does_not_pass() -> None:
    train, heldout, head = dv.make_embeddings((60, 30, 20))
    few = torch.cat([(heldout.labels == c).nonzero()[:2, 0] for c in range(3)])
    diagnosis = dv.diagnose(train, heldout.select(few), head=head)
    with pytest.raises(
        InputError, match=r"^diagnosis must have held-out images of at least one class .* a gate that judges"
    ):
        dv.check(diagnosis, gap_ratio=0.5)


@pytest.mark.parametrize("option", ["junit", "markdown"])
def test_the_gate_does_not_write_over_what_it_reads(option: str, tmp_path: Path) -> None:
    train, heldout, head = dv.make_embeddings((60, 30, 20))
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "diagnosis.json").write_text(dv.diagnose(train, heldout, head=head).to_json())
    for place in ("new", "old"):
        file = tmp_path / place / "diagnosis.json"
        before = file.read_bytes()
        with pytest.raises(
            InputError, match=f"^{option} must be another file than the diagnoses that are read, got .*json"
        ):
            check_run(tmp_path / "new", worst_recall=0.1, against=tmp_path / "old", **{option: file})
        assert file.read_bytes() == before
    both = tmp_path / "out"
    assert (
        run(["check", str(tmp_path / "new"), "--worst-recall", "0.1", "--junit", str(both), "--markdown", str(both)])
        == 2
    )
    assert not both.exists()


def test_labels_and_groups_may_be_arrays() -> None:
    labels = Several.targets
    expected = multilabel_holdout(torch.from_numpy(labels).bool(), 0.2, torch.arange(ROWS) // 5)
    for given, groups in ((labels, np.arange(ROWS) // 5), (labels.tolist(), (np.arange(ROWS) // 5).tolist())):
        found = multilabel_holdout(given, 0.2, groups)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_the_sampler_over_labels_says_what_to_pass() -> None:
    with pytest.raises(
        InputError, match=r"got a Several that is no table of numbers; pass the labels as its examples give them$"
    ):
        dv.MultilabelSampler(Several())
