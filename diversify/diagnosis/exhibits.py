"""The record of the images that a report shows; `choose_exhibits.py` chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic

from ..errors import must
from ..files.schema import Value, broken, refusal
from .result import Diagnosis

SCHEMA_VERSION = 1
_PICTURE = r"^(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*)?$"


class Pull(Value):
    """A feature that made the model predict the wrong class.

    Attributes:
        feature: Index of the feature.
        logits: How many logits more it adds to the predicted class than to the true class.
        top_k: True if it is among the top-K of the predicted class.
    """

    feature: int
    logits: float
    top_k: bool


class Example(Value):
    """One image of a class.

    Attributes:
        row: Its row in the embeddings.
        index: Its index in the data set; its row where the index is not known.
        predicted: The predicted class.
        margin: The logit of the true class minus the largest other logit.
        pulls: The features that caused a held-out error; empty for other images.
        picture: A small picture as a `data:` address; empty until `take_pictures` fills it in.
        name: The file's name; empty until `take_pictures` fills it in, and for images without a file.
    """

    row: int
    index: int
    predicted: int
    margin: float
    pulls: tuple[Pull, ...] = ()
    picture: Annotated[str, pydantic.Field(pattern=_PICTURE)] = ""
    name: str = ""


class ClassExamples(Value):
    """Examples of one class, and how many images of each kind there are.

    Attributes:
        class_index: The class.
        typical: Training images nearest to the mean of the class.
        border: Training images with 2 or 3 of 5 neighbours of the class.
        outlier: Training images with no neighbour of the class among 5.
        errors: Held-out images that are predicted as another class.
        candidates: How many training images the examples were chosen from.
        borders: How many of the candidates are border; None if there are too few images to have 5 neighbours.
        outliers: How many of the candidates are outliers; None likewise.
        misses: How many held-out images are predicted as another class.
    """

    class_index: int
    typical: tuple[Example, ...]
    border: tuple[Example, ...]
    outlier: tuple[Example, ...]
    errors: tuple[Example, ...]
    candidates: int
    borders: int | None
    outliers: int | None
    misses: int


class Suspect(Value):
    """An image whose label is suspect.

    Attributes:
        row: Its row in the embeddings.
        index: Its index in the data set; its row where the index is not known.
        given: Its label.
        suggested: The class that it rather belongs to.
        score: How much more probable the most probable other class is than the label.
        picture: A small picture as a `data:` address; empty until `take_pictures` fills it in.
        name: The file's name; empty until `take_pictures` fills it in, and for images without a file.
    """

    row: int
    index: int
    given: int
    suggested: int
    score: float
    picture: Annotated[str, pydantic.Field(pattern=_PICTURE)] = ""
    name: str = ""


class CopyExamples(Value):
    """The largest group of near copies of a class.

    Attributes:
        class_index: The class.
        train: Training images of the group, some of them.
        heldout: Held-out images that are near copies of them, some of them.
        in_train: How many training images the group has.
        in_heldout: How many held-out images are near copies of them.
    """

    class_index: int
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    in_train: int
    in_heldout: int


class CopyPair(Value):
    """Two images that are near copies.

    Attributes:
        class_index: Their class.
        heldout: True if `image` is a held-out image, False if it is a training image.
        image: An image.
        copy_of: A training image that it is a near copy of.
        bits: In how many of 256 bits their hashes differ; None if they were not found by that.
        distance: How far their features lie apart, as a share of the median distance in the class; None if they were not
            found by that.
    """

    class_index: int
    heldout: bool
    image: Example
    copy_of: Example
    bits: int | None = None
    distance: float | None = None


class ClusterExamples(Value):
    """Images of one failing cluster, and of the rest of its class.

    Attributes:
        place: The place of the cluster among the failing clusters of the diagnosis.
        class_index: The class.
        inside: Images of the cluster, nearest to its centre first.
        outside: Other held-out images of the class, nearest to their centre first.
    """

    place: int
    class_index: int
    inside: tuple[Example, ...]
    outside: tuple[Example, ...]


class FeatureMap(Value):
    """The held-out features in two dimensions; every field but `method` has one entry per image.

    Attributes:
        method: How the two dimensions were computed.
        rows: Rows of the embeddings.
        x: First coordinates.
        y: Second coordinates.
        labels: True classes.
        predicted: Predicted classes.
    """

    method: str
    rows: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[int, ...]
    predicted: tuple[int, ...]

    @pydantic.model_validator(mode="after")
    def _one_entry_per_image(self) -> Self:
        if len({len(each) for each in (self.rows, self.x, self.y, self.labels, self.predicted)}) > 1:
            raise broken("have as many rows, x, y, labels and predicted", "different numbers")
        return self


class Exhibits(Value):
    """The images that a report shows beside the numbers of a diagnosis.

    Attributes:
        schema_version: Version of the JSON form.
        fragile: Number of fragile classes.
        examples: Examples of the fragile classes with the lowest recall.
        feature_map: The held-out features in two dimensions; None if they cannot be laid out.
        train_indices_known: False if it is not known which images of the data set the training examples are.
        heldout_indices_known: The same for held-out examples.
        suspects_train: Training images whose label is suspect, the most suspect first.
        suspects_heldout: The same for held-out images.
        clusters: Images of the failing clusters with the lowest recall.
        near_copies: The largest group of near copies of some classes.
        copy_pairs: Pairs of near copies, of each class the least alike.
        images_compared: True if near copies were also looked for by a perceptual hash of the images.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
        >>> exhibits.fragile, dv.Exhibits.from_dict(exhibits.to_dict()) == exhibits
        (1, True)
    """

    schema_version: int = SCHEMA_VERSION
    fragile: int
    examples: tuple[ClassExamples, ...]
    feature_map: FeatureMap | None
    train_indices_known: bool = True
    heldout_indices_known: bool = True
    suspects_train: tuple[Suspect, ...] = ()
    suspects_heldout: tuple[Suspect, ...] = ()
    clusters: tuple[ClusterExamples, ...] = ()
    near_copies: tuple[CopyExamples, ...] = ()
    copy_pairs: tuple[CopyPair, ...] = ()
    images_compared: bool = False

    def require_of(self, diagnosis: Diagnosis) -> None:
        """Check that the exhibits belong to the diagnosis.

        Raises:
            InputError: A class of the exhibits is none of the diagnosis.
        """
        classes = {each.class_index for each in self.examples}
        shown = [each for one in self.examples for each in (*one.typical, *one.border, *one.outlier, *one.errors)]
        classes |= {each.predicted for each in shown}
        classes |= {c for each in (*self.suspects_train, *self.suspects_heldout) for c in (each.given, each.suggested)}
        for cluster in self.clusters:
            classes |= {cluster.class_index, *(each.predicted for each in (*cluster.inside, *cluster.outside))}
        for group in self.near_copies:
            classes |= {group.class_index, *(each.predicted for each in (*group.train, *group.heldout))}
        for pair in self.copy_pairs:
            classes |= {pair.class_index, pair.image.predicted, pair.copy_of.predicted}
        if self.feature_map is not None:
            classes |= {*self.feature_map.labels, *self.feature_map.predicted}
        last = len(diagnosis.class_names) - 1
        if classes and not 0 <= min(classes) <= max(classes) <= last:
            raise must(
                "exhibits", f"be of the diagnosis's classes, 0 to {last}", max(classes, key=lambda c: abs(c - last / 2))
            )
        clusters, known = {each.place for each in self.clusters}, len(diagnosis.failing_clusters)
        if clusters and not 0 <= min(clusters) <= max(clusters) < known:
            raise must("exhibits", f"be of the diagnosis's {known} failing clusters", max(clusters))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `exhibits.json`, as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the exhibits that `to_dict` was called on.

        Raises:
            InputError: A field is missing or damaged, or the file has another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("exhibits", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            return cls.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("exhibits", error, cls.model_fields) from None
