"""The settings of a class's plan that rules may change, each with its path."""

from __future__ import annotations

from typing import NamedTuple, get_args

from .policies import FeatureMethod

_METHODS = {
    "toward_enemies": "interpolation toward the classes it is confused with",
    "eos": "oversampling toward its nearest enemies (EOS)",
    "smote": "SMOTE",
    "borderline_smote": "borderline SMOTE",
    "covariance": "noise with the covariance of similar classes",
    "magnitude": "shrinking of its top-K features",
    "isda": "implicit augmentation (ISDA)",
}


class Setting(NamedTuple):
    """One number of a class's plan.

    Attributes:
        part: "draws", "image", "mixing" or "features".
        name: Which number of the part, for example "strength"; "" for the draws, which are one number.
        method: The feature method; "" for the other parts, and for what concerns all feature methods of the class.
    """

    part: str
    name: str = ""
    method: str = ""

    @property
    def path(self) -> str:
        """The path that rules and reasons name: `features.eos.share`."""
        return ".".join(filter(None, (self.part, self.method, self.name)))

    @property
    def augmentation(self) -> str:
        """The augmentation that the setting belongs to, in words: "image augmentation", "SMOTE"."""
        if self.part == "features":
            return _METHODS.get(self.method, self.method.replace("_", " ")) or "feature augmentation"
        return "image augmentation" if self.part == "image" else "mixing"

    @property
    def words(self) -> str:
        """The setting in words, as the text of a reason names it: "strength of SMOTE"."""
        if self == DRAWS:
            return "share of all draws"
        if self == MIXING_PARTNER:
            return "weight of its images as mixing partners"
        return f"{'share of its draws with' if self.name in ('share', 'probability') else 'strength of'} {self.augmentation}"

    @property
    def partner(self) -> Setting | None:
        """The other half of a strength and its probability or share: without one the other has no effect."""
        if self.part == "image" and self in (IMAGE_STRENGTH, IMAGE_PROBABILITY):
            return IMAGE_PROBABILITY if self == IMAGE_STRENGTH else IMAGE_STRENGTH
        if self.method:
            return self._replace(name="share" if self.name == "strength" else "strength")
        return None


DRAWS = Setting("draws")
IMAGE_STRENGTH = Setting("image", "strength")
IMAGE_EXTRA = Setting("image", "extra")  # the strength beyond that of the class whose images the base augments least
IMAGE_PROBABILITY = Setting("image", "probability")
MIXING_PROBABILITY = Setting("mixing", "probability")
MIXING_PARTNER = Setting("mixing", "partner")
ALL_FEATURES = Setting("features", "share")  # the shares of all feature methods of the class


def strength_of(method: str) -> Setting:
    """The strength of a feature method."""
    return Setting("features", "strength", method)


def share_of(method: str) -> Setting:
    """The share of a feature method."""
    return Setting("features", "share", method)


SETTINGS = {
    setting.path: setting
    for setting in (
        DRAWS,
        IMAGE_STRENGTH,
        IMAGE_EXTRA,
        IMAGE_PROBABILITY,
        MIXING_PROBABILITY,
        MIXING_PARTNER,
        ALL_FEATURES,
        *(kind(method) for method in get_args(FeatureMethod) for kind in (strength_of, share_of)),
    )
}
"""Every setting by its path."""
