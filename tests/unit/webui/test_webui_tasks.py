"""webui.chat.tasks: the operator's tasks beside the ready-made ones."""

from __future__ import annotations

import json
from typing import Any

from webui.chat.tasks import all_tasks
from webui.client.tasks import TASKS
from webui.settings import Settings

MENU: dict[str, Any] = {
    "name": "menu",
    "title": {"en": "Menu", "zh": "菜单"},
    "prompt": {"en": "All prices in $; write ${x}.", "zh": "价格单位：$"},
    "temperature": 0.2,
    "max_tokens": 300,
    "json_schema": {"type": "object"},
}


def test_an_operators_task_is_asked_as_it_is_written() -> None:
    """Nothing in it is taken for a blank; its schema becomes the answer's."""
    menu = all_tasks([MENU])["menu"]
    assert menu.text("en").startswith("All prices in $; write ${x}.")
    assert menu.text("zh").startswith("价格单位：$")
    assert (menu.temperature, menu.max_tokens) == (0.2, 300)
    form = menu.response_format
    assert form is not None
    assert form["json_schema"]["schema"] == {"type": "object"}


def test_it_may_take_the_place_of_a_ready_made_one() -> None:
    """In its place in the list; the others stay."""
    own = all_tasks([{**MENU, "name": "invoice", "json_schema": None}])
    assert own["invoice"].response_format is None
    assert [*own] == [*TASKS]
    assert own["read"] is TASKS["read"]


def test_the_launcher_hands_them_over_as_text() -> None:
    """In the environment, like everything."""
    settings = Settings.from_environ({"WEBUI_TASKS": json.dumps([MENU])})
    assert settings.tasks == (MENU,)
    assert Settings.from_environ({}).tasks == ()
