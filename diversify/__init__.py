"""Find out why a CNN fails on its rare classes, and which remedy the evidence points to.

The short way, with a trained model and loaders of its training and of unseen images:

    import diversify as dv
    diagnosis = dv.diagnose_model(model, train_loader, heldout_loader)
    for finding in diagnosis.findings:
        print(finding.text)

The same in parts, each usable alone:

    split = dv.split_head(model)                     # backbone and linear head, parameters shared
    train = dv.extract(split, train_loader)          # Embeddings: features, labels, logits, indices
    heldout = dv.extract(split, heldout_loader)
    diagnosis = dv.diagnose(train, heldout, head=split.head)
    diagnosis.to_dataframe()

Names are imported when they are first used, so `import diversify` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Diagnosis": "diagnosis",
    "diagnose": "measuring",
    "diagnose_model": "measuring",
    "Finding": "findings",
    "MEASURES": "measures",
    "Model": "comparison",
    "ModelComparison": "comparison",
    "compare_models": "comparison",
    "Exhibits": "exhibits",
    "choose_exhibits": "exhibits",
    "take_pictures": "thumbnails",
    "render_html": "report",
    "render_markdown": "report",
    "Embeddings": "embeddings",
    "extract": "extraction",
    "LinearHead": "heads",
    "SplitModel": "heads",
    "read_head": "heads",
    "split_head": "heads",
    "Data": "data",
    "Imbalance": "data",
    "View": "data",
    "imbalance_indices": "data",
    "labels_of": "data",
    "load_data": "data",
    "make_loader": "data",
    "build_model": "models",
    "load_weights": "models",
    "AdaptivePlan": "adaptive",
    "DiversifySampler": "sampler",
    "CropFlip": "augment",
    "DiversifiedDataset": "dataset",
    "Leak": "leak",
    "measure_leak": "leak",
    "DrawKey": "augment",
    "BatchAugmenter": "augment_images",
    "FeatureAugmenter": "augment_features",
    "DiversifyOverSampler": "oversampling",
    "Ingredients": "training",
    "Recipe": "training",
    "evaluate": "training",
    "fit": "training",
    "ResidentImages": "resident",
    "fit_resident": "resident",
    "Plan": "plan",
    "make_plan": "plan",
    "HeadRecipe": "head",
    "adjust_logits": "head",
    "nearest_mean": "head",
    "normalize_tau": "head",
    "retrain_head": "head",
    "Candidate": "head_choice",
    "HeadChoice": "head_choice",
    "choose_head": "head_choice",
    "default_candidates": "head_choice",
    "write_head": "heads",
    "LDAM": "losses",
    "Always": "losses",
    "Asymmetric": "losses",
    "BalancedSoftmax": "losses",
    "Deferred": "losses",
    "Focal": "losses",
    "VectorScaling": "losses",
    "Weighted": "losses",
    "InputError": "errors",
}

__version__ = "0.1.0"
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from .adaptive import AdaptivePlan as AdaptivePlan
    from .augment import CropFlip as CropFlip
    from .augment import DrawKey as DrawKey
    from .augment_features import FeatureAugmenter as FeatureAugmenter
    from .augment_images import BatchAugmenter as BatchAugmenter
    from .comparison import Model as Model
    from .comparison import ModelComparison as ModelComparison
    from .comparison import compare_models as compare_models
    from .data import Data as Data
    from .data import Imbalance as Imbalance
    from .data import View as View
    from .data import imbalance_indices as imbalance_indices
    from .data import labels_of as labels_of
    from .data import load_data as load_data
    from .data import make_loader as make_loader
    from .dataset import DiversifiedDataset as DiversifiedDataset
    from .diagnosis import Diagnosis as Diagnosis
    from .embeddings import Embeddings as Embeddings
    from .errors import InputError as InputError
    from .exhibits import Exhibits as Exhibits
    from .exhibits import choose_exhibits as choose_exhibits
    from .extraction import extract as extract
    from .findings import Finding as Finding
    from .head import HeadRecipe as HeadRecipe
    from .head import adjust_logits as adjust_logits
    from .head import nearest_mean as nearest_mean
    from .head import normalize_tau as normalize_tau
    from .head import retrain_head as retrain_head
    from .head_choice import Candidate as Candidate
    from .head_choice import HeadChoice as HeadChoice
    from .head_choice import choose_head as choose_head
    from .head_choice import default_candidates as default_candidates
    from .heads import LinearHead as LinearHead
    from .heads import SplitModel as SplitModel
    from .heads import read_head as read_head
    from .heads import split_head as split_head
    from .heads import write_head as write_head
    from .leak import Leak as Leak
    from .leak import measure_leak as measure_leak
    from .losses import LDAM as LDAM
    from .losses import Always as Always
    from .losses import Asymmetric as Asymmetric
    from .losses import BalancedSoftmax as BalancedSoftmax
    from .losses import Deferred as Deferred
    from .losses import Focal as Focal
    from .losses import VectorScaling as VectorScaling
    from .losses import Weighted as Weighted
    from .measures import MEASURES as MEASURES
    from .measuring import diagnose as diagnose
    from .measuring import diagnose_model as diagnose_model
    from .models import build_model as build_model
    from .models import load_weights as load_weights
    from .oversampling import DiversifyOverSampler as DiversifyOverSampler
    from .plan import Plan as Plan
    from .plan import make_plan as make_plan
    from .report import render_html as render_html
    from .report import render_markdown as render_markdown
    from .resident import ResidentImages as ResidentImages
    from .resident import fit_resident as fit_resident
    from .sampler import DiversifySampler as DiversifySampler
    from .thumbnails import take_pictures as take_pictures
    from .training import Ingredients as Ingredients
    from .training import Recipe as Recipe
    from .training import evaluate as evaluate
    from .training import fit as fit


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        return value
    raise AttributeError(f"module 'diversify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
