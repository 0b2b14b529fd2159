"""Pydantic's errors become one line: a path, a rule and a value."""

import pydantic
import pytest

from diversify.files.schema import Value, broken, refusal


class Point(Value):
    height: float = pydantic.Field(default=0.0, ge=0)
    names: tuple[str, ...] = ()

    @pydantic.field_validator("names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise broken("be different", names[0])
        return names

    @pydantic.model_validator(mode="after")
    def _named(self) -> "Point":
        if self.height > 9 and not self.names:
            raise ValueError("tall points have names")
        return self


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"height": -1}', "height of the point must be at least 0, got -1"),
        ('{"height": "tall"}', "height of the point must be valid (Input should be a valid number, unable to parse"),
        ('{"heigth": 1}', "heigth of the point must not be there, got 1; did you mean 'height'?"),
        ('{"names": ["a", "a"]}', "names of the point must be different, got a"),
        ('{"height": 10}', "point must be valid (tall points have names), got "),
        ('{"height": 1', "point must be a JSON object, got '{\"height\": 1'"),
    ],
)
def test_the_first_complaint_in_one_line(line: str, message: str) -> None:
    for given in (line, line.encode()):
        with pytest.raises(pydantic.ValidationError) as error:
            Point.model_validate_json(given)
        assert str(refusal("point", error.value, Point.model_fields)).startswith(message)
