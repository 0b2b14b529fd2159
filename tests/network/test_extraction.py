"""The extraction is exact and leaves no trace on model, loader or random state."""

import copy
import random

import pytest
import torch
from small_network import Images, Net, batch, expected, make_net, message_of, mix_modes, seeded, trace
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from diversify.errors import InputError
from diversify.network.extraction import extract
from diversify.network.linear_head import read_head
from diversify.network.split import split_head

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("error", "workers"), [(None, 0), (ValueError("broken image"), 0), (KeyboardInterrupt(), 0), (None, 2)]
)
def test_extract_leaves_no_trace(error, workers):
    model = make_net()
    model(seeded(4, 1, 8, 8)).sum().backward()
    mix_modes(model)
    loader = DataLoader(
        Images(error=error, at=11),
        batch_size=3,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
        num_workers=workers,
    )
    split = split_head(model)
    before = trace(model, loader)
    if error is None:
        extract(split, loader)
    else:
        with pytest.raises(type(error)):
            extract(split, loader)
    assert trace(model, loader) == before


def test_a_frozen_batch_norm_keeps_its_mode_and_its_statistics():
    model = make_net().train()
    model.features[1].eval().requires_grad_(False)
    before = trace(model)
    extract(split_head(model), DataLoader(Images(), batch_size=5))
    assert trace(model) == before
    assert model.training
    assert not model.features[1].training


def test_the_trace_sees_a_change():
    model = make_net()
    changes = (
        lambda: model.tail[2].train(not model.tail[2].training),
        lambda: model.features[1].running_mean.add_(1),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: torch.rand(1),
        lambda: random.random(),  # noqa: S311
        lambda: model.head.bias.requires_grad_(False),
        lambda: setattr(model, "head", nn.Linear(6, 3)),
    )
    for change in changes:
        before = trace(model)
        change()
        assert trace(model) != before


def test_what_a_data_set_keeps_stays_usable_for_training():
    class Caching(Images):
        cache: Tensor | None = None

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.cache = self.images[index] * 2
            return super().__getitem__(index)

    dataset = Caching()
    found = extract(split_head(make_net()), DataLoader(dataset, batch_size=4))
    assert not dataset.cache.is_inference()
    assert not any(getattr(found, name).is_inference() for name in ("features", "labels", "logits", "indices"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_cast_to_the_weights_and_features_are_float32(dtype, precision):
    model, images, labels = make_net().to(dtype), seeded(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    before = trace(model)
    found = extract(split_head(model), [(images, labels)], precision=precision)
    assert trace(model) == before
    assert seen == [dtype]
    assert found.features.dtype == found.logits.dtype == torch.float32
    with torch.no_grad():
        wanted = make_net().eval()(images)
    torch.testing.assert_close(found.logits, wanted, rtol=0.05, atol=0.05)
    torch.testing.assert_close(read_head(model.head).logits(found.features), found.logits, rtol=0.05, atol=0.05)


def test_images_that_are_no_floats_stay_what_they_are():
    class Own(Net):
        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            return super().forward(images / 255)

    extract(split_head(Own()), [(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))])


class Refusing(Net):
    def __init__(self, error: Exception, calls: int = 0) -> None:
        super().__init__()
        self.error, self.calls = error, calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return super().forward(images)


def test_a_data_set_in_place_of_a_loader_is_named():
    expected = "loader must give batches, got the data set Images; pass DataLoader(dataset, batch_size=64)"
    with pytest.raises(InputError) as caught:
        extract(split_head(make_net()), Images())
    assert str(caught.value) == expected


def test_images_that_the_model_does_not_take(tmp_path):
    half = RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")
    cases = (
        (
            AssertionError("Input height (8) doesn't match model (224)."),
            "got AssertionError: Input height (8) doesn't match model (224).; they have shape (N, 1, 8, 8)",
        ),
        (half, f"got RuntimeError: {half}; this device cannot run float16 weights: call model.float() first"),
    )
    for error, message in cases:
        split = split_head(Refusing(error))
        loader = DataLoader(Images(), batch_size=5)
        assert (
            message_of(InputError, extract, split, loader, out=tmp_path / "new")
            == f"model must take these images, {message}"
        )
        assert list(tmp_path.iterdir()) == []
    for error, calls in ((RuntimeError("later"), 1), (MemoryError(), 0), (RuntimeError("CUDA out of memory"), 0)):
        with pytest.raises(type(error)) as caught:
            extract(split_head(Refusing(error, calls)), loader)
        assert caught.value is error


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_loader_gives_the_data_sets_own_indices(workers):
    model, dataset = make_net(), Images()
    loader = DataLoader(dataset, batch_size=6, shuffle=True, num_workers=workers)
    found = extract(split_head(model), loader)
    rows = found.indices.tolist()
    assert len(rows) == len(set(rows)) == 20
    assert rows != sorted(rows)
    assert found.labels.tolist() == [dataset.labels[row] for row in rows]
    torch.testing.assert_close(found.logits, expected(model, dataset, rows))
    head = read_head(model.head)
    torch.testing.assert_close(head.logits(found.features), found.logits)


def test_subsets_and_batch_samplers():
    dataset = Images()
    subset = Subset(dataset, [5, 3, 9])
    assert extract(split_head(make_net()), DataLoader(subset, batch_size=2)).indices.tolist() == [0, 1, 2]
    sampler = BatchSampler(RandomSampler(dataset, generator=torch.Generator().manual_seed(0)), 7, drop_last=False)
    found = extract(split_head(make_net()), DataLoader(dataset, batch_sampler=sampler))
    assert sorted(found.indices.tolist()) == list(range(20))


def test_other_loaders_give_positions_or_their_own_indices():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(seeded(5, 1, 8, 8), [0, 1, 2, 0, 1], strict=True)

    class Custom(DataLoader):
        def __iter__(self):
            for images, labels in super().__iter__():
                yield images * 0, labels

    split = split_head(make_net())
    images, labels = seeded(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    assert extract(split, DataLoader(Stream(), batch_size=2)).indices.tolist() == [0, 1, 2, 3, 4]
    assert extract(split, [(images[:2], labels[:2]), (images[2:], labels[2:])]).indices.tolist() == [0, 1, 2, 3, 4]
    own = torch.tensor([7, 5, 3, 2, 0])
    assert extract(split, [(images, labels, own)]).indices.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(extract(split, [(images, labels, own)], index=2).indices, own)
    found = extract(split, Custom(TensorDataset(images, labels), batch_size=5))
    assert torch.equal(found.features[0], found.features[1])
    unbatched = DataLoader(TensorDataset(images.unsqueeze(1), labels.unsqueeze(1)), batch_size=None)
    assert len(extract(split, unbatched)) == 5


def test_labels_of_shape_n_by_1_and_progress():
    seen = []
    loader = [(seeded(4, 1, 8, 8), torch.tensor([[0], [1], [2], [1]], dtype=torch.uint8))] * 2
    found = extract(split_head(make_net()), loader, progress=lambda done, rows: seen.append((done, rows)))
    assert found.labels.tolist() == [0, 1, 2, 1] * 2
    assert found.labels.dtype == torch.int64
    assert seen == [(4, None), (8, None)]
    seen.clear()
    extract(split_head(make_net()), DataLoader(Images(5), batch_size=3), progress=lambda *counts: seen.append(counts))
    assert seen == [(3, 5), (5, 5)]


def test_precision():
    split, loader = split_head(make_net()), DataLoader(Images(), batch_size=5)
    full, half = extract(split, loader), extract(split, loader, precision="bf16")
    assert half.features.dtype == half.logits.dtype == torch.float32
    assert not torch.equal(full.logits, half.logits)
    torch.testing.assert_close(full.logits, half.logits, rtol=0.05, atol=0.05)
    extract(split, loader, precision="auto")
    assert message_of(InputError, extract, split, loader, precision="fp16") == (
        "precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?"
    )


def test_another_device_gets_a_copy():
    model = make_net()
    split = split_head(model)
    moved = copy.deepcopy(split).to("meta")
    assert moved.device.type == "meta"
    assert moved.head.weight.device.type == "meta"
    assert split.device.type == model.head.weight.device.type == "cpu"


def test_extract_errors():
    split = split_head(make_net())
    images = seeded(4, 1, 8, 8)
    images[2] = torch.nan
    weighted = WeightedRandomSampler([1.0] * 20, 20, generator=torch.Generator().manual_seed(0))
    cases = (
        (
            batch(torch.tensor([0, 1, 5, 2])),
            "model must have one output per class, got 3 outputs and the label 5 at row 2",
        ),
        (batch(torch.tensor([0, -1, 1, 2])), "labels must lie in [0, C - 1 = 2], got -1 at row 1"),
        (batch(torch.tensor([0, 1, 0.5, 2])), "labels must be whole numbers, got 0.5 at row 2"),
        (
            batch(torch.tensor([[1.0, 0, 0], [0.7, 0.3, 0]]), 2),
            "labels must have shape (N,) or (N, 1), or be one-hot (N, C), got (0.7, 0.3, 0) at row 1; take the labels from"
            " before the images were mixed",
        ),
        (batch(torch.zeros(3, dtype=torch.int64)), "labels must have one row per image, 4, got 3"),
        ([(images, torch.zeros(4, dtype=torch.int64))], "features must be finite, got nan at row 2, feature 0"),
        (
            [{"image": images}],
            "loader must yield labels as labels or label or target or targets, got a batch of image; name the entry with"
            " label_key=KEY",
        ),
        ([images], "loader must yield (images, labels), or a mapping that holds both, got a Tensor"),
        (
            [(images[:1], ["cat"])],
            "labels must be class indices where no class names are known, got 'cat' at row 0; pass class_names"
            " where the function takes it, or number them: [class_names.index(label) for label in labels]",
        ),
        ([], "loader must yield at least one image, got 0"),
        (DataLoader(Subset(Images(), [])), "loader must yield at least one image, got 0"),
        (
            DataLoader(Images(), sampler=weighted),
            "loader must visit each image at most once, got index 12 twice; pass dv.clean_loader(loader), which reads each"
            " image of the data set once",
        ),
    )
    for loader, message in cases:
        if "twice" in message:
            drawn = list(weighted)
            first = next(index for place, index in enumerate(drawn) if index in drawn[:place])
            weighted.generator.manual_seed(0)
            message = message.replace("index 12", f"index {first}")
        assert message_of(InputError, extract, split, loader) == message
