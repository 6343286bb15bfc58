"""launcher.targets: files for docker, compose, systemd, Kubernetes that say what the YAML does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered_targets import (
    DEMO_YAML,
    GPU_YAML,
    OUT,
    compose_service,
    config_of,
    engine_values,
    expanded,
    instruction,
    render,
    rendered_for_gpu,
    run_command,
    unit_setting,
    unit_words,
    workload,
)
from ruamel.yaml import YAML
from support import ROOT

from launcher.cli import main
from launcher.config import DeployConfig, load_config, parse_config
from launcher.errors import ConfigError
from launcher.leftovers import TAG
from launcher.paths import Paths
from launcher.programs import programs_for, serving_arguments, webui_process
from launcher.targets.deployment import Site
from launcher.targets.image import engine_version
from launcher.targets.table import TARGETS
from launcher.yaml_source import YamlSource
from webui.settings import Settings

PATHS = Paths(Path("/var/lib/step3vl/etc"), Path("/var/lib/step3vl/run"))
every_target = pytest.mark.parametrize("target", TARGETS)

TIMES = st.floats(1, 3600) | st.integers(1, 3600).map(float)
TEXT = st.text(
    st.sampled_from(" '\"\\$;#=~,:[](){}!&|<>*?%-_aé演示😀\n\t")
    | st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=20,
)
ODD_NAMES = st.text(
    st.sampled_from(" '\"\\$;#=~,:[](){}!&|<>*?%-_aé演示😀")
    | st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", ".."} and not name.startswith("~"))


def needed_stop_s(config: DeployConfig) -> int:
    """What supervisord takes: each program to its end, one after the other."""
    return sum(program.stopwaitsecs for program in programs_for(config, GPU_YAML, PATHS))


def stop_times(config: DeployConfig) -> dict[str, int]:
    """After how many seconds each target kills everything."""
    files = {target: render(target, config) for target in TARGETS}
    run = run_command(files["docker"]["Dockerfile"])
    unit = files["systemd"]["step3vl.service"]
    return {
        "docker": int(run[run.index("--stop-timeout") + 1]),
        "compose": int(compose_service(config)["stop_grace_period"].removesuffix("s")),
        "systemd": int(unit_setting(unit, "TimeoutStopSec")),
        "k8s": workload(config)["terminationGracePeriodSeconds"],
    }


@settings(deadline=None, max_examples=30)
@given(webui=TIMES, engine=TIMES, slack=st.none() | st.floats(0, 600))
def test_no_target_kills_before_supervisord_is_done(
    webui: float, engine: float, slack: float | None
) -> None:
    """Whatever the times of the YAML are, and whether it names a limit or not."""
    sections: dict[str, Any] = {
        "webui": {"stop_timeout_s": webui},
        "engine": {"stop_timeout_s": engine},
    }
    needed = needed_stop_s(config_of(**sections))
    if slack is not None:
        sections["service"] = {"stop_limit_s": needed + slack}
    found = stop_times(config_of(**sections))
    # Ray is ended by whoever runs it.
    assert set(found) == set(TARGETS) - {"ray"}
    assert min(found.values()) > needed
    assert min(found.values()) >= (needed + slack if slack else 0)


@given(engine=TIMES)
def test_an_engine_of_the_stack_stops_before_its_pod_is_killed(engine: float) -> None:
    """The chart leaves Kubernetes' 30 s as they are."""
    arguments = engine_values(config_of(engine={"stop_timeout_s": engine}))["vllmConfig"][
        "extraArgs"
    ]
    [drain] = [int(a.partition("=")[2]) for a in arguments if a.startswith("--shutdown-timeout=")]
    assert drain <= min(26, round(engine))


@every_target
def test_every_file_says_where_it_comes_from(target: str) -> None:
    """The first line names the command, since the next run of it undoes any change."""
    for name, content in rendered_for_gpu(target).items():
        made_by = "docker" if name.startswith("Dockerfile") else target
        assert content.startswith(f"# Made by `launch render --target {made_by}`;")


@every_target
def test_rendering_twice_gives_the_same(target: str) -> None:
    assert rendered_for_gpu(target) == rendered_for_gpu(target)


def test_the_image_has_the_engine_that_setup_cfg_names() -> None:
    """One place says which vLLM this package is checked against."""
    assert f"    vllm>={engine_version().removesuffix('.0')},<" in (ROOT / "setup.cfg").read_text()
    base = instruction(rendered_for_gpu("docker")["Dockerfile"], "FROM")
    assert base == f"vllm/vllm-openai:v{engine_version()} AS service"
    assert engine_values(load_config(GPU_YAML))["tag"] == f"v{engine_version()}"


def test_the_container_is_supervisord_for_its_whole_life() -> None:
    """Exec form, so SIGTERM reaches it; not as root; only the page's port."""
    text = rendered_for_gpu("docker")["Dockerfile"]
    entrypoint = json.loads(instruction(text, "ENTRYPOINT"))
    assert entrypoint[-2:] == ["up", "--foreground"]
    assert json.loads(instruction(text, "CMD")) == [
        "--config",
        "/opt/step3vl/deploy/step3-vl-10b.yaml",
    ]
    assert instruction(text, "STOPSIGNAL") == "SIGTERM"
    assert int(instruction(text, "USER")) > 0
    assert re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE) == ["7860"]
    assert "--start-period=1800s" in instruction(text, "HEALTHCHECK")
    assert ":7860/readyz" in instruction(text, "HEALTHCHECK")


def test_the_build_sees_sources_and_nothing_that_was_made_here() -> None:
    """Keys, conversations and models of this machine must not get into an image."""
    lines = rendered_for_gpu("docker")["Dockerfile.dockerignore"].splitlines()[1:]
    assert lines[0] == "*"
    seen = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert not seen & {"run", "models", ".venv", ".git"}
    assert all((ROOT / name).exists() for name in seen)


def test_a_demo_needs_no_card() -> None:
    """A YAML for the CPU gets the CPU's vLLM, and reserves nothing."""
    config = load_config(DEMO_YAML)
    service = compose_service(config, path=DEMO_YAML)
    assert "deploy" not in service
    assert service["ports"][0]["host_ip"] == "127.0.0.1"
    assert [v["type"] for v in service["volumes"]] == ["volume", "bind"]
    text = render("docker", config, path=DEMO_YAML)["Dockerfile"]
    assert instruction(text, "FROM") == "python:3.12-slim AS service"
    assert '".[cpu]"' in text
    assert "--gpus" not in run_command(text)


def test_compose_reserves_cards_and_keeps_what_must_last() -> None:
    """Memory for the workers, the volume, the same check as the image."""
    service = compose_service(config_of(webui={"host": "0.0.0.0", "port": 9000}))
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert service["ports"] == [{"target": 9000, "published": "9000", "host_ip": "0.0.0.0"}]
    assert service["volumes"][0]["target"] == "/var/lib/step3vl"
    assert service["shm_size"] == "8gb"
    assert ":9000/readyz" in service["healthcheck"]["test"][-1]


@pytest.mark.parametrize(
    ("host", "address"), [("localhost", "127.0.0.1"), ("::", "::"), ("10.0.0.7", "10.0.0.7")]
)
def test_a_port_is_published_where_the_yaml_listens(host: str, address: str) -> None:
    """A container does not make a private service public."""
    config = config_of(webui={"host": host})
    assert compose_service(config)["ports"][0]["host_ip"] == address
    shown = f"[{address}]" if ":" in address else address
    assert f"{shown}:7860:7860" in run_command(render("docker", config)["Dockerfile"])


def test_the_pod_gets_what_the_launcher_would_give_the_webui() -> None:
    """Every variable of the same function, but the engine's address and what lies in a Secret."""
    config = config_of(
        model={
            "hub_id": "a/b",
            "names": ["x"],
            "notice": "$(HOME) costs $5, $$",
            "notice_zh": "1e3",
        },
        webui={"port": 9000, "thinking": "low", "root_path": "/step3"},
    )
    [container] = workload(config)["containers"]
    found = {entry["name"]: expanded(entry["value"]) for entry in container["env"]}
    expected = webui_process(config, GPU_YAML, PATHS, "0.0.0.0", 9000).env
    differing = {"WEBUI_UPSTREAM", "WEBUI_ENGINE_STATE", "WEBUI_KEYS_FILE", "WEBUI_SESSIONS"}
    assert found.keys() == expected.keys() - {TAG}
    assert {n for n in found if found[n] != expected[n]} == differing
    read = Settings.from_environ(found)
    assert read.upstream == "http://vllm-stack-router-service:80"
    assert (read.engine_state, str(read.keys_file)) == (None, "/etc/step3vl/keys/api-keys.json")


def test_the_stacks_engine_is_served_as_everywhere() -> None:
    """The same arguments of the same function; cards as the options ask for them."""
    options = {"tensor-parallel-size": 2, "max-model-len": 16384, "chat-template": "a $b"}
    config = config_of(engine={"options": options, "stop_timeout_s": 20})
    model = engine_values(config)
    assert expanded(model["vllmConfig"]["extraArgs"]) == serving_arguments(config)
    assert (model["requestGPU"], model["vllmConfig"]["tensorParallelSize"]) == (2, 2)
    assert model["modelURL"] == "stepfun-ai/Step3-VL-10B"


def test_wanted_weights_choose_the_checkpoint() -> None:
    """As in a plan, but without a card to look at."""
    config = config_of(model={"hub_id": "stepfun-ai/Step3-VL-10B", "weights": "fp8"})
    assert engine_values(config)["modelURL"] == "stepfun-ai/Step3-VL-10B-FP8"


SECRETS = {
    "HF_TOKEN": "hf_verysecret",
    "HTTPS_PROXY": "http://me:verysecret@proxy:3128",
    "PLAIN": "seen",
}


@every_target
def test_no_secret_gets_into_a_file(target: str) -> None:
    """Neither by its name nor as a password in an address."""
    files = render(target, config_of(engine={"environment": SECRETS}))
    assert "verysecret" not in "".join(files.values())


def test_a_secret_of_the_engine_is_a_reference() -> None:
    """Kubernetes puts it in; the header tells how to make it."""
    config = config_of(engine={"environment": SECRETS})
    env = {entry["name"]: entry for entry in engine_values(config)["env"]}
    assert env["PLAIN"]["value"] == "seen"
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "step3vl-engine"
    assert "--from-literal=HF_TOKEN=..." in render("k8s", config)["vllm-stack-values.yaml"]


@pytest.mark.parametrize(("required", "optional"), [(True, False), (False, True)])
def test_a_pod_without_its_keys_starts_only_where_none_is_required(
    required: bool, optional: bool
) -> None:
    """The keys' file is a Secret that is made by hand."""
    volumes = {
        v["name"]: v for v in workload(config_of(webui={"require_keys": required}))["volumes"]
    }
    assert volumes["keys"]["secret"] == {"secretName": "step3vl-keys", "optional": optional}


@settings(deadline=None)
@given(
    notice=TEXT,
    value=TEXT,
    names=st.lists(st.from_regex(r"\w[\w.:/-]*", fullmatch=True), min_size=1),
)
def test_any_text_of_the_yaml_arrives(notice: str, value: str, names: list[str]) -> None:
    """Two parsers, of YAML 1.1 and 1.2, read from the manifests what the YAML said."""
    document = {
        "model": {"hub_id": "a/b", "names": names, "notice": notice},
        "engine": {"environment": {"TEXT": value}, "options": {"x": value}},
    }
    try:
        config = DeployConfig.model_validate(document)
    except ValueError:
        return  # such as names that end in :fast
    text = render("k8s", config)["vllm-stack-values.yaml"]
    for values in (yaml.safe_load(text), YAML(typ="safe", pure=True).load(text)):
        [model] = values["servingEngineSpec"]["modelSpec"]
        found = {entry["name"]: entry.get("value") for entry in model["env"]}
        assert expanded(found["TEXT"]) == value
        assert expanded(model["vllmConfig"]["extraArgs"])[1 : 1 + len(names)] == names
    [container] = workload(config)["containers"]
    env = {entry["name"]: expanded(entry["value"]) for entry in container["env"]}
    assert (env["WEBUI_NOTICE"], env["WEBUI_MODEL"]) == (notice, names[0])
    assert parse_config(YamlSource.parse(config_text_of(config), "x")) == config


def config_text_of(config: DeployConfig) -> str:
    documents = yaml.safe_load_all(render("k8s", config)["webui.yaml"])
    [found] = [document for document in documents if document["kind"] == "ConfigMap"]
    return str(found["data"]["step3vl.yaml"])


@settings(deadline=None)
@given(folder=ODD_NAMES, name=ODD_NAMES)
def test_any_folder_and_any_name_of_the_yaml_arrive(folder: str, name: str) -> None:
    """Spaces, quotes, $, % and other scripts: what is mounted is what was meant."""
    path = Path("/srv") / folder / f"{name}.yaml"
    config = config_of(model={"folder": folder})
    inside = f"/opt/step3vl/deploy/{name}.yaml"
    service = compose_service(config, path=path)
    binds = {v["source"]: v["target"] for v in service["volumes"] if v["type"] == "bind"}
    mounted = {
        str(path): inside,
        str((path.parent / folder).resolve()): f"/opt/step3vl/deploy/{folder}",
    }
    assert binds == mounted
    assert service["command"] == ["--config", inside]
    text = render("docker", config, path=path)["Dockerfile"]
    assert json.loads(instruction(text, "CMD")) == ["--config", inside]
    assert sum(word.startswith("type=bind") for word in run_command(text)) == len(mounted)
    unit = render("systemd", config, path=path)["step3vl.service"]
    assert unit_words(unit_setting(unit, "ExecStart"))[-2:] == ["--config", str(path)]


def test_a_unit_runs_the_service_of_its_site() -> None:
    """Its user and its folder; a home of its own where there is one."""
    site = Site(Path("/srv/my 100% $checkout"), "someone", Path("/data/my home"))
    unit = render("systemd", config_of(), site=site)["step3vl.service"]
    assert unit_setting(unit, "User") == "someone"
    assert unit_setting(unit, "WorkingDirectory") == "/srv/my 100%% $checkout"
    assert unit_words(unit_setting(unit, "ExecStart"))[0] == f"{site.root}/.venv/bin/step3vl"
    assert unit_words(unit_setting(unit, "Environment")) == ["STEP3VL_HOME=/data/my home"]


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b"])
def test_a_checkout_that_systemd_cannot_run_is_refused(name: str) -> None:
    """It takes no such path for a program, however it is quoted."""
    with pytest.raises(ConfigError, match="runs no program with quotes"):
        render("systemd", config_of(), site=Site(Path("/srv") / name, "someone"))


@pytest.mark.parametrize("taken", ["PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"])
def test_a_unit_leaves_the_cards_device_files_alone(taken: str) -> None:
    """With one of these no CUDA program starts."""
    unit = rendered_for_gpu("systemd")["step3vl.service"]
    assert not re.search(rf"^{taken}=", unit, re.MULTILINE)


CANNOT: list[tuple[str, dict[str, Any], str]] = [
    ("docker", {"engine": {"command": ["x"]}}, "engine.command: a container runs"),
    ("compose", {"engine": {"command": ["x"]}}, "engine.command: a container runs"),
    ("k8s", {"engine": {"command": ["x"]}}, "engine.command: a container runs"),
    (
        "compose",
        {"webui": {"host": "my.name"}},
        "webui.host: docker publishes a port on an address",
    ),
    ("compose", {"model": {"folder": "~/x"}}, "model.folder: write the whole path"),
    ("compose", {"model": {"folder": "/opt"}}, "model.folder: /opt would hide the package"),
    ("docker", {"model": {"folder": "a\nb"}}, "model.folder: a path with control characters"),
    ("k8s", {"model": {"folder": "x"}}, "model.folder: a folder of this machine"),
    ("k8s", {"webui": {"batch_folder": "x"}}, "webui.batch_folder: a folder of this machine"),
    ("k8s", {"engine": {"environment": {"VLLM_CPU_X": "1"}}}, "engine.environment: a YAML for the"),
    ("k8s", {"engine": {"options": {"hf-token": "x"}}}, "engine.options.hf-token: a secret"),
]


@pytest.mark.parametrize(("target", "sections", "words"), CANNOT)
def test_what_a_target_cannot_express_is_refused(
    target: str, sections: dict[str, Any], words: str
) -> None:
    """One line, with the key and what to do."""
    with pytest.raises(ConfigError) as caught:
        render(target, config_of(**sections))
    assert str(caught.value).startswith(f"{GPU_YAML}: {words}")
    assert "\n" not in str(caught.value)


def test_a_program_of_ones_own_is_no_matter_for_a_unit() -> None:
    """It runs on this machine, which has that program."""
    assert "ExecStart" in render("systemd", config_of(engine={"command": ["x"]}))["step3vl.service"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", "a\u2028b"])
def test_a_path_with_control_characters_is_refused(name: str) -> None:
    """It could end a comment and begin an instruction."""
    with pytest.raises(ConfigError, match="control characters"):
        render("docker", config_of(), path=Path("/srv") / name)


def test_the_command_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once; a second time there is nothing to do."""
    arguments = [
        "render",
        "--target",
        "compose",
        "--config",
        str(DEMO_YAML),
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    names = ["Dockerfile", "Dockerfile.dockerignore", "compose.yaml"]
    assert capsys.readouterr().out.splitlines() == [f"wrote: {tmp_path / n}" for n in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [f"unchanged: {tmp_path / n}" for n in names]


def test_without_a_folder_the_target_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the folder in which the command was typed."""
    monkeypatch.chdir(tmp_path)
    assert main(["render", "--target", "systemd", "--config", str(GPU_YAML)]) == 0
    assert [path.name for path in (tmp_path / "systemd").iterdir()] == ["step3vl.service"]


def test_an_unknown_target_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It names those that there are."""
    assert main(["render", "--target", "nomad", "--config", str(GPU_YAML)]) == 2
    expected = "step3vl: no target 'nomad'; there are: docker, compose, systemd, k8s, ray\n"
    assert capsys.readouterr().err == expected


def test_files_of_another_folder_name_the_checkout_whole(tmp_path: Path) -> None:
    """Relative paths are for files that stay in the checkout."""
    config = load_config(GPU_YAML)
    assert compose_service(config, out=tmp_path)["build"]["context"] == str(ROOT)
    build = compose_service(config, out=OUT)["build"]
    assert (build["context"], build["dockerfile"]) == ("../..", "deploy/anywhere/Dockerfile")


def test_replicas_are_the_charts_and_conversations_stay_with_theirs() -> None:
    """The chart's router goes by the header that the gateway is told to send."""
    config = config_of(engine={"replicas": 3})
    found = yaml.safe_load(render("k8s", config)["vllm-stack-values.yaml"])
    assert found["servingEngineSpec"]["modelSpec"][0]["replicaCount"] == 3
    assert found["routerSpec"]["routingLogic"] == "session"
    assert found["routerSpec"]["sessionKey"] == "x-session-id"
    env = {entry["name"]: entry["value"] for entry in workload(config)["containers"][0]["env"]}
    assert (env["WEBUI_SESSIONS"], env["WEBUI_REPLICAS"]) == ("1", "")


@pytest.mark.parametrize("target", ["docker", "compose", "k8s"])
def test_a_container_is_no_machine_of_a_cluster(target: str) -> None:
    nodes = [{"name": "a", "address": "10.0.0.1"}]
    with pytest.raises(ConfigError, match=r"cluster\.nodes: a container has no address"):
        render(target, config_of(cluster={"nodes": nodes}))
