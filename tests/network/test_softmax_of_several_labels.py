"""A model that returns a softmax has one label per image: it is refused where an image has several."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.errors import InputError
from diversify.functional import draws


class Ends(nn.Module):
    """A network whose logits go through a function."""

    def __init__(self, end):
        super().__init__()
        self.net, self.end = dv.build_model("small_cnn", 3, channels=1), end

    def forward(self, images):
        return self.end(self.net(images))


def loader() -> DataLoader:
    images = draws.uniform("pixel", torch.arange(16 * 64)).view(16, 1, 8, 8)
    return DataLoader(TensorDataset(images, (draws.uniform("label", torch.arange(48)) < 0.5).long().view(16, 3)), 8)


@pytest.mark.parametrize(
    "end", [lambda z: z.softmax(1), lambda z: z.log_softmax(1), lambda z: {"probabilities": z.softmax(1)}]
)
@pytest.mark.parametrize("seen", [False, True])
def test_a_softmax_is_refused(end, seen):
    split = dv.split_head(Ends(end), "net.linear")
    if seen:
        split(next(iter(loader()))[0])  # a forward before does not keep it from being found
    with pytest.raises(
        InputError,
        match="^model must return logits or their sigmoid, for several labels per image, got their softmax; ",
    ):
        dv.extract_multilabel(split, loader())


@pytest.mark.parametrize("end", [lambda z: z, torch.sigmoid, lambda z: (z, z.softmax(1)), lambda z: z / 2])
def test_logits_and_their_sigmoid_are_taken(end):
    split = dv.split_head(Ends(end), "net.linear")
    assert len(dv.extract_multilabel(split, loader())) == 16


def test_with_one_label_a_softmax_is_taken():
    images, labels = loader().dataset.tensors
    split = dv.split_head(Ends(lambda z: z.softmax(1)))
    assert len(dv.extract(split, DataLoader(TensorDataset(images, labels.argmax(1)), 8))) == 16
