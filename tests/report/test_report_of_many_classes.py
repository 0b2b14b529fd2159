"""The report of many classes shows a bounded number of rows and marks, and says what it leaves out."""

import pytest
from conftest import repeated

from diversify.diagnosis.result import Diagnosis
from diversify.report import record
from diversify.report.diagnosis import class_table, report_of


def test_rows_and_cells_are_bounded(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(class_table, "MOST_ROWS", 25)
    built = report_of(repeated(diagnosis, [place % 10 for place in range(300)]), {})
    assert len(built.table.rows) == 30
    assert built.table.left_out == 270
    assert len(built.table.rest) == 25
    assert built.table.rest_text == "Show the first 25 of the other 270 classes; diagnosis.json holds all of them"
    tables = [table for section in built.sections for table in (section.table, section.summary) if table]
    grids = [grid for section in built.sections for grid in section.grids]
    assert tables
    assert grids
    assert max(len(table.rows) for table in tables) <= 30
    assert max(len(grid.rows) * len(grid.columns) for grid in grids) <= 30 * 80


def test_every_row_that_is_left_out_is_folded_where_there_are_few():
    heading, row = record.Heading(title="class"), record.Row(name="owl", cells=())
    table = record.Table(title="", caption="", headings=(heading,), rows=(row,), left_out=2, rest=(row, row))
    assert table.rest_text == "Show the other 2 classes"
