"""A small network, a set of images and embeddings for the tests of `network/`, and what an extraction could change."""

import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from diversify.files import digests
from diversify.network.embeddings import Embeddings

torch.set_num_threads(1)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A small network with everything that could keep a trace: batch norm, dropout, buffers, an own mode per part."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.tail = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tail(self.features(images).flatten(1)))


def make_net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


class Images(Dataset):
    """`count` grey images; counts what is read, draws from every global source of chance, and can fail at an index."""

    def __init__(self, count: int = 20, error: BaseException | None = None, at: int = -1) -> None:
        self.images = seeded(count, 1, 8, 8)
        self.labels = [index % 3 for index in range(count)]
        self.error, self.at = error, at
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002, S311
        if index == self.at and self.error is not None:
            raise self.error
        self.read.append(index)
        return self.images[index], self.labels[index]


def expected(model: nn.Module, dataset: Images, rows: list[int]) -> Tensor:
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        return twin(dataset.images[rows])


def mix_modes(model: nn.Module) -> None:
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1


def trace(model: nn.Module, loader: DataLoader | None = None) -> dict[str, object]:
    """Everything about a model, a loader and chance that an extraction could change; tensors by value and address."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    state: dict[str, object] = {
        "keys": list(model.state_dict()),
        "values": digests.digest_tensors(model.state_dict()),
        "addresses": [tensor.data_ptr() for tensor in model.state_dict().values()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "tree": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [[list(getattr(module, name).items()) for name in hooks] for module in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }
    if loader is not None:
        state["loader"] = sorted(vars(loader), key=str)
        state["generator"] = None if loader.generator is None else loader.generator.get_state().tolist()
    return state


def message_of(error: type[Exception], call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make_embeddings(**changes: Tensor) -> Embeddings:
    values = {
        "features": seeded(5, 4),
        "labels": torch.tensor([0, 1, 2, 0, 1]),
        "logits": seeded(5, 3),
        "indices": torch.arange(5),
    }
    return Embeddings(**{**values, **changes})


def batch(labels: Tensor, images: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(seeded(images, 1, 8, 8), labels)]


def equal(one: Embeddings, other: Embeddings) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("features", "labels", "logits", "indices")
    )


def index_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "index.json").read_text())
