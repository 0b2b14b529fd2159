"""Reports without figures, for the tests of this folder."""

from collections.abc import Iterator

import pytest
from quick import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def reports_without_figures() -> Iterator[None]:
    """Drawing is most of the time that a small run takes."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield
