"""The head is found by what it does, and two candidates are told apart by name."""

import pytest
import torch
from small_network import Net, message_of, seeded
from torch import Tensor, nn

from diversify.errors import InputError
from diversify.network.split import split_head

torch.set_num_threads(1)


def test_the_layer_that_gives_the_output_is_named():
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 3)

        def forward(self, images: Tensor) -> Tensor:
            features = self.tail(self.features(images).flatten(1))
            self.head(features)
            return self.other(features).softmax(1)

    images = seeded(4, 1, 8, 8)
    assert message_of(InputError, split_head(Two().eval(), "head"), images) == (
        "head must give the model's output, got 'head', which does not; name one that does with head=NAME: other"
    )
    split_head(Two().eval(), "other")(images)


def test_a_head_used_under_two_names_is_still_found():
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([self.tail, self.head])

        def forward(self, images: Tensor) -> Tensor:
            return self.parts[1](self.tail(self.features(images).flatten(1)))

    features, logits = split_head(Twice().eval(), head="head")(seeded(2, 1, 8, 8))
    assert features.shape == (2, 6)
    assert logits.shape == (2, 3)


class TwoTasks(nn.Module):
    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU())
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        return tuple(head(features) for head in self.heads.values())


def test_two_heads_are_ambiguous_and_resolved_by_name():
    deep = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    cases = (
        ({"age": nn.Linear(8, 5), "kind": nn.Linear(8, 3)}, "heads.age, heads.kind", "heads.age"),
        ({"age": nn.Linear(8, 5), "kind": deep}, "heads.age, heads.kind.2", "heads.kind.2"),
    )
    for heads, candidates, name in cases:
        model = TwoTasks(heads).eval()
        with pytest.raises(InputError) as error:
            split_head(model)
        assert str(error.value) == (
            f"head must be one linear layer, got 2 candidates ({candidates}); name one with head=NAME"
        )
        images = seeded(2, 1, 2, 2)
        features, logits = split_head(model, head=name)(images)
        assert torch.equal(model.get_submodule(name)(features), logits)
    with pytest.raises(InputError) as error:
        split_head(model, head="heads.kine.2")
    assert str(error.value) == (
        "head must be one of backbone.1, heads.age, heads.kind.0, heads.kind.2, got 'heads.kine.2'; "
        "did you mean 'heads.kind.2'?"
    )


def test_a_head_registered_first_and_a_scalar_output_beside_it():
    class Early(Net):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.head = nn.Linear(6, 3)
            self.features = Net().features
            self.tail = Net().tail
            self.gate = nn.Linear(6, 1)

    assert split_head(Early()).head_name == "head"


def test_heads_that_are_not_linear():
    assert message_of(InputError, split_head, nn.ReLU()) == (
        "head must be linear (W f + b) or cosine, got a ReLU without weights"
    )

    class Squared(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) ** 2

    assert "got Squared;" in message_of(InputError, split_head, nn.Sequential(nn.Flatten(), Squared(4, 3)))
