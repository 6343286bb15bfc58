"""launcher.programs: what the configuration turns into."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import programs
from launcher.config import (
    ENGINE_STOP_MARGIN_S,
    MODE_ENDINGS,
    THINKING_TOKENS,
    WEBUI_STOP_MARGIN_S,
    DeployConfig,
)
from launcher.engine_preparation import Settings
from launcher.layout import replicas_of
from launcher.leftovers import TAG, tag_of
from launcher.paths import ROOT, Paths
from launcher.programs import (
    ENGINE,
    GPU_SHARE,
    NO_MEDIA_DOMAIN,
    WEBUI,
    Process,
    Program,
    checkpoint_stamp,
    engine_arguments,
    engine_process,
    model_location,
    programs_for,
    start_script_options,
    webui_process,
)
from launcher.ray_serve import RaySettings
from webui.gateway.thinking import ALIASES, STANDARD, Thinking
from webui.settings import Settings as WebuiSettings

YAML = Path("/srv/step3vl/deploy.yaml")
PATHS = Paths(etc=Path("/srv/step3vl/etc"), run=Path("/srv/step3vl/run"))


def config_of(**sections: Any) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "checkpoint"}, **sections})


def programs_of(**sections: Any) -> dict[str, Program]:
    return {p.name: p for p in programs_for(config_of(**sections), YAML, PATHS)}


def engine_of(config: DeployConfig, paths: Paths = PATHS) -> Process:
    [replica] = replicas_of(config)
    return engine_process(config, YAML, paths, replica)


def engine_argv(**sections: Any) -> tuple[str, ...]:
    """What is executed as the engine's parent, after the interpreter and its module."""
    process = engine_of(config_of(**sections))
    assert (sys.executable, "-P", "-m", "launcher.engine") == process.argv[:4]
    return process.argv[4:]


def parent_settings(**sections: Any) -> Settings:
    """What the engine's parent understands of its own command line."""
    return Settings(**json.loads(engine_argv(**sections)[0]))


def vllm_command(**sections: Any) -> list[str]:
    """What the engine's parent starts."""
    return list(engine_argv(**sections)[1:])


def vllm_options(**sections: Any) -> argparse.Namespace:
    """vLLM's command line as its parser reads the options that the launcher sets."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model", "--host", "--allowed-media-domains"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    parser.add_argument("--shutdown-timeout", type=int)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--disable-access-log-for-endpoints")
    command = vllm_command(**sections)
    [first] = [i for i, word in enumerate(command) if word.startswith("--model=")]
    parsed, rest = parser.parse_known_args(command[first:])
    parsed.rest = rest
    return parsed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
        ({"quantization": None}, []),
        ({"max-model-len": 8192}, ["--max-model-len=8192"]),
        ({"gpu-memory-utilization": 0.9}, ["--gpu-memory-utilization=0.9"]),
        ({"dtype": "bfloat16"}, ["--dtype=bfloat16"]),
        ({"dtype": ""}, ["--dtype="]),
        ({"chat-template": "-x y"}, ["--chat-template=-x y"]),
        ({"middleware": ["a", "b"]}, ["--middleware", "a", "b"]),
        ({"cudagraph-sizes": [1, 2]}, ["--cudagraph-sizes", "1", "2"]),
        ({"flags": [True, {"a": None}]}, ["--flags", "true", '{"a": null}']),
        (
            {"limit-mm-per-prompt": {"image": 4, "video": False}},
            ['--limit-mm-per-prompt={"image": 4, "video": false}'],
        ),
        ({"max_num_seqs": 8}, ["--max-num-seqs=8"]),
        ({"Max_Num_Seqs": True}, ["--max-num-seqs"]),
        ({"b": 1, "a": 2}, ["--b=1", "--a=2"]),
    ],
)
def test_options_are_written_as_vllm_takes_them(
    options: dict[str, Any], expected: list[str]
) -> None:
    """Each type of value has its form on the command line, in the order of the YAML."""
    assert expected == engine_arguments(options)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("abc", min_size=1), st.text() | st.integers() | st.floats()))
def test_a_value_never_leaves_its_option(options: dict[str, Any]) -> None:
    """Whatever a value holds, it is one argument with its name, so no option can be smuggled."""
    expected = [(f"--{name}", str(value)) for name, value in options.items()]
    assert expected == [tuple(a.split("=", 1)) for a in engine_arguments(options)]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
@settings(deadline=None, max_examples=30)
def test_a_map_is_json(value: dict[str, Any]) -> None:
    """vLLM reads the very map that the YAML holds."""
    [argument] = engine_arguments({"hf-overrides": value})
    assert value == json.loads(argument.removeprefix("--hf-overrides="))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"folder": "models/a"}, "/srv/step3vl/models/a"),
        ({"folder": "../a"}, "/srv/a"),
        ({"folder": "/data/a"}, "/data/a"),
        ({"folder": "~/a"}, "/home/someone/a"),
        ({"hub_id": "owner/name"}, "owner/name"),
    ],
)
def test_a_folder_is_relative_to_its_yaml(
    model: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the command is typed does not matter; a hub id is passed on as it is."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert expected == model_location(config_of(model=model), YAML)


@pytest.fixture
def for_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM for NVIDIA cards is installed."""
    monkeypatch.setattr(programs, "distributions", lambda **_: iter([]))


def test_vllm_for_the_cpu_waits_for_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds one that happens to be here."""
    monkeypatch.setattr(programs, "distributions", lambda name: iter([name]))
    assert parent_settings().gpu_share == 0


@pytest.mark.usefixtures("for_cards")
def test_the_engines_parent_is_told_its_files_and_times() -> None:
    """It reads back what the YAML says; the stop has a margin over vLLM's."""
    expected = Settings(
        state=str(PATHS.engine_state),
        crashes=str(PATHS.crashes_of("vllm")),
        lock=str(PATHS.lock_of("vllm")),
        webui=str(PATHS.webui_address),
        port=8123,
        model="first",
        start_timeout=60.0,
        stop_timeout=9.0,
        stalled_after=25.0,
        hung_after=50.0,
        crash_limit=7,
        good_run=30.0,
        memory_timeout=11.0,
        gpu_share=0.5,
        gpu_count=4,
    )
    engine = {
        "port": 8123,
        "start_timeout_s": 60,
        "stop_timeout_s": 7,
        "stalled_after_s": 25,
        "hung_after_s": 50,
        "crash_limit": 7,
        "good_run_s": 30,
        "memory_timeout_s": 11,
        "options": {"gpu_memory_utilization": 0.5, "tensor-parallel-size": 4},
    }
    model = {"folder": "m", "names": ["first", "second"]}
    assert expected == parent_settings(model=model, engine=engine)


@pytest.mark.usefixtures("for_cards")
@pytest.mark.parametrize(
    ("options", "share", "count"),
    [
        ({}, GPU_SHARE, 1),
        ({"gpu-memory-utilization": None}, GPU_SHARE, 1),
        ({"gpu_memory_utilization": 1}, 1, 1),
        ({"GPU-Memory-Utilization": "0.25"}, 0.25, 1),
        ({"tensor_parallel_size": 2, "pipeline-parallel-size": 3}, GPU_SHARE, 6),
        ({"data-parallel-size": 2, "tensor-parallel-size": None}, GPU_SHARE, 2),
    ],
)
def test_the_parent_knows_how_much_of_which_cards_vllm_will_take(
    options: dict[str, Any], share: float, count: int
) -> None:
    """From vLLM's own options in each spelling, else vLLM's default."""
    found = parent_settings(engine={"options": options})
    assert (share, count) == (found.gpu_share, found.gpu_count)


def test_each_program_carries_the_tag_of_its_installation() -> None:
    """What outlives it is known by that, and vLLM's processes do not write over it."""
    engine = engine_of(config_of()).env
    webui = webui_process(config_of(), YAML, PATHS, "127.0.0.1", 7860).env
    assert engine[TAG] == tag_of(PATHS.run, ENGINE)
    assert webui[TAG] == tag_of(PATHS.run, WEBUI)
    assert engine[TAG] != webui[TAG]
    assert engine["SPT_NOENV"] == "1"


def test_the_tag_is_no_setting() -> None:
    """Another run folder is another installation, whatever the YAML says."""
    elsewhere = Paths(PATHS.etc, Path("/srv/other/run"))
    env = engine_of(config_of(), elsewhere).env
    assert env[TAG] == tag_of(elsewhere.run, ENGINE) != tag_of(PATHS.run, ENGINE)


def test_vllm_is_this_environments_own() -> None:
    """Without engine.command the module of this interpreter runs, away from the cwd's files."""
    expected = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert expected == vllm_command()[:4]


def test_another_command_gets_the_same_options() -> None:
    """engine.command replaces the program, not what it is told."""
    own, other = vllm_command(), vllm_command(engine={"command": ["docker", "run", "vllm"]})
    assert ["docker", "run", "vllm", *own[4:]] == other


def test_vllm_is_told_model_names_and_where_to_listen() -> None:
    """vLLM listens on the loopback only and serves exactly the names of the YAML."""
    found = vllm_options(
        model={"folder": "m", "names": ["a", "b"]}, engine={"port": 8123, "options": {"x": 1}}
    )
    assert (found.model, found.served_model_name) == ("/srv/step3vl/m", ["a", "b"])
    assert (found.host, found.port) == ("127.0.0.1", 8123)
    assert found.allowed_media_domains == NO_MEDIA_DOMAIN
    assert found.rest == ["--x=1"]


def test_the_options_of_the_yaml_come_last() -> None:
    """A list among them cannot swallow the launcher's own arguments."""
    found = vllm_options(engine={"options": {"middleware": ["a", "b"]}})
    assert found.rest == ["--middleware", "a", "b"]


def test_a_local_checkpoint_needs_no_network() -> None:
    """Only a model from the hub may ask the hub."""
    local = engine_of(config_of()).env
    hub = engine_of(config_of(model={"hub_id": "a/b"})).env
    assert (local.get("HF_HUB_OFFLINE"), hub.get("HF_HUB_OFFLINE")) == ("1", None)


def test_the_environment_of_the_yaml_wins() -> None:
    """A person can change what the launcher sets by itself."""
    environment = {"HF_HUB_OFFLINE": "0", "MINE": "x"}
    env = engine_of(config_of(engine={"environment": environment})).env
    assert environment == {name: env[name] for name in environment}


@pytest.mark.parametrize("name", ["VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"])
def test_vllm_reports_nothing_home(name: str) -> None:
    """Usage statistics are off unless somebody turns them on."""
    assert engine_of(config_of()).env[name] == "1"


def test_the_webui_reads_back_what_it_is_told() -> None:
    """Every setting of the YAML arrives in the WebUI's own settings."""
    config = config_of(
        model={
            "folder": "m",
            "names": ["first", "second"],
            "notice": "só 演示 'x'",
            "notice_zh": "演示",
        },
        engine={"port": 8123},
        webui={
            "max_request_mb": 3,
            "max_upload_mb": 2,
            "image_hosts": ["nas:8080", "b"],
            "thinking": False,  # what YAML makes of off
            "thinking_tokens": {"low": 7},
            "require_keys": True,
            "cors_origins": ["https://a.example", "http://b.example:8080"],
            "max_requests": 9,
            "cache_mb": 5,
            "json_keep_alive": True,
            "history_days": 3,
            "history_mb": 7,
            "batch_folder": "/srv/photos",
            "root_path": "/step3",
            "tasks": [{"name": "menu", "title": "M", "prompt": {"en": "a", "zh": "菜单"}}],
            "stop_timeout_s": 4.5,
        },
    )
    expected = WebuiSettings(
        host="0.0.0.0",
        port=9000,
        upstream="http://127.0.0.1:8123",
        model="first",
        notice="só 演示 'x'",
        notice_zh="演示",
        max_request_mb=3,
        max_upload_mb=2,
        image_hosts=frozenset({"nas:8080", "b"}),
        thinking=Thinking("off", {"low": 7, "auto": 4096, "high": 16384}),
        require_keys=True,
        keys_file=PATHS.keys,
        cors_origins=frozenset({"https://a.example", "http://b.example:8080"}),
        max_requests=9,
        cache_mb=5,
        cache_file=PATHS.answers,
        json_keep_alive=True,
        history=PATHS.history,
        history_mb=7,
        batch_folder=Path("/srv/photos"),
        root_path="/step3",
        history_days=3,
        tasks=(
            {
                "name": "menu",
                "title": {"en": "M", "zh": "M"},
                "prompt": {"en": "a", "zh": "菜单"},
                "temperature": 0.3,
                "max_tokens": 1024,
                "json_schema": None,
            },
        ),
        secret_file=PATHS.secret,
        checkpoint=checkpoint_stamp(config, YAML),
        uploads=PATHS.run / "uploads",
        batches=PATHS.run / "batches",
        sockets=PATHS.run,
        engine_state=PATHS.engine_state,
        address_file=PATHS.webui_address,
        stop_timeout_s=4.5,
    )
    env = webui_process(config, YAML, PATHS, "0.0.0.0", 9000).env
    assert expected == WebuiSettings.from_environ(env)
    off = webui_process(config_of(webui={"history_days": 0}), YAML, PATHS, "0.0.0.0", 9000).env
    assert WebuiSettings.from_environ(off).history is None


def test_both_packages_mean_the_same_modes() -> None:
    """Neither imports the other; what they both know of thinking must not drift apart."""
    assert dict(THINKING_TOKENS) == dict(STANDARD.tokens)
    assert tuple(ALIASES) == MODE_ENDINGS


def test_uploads_stay_among_our_own_files() -> None:
    """Pictures are kept in the private run folder, not in /tmp."""
    env = webui_process(config_of(), YAML, PATHS, "127.0.0.1", 7860).env
    assert str(PATHS.run / "uploads") == env["GRADIO_TEMP_DIR"]


def test_the_webui_learns_nothing_of_the_engines_secrets() -> None:
    """engine.environment (a hub token, say) is not passed to the process that serves the page."""
    config = config_of(engine={"environment": {"HF_TOKEN": "hf_secret"}, "options": {"x": "y"}})
    process = webui_process(config, YAML, PATHS, "127.0.0.1", 7860)
    assert "hf_secret" not in f"{process.argv} {process.env}"


def test_there_are_two_programs_and_one_is_the_start_script() -> None:
    """The WebUI is started by the script that a person can run too."""
    found = programs_of()
    assert {WEBUI, ENGINE} == set(found)
    assert (str(ROOT / "start-webui-service.sh"),) == found[WEBUI].command
    assert (sys.executable, "-P", "-m", "launcher", "exec", ENGINE) == found[ENGINE].command


def test_the_engine_starts_first_and_stops_last() -> None:
    """supervisord starts by rising priority and stops by falling, so answers drain first."""
    found = programs_of()
    assert found[ENGINE].priority < found[WEBUI].priority


@settings(deadline=None, max_examples=40)
@given(st.floats(1, 86_400))
def test_each_keeper_of_a_stop_waits_longer_than_the_one_below(stop_timeout: float) -> None:
    """vLLM drains, then its parent kills, and only then would supervisord."""
    engine = {"stop_timeout_s": stop_timeout}
    vllm = vllm_options(engine=engine).shutdown_timeout
    parent = parent_settings(engine=engine).stop_timeout
    supervisord = programs_of(engine=engine)[ENGINE].stopwaitsecs
    assert abs(vllm - stop_timeout) <= 0.5
    assert vllm + 1 < parent
    assert parent + ENGINE_STOP_MARGIN_S <= supervisord


@settings(deadline=None, max_examples=20)
@given(st.floats(1, 86_400))
def test_the_webui_has_time_to_drain(stop_timeout: float) -> None:
    """supervisord waits longer than the WebUI lets open answers finish."""
    found = programs_of(webui={"stop_timeout_s": stop_timeout})
    assert found[WEBUI].stopwaitsecs >= stop_timeout + WEBUI_STOP_MARGIN_S


def changed_by(**sections: Any) -> set[str]:
    """The programs whose fingerprint these settings change."""
    before, after = programs_of(), programs_of(**sections)
    return {name for name in before if before[name].fingerprint != after[name].fingerprint}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, set()),
        ({"engine": {"options": {"max-num-seqs": 8}}}, {ENGINE}),
        ({"engine": {"environment": {"A": "1"}}}, {ENGINE}),
        ({"engine": {"command": ["other"]}}, {ENGINE}),
        ({"engine": {"stop_timeout_s": 60.0}}, {ENGINE}),
        ({"engine": {"hung_after_s": 60.0}}, {ENGINE}),
        ({"engine": {"crash_limit": 4}}, {ENGINE}),
        ({"service": {"stop_limit_s": 600.0}}, set()),
        ({"engine": {"port": 8123}}, {ENGINE, WEBUI}),
        ({"model": {"folder": "other"}}, {ENGINE}),
        ({"model": {"folder": "checkpoint", "names": ["x"]}}, {ENGINE, WEBUI}),
        ({"model": {"folder": "checkpoint", "names": ["Step3-VL-10B", "x"]}}, {ENGINE}),
        ({"model": {"folder": "checkpoint", "notice": "x"}}, {WEBUI}),
        ({"webui": {"port": 7861}}, {WEBUI}),
        ({"webui": {"host": "0.0.0.0"}}, {WEBUI}),
        ({"webui": {"max_upload_mb": 1}}, {WEBUI}),
        ({"logs": {"max_mb": 1}}, set()),
    ],
)
def test_only_what_a_setting_concerns_is_restarted(
    sections: dict[str, Any], expected: set[str]
) -> None:
    """A fingerprint changes with its own program's settings, and with no others."""
    assert expected == changed_by(**sections)


def script_with(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start script that somebody edited; ``line`` stands for its OPTIONS."""
    script = folder / "start.sh"
    script.write_text(f'#!/bin/sh\n#   OPTIONS="--no"\n{line}\nexec it $OPTIONS\n')
    monkeypatch.setattr(programs, "START_SCRIPT", script)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('OPTIONS=""', ""),
        ("OPTIONS=", ""),
        ("", ""),
        ('OPTIONS="--port 7861"', "--port 7861"),
        ("OPTIONS='--host 0.0.0.0 --port 7861'", "--host 0.0.0.0 --port 7861"),
        ("OPTIONS=--port=7861", "--port=7861"),
        ('# OPTIONS="--port 1"', ""),
    ],
)
def test_the_options_of_the_start_script_are_read(
    line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person wrote between the quotes, and nothing of a comment."""
    script_with(line, tmp_path, monkeypatch)
    assert expected == start_script_options()


def test_the_start_script_comes_without_options() -> None:
    """Unedited, it leaves everything to the YAML."""
    assert start_script_options() == ""


@pytest.mark.parametrize(("options", "expected"), [("", set()), ("--port 7861", {WEBUI})])
def test_an_edited_start_script_restarts_the_webui_alone(
    options: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options are part of the WebUI's fingerprint; the rest of the script is not."""
    before = programs_of()
    script_with(f'OPTIONS="{options}"', tmp_path, monkeypatch)
    after = programs_of()
    assert expected == {n for n in before if before[n].fingerprint != after[n].fingerprint}


def test_the_order_of_environment_variables_is_no_change() -> None:
    """Sorting lines in the YAML does not restart an engine."""
    one = programs_of(engine={"environment": {"A": "1", "B": "2"}})
    two = programs_of(engine={"environment": {"B": "2", "A": "1"}})
    assert one[ENGINE].fingerprint == two[ENGINE].fingerprint


def test_a_secret_is_not_readable_in_a_fingerprint() -> None:
    """The fingerprint is a short hash; nothing of the settings can be read from it."""
    found = programs_of(engine={"environment": {"HF_TOKEN": "cafe"}})[ENGINE].fingerprint
    assert len(found) == 16
    assert set(found) <= set("0123456789abcdef")


def ray_settings(**sections: Any) -> RaySettings:
    """What Ray Serve's program is told."""
    engine = {"backend": "ray", **sections.pop("engine", {})}
    command = engine_argv(engine=engine, **sections)[1:]
    assert command[:-1] == (sys.executable, "-P", "-m", "launcher.ray_serve")
    return RaySettings(**json.loads(command[-1]))


def test_ray_listens_where_vllm_would_and_loads_the_same() -> None:
    found = ray_settings(engine={"port": 8123, "replicas": 2})
    assert (found.host, found.port, found.replicas) == ("127.0.0.1", 8123, 2)
    [llm] = found.arguments["llm_configs"]
    assert llm["model_loading_config"]["model_source"] == str(YAML.parent / "checkpoint")


def test_what_the_launcher_sets_for_vllm_reaches_ray_too() -> None:
    """And the names of its variables, but for the tag and the like: not for a Ray of others."""
    environment = {"HF_TOKEN": "secret"}
    found = ray_settings(engine={"options": {"max-num-seqs": 8}, "environment": environment})
    [llm] = found.arguments["llm_configs"]
    assert llm["engine_kwargs"] == {
        "allowed_media_domains": [NO_MEDIA_DOMAIN],
        "max_num_seqs": 8,
    }
    assert {"HF_TOKEN", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"} <= set(found.variables)
    assert TAG not in found.variables


def test_no_value_of_a_variable_is_in_the_process_list() -> None:
    config = config_of(engine={"backend": "ray", "environment": {"HF_TOKEN": "secret"}})
    process = engine_of(config)
    assert "secret" not in " ".join(process.argv)
    assert process.env["HF_TOKEN"] == "secret"


def test_ray_is_known_by_its_own_ways() -> None:
    found = parent_settings(engine={"backend": "ray"})
    assert (found.title, found.has_figures) == ("Ray Serve", False)
    assert found.undo[-1] == "--undo"
    plain = parent_settings()
    assert (plain.title, plain.has_figures, plain.undo) == ("vLLM", True, [])


def test_all_of_rays_processes_are_known_by_the_tag_and_tell_nobody_anything() -> None:
    env = engine_of(config_of(engine={"backend": "ray"})).env
    assert env[TAG] == tag_of(PATHS.run, ENGINE)
    assert env["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "RAY_USAGE_STATS_ENABLED" not in engine_of(config_of()).env


@pytest.mark.parametrize(("backend", "aliases"), [("ray", ("two", "three")), ("vllm", ())])
def test_the_webui_knows_the_names_that_ray_does_not(
    backend: str, aliases: tuple[str, ...]
) -> None:
    config = config_of(
        model={"folder": "m", "names": ["one", "two", "three"]}, engine={"backend": backend}
    )
    found = WebuiSettings.from_environ(webui_process(config, YAML, PATHS, "127.0.0.1", 1).env)
    assert (found.backend, found.model, found.aliases) == (backend, "one", aliases)
