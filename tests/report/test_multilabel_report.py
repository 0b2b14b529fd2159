"""The reports on several labels per image: what they say and show, and what they refuse."""

import dataclasses
import re

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.network.reading import Reading
from diversify.report.multilabel import render_multilabel_remedy_html, render_multilabel_remedy_markdown

NAMES = ("sky", "tree", "car", "bird")


@pytest.fixture(scope="module")
def sides():
    return dv.make_multilabel_embeddings(images=300, heldout=200)


@pytest.fixture(scope="module")
def diagnosis(sides):
    train, heldout, head = sides
    return dv.diagnose_multilabel(train, heldout, head=head, label_names=NAMES)


def test_the_page_shows_every_number_of_the_table_and_loads_nothing(diagnosis):
    page = dv.render_html(diagnosis, {"model": {"name": "resnet50"}})
    assert "<h1>Diagnosis of resnet50</h1>" in page
    for c in range(4):
        assert f"{100 * float(diagnosis['average_precision'][c]):.0f}%" in page
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    for heading in ("How to read this page", "Recall against positives", "Thresholds", "Labels that come together"):
        assert f">{heading}</h2>" in page
    assert page.count('role="img"') == 6
    assert "training images of the label" in page


def test_markdown_has_findings_labels_and_definitions(diagnosis):
    text = dv.render_markdown(diagnosis)
    assert text.startswith("# Diagnosis of a network\n")
    for finding in diagnosis.findings:
        assert f"**{finding.class_name}**" in text
    row = next(line for line in text.splitlines() if line.startswith("| tree"))
    assert f"{int(diagnosis['count'][1]):,}" in row
    assert "| label" in text
    assert "class" not in re.sub(r"classification|classif\w+", "", text)


def test_a_diagnosis_read_back_from_its_file_gives_the_same_report(diagnosis):
    again = dv.MultilabelDiagnosis.from_json(diagnosis.to_json())
    assert dv.render_html(again) == dv.render_html(dv.MultilabelDiagnosis.from_json(again.to_json()))


def test_test_split_and_incomplete_loaders_are_said_at_the_top(sides, diagnosis):
    shown = dataclasses.replace(diagnosis, heldout_split="test", readings={"train": Reading(left_out=3)})
    page = dv.render_html(shown)
    assert "This diagnosis reads the test split." in page
    assert "The training loader left out 3 images of its data set." in page


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_many_labels_are_cut_to_the_weakest_and_strongest():
    labels = torch.arange(2000).view(-1, 1) % torch.arange(2, 52) == 0
    made = dv.MultilabelEmbeddings(
        features=labels.float(), labels=labels, logits=labels.float() - 0.5, indices=torch.arange(2000)
    )
    head = dv.LinearHead(weight=torch.eye(50), bias=torch.full((50,), -0.5))
    one = dataclasses.replace(
        made,
        labels=made.labels[:400],
        features=made.features[:400],
        logits=made.logits[:400],
        indices=made.indices[:400],
    )
    text = dv.render_html(dv.diagnose_multilabel(one, one, head=head, top_k=1))
    assert "20 labels between these left out" in text
    assert "Show the other 20 labels" in text
    assert "The 30 most frequent labels are shown" not in text  # exactly 30 rows are shown elsewhere, too


def test_labels_without_any_positive_are_dashes(sides):
    train, heldout, head = sides
    none = dataclasses.replace(heldout, labels=torch.zeros_like(heldout.labels))
    page = dv.render_html(dv.diagnose_multilabel(train, none, head=head, label_names=NAMES))
    assert "no label has enough held-out positives" in page
    assert "nan" not in page.lower().replace("finance", "")


def test_exhibits_are_refused(diagnosis):
    single = dv.make_embeddings((60, 30, 10))
    one = dv.diagnose(*single[:2], head=single[2])
    exhibits = dv.choose_exhibits(*single[:2], head=single[2], diagnosis=one)
    with pytest.raises(InputError, match="exhibits must be left out where images have several labels"):
        dv.render_html(diagnosis, None, exhibits)


def test_the_report_on_a_repaired_head_shows_before_and_after(sides):
    train, heldout, head = sides
    choice = dv.choose_multilabel_head(train, heldout, head, losses={})
    page = render_multilabel_remedy_html(choice, NAMES, {"caveats": ["a caveat"]})
    assert "A caveat." in page
    assert "Macro F1 before" in page
    text = render_multilabel_remedy_markdown(choice, NAMES, {})
    row = next(line for line in text.splitlines() if line.startswith("| bird"))
    assert f"{float(choice.thresholds[3]):.2f}" in row
