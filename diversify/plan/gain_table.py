"""placeholder"""
from typing import TypedDict
class RemedyTable(TypedDict):
    coefficients: tuple[float, ...]
    errors: float
    errors_of_mean: float
CLASSES=10
REMEDIES: dict[str, RemedyTable]={"prior":{"coefficients":(.38,.52,-.11,.68),"errors":2.,"errors_of_mean":2.},"images":{"coefficients":(.46,.44,-.19,.85),"errors":2.,"errors_of_mean":2.}}
