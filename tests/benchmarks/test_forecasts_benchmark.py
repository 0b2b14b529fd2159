"""Forecasts against what came out: `benchmarks.forecasts`, its fit, and its page."""

from pathlib import Path

import pytest
import torch

from benchmarks import forecasts, forecasts_fit, forecasts_page
from benchmarks.unseen_rows import HALVES, Bank
from diversify.network.synthetic import make_embeddings


@pytest.fixture
def bank() -> Bank:
    train, both, head = make_embeddings((60, 30, 8), heldout=40, num_features=6, spread=1.0)
    part = torch.arange(len(both)) % 2 == 0
    return Bank(
        data="cifar10",
        tail_order=0,
        half=HALVES[0],
        head=head,
        train=train,
        unseen=both.select(part),
        test=both.select(~part),
    )


def test_heldout_images_in_use_are_in_proportion_to_the_training_images(bank: Bank) -> None:
    assert forecasts.rows_of(forecasts.as_in_use(bank)) == [15, 8, 2]


def test_a_bank_is_read_as_it_was_saved(bank: Bank, tmp_path: Path) -> None:
    forecasts.save_bank(bank, tmp_path / "bank.safetensors")
    again = forecasts.load_bank(tmp_path / "bank.safetensors", "cifar10", 4)
    assert torch.equal(again.unseen.features, bank.unseen.features)
    assert again.half == HALVES[1]


@pytest.mark.slow
def test_a_record_holds_what_the_forecast_is_made_from(bank: Bank) -> None:
    found = forecasts.chosen(bank, bank.unseen)
    assert found["heldout"]["rows"] == [20, 20, 20]
    assert found["test"]["rows"] == [20, 20, 20]
    assert found["heldout"]["before"] == forecasts.hits(bank.head, bank.unseen)


def test_the_numbers_of_the_library_are_those_of_the_records() -> None:
    assert forecasts_fit.TABLE.read_text() == forecasts_fit.table_text()


def test_no_suite_is_forecast_by_numbers_that_it_was_fitted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, seen = forecasts_fit.fitted, []
    monkeypatch.setattr(
        forecasts_fit, "fitted", lambda found: seen.append({one.suite for one in found}) or fitted(found)
    )
    cases = [one for one in forecasts_fit.cases() if one.kind == "prior" and one.suite != "validity"]
    monkeypatch.setattr(forecasts_fit, "cases", lambda: cases)
    suites = {one.suite for one in cases}
    assert {one.case.suite for one in forecasts_fit.left_out()} == suites
    assert [suites - own for own in seen] == [{suite} for suite in sorted(suites)]


def test_a_forecast_is_counted_as_held_only_if_it_held() -> None:
    found = forecasts_page.outcomes()
    assert all(0 <= one.width <= 2 and -1 <= one.real <= 1 for one in found)
    far = [
        one for one in found if abs(one.real - one.expected) > one.width and one.what in forecasts_page.TRAINED.values()
    ]
    assert not any(one.held for one in far)


def test_half_of_the_tails_of_each_training_suite_are_kept_back() -> None:
    halves = [forecasts.half_in(suite.suite, order) for suite, order in forecasts.training_tasks()]
    assert halves.count("development") == halves.count("confirmation")
    assert [forecasts.half_in("fashion_small", order) for order in (5, 6)] == list(forecasts.HALVES)
    assert [forecasts.half_in("fashion_exp", order) for order in (1, 2)] == list(forecasts.HALVES)
