"""webui.chat.tables: JSON answers as rows."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webui.chat.tables import table_of

CHART = {
    "title": "Sales",
    "series": [
        {"name": "A", "points": [{"label": "2024", "value": "1"}, {"label": "2025", "value": "2"}]},
        {"name": "B", "points": [{"label": "2024", "value": "~3"}]},
    ],
}


def cells(document: Any) -> list[list[str]]:
    table = table_of(json.dumps(document))
    assert table is not None
    return [[*table.columns], *table.cells]


def test_one_object_is_one_row() -> None:
    """Lists of words stand in one cell; numbers and truths as JSON has them."""
    assert cells({"number": "1", "items": ["a", "b"], "ok": True, "n": 1.5, "x": None}) == [
        ["number", "items", "ok", "n", "x"],
        ["1", "a; b", "true", "1.5", "null"],
    ]


def test_a_list_is_a_row_each() -> None:
    """What one of them lacks is an empty cell."""
    assert cells([{"a": 1}, {"b": "二"}]) == [["a", "b"], ["1", ""], ["", "二"]]


def test_what_a_chart_says_once_stands_beside_every_point() -> None:
    """Of lists in lists, every innermost thing is a row."""
    assert cells(CHART) == [
        ["title", "series.name", "series.points.label", "series.points.value"],
        ["Sales", "A", "2024", "1"],
        ["Sales", "A", "2025", "2"],
        ["Sales", "B", "2024", "~3"],
    ]


@pytest.mark.parametrize(
    "answer",
    ["", "no JSON", "12", '"a"', "{}", "[]", "[" * 100_000, "[[1]," * 800 + "0" + "]" * 800],
)
def test_what_is_no_table_is_none(answer: str) -> None:
    """Whatever a model writes."""
    assert table_of(answer) is None


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_a_cell_is_never_a_formula(cell: str) -> None:
    """A spreadsheet would compute what a picture dictates."""
    table = table_of(json.dumps({cell: cell}))
    assert table is not None
    rows = [*csv.reader(io.StringIO(table.csv().removeprefix("\ufeff"), newline=""))]
    assert rows == [[f"'{cell}"], [f"'{cell}"]]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_every_document_has_a_table_or_none(document: Any) -> None:
    """Every row has cells of the table's columns only, and CSV gives them back."""
    table = table_of(json.dumps(document))
    if table is None:
        return
    assert all(set(row) <= set(table.columns) for row in table.rows)
    text = table.csv().removeprefix("\ufeff")
    assert len([*csv.reader(io.StringIO(text, newline=""))]) == 1 + len(table.rows)
