"""The split shares the parameters of the network, and leaves its hooks and gradients."""

import torch
from small_network import Net, make_net, message_of, seeded
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from diversify.errors import InputError
from diversify.network.split import split_head

torch.set_num_threads(1)


def test_gradients_reach_the_users_parameters_and_modes_follow():
    model = make_net()
    split = split_head(model)
    model.train()
    features, logits = split(seeded(4, 1, 8, 8))
    assert model.features[1].num_batches_tracked == 1  # ran in training mode
    assert torch.equal(split.head(features), logits)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    split.eval()
    assert not any(module.training for module in model.modules())
    split.train()
    assert all(module.training for module in model.modules())
    assert split.head is model.head
    assert torch.equal(split.features(seeded(1, 1, 8, 8)).detach(), split.eval().features(seeded(1, 1, 8, 8))) is False


NOT_ONE_LAYER = (
    "head must give the model's output, got 'head', which does not; the model's output is not the output of one linear"
    " layer (it is changed afterwards, or joined from several); wrap the model in a module that returns the output of one"
    " layer, for example one that model=package.module:function builds"
)


def test_a_head_that_is_called_with_a_keyword():
    class Named(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(input=self.tail(self.features(images).flatten(1)))

    model = Named().eval()
    features, logits = split_head(model)(seeded(2, 1, 8, 8))
    assert features.shape == (2, 6)
    assert torch.equal(model.head(features), logits)


def test_first_forward_errors():
    images = seeded(2, 1, 8, 8)

    class Bypassing(Net):
        def forward(self, images: Tensor) -> Tensor:
            hidden = self.tail(self.features(images).flatten(1))
            return F.linear(hidden, self.head.weight, self.head.bias)

    calls = (
        "head 'head' must be called once in the model's forward, got {} calls; pass the unwrapped model, or name the "
    )
    calls += "module that returns the logits with head=NAME"
    assert message_of(InputError, split_head(Bypassing()), images) == calls.format(0)

    patched = make_net()
    inner = patched.forward
    patched.forward = lambda images: inner(images)
    assert message_of(InputError, split_head(patched), images) == calls.format(0)

    class Twice(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + super().forward(images.flip(3))

    assert message_of(InputError, split_head(Twice()), images) == calls.format(2)

    class Tokens(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.tail(self.features(images).flatten(1)).unsqueeze(1)).mean(1)

    assert message_of(InputError, split_head(Tokens()), images) == (
        "features must have shape (N, D) where they enter the head, got (2, 1, 6)"
    )

    class Negated(Net):
        def forward(self, images: Tensor) -> Tensor:
            return -super().forward(images)

    for head in (None, "head"):
        assert message_of(InputError, split_head(Negated(), head).eval(), images) == NOT_ONE_LAYER
