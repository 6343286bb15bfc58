"""webui.gateway.names: further names of the model, for an engine that knows one."""

from __future__ import annotations

from typing import Any

import pytest

from webui.gateway.names import Names


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("one", "one"), ("two", "one"), ("three", "three"), (None, None), (["two"], ["two"])],
)
def test_the_engine_gets_the_name_that_it_knows(asked: Any, expected: Any) -> None:
    document = {"model": asked}
    Names("one", ["two"]).put_in(document)
    assert document == {"model": expected}


def test_a_request_without_a_name_stays_so() -> None:
    document: dict[str, Any] = {}
    Names("one", ["two"]).put_in(document)
    assert document == {}


def test_every_name_is_listed() -> None:
    listed = Names("one", ["two"]).listed([{"id": "one", "object": "model"}])
    assert listed == [{"id": "one", "object": "model"}, {"id": "two", "object": "model"}]


def test_an_engine_that_knows_them_all_lists_them_itself() -> None:
    models = [{"id": "one"}, {"id": "two"}]
    assert Names("one", []).listed(models) == models


def test_of_another_model_there_are_no_other_names() -> None:
    assert Names("one", ["two"]).listed([{"id": "else"}]) == [{"id": "else"}]
