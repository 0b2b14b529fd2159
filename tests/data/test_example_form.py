"""Where an example holds its image and its label, whatever it is."""

from types import MappingProxyType

import pytest
import torch
from small_data import message_of

from diversify.data.examples import ExampleForm, require_map_style


@pytest.mark.parametrize("example", [("old", 3), ["old", 3, "more"], {"img": "old", "fine_label": 3, "file": "a"}])
def test_image_and_label_are_found_and_the_rest_stays(example):
    form, before = ExampleForm(), type(example)(example)
    assert (form.image(example, 0), form.label(example, 0)) == ("old", 3)
    other = form.with_image(example, "new")
    assert type(other) is type(example)
    assert form.image(other, 0) == "new"
    assert form.with_image(other, "old") == before == example


def test_a_mapping_that_cannot_be_written_becomes_a_dict():
    frozen = MappingProxyType({"image": "old", "label": 1})
    assert ExampleForm().with_image({**frozen}, "new") == {"image": "new", "label": 1}


def test_a_named_key_comes_before_the_usual_ones():
    example = {"image": "usual", "view": "named", "label": 0, "kind": 1}
    form = ExampleForm(image_key="view", label_key="kind")
    assert (form.image(example, 0), form.label(example, 0)) == ("named", 1)


@pytest.mark.parametrize(
    ("example", "law"),
    [
        ({"image": 0, "img": 1, "label": 2}, "hold its image under one of"),
        ({"label": 2}, "hold its image under one of"),
        (torch.zeros(3), "be a pair (image, label), or a mapping that holds both, got Tensor at row 7"),
        ((1,), "be a pair (image, label), or a mapping that holds both, got tuple at row 7"),
    ],
)
def test_what_holds_no_image_is_refused(example, law):
    assert law in message_of(lambda: ExampleForm().image(example, 7))


def test_a_stream_has_no_places():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    assert "data set" in message_of(lambda: require_map_style(Stream()))
