"""``launch status``: every program of this machine, and the engines of the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.engine_state import READY, read_document
from launcher.layout import ENGINE
from launcher.paths import Paths, noted
from launcher.programs import ROUTER, WEBUI
from launcher.readiness import EngineState, read_engine_state, read_webui_address
from launcher.selection import active_config
from launcher.supervisord import RUNNING, STARTING, ProgramState, Supervisord
from launcher.terminal import say


def is_alive(program: ProgramState) -> bool:
    return program.state in {RUNNING, STARTING}


def status(*, as_json: bool) -> int:
    """Show each program; 0 if all run and the engines are ready, else 1."""
    paths = Paths.from_environ()
    supervisord = Supervisord(paths)
    programs = supervisord.states() if supervisord.is_running() else []
    document = _document(programs, paths)
    if as_json:
        say(json.dumps(document, ensure_ascii=False))
    else:
        for line in _in_words(document, supervisord):
            say(line)
    return 0 if document["ready"] else 1


def _document(programs: list[ProgramState], paths: Paths) -> dict[str, Any]:
    states = {p.name: read_engine_state(_state_file(p, paths)) for p in programs}
    ready = bool(programs) and all(
        program.state == RUNNING and _is_ready(program, states[program.name])
        for program in programs
    )
    engine = read_engine_state(paths.engine_state) if programs else None
    active = active_config(paths)
    rows = [
        {
            "name": program.name,
            "state": program.state,
            "pid": program.pid,
            "message": _message(program, states[program.name], paths),
        }
        for program in programs
    ]
    document = {
        "ready": ready,
        "config": str(active) if active else None,
        "engine": asdict(engine) if engine else None,
        "programs": rows,
    }
    if others := _others(programs, paths):
        document["others"] = others
        document["ready"] = ready and all(other["phase"] == READY for other in others)
    return document


def _state_file(program: ProgramState, paths: Paths) -> Path:
    return paths.state_of(program.name) if program.is_engine else paths.engine_state


def _is_ready(program: ProgramState, engine: EngineState | None) -> bool:
    wanted = program.is_engine or program.name == ROUTER
    return not wanted or bool(engine and engine.is_ready)


def _others(programs: list[ProgramState], paths: Paths) -> list[dict[str, Any]]:
    """The engines on other machines, as the router's parent knows them."""
    if not any(program.name == ROUTER for program in programs):
        return []
    rows = read_document(paths.replicas).get("replicas", [])
    return [row for row in rows if row.get("node", "") != noted(paths.node)]


def _message(program: ProgramState, engine: EngineState | None, paths: Paths) -> str:
    if (program.is_engine or program.name == ROUTER) and engine is not None:
        return f"{engine.message}: {engine.evidence}" if engine.evidence else engine.message
    if program.name == WEBUI and is_alive(program):
        address = read_webui_address(paths)
        return f"{address.url}  (API: {address.url}/api/v1)" if address else "starting"
    return program.description


def _in_words(document: dict[str, Any], supervisord: Supervisord) -> list[str]:
    rows = document["programs"]
    if not rows:
        if supervisord.is_stopped():
            return ["supervisord has been stopped (SIGSTOP); `launch up` lets it run on."]
        if supervisord.stopping():
            return ["Stopping."]
        return ["Nothing is running; `launch up` starts it."]
    others = document.get("others", [])
    width = max(len(row["name"]) for row in [*rows, *others, {"name": f"{ENGINE}  "}])
    lines = []
    for row in rows:
        pid = f"process {row['pid']}" if row["pid"] else ""
        lines.append(f"{row['name']:{width}} {row['state']:9} {pid:16} {row['message']}")
    for row in others:
        lines.append(f"{row['name']:{width}} {row['phase']:26} {row['message']}")
    return lines
