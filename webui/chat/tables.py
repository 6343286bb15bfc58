"""An answer that is JSON as a table, for people and for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A spreadsheet would take a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
MAX_ROWS = 10_000
BOM = "\ufeff"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of words under the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[Row]

    @property
    def cells(self) -> list[list[str]]:
        return [[row.get(column, "") for column in self.columns] for row in self.rows]

    def csv(self) -> str:
        """With a mark at the beginning by which Excel knows that it is UTF-8."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(map(harmless, self.columns))
        writer.writerows([harmless(cell) for cell in row] for row in self.cells)
        return BOM + file.getvalue()


def table_of(answer: str) -> Table | None:
    """Of a JSON document: what it lists stands in rows, beside what it says once. None for what is
    no object or list, or has nothing in it."""
    try:
        document = json.loads(answer)
        if not isinstance(document, dict | list) or not document:
            return None
        rows = _rows(document)[:MAX_ROWS]
    except (ValueError, RecursionError):
        return None
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, rows) if columns else None


def _rows(value: Any, prefix: str = "") -> list[Row]:
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [row for item in value for row in _rows(item, prefix)]
    if not isinstance(value, dict):
        return [{prefix or "value": _words(value)}]
    shared: dict[str, str] = {}
    below: list[Row] = []
    for name, item in value.items():
        column = f"{prefix}.{name}" if prefix else str(name)
        found = _rows(item, column)
        if len(found) == 1:
            shared |= found[0]
        else:
            below += found
    return [{**shared, **row} for row in below] or [shared]


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return json.dumps(value, ensure_ascii=False)


def harmless(cell: str) -> str:
    """For a spreadsheet: no formula."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
