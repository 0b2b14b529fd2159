"""The suites that are known by name hold together."""

import pytest

from diversify.data import Imbalance, class_order
from diversify.models import MODELS
from diversify.named_sources import SOURCES
from diversify.study.methods import method_named
from diversify.study.protocol import Choice, Protocol
from diversify.study.suites import DIGITS, SUITES, THE_EIGHT

EVERY = pytest.mark.parametrize("protocol", SUITES.values(), ids=list(SUITES))


def test_suites_are_known_by_their_names() -> None:
    assert all(name == protocol.suite for name, protocol in SUITES.items())
    assert len(DIGITS.methods) == 12
    assert len(THE_EIGHT) == 8


@EVERY
def test_a_suite_is_a_valid_protocol_of_known_parts(protocol: Protocol) -> None:
    assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
    assert protocol.data in SOURCES
    assert protocol.model in MODELS
    assert str(Imbalance.parse(protocol.imbalance)) == protocol.imbalance
    assert all(sorted(class_order(order, 10)) == list(range(10)) for order in protocol.tail_orders)


@EVERY
def test_its_methods_are_known_and_begin_at_a_value_of_their_space(protocol: Protocol) -> None:
    for name in protocol.methods:
        space = protocol.space_of(method_named(name))
        assert {"learning_rate", "weight_decay"} <= set(space)
        for each in space.values():
            assert each.default in each.values if isinstance(each, Choice) else each.low <= each.default <= each.high


@EVERY
def test_what_is_compared_is_there(protocol: Protocol) -> None:
    assert {"ce", "balanced_softmax", "diversify", "balanced_softmax+images+mix+head"} <= set(protocol.methods)
