"""What a loader left out is said in notes, findings and reports, and means say over which classes they are."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from diversify.cli.tables import show_diagnosis
from diversify.data.loader import clean_loader
from diversify.diagnosis.measure import diagnose, diagnose_model
from diversify.diagnosis.notes import notes_of
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.network.reading import Reading
from diversify.network.synthetic import make_embeddings
from diversify.report.diagnosis import render_markdown
from diversify.report.wording import none_fragile

NAMES = ("cat", "dog", "owl", "yak")


class Shown(Dataset):
    """Images with a transform."""

    def __init__(self, images, labels, transform):
        self.images, self.targets, self.transform = images, labels.tolist(), transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.targets[index]


@pytest.fixture(scope="module")
def incomplete() -> Diagnosis:
    train, heldout, head = make_embeddings((60, 30, 12, 4))
    train = train.select(train.labels != 3)
    train = replace(train, reading=Reading(left_out=4, left_out_by_class=(0, 0, 0, 4)))
    heldout = replace(heldout.select(heldout.labels != 2), reading=Reading(repeated=2, last_batch=1))
    return diagnose(train, heldout, head=head, class_names=NAMES)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_class_that_the_loader_left_out_is_not_said_to_be_absent(incomplete):
    finding = next(each for each in incomplete.findings if each.class_name == "yak")
    assert finding.text == "The loader left out all 4 training images of yak, so yak could not be measured."
    assert (finding.remedy, finding.causes) == ("read all images", ("read all images",))
    train, heldout, head = make_embeddings((60, 30, 12, 4))
    train = train.select(train.labels != 3)
    for reading, text in (
        (Reading(), "yak has no training images, so the model cannot have learned it."),
        (Reading(left_out=1, left_out_by_class=(1, 0, 0, 0)), "yak has no training images, so the model"),
        (Reading(left_out=1, left_out_by_class=(0, 0, 0, 1)), "yak: the loader left out its only training image"),
        (Reading(left_out=9), "yak has no training images among those that the loader gave; it left out 9 images"),
    ):
        found = diagnose(replace(train, reading=reading), heldout, head=head, class_names=NAMES).findings[0]
        assert found.text.startswith(text)


def test_notes_are_kept_in_the_file_and_shown(incomplete, capsys):
    notes = (
        "The training loader left out 4 images of its data set: yak 4.",
        "The held-out loader gave 2 more rows than its data set has images.",
        "The held-out loader drops an incomplete last batch; its 1 image was read, too.",
    )
    assert incomplete.notes == notes
    record = incomplete.to_dict()
    assert record["notes"] == list(notes)
    again = Diagnosis.from_json(incomplete.to_json())
    assert again.readings == incomplete.readings
    assert again.permuted(0).readings == incomplete.readings
    page = one_line(render_markdown(incomplete, {}))
    show_diagnosis(incomplete)
    printed = one_line(capsys.readouterr().out)
    for note in notes:
        assert note in page
        assert note in printed
    record["readings"]["train"]["left_out_by_class"] = [1]
    with pytest.raises(InputError, match="readings.train.left_out_by_class"):
        Diagnosis.from_dict(record)


def test_a_diagnosis_of_every_image_has_no_notes():
    train, heldout, head = make_embeddings((20, 10))
    diagnosis = diagnose(train, heldout, head=head)
    assert diagnosis.notes == ()
    assert not {"notes", "readings"} & set(diagnosis.to_dict())


def test_means_say_over_which_classes_they_are(incomplete, capsys):
    assert incomplete.without_heldout == (2,)
    said = "mean of 3 of 4 classes; no held-out images of owl"
    assert said in one_line(render_markdown(incomplete, {}))
    show_diagnosis(incomplete)
    assert said in one_line(capsys.readouterr().out)
    train, heldout, head = make_embeddings((200, 80, 30, 6), spread=1.2)
    found = diagnose(train, heldout.select(heldout.labels != 1), head=head)
    texts = [each.text for each in found.findings if each.evidence]
    assert texts
    assert all("mean over the 3 classes with held-out images" in text for text in texts)


def test_many_classes_are_counted():
    by_class = tuple(range(9))
    note = notes_of({"train": Reading(left_out=36, left_out_by_class=by_class)}, [f"c{c}" for c in by_class])[0]
    assert note.endswith("c8 8, c7 7, c6 6, c5 5, c4 4, c3 3 and 2 more classes.")


def test_random_transforms_of_a_loader_are_named():
    images, labels = torch.rand(12, 3, 4, 4), torch.arange(12) % 2
    chance = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.1)])
    train, heldout = Shown(images, labels, chance), Shown(1 - images, labels, v2.RandomVerticalFlip(p=0.0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    loader = DataLoader(Subset(train, range(12)), 6)
    diagnosis = diagnose_model(model, loader, DataLoader(heldout, 6))
    assert diagnosis.notes == (
        "The training loader augments its images (RandomHorizontalFlip, ColorJitter): their features are not those of the"
        " images themselves. Use dv.clean_loader(loader), or the transform of evaluation.",
    )
    assert Diagnosis.from_json(diagnosis.to_json()).notes == diagnosis.notes
    assert diagnose_model(model, clean_loader(loader), DataLoader(heldout, 6)).notes == ()


def test_training_images_among_held_out_ones_are_counted():
    images, labels = torch.rand(12, 3, 4, 4), torch.arange(12) % 2
    data = TensorDataset(images, labels)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    train = DataLoader(Subset(data, range(8)), 4)

    def notes(rows: list[int]) -> tuple[str, ...]:
        return diagnose_model(model, train, DataLoader(Subset(data, rows), 4)).notes

    assert notes([8, 9, 10, 11]) == ()
    assert notes([11, 7, 8, 9])[0].startswith("1 of the held-out images is a training image: their recall says nothing")
    assert notes([8, 9, 1, 0])[0].startswith("2 of the held-out images are training images: ")


def test_the_same_rows_on_both_sides_are_said():
    train, heldout, head = make_embeddings((20, 10))
    mixed = train.select(torch.arange(30).flip(0))
    assert diagnose(train, mixed, head=head).notes[0].startswith("30 of the held-out images are training images: ")
    assert diagnose(train, heldout, head=head).notes == ()


@pytest.mark.parametrize("side", ["train", "heldout"])
def test_features_without_a_head_are_no_embeddings(side):
    train, heldout, head = make_embeddings((20, 10))
    sides = {"train": train, "heldout": heldout, side: train.features.numpy()}
    with pytest.raises(
        InputError, match=f"^{side} must be Embeddings, got ndarray; .* Embeddings.from_arrays of features"
    ):
        diagnose(**sides, head=head)


def test_classes_whose_held_out_images_are_of_one_group_are_named():
    train, heldout, head = make_embeddings((30, 30, 30), spread=3.0)
    groups = [0 if label == 1 else row for row, label in enumerate(heldout.labels.tolist())]
    diagnosis = diagnose(train, heldout, head=head, groups_heldout=groups)
    (note,) = [note for note in diagnosis.notes if "one group" in note]
    assert note.startswith("All held-out images of a class are of one group: class 1. How much recall varies")
    assert (float(diagnosis["recall_heldout_low"][1]), float(diagnosis["recall_heldout_high"][1])) == (0, 1)
    alone = diagnose(train, heldout, head=head, groups_heldout=[0] * len(heldout))
    (note,) = [note for note in alone.notes if "one group" in note]
    assert note.startswith("All held-out images of each of 3 classes are of one group: class 0, class 1, class 2. How")


def test_where_groups_are_few_images_are_not_blamed():
    train, heldout, head = make_embeddings((30, 30, 30))
    columns = {**diagnose(train, heldout, head=head, groups_heldout=[0] * len(heldout)).columns}
    columns["recall_heldout"] = torch.tensor([0.1, 0.9, 0.9], dtype=torch.float64)
    diagnosis = replace(diagnose(train, heldout, head=head), columns=columns)
    assert "Too few held-out groups may be the reason." in none_fragile(diagnosis, diagnosis.class_names)


def test_rows_that_came_again_in_place_of_others_and_labels_of_others():
    readings = {"train": Reading(left_out=2, repeated=2, left_out_by_class=(0, 2), other_labels=1)}
    lost, again, other = notes_of(readings, ("cat", "owl"))
    assert lost == "The training loader left out at least 2 images of its data set: owl 2."
    assert "at least 2 images came more than once, as from a sampler that draws with replacement" in again
    assert other.startswith(
        "The training loader gave 1 image another label than its data set shows, or other images in their place."
    )
