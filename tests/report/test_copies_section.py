"""The section of a report on near copies: shown where there are some, with the pictures that belong together."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.network.embeddings import Embeddings

pytestmark = pytest.mark.usefixtures("reports_without_figures")


def joined(first: Embeddings, second: Embeddings) -> Embeddings:
    names = ("features", "labels", "logits", "indices")
    return Embeddings(**{name: torch.cat([getattr(one, name) for one in (first, second)]) for name in names})


@pytest.fixture(scope="module")
def copied(sides):
    """Class 7 has each training image three times, and five of them are held out."""
    train, heldout, head = sides
    rows = (train.labels == 7).nonzero()[:, 0]
    train = joined(joined(train, train.select(rows)), train.select(rows))
    train = dataclasses.replace(train, indices=torch.arange(len(train)))
    heldout = joined(heldout, train.select(rows[:5]))
    heldout = dataclasses.replace(heldout, indices=torch.arange(len(heldout)))
    diagnosis = dv.diagnose(train, heldout, head=head)
    exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
    images = [[torch.full((1, 4, 4), row % 250, dtype=torch.uint8)] for row in range(len(train))]
    return diagnosis, dv.take_pictures(exhibits, images, images)


def test_the_section_shows_the_counts_and_the_group_with_its_pictures(copied):
    diagnosis, exhibits = copied
    group = exhibits.near_copies[0]
    assert (group.class_index, group.in_train, group.in_heldout) == (7, 3, 1)
    assert all(one.picture.startswith("data:image/png") for one in (*group.train, *group.heldout))
    text = dv.render_markdown(diagnosis, None, exhibits)
    section = text[text.index("## Near copies") :]
    row = next(line for line in section.splitlines() if line.startswith("| class 7"))
    assert [cell.strip().split(" ")[0] for cell in row.split("|")[2:6]] == ["60", "20", "55", "9%"]
    assert "3 training images and 1 held-out image" in section
    page = dv.render_html(diagnosis, None, exhibits)
    assert 'id="near-copies"' in page
    assert "60 training images of class 7, 20 effective" in page
    assert dv.Exhibits.from_dict(exhibits.to_dict()) == exhibits


def test_there_is_no_section_without_copies_and_for_older_files(diagnosis, copied):
    assert "Near copies" not in dv.render_markdown(diagnosis)
    older = {
        name: column for name, column in copied[0].columns.items() if "cop" not in name and "effective" not in name
    }
    assert "## Near copies" not in dv.render_markdown(dataclasses.replace(copied[0], columns=older, findings=()))
