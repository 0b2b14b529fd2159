"""Batched image operations with a strength per sample: 0 is the identity, 1 the full range, and more is never less."""

from __future__ import annotations

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "zoom")
PHOTOMETRIC = (
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)
OPERATIONS = (*GEOMETRIC, *PHOTOMETRIC, "erase", "crop", "flip")
