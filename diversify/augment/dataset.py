"""Image augmentation in loader workers: a data set whose images are augmented by their class's policy.

    dataset = DiversifiedDataset(dataset, plan, seed=0)
    loader = DataLoader(dataset, batch_size=128, num_workers=4, sampler=...)
    for epoch in range(epochs):
        dataset.set_epoch(epoch, epochs)
        for images, labels in loader: ...

Image augmentation depends on (seed, epoch, index, occurrence), not on the number of workers. It differs between epochs,
between images, and each time that `DiversifySampler` draws an image again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from ..data.decode import is_pil
from ..data.examples import ExampleForm, Key, require_map_style
from ..data.images import Batch
from ..data.labels import shown_labels
from ..data.tables import is_table, is_transformed
from ..errors import InputError, must, unknown
from ..functional import draws, image_ops
from ..functional.labels import read_labels
from ..plan.plan import Plan
from ..plan.policies import ImagePolicy
from ..runtime.user_code import describe, is_passed_on
from .draw_key import occurrence_of, view_of
from .plan_labels import plan_labels

Backend = Callable[[Any, str, float, float], Any]
"""Takes (image, operation, strength in (0, 1], draw in [0, 1)), returns an image of the same kind, type and size."""
Named = Literal["albumentations", "torch"]

_Step = tuple[str, float, float]  # operation, strength, draw

_PLACES = {name: place for place, name in enumerate(image_ops.OPERATIONS)}
# Columns of the shared numbers: those of the last row, and those of a class's row, which ends with one per operation.
_VERSION, _EPOCH, _FACTOR = range(3)
_LAYERS, _STRENGTH, _PROBABILITY, _OPERATIONS = range(4)


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """The shared numbers, read once per epoch and process; None for a class whose images are not augmented."""

    version: float
    key: int
    policies: tuple[ImagePolicy | None, ...]
    varies: bool  # True if any class's images are augmented


class DiversifiedDataset(Dataset[Any]):
    """A map-style data set of `(image, label)`, or of mappings, whose images are augmented by their class's policy in a plan.

    Only the image of an example changes, and its kind, type and size stay the same. A mapping, as the examples of Hugging
    Face data sets are, comes back with all its other entries. For a share `probability`
    of a class's draws, `layers` operations of the policy are drawn and applied at its strength. The epoch is 0 until
    `set_epoch` is called.

    An image that is drawn several times in an epoch is augmented differently each time if the index says how often it came
    before, as the indices of `DiversifySampler` do (`draw_key.Drawn`). A data set between sampler and this one, such as a
    `Subset`, would lose that: wrap the subset instead of taking a subset of this data set.

    `set_epoch` and `use` also reach persistent workers, at their next image; call them between epochs.

    Args:
        dataset: Its images are PIL images (L or RGB), tensors `(C, H, W)` or `(H, W)`, or arrays `(H, W, C)` or `(H, W)`;
            uint8 or float in [0, 1], so not normalised yet. If it has `__getitems__`, batches are fetched with it.
        plan: The image policies.
        seed: Seed of the draws.
        labels: Classes by which policies are chosen, `(N,)`, in any form that `DiversifySampler` takes. By default those that
            `labels_of` finds; if there are none, or a `target_transform` changes them, each example's own label.
        backend: "albumentations"; "torch", for tensors only, which augments images of the same size together and is about
            twice as fast at 32 x 32 pixels; or a function `backend(image, operation, strength, draw)`, which must get its
            randomness from `draw` in [0, 1) alone. With both names uint8 images of 1 or 3 channels and at least 64 x 64
            pixels are changed by OpenCV, the fastest way, and are the same bit for bit; the names differ for other images.
        image_key: Key of the image where examples are mappings; by default the one among `pixel_values`, `image`, `images`
            and `img` that an example has.
        label_key: Key of the label there; by default the one among `labels`, `label`, `target`, `targets` and `fine_label`.
            If it is given, each example's own label is used.

    Attributes:
        targets: The labels by which policies are chosen, or None if each example's own label is used.

    Raises:
        InputError: the data set has no length and index, or labels that are not classes of the plan; later, an example has
            not exactly one usual key for its image or label, an image cannot be augmented, or the backend fails or returns
            another kind, type or size.

    Warns:
        UserWarning: a class has another count than in the plan, beyond what another split of the same data explains.

    Example:
        >>> import torch, diversify as dv
        >>> data = torch.utils.data.TensorDataset(torch.rand(10, 3, 8, 8), torch.tensor([0] * 8 + [1] * 2))
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [8, 2])
        >>> augmented = dv.DiversifiedDataset(data, plan, labels=data.tensors[1], backend="torch")
        >>> image, label = augmented[9]
        >>> image.shape, int(label), torch.equal(image, data[9][0])
        (torch.Size([3, 8, 8]), 1, False)
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        plan: Plan,
        *,
        seed: int = 0,
        labels: Any = None,
        backend: Named | Backend = "albumentations",
        image_key: Key | None = None,
        label_key: Key | None = None,
    ) -> None:
        name = type(dataset).__name__
        require_map_style(dataset)
        if not callable(backend) and backend not in get_args(Named):
            raise unknown("backend", str(backend), [*get_args(Named), "a function"])
        self.dataset, self.plan, self.seed, self.backend = dataset, plan, seed, backend
        self._form = ExampleForm(image_key=image_key, label_key=label_key)
        rows = len(cast(Sized, dataset))
        given = _shown_labels(dataset, plan) if labels is None and label_key is None else labels
        self.targets = None if given is None else plan_labels(given, plan, name=f"labels of {name}", rows=rows)
        self._epochs: tuple[int, int | None] = (0, None)
        shape = (plan.num_classes + 1, _OPERATIONS + len(image_ops.OPERATIONS))
        self._shared = torch.zeros(shape, dtype=torch.float64).share_memory_()
        self._read: _Epoch | None = None
        self._view()
        self._write()

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Choose the draws of an epoch.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all; if given, the plan's schedule acts.

        Raises:
            InputError: a number is out of its range.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        if epochs is not None and epochs < 1:
            raise must("epochs", "be at least 1", epochs)
        self._epochs = (epoch, epochs)
        self._write()

    def use(self, plan: Plan) -> None:
        """Follow another plan of the same classes.

        Raises:
            InputError: the plan has other classes.
        """
        before, after = ([one.name for one in each.classes] for each in (self.plan, plan))
        if len(before) != len(after):
            raise must("plan", f"have the {len(before)} classes of the plan before it", len(after))
        for old, name in zip(before, after, strict=True):
            if old != name:
                raise must("plan", "have the classes of the plan before it", f"{name!r} for {old!r}")
        self.plan = plan
        self._write()

    @property
    def epoch(self) -> int:
        """The epoch that was set; loader workers see it too."""
        return int(self._numbers[-1, _EPOCH])

    def augmented(self, index: int, example: Any) -> Any:
        """Return an example `(image, label)` from elsewhere, augmented as the image of this index would be."""
        now = self._now()
        return self._varied(now, index, example) if now.varies else example

    def class_of(self, index: int, example: Any) -> int:
        """Return the class by which an example `(image, label)` of this index is augmented.

        Raises:
            InputError: it has no label, or one that is not a class of the plan.
        """
        return self._class_of(int(index), self._form.label(example, index))

    def without_augmentation(self) -> Dataset[Any]:
        """Return the data set below, as `clean_loader` asks for it."""
        return self.dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        example = self.dataset[index]
        now = self._now()
        return self._varied(now, index, example) if now.varies else example

    def __getitems__(self, indices: list[int]) -> Any:
        fetch = getattr(self.dataset, "__getitems__", None)
        examples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        now = self._now()
        if not now.varies:
            return examples
        if isinstance(examples, Batch):
            return self._varied_batch(now, indices, examples)
        if self.backend == "torch":
            return self._varied_together(now, indices, list(examples))
        return [self._varied(now, index, example) for index, example in zip(indices, examples, strict=True)]

    def _varied(self, now: _Epoch, index: int, example: Any) -> Any:
        """The example with its image augmented, or the example itself."""
        steps = self._steps_of(now, index, example)
        if not steps:
            return example
        image = self._vary(self._form.image(example, index), steps, index)
        return self._form.with_image(example, image, index)

    def _varied_together(self, now: _Epoch, indices: Sequence[int], examples: list[Any]) -> list[Any]:
        """The examples with their images augmented, all images of one shape and type together."""
        steps = [self._steps_of(now, index, example) for index, example in zip(indices, examples, strict=True)]
        found = {row: self._form.image(examples[row], indices[row]) for row, its in enumerate(steps) if its}
        if found:
            images = [_checked(image, (2, 3)) for image in found.values()]
            augmented = image_ops.apply_policies(images, *_settings([steps[row] for row in found]))
            for (row, image), result in zip(found.items(), augmented, strict=True):
                examples[row] = self._form.with_image(examples[row], _like(result, image), indices[row])
        return examples

    def _varied_batch(self, now: _Epoch, indices: Sequence[int], batch: Batch) -> Batch:
        """A batch that was fetched as a whole, with the augmented images written into its memory."""
        steps = [self._steps(now, index, label) for index, label in zip(indices, batch.labels, strict=True)]
        rows = [row for row, its in enumerate(steps) if its]
        if self.backend == "torch" and rows:
            images = [_checked(batch.images[row], (2, 3)) for row in rows]
            augmented = image_ops.apply_policies(images, *_settings([steps[row] for row in rows]))
            for row, image in zip(rows, augmented, strict=True):
                batch.images[row] = image
            return batch
        for row in rows:
            batch.images[row] = self._vary(batch.images[row], steps[row], indices[row])
        return batch

    def _steps_of(self, now: _Epoch, index: int, example: Any) -> list[_Step]:
        return self._steps(now, index, None if self.targets is not None else self._form.label(example, index))

    def _steps(self, now: _Epoch, index: int, label: Any) -> list[_Step]:
        """(operation, strength, draw) of each layer; empty if the image is not augmented."""
        row = int(index)
        row = row + len(self) if row < 0 else row
        policy = now.policies[self._class_of(row, label)]
        view = view_of(row, occurrence_of(index))
        if policy is None or draws.number(now.key, view) >= policy.probability:
            return []
        names, steps = policy.operations, []
        for layer in range(1, policy.layers + 1):
            place = draws.number(now.key, view, layer) * len(names)  # its integer part chooses, the rest is the draw
            steps.append((names[int(place)], policy.strength, place % 1))
        return steps

    def _class_of(self, row: int, label: Any) -> int:
        if self.targets is not None:
            return int(self._classes[row])
        try:
            number = int(label.__index__())
        except (AttributeError, TypeError):
            number = self._number_of(row, label)
        if not 0 <= number < self.plan.num_classes:
            law = f"be a class of the plan, in [0, {self.plan.num_classes - 1}]"
            raise must("label of an example", law, f"{number} at row {row}")
        return number

    def _number_of(self, row: int, label: Any) -> int:
        """The class of a label that is not an integer: a float without decimals, a one-hot row, or the name of a class."""
        try:
            return int(read_labels("label", [label], class_names=[one.name for one in self.plan.classes])[0])
        except InputError as error:
            got = f"{repr(label) if isinstance(label, str) else type(label).__name__} at row {row}"
            raise must("label of an example", "be one class of the plan", got, "pass labels=LABELS") from error

    def _vary(self, image: Any, steps: list[_Step], index: int) -> Any:
        if self.backend == "torch":
            return _like(image_ops.apply_policies([_checked(image, (2, 3))], *_settings([steps]))[0], image)
        if not callable(self.backend):
            return _albumentations()(image, steps)
        for name, strength, draw in steps:
            try:
                result = self.backend(image, name, strength, draw)
            except Exception as error:  # whatever a function of the user's raises
                if is_passed_on(error):
                    raise
                got = f"{describe(error)} ({name} at row {int(index)})"
                raise must("backend", "augment every image", got) from error
            if (got := _form(result)) != (form := _form(image)):
                raise must("backend", f"return {form}", f"{got} ({name} at row {int(index)})")
            image = result
        return image

    def _write(self) -> None:
        """Write plan and epoch into shared memory, and the version last: it tells readers that the rest has changed."""
        epoch, epochs = self._epochs
        factor = 1.0 if epochs is None else self.plan.schedule.at(epoch, epochs)
        version = self._numbers[-1, _VERSION]
        rows = np.zeros_like(self._numbers)
        for row, one in zip(rows, self.plan.classes, strict=False):
            row[:_OPERATIONS] = one.image.layers, one.image.strength, one.image.probability
            for name in one.image.operations:
                row[_OPERATIONS + image_ops.OPERATIONS.index(name)] += 1
        rows[-1, : _FACTOR + 1] = version, epoch, factor
        self._numbers[:] = rows
        self._numbers[-1, _VERSION] = version + 1
        if self._now().varies and self.backend == "albumentations":
            _albumentations()  # imported here, so that forked workers already have it

    def _now(self) -> _Epoch:
        """The shared numbers as they stand."""
        version = self._numbers[-1, _VERSION]
        if self._read is None or self._read.version != version:
            epoch, factor = int(self._numbers[-1, _EPOCH]), float(self._numbers[-1, _FACTOR])
            policies = tuple(_policy(row, factor) for row in self._numbers[:-1].tolist())
            key = draws.seed_for("image policies of a data set", self.seed, epoch)
            self._read = _Epoch(version=version, key=key, policies=policies, varies=any(policies))
        return self._read

    def _view(self) -> None:
        """Make arrays over the tensors' memory: reading a number from an array takes a tenth of the time."""
        self._numbers = self._shared.numpy()
        self._classes = np.empty(0, np.int64) if self.targets is None else self.targets.numpy()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_numbers", "_classes", "_read")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # a copy has memory of its own
        self._read = None
        self._view()


def _policy(row: list[float], factor: float) -> ImagePolicy | None:
    """A class's policy from its shared numbers, at this factor of the schedule; None if it has no effect."""
    strength, probability = factor * row[_STRENGTH], factor * row[_PROBABILITY]
    names = zip(image_ops.OPERATIONS, row[_OPERATIONS:], strict=True)
    operations = tuple(name for name, times in names for _ in range(int(times)))
    if not (operations and strength and probability):
        return None
    layers = int(row[_LAYERS])
    return ImagePolicy(operations=operations, layers=layers, strength=strength, probability=probability)


def _shown_labels(dataset: Dataset[Any], plan: Plan) -> Tensor | None:
    """The labels of a data set; None if it shows none, shows others than its examples have, or changes them as it is read."""
    if _changes_labels(dataset):
        return None
    try:
        return shown_labels(dataset, [one.name for one in plan.classes])[0]
    except InputError:
        return None


def _changes_labels(dataset: Any) -> bool:
    parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [getattr(dataset, "dataset", None)]
    own = getattr(dataset, "target_transform", None) is not None or (is_table(dataset) and is_transformed(dataset))
    return own or any(_changes_labels(part) for part in parts if part is not None)


def _form(image: Any) -> str:
    """Kind, type and size of an image in words; a backend must keep them."""
    if is_pil(image):
        return f"a PIL image of mode {image.mode} and {image.width} x {image.height} pixels"
    kind = {Tensor: "tensor", np.ndarray: "array"}.get(type(image), type(image).__name__)
    if isinstance(image, Tensor | np.ndarray):
        return f"{kind} of {str(image.dtype).removeprefix('torch.')} and shape {tuple(image.shape)}"
    return kind


def _checked(images: Any, dimensions: Sequence[int]) -> Tensor:
    """One or more images as a plain tensor; an InputError if torch cannot augment them."""
    if not isinstance(images, Tensor):
        got = type(images).__name__
        advice = 'pass backend="albumentations"'
        raise must("an image of the data set", 'be a tensor for the backend "torch"', got, advice)
    if images.ndim not in dimensions:
        raise must("an image of the data set", "have shape (C, H, W) or (H, W)", tuple(images.shape))
    if images.device.type != "cpu":
        advice = "augment it there with a BatchAugmenter"
        raise must("an image of the data set", "be in the memory of the CPU", images.device, advice)
    plain = images.detach().as_subclass(Tensor)
    law, advice = "be uint8, or float in [0, 1], to be augmented", "normalise it afterwards"
    if plain.dtype == torch.uint8 or not plain.numel():
        return plain
    if not plain.is_floating_point():
        raise must("an image of the data set", law, plain.dtype)
    low, high = (float(end) for end in (plain.float() if plain.dtype.itemsize == 1 else plain).aminmax())
    if not (low >= 0 and high <= 1):
        raise must("an image of the data set", law, f"float from {low:.3g} to {high:.3g}", advice)
    return plain


def _settings(steps: Sequence[Sequence[_Step]]) -> tuple[Tensor, Tensor, Tensor]:
    """Places in `image_ops.OPERATIONS`, strengths and draws, all `(N, L)`."""
    layers = max(map(len, steps))
    rest = [(0.0, 0.0, 0.0)]
    filled = [
        [(float(_PLACES[name]), strength, draw) for name, strength, draw in its] + rest * (layers - len(its))
        for its in steps
    ]
    operation, strength, draw = torch.tensor(filled, dtype=torch.float64).unbind(2)
    return operation.long(), strength, draw


def _like(augmented: Tensor, image: Tensor) -> Tensor:
    return augmented if type(image) is Tensor else augmented.as_subclass(type(image))


@functools.cache
def _albumentations() -> Callable[[Any, list[_Step]], Any]:
    """The backend "albumentations", imported when it is first needed because that takes seconds."""
    from . import albumentations_ops

    return albumentations_ops.augment
