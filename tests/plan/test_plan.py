"""A plan as a file: read, written, checked, and compared with another."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import COUNTS, NAMES

import diversify as dv
from diversify.errors import InputError
from diversify.files import atomic
from diversify.functional import image_ops
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Reason, Schedule
from diversify.plan.strengths import Strengths

numbers = st.floats(0, 1, allow_nan=False)


texts = st.text(st.characters(codec="utf-8"), max_size=12)


optional = st.none() | st.floats(allow_nan=False, allow_infinity=False)


reasons = st.builds(
    Reason, rule=texts, choice=texts, measure=texts, value=optional, low=optional, high=optional,
    compared_with=optional, text=texts, source=texts,
)  # fmt: skip


images = st.builds(
    ImagePolicy,
    operations=st.lists(st.sampled_from(image_ops.OPERATIONS), unique=True, max_size=3).map(tuple),
    layers=st.integers(1, 8),
    strength=numbers,
    probability=st.floats(0, 0.9),
)


mixings = st.builds(
    Mixing, method=st.sampled_from(["none", "cutmix", "mixup", "remix"]), probability=numbers, partner=st.floats(0, 1e9)
)


@st.composite
def feature_policies(draw: st.DrawFn, others: list[str]) -> tuple[FeaturePolicy, ...]:
    known = ["eos", "smote", "covariance", "isda", *(["toward_enemies"] if others else [])]
    methods = draw(st.lists(st.sampled_from(known), unique=True, max_size=3))
    enemies = draw(st.lists(st.sampled_from(others), unique=True, min_size=1)) if others else []
    weights = [draw(st.floats(0.01, 1)) for _ in enemies]
    toward = {name: weight / math.fsum(weights) for name, weight in zip(enemies, weights, strict=True)}
    return tuple(
        FeaturePolicy(
            method=method,
            strength=draw(numbers),
            share=draw(st.floats(0, 1 / 3)),
            neighbors=draw(st.integers(1, 1 << 20)),
            toward=toward if method == "toward_enemies" else {},
            donors=draw(st.sampled_from(["similar", "pooled"])) if method in ("covariance", "isda") else "similar",
        )
        for method in methods
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    weights = [draw(st.floats(0.01, 1)) for _ in names]
    stops = sorted((draw(numbers), draw(numbers)))
    return Plan(
        made_from=draw(texts),
        classes=tuple(
            ClassPlan(
                name=name,
                count=draw(st.integers(1, 1 << 53)),
                draws=weight / math.fsum(weights),
                image=draw(images),
                mixing=draw(mixings),
                features=draw(feature_policies([other for other in names if other != name])),
                reasons=tuple(draw(st.lists(reasons, max_size=2))),
            )
            for name, weight in zip(names, weights, strict=True)
        ),
        prior_correction=PriorCorrection(training=draw(st.floats(0, 4)), after=draw(st.floats(0, 4))),
        schedule=Schedule(start=stops[0], ramp=draw(numbers), stop=stops[1]),
        images_per_epoch=draw(st.none() | st.integers(1, 1 << 53)),
        largest_difference=1.0,
        reasons=tuple(draw(st.lists(reasons, max_size=1))),
    )


def plan_or_line(call: Callable[[], Plan]) -> Plan | str:
    """The plan that was read, or the error message if it was refused; any other exception is raised."""
    try:
        return call()
    except InputError as error:
        return str(error)


fast = settings(max_examples=60, deadline=None)


@fast
@given(plans())
def test_a_plan_comes_back_from_its_file_exactly(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()
    assert plan.diff(plan) == ()


@fast
@given(plans(), st.data())
def test_a_damaged_file_is_a_plan_or_one_clear_line(plan: Plan, data: st.DataObject) -> None:
    text = plan.to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    damaged = text[:start] + data.draw(st.text(max_size=3) | st.sampled_from('{}[],:0-9.e"')) + text[end:]
    again = plan_or_line(lambda: Plan.from_json(damaged))
    if isinstance(again, Plan):
        assert Plan.from_json(again.to_json()) == again
    else:
        assert re.fullmatch(r"\S.* must .*, got .*", again), again


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, one in inner for place in places(one, (*path, name)))]


@settings(max_examples=150, deadline=None)
@given(plans(), junk, st.data())
def test_a_wrong_value_is_named_by_its_path(plan: Plan, wrong: Any, data: st.DataObject) -> None:
    values = plan.to_dict()
    place = data.draw(st.sampled_from([place for place in places(values) if place]))
    *above, last = place
    holder = values
    for name in above:
        holder = holder[name]
    holder[last] = wrong
    line = plan_or_line(lambda: Plan.from_dict(values))
    if isinstance(line, str) and not isinstance(wrong, (dict, list)):
        named, path = line.split(" must ")[0].removesuffix(" of the plan"), ".".join(map(str, place))
        # A value of the right type may break a law of what holds it.
        assert named.startswith(path) or path.startswith(named.split(".")[0]), line


def test_text_that_is_no_plan() -> None:
    for text in ("", "[]", "3", "null", '"plan"', "{}", "[" * 100_000, "1" * 5000, '{"classes": NaN}', "\ufeff{}"):
        with pytest.raises(InputError, match=r"^(\S+ of the )?plan must "):
            Plan.from_json(text)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = Plan.untouched(["a"], [3]).to_json().replace('"draws": 1.0', '"draws": 0.5, "draws": 1.0')
    with pytest.raises(InputError, match=r"^plan must be whole, valid JSON, got 'draws' twice in one object$"):
        Plan.from_json(text)
    file = tmp_path / "plan.json"
    for damaged in (text, "[" * 100_000):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=r"^--plan must be whole, valid JSON, got "):
            atomic.read_json(file, "--plan")


def edited(path: str, value: Any) -> dict[str, Any]:
    """A plan's values with one replaced, or removed if it is `...`."""
    values: Any = Plan.from_counts(NAMES, COUNTS).to_dict()
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder = values
    for name in above:
        holder = holder[name]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return dict(values)


MESSAGES: list[tuple[str, Any, str]] = [
    ("classes.3.draws", ..., "classes.3.draws of the plan must be given, got nothing"),
    ("classes", ..., "classes of the plan must be given, got nothing"),
    ("classes.0.imgae", {}, "classes.0.imgae of the plan must not be there, got {}; did you mean 'image'?"),
    ("classes.4.image.strength", 2, "classes.4.image.strength of the plan must be at most 1, got 2"),
    ("classes.4.image.strength", -0.5, "classes.4.image.strength of the plan must be at least 0, got -0.5"),
    ("classes.4.image.strength", "0.5", "classes.4.image.strength of the plan must be a number, got '0.5'"),
    ("classes.4.image.strength", True, "classes.4.image.strength of the plan must be a number, got True"),
    ("classes.4.image.strength", math.nan, "classes.4.image.strength of the plan must be finite, got nan"),
    ("classes.4.image.probability", 0.95, "classes.4.image.probability of the plan must be at most 0.9, got 0.95"),
    ("classes.4.image.layers", 9, "classes.4.image.layers of the plan must be at most 8, got 9"),
    ("classes.4.image.layers", 1.5, "classes.4.image.layers of the plan must be an integer, got 1.5"),
    (
        "classes.4.image.operations",
        ["flip", "flip"],
        "classes.4.image.operations of the plan must be named once each, got 'flip' 2 times",
    ),
    (
        "classes.4.image.operations",
        ["flop"],
        f"classes.4.image.operations of the plan must be among {', '.join(image_ops.OPERATIONS)}, got 'flop'",
    ),
    (
        "classes.4.mixing.method",
        "cutmax",
        "classes.4.mixing.method of the plan must be 'none', 'cutmix', 'mixup' or 'remix', got 'cutmax'",
    ),
    ("classes.4.mixing.partner", -1, "classes.4.mixing.partner of the plan must be at least 0, got -1"),
    (
        "classes.4.features.0.share",
        0.9,
        "classes.4.features of the plan must have shares that sum to at most 1, got 1.2",
    ),
    (
        "classes.4.features.1.method",
        "covariance",
        "classes.4.features of the plan must have different methods, got 'covariance' 2 times",
    ),
    *(
        ("classes.4.features.0", {"method": method, "strength": 0.5, "share": 0.5, "toward": toward}, message)
        for method, toward, message in (
            ("toward_enemies", {}, "classes.4.features.0.toward of the plan must have shares that sum to 1, got 0"),
            (
                "toward_enemies",
                {"ant": 0.5, "bee": 0.25},
                "classes.4.features.0.toward of the plan must have shares that sum to 1, got 0.75",
            ),
            (
                "toward_enemies",
                {"ant": 0.5, "owl": 0.5},
                "classes.4.features.0.toward of the plan must name other classes of the plan, got 'owl'",
            ),
            (
                "toward_enemies",
                {"elk": 1.0},
                "classes.4.features.0.toward of the plan must name other classes of the plan, got 'elk'",
            ),
            (
                "toward_enemies",
                {"ant": 1.5},
                "classes.4.features.0.toward.ant of the plan must be at most 1, got 1.5",
            ),
            (
                "toward_enemies",
                {"ant": "all"},
                "classes.4.features.0.toward.ant of the plan must be a number, got 'all'",
            ),
            ("toward_enemies", [], "classes.4.features.0.toward of the plan must be an object, got []"),
            (
                "smote",
                {"ant": 0.5, "bee": 0.5},
                "classes.4.features.0.toward of the plan must be left out unless method is toward_enemies, got ant, bee",
            ),
        )
    ),
    *(
        ("classes.4.features", [{"method": method, "strength": 1.0, "share": 0.5, "donors": donors}], message)
        for method, donors, message in (
            (
                "eos",
                "pooled",
                "classes.4.features.0.donors of the plan must be left out unless method is covariance or isda, got pooled",
            ),
            ("isda", "all", "classes.4.features.0.donors of the plan must be 'similar' or 'pooled', got 'all'"),
        )
    ),
    ("classes.4.features", {}, "classes.4.features of the plan must be a list, got {}"),
    ("classes.4", [], "classes.4 of the plan must be an object, got []"),
    ("classes.1.name", "ant", "classes.1.name of the plan must differ from that of class 0, got 'ant'"),
    ("classes.1.name", 7, "classes.1.name of the plan must be text, got 7"),
    ("classes.1.count", 0, "classes.1.draws of the plan must be 0 for a class without training images, got 0.208333"),
    ("classes.1.draws", 0.5, "classes of the plan must have draws that sum to 1, got 1.29167"),
    (
        "classes.0.image.strength",
        0,
        "classes of the plan must have image policies whose strength x probability differ by at most largest_difference"
        " (0.2), got 0.63",
    ),
    (
        "classes.0.image.layers",
        8,
        "classes of the plan must have image policies whose strength x probability x layers / fewest layers differ by at most"
        " largest_difference (0.2), got 3.1",
    ),
    ("classes", [], "classes of the plan must hold at least one class, got none"),
    ("schedule.start", 1.0, "schedule.start of the plan must not be larger than stop (0.5), got 1"),
    ("prior_correction.training", 5, "prior_correction.training of the plan must be at most 4, got 5"),
    ("images_per_epoch", 0, "images_per_epoch of the plan must be at least 1, got 0"),
    ("schema_version", 2, "schema_version of the plan must be 1, got 2"),
    ("epochs", 3, "epochs of the plan must not be there, got 3"),
]


@pytest.mark.parametrize(("path", "value", "message"), MESSAGES)
def test_what_is_said_of_a_wrong_field(path: str, value: Any, message: str) -> None:
    values = edited(path, value if not isinstance(value, (dict, list)) else json.loads(json.dumps(value)))
    if "largest_difference" in message:
        values["largest_difference"] = 0.2
    if path == "schedule.start":
        values["schedule"]["stop"] = 0.5
    with pytest.raises(InputError) as error:
        Plan.from_dict(values)
    assert str(error.value) == message


def test_a_difference_is_one_line_per_field() -> None:
    plan = Plan.from_counts(NAMES, COUNTS)
    values = plan.to_dict()
    values["classes"][4]["image"]["strength"] = 0.5
    values["classes"][4]["features"] = values["classes"][4]["features"][:1]
    values["classes"][3]["mixing"]["method"] = "mixup"
    values["images_per_epoch"] = 900
    values["classes"][2]["image"]["operations"] = ["flip"]
    values["classes"][1]["reasons"] = []
    other = Plan.from_dict(values)
    assert plan.diff(other) == (
        "images_per_epoch: none -> 900",
        f"classes.cat.image.operations: {', '.join(Strengths().image_operations)} -> flip",
        "classes.dog.mixing.method: cutmix -> mixup",
        "classes.elk.features.eos.strength: 1 -> none",
        "classes.elk.features.eos.share: 0.3 -> none",
        "classes.elk.features.eos.neighbors: 10 -> none",
        "classes.elk.features.eos.donors: similar -> none",
        "classes.elk.image.strength: 0.7 -> 0.5",
    )
    backward = {" -> ".join(reversed(line.partition(": ")[2].split(" -> "))) for line in plan.diff(other)}
    assert backward == {line.partition(": ")[2] for line in other.diff(plan)}


def test_a_difference_names_the_enemies() -> None:
    names = ("ant", "bee", "reasons")

    def plan(*, strength: float = 0.5, **toward: float) -> Plan:
        values = Plan.untouched(names, (3, 2, 1)).to_dict()
        policy = {"method": "toward_enemies", "strength": strength, "share": 1.0, "toward": toward}
        values["classes"][1]["features"] = [policy] if toward else []
        return Plan.from_dict(values)

    one = plan(ant=0.25, reasons=0.75)
    assert one.diff(plan(ant=0.5, reasons=0.5)) == (
        "classes.bee.features.toward_enemies.toward.ant: 0.25 -> 0.5",
        "classes.bee.features.toward_enemies.toward.reasons: 0.75 -> 0.5",
    )
    assert one.diff(plan(strength=1.0, ant=1.0)) == (
        "classes.bee.features.toward_enemies.strength: 0.5 -> 1",
        "classes.bee.features.toward_enemies.toward.ant: 0.25 -> 1",
        "classes.bee.features.toward_enemies.toward.reasons: 0.75 -> none",
    )
    assert "classes.bee.features.toward_enemies.toward.ant: none -> 0.25" in plan().diff(one)


@fast
@given(plans(), plans())
def test_plans_without_a_difference_are_equal_but_for_their_reasons(one: Plan, other: Plan) -> None:
    def bare(plan: Plan) -> Plan:
        classes = tuple(each.model_copy(update={"reasons": ()}) for each in plan.classes)
        return plan.model_copy(update={"classes": classes, "reasons": ()})

    if bare(one) == bare(other):
        assert one.diff(other) == ()
    elif len(one.classes) == len(other.classes) == 1 or one.num_classes != other.num_classes:
        assert one.diff(other)


def test_a_difference_too_small_for_six_digits_is_shown_in_full() -> None:
    plan = Plan.from_counts(NAMES, COUNTS)
    values = plan.to_dict()
    values["classes"][4]["image"]["strength"] = 0.6999999999
    assert plan.diff(Plan.from_dict(values)) == ("classes.elk.image.strength: 0.7 -> 0.6999999999",)


def test_the_public_names() -> None:
    assert dv.Plan is Plan
    assert dv.make_plan is make_plan


def test_the_old_module_of_policies_still_has_its_names() -> None:
    from diversify import policies

    assert policies.Strengths is Strengths
    assert policies.ImagePolicy is ImagePolicy
    assert all(hasattr(policies, name) for name in policies.__all__)
