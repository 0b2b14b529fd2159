"""What a loader left out is said in notes, findings and reports, and means say over which classes they are."""

from dataclasses import replace

import pytest

from diversify.cli.tables import show_diagnosis
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.notes import notes_of
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.network.reading import Reading
from diversify.network.synthetic import make_embeddings
from diversify.report.diagnosis import render_markdown

NAMES = ("cat", "dog", "owl", "yak")


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
