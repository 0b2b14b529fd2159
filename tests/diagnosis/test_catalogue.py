"""The catalogue of measures: complete, and described."""

from diversify.diagnosis.catalogue import EXPLANATIONS, MEASURES
from diversify.diagnosis.result import Diagnosis


def test_every_measure_has_a_column_and_an_interval_where_it_says_so(diagnosis: Diagnosis) -> None:
    for name, measure in MEASURES.items():
        assert diagnosis[name].shape == (10,)
        assert (f"{name}_low" in diagnosis.columns) == measure.interval, name
        if measure.interval:
            low, value, high = (diagnosis[name + end] for end in ("_low", "", "_high"))
            known = ~(low.isnan() | value.isnan())
            assert bool(known.any()) or name == "cluster_recall"  # no cluster fails here
            assert bool((low <= value + 1e-9)[known].all()), name
            assert bool((value <= high + 1e-9)[known].all()), name
    assert set(EXPLANATIONS) <= set(MEASURES)


def test_every_measure_is_described_and_cited() -> None:
    for name, measure in MEASURES.items():
        for text in (measure.meaning, measure.high, measure.low, measure.pitfalls):
            assert text.endswith("."), name
        assert measure.formula, name
        assert measure.reference, name
        assert measure.source.split(" ")[0] in measure.reference, name
