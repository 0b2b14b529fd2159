"""The diagnosis of images with several labels each. Open `measure.py` first.

`columns.py` computes the measures that `catalogue.py` names; `companions.py` and `findings.py` say what they mean; `result.py`
holds them.
"""

from .catalogue import MULTILABEL_MEASURES as MULTILABEL_MEASURES
from .companions import Companion as Companion
from .findings import REMEDIES as REMEDIES
from .measure import diagnose_multilabel as diagnose_multilabel
from .measure import diagnose_multilabel_model as diagnose_multilabel_model
from .measure import thresholds_of as thresholds_of
from .result import MultilabelDiagnosis as MultilabelDiagnosis
