"""The configuration: one YAML file, read once into frozen models.

A mistake is never guessed past: unknown keys and wrong types are refused, and all mistakes of a
file are reported at once, each with its line, its YAML path and what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from launcher.errors import ConfigError
from launcher.yaml_source import YamlSource

# vLLM's options that the launcher sets itself, and where to set what they are wanted for.
OWNED_ENGINE_OPTIONS: Mapping[str, str] = {
    "model": "write model.folder or model.hub_id",
    "served-model-name": "write model.names",
    "host": "the engine listens on 127.0.0.1 only; the WebUI's port serves its API",
    "port": "write engine.port",
    "uds": "the engine listens on 127.0.0.1 only; the WebUI's port serves its API",
    "api-key": "keys belong to the WebUI's port; an engine key would show in the process list",
    "root-path": "the engine is not reached from outside",
    "ssl-keyfile": "the engine is not reached from outside",
    "ssl-certfile": "the engine is not reached from outside",
    "allowed-local-media-path": "the engine must not read local files for remote callers",
    "allowed-media-domains": "the engine must not fetch URLs itself",
    "shutdown-timeout": "write engine.stop_timeout_s",
    "config": "write the options under engine.options",
}

ONE_SOURCE = "write exactly one of folder and hub_id"
SAME_PORTS = "engine.port and webui.port are the same; give each its own"

# Each keeper of a stop waits this much longer, in seconds, than the one below it: the WebUI's is
# supervisord; the engine's are its parent and then supervisord.
WEBUI_STOP_MARGIN_S = 3
ENGINE_STOP_MARGIN_S = 2
# Of the router, which stops between the two.
ROUTER_STOP_S = 5
# Of what answers for a machine of a cluster, which stops last.
NODE_STOP_S = 5
# And what is outside (docker, systemd, Kubernetes) so much longer than supervisord.
SERVICE_STOP_MARGIN_S = 10

Thoughtful = Literal["low", "auto", "high"]
THINKING_TOKENS: Mapping[Thoughtful, int] = {"low": 512, "auto": 4096, "high": 16384}
# With these endings a name chooses how much the model thinks.
MODE_ENDINGS = (":fast", ":deep")

# Of one machine.
MAX_REPLICAS = 64

Seconds = Annotated[float, Field(le=86_400, allow_inf_nan=False)]
ImageHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(:[0-9]{1,5})?$")]
ThoughtTokens = Annotated[int, Field(ge=1, le=1_000_000)]
# An off without quotes is false in YAML.
ThinkingMode = Annotated[
    Literal["off", "low", "high", "auto"], BeforeValidator(lambda v: "off" if v is False else v)
]
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
LAST_PORT = 65535
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]
ShortText = Annotated[str, Field(min_length=1, max_length=8000, pattern=r"^[^\x00]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelConfig(_Section):
    """Which checkpoint is served, and under which names."""

    folder: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="A checkpoint's folder, relative to this file. Either this or hub_id.",
    )
    hub_id: str | None = Field(
        default=None,
        description="A checkpoint on Hugging Face, downloaded at the first start: owner/name.",
    )
    source: Literal["auto", "huggingface", "modelscope"] = Field(
        default="auto",
        description="Where `launch download` fetches hub_id; auto: the hub that answers first.",
    )
    revision: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$",
        description="Which version `launch download` fetches: a branch, a tag or a commit.",
    )
    weights: Literal["auto", "bf16", "fp8"] = Field(
        default="auto",
        description="Of STEP3-VL-10B on the hub: bf16, fp8, or auto: fp8 where bf16 has no room.",
    )
    names: list[str] = Field(
        default=["Step3-VL-10B"],
        min_length=1,
        description="Names that requests may use as `model`; answers carry the first.",
    )
    notice: str = Field(
        default="",
        description="Shown on the page and in the model list, to say what kind of model answers.",
    )
    notice_zh: str = Field(
        default="",
        description="The same in Chinese, for the page; without it both languages get `notice`.",
    )

    @field_validator("hub_id")
    @classmethod
    def _looks_like_a_hub_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            raise ValueError(f"write owner/name, not {value!r}")
        return value

    @field_validator("names")
    @classmethod
    def _are_usable_names(cls, value: list[str]) -> list[str]:
        wrong = [name for name in value if not re.fullmatch(r"\w[\w.:/-]*", name)]
        if wrong:
            raise ValueError(
                f"a name has letters, digits and . _ - : / only, not {', '.join(map(repr, wrong))}"
            )
        if taken := [name for name in value if name.endswith(MODE_ENDINGS)]:
            raise ValueError(
                f"{taken[0]}: names with {' and '.join(MODE_ENDINGS)} are made of yours"
            )
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.folder is None) == (self.hub_id is None):
            raise ValueError(ONE_SOURCE)
        return self


Backend = Literal["vllm", "ray"]


class EngineConfig(_Section):
    """The vLLM server."""

    backend: Backend = Field(
        default="vllm",
        description="vllm runs vLLM itself; ray runs it as a Ray Serve application (extra `ray`).",
    )
    port: Port = Field(
        default=8000,
        description="Where vLLM listens, on 127.0.0.1 only; with replicas, the router before them.",
    )
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = Field(
        default=1,
        description="Engines side by side, each with cards of its own, on the ports after `port`.",
    )
    options: dict[str, JsonValue] = Field(
        default={},
        description="Any option of `vllm serve`, without the dashes; true and false are switches.",
    )
    environment: dict[str, str] = Field(
        default={}, description="Environment variables of vLLM, as strings."
    )
    command: list[str] | None = Field(
        default=None,
        description="A program to run in place of this environment's vLLM; it gets the options.",
    )
    start_timeout_s: Annotated[Seconds, Field(gt=0)] = Field(
        default=1800.0, description="Seconds from start to ready; a slower start is begun anew."
    )
    stop_timeout_s: Annotated[Seconds, Field(ge=1)] = Field(
        default=30.0, description="Seconds that running requests get to finish at a stop."
    )
    stalled_after_s: Annotated[Seconds, Field(ge=20)] = Field(
        default=30.0,
        description="Seconds without progress on requests after which /readyz says so.",
    )
    hung_after_s: Annotated[Seconds, Field(ge=30)] = Field(
        default=120.0, description="Seconds without progress after which vLLM is restarted."
    )
    memory_timeout_s: Annotated[Seconds, Field(gt=0)] = Field(
        default=120.0, description="Seconds to wait for GPU memory that something else holds."
    )
    crash_limit: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="After so many crashes without a good run it is not started again."
    )
    good_run_s: Annotated[Seconds, Field(gt=0)] = Field(
        default=600.0, description="Seconds of being ready that make a run good."
    )

    @property
    def named_options(self) -> dict[str, JsonValue]:
        """``options``, each under the one name that its spellings stand for."""
        return {option_name(key): value for key, value in self.options.items()}

    @property
    def stop_wait_s(self) -> int:
        """When supervisord kills it; by then its parent has killed what did not stop."""
        return math.ceil(self.stop_timeout_s + 2 * ENGINE_STOP_MARGIN_S)

    @model_validator(mode="after")
    def _is_told_before_it_is_ended(self) -> Self:
        if self.stalled_after_s >= self.hung_after_s:
            raise ValueError(
                f"stalled_after_s ({self.stalled_after_s:g}) must be less than hung_after_s"
                f" ({self.hung_after_s:g})"
            )
        return self

    @field_validator("options")
    @classmethod
    def _are_options_of_the_engine(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        problems = [p for key, v in value.items() if (p := _option_problem(key, v))]
        spellings = [option_name(key) for key in value]
        problems += [
            f"{key!r} is written twice, in two spellings; keep one"
            for key, spelling in zip(value, spellings, strict=True)
            if spellings.count(spelling) > 1
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return value

    @field_validator("environment")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = [n for n in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", n)]
        problems = [f"{name!r} is no name of an environment variable" for name in wrong]
        problems += [f"{n}: no NUL character, please" for n, t in value.items() if "\0" in t]
        if problems:
            raise ValueError("\n".join(problems))
        return value

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("write a program and its arguments, or leave the key out")
        return value


class Bilingual(_Section):
    """A text in both languages of the page; a plain one stands for both."""

    en: ShortText
    zh: ShortText

    @model_validator(mode="before")
    @classmethod
    def _may_be_plain(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"en": value, "zh": value}
        if isinstance(value, dict | Bilingual):
            return value
        # pydantic reports this kind of error, and lets a TypeError through.
        raise ValueError("write a text, or one in each language: {en: ..., zh: ...}")


class TaskConfig(_Section):
    """A question of the operator's own in the page's list of tasks."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    title: Bilingual
    prompt: Bilingual
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.3
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    json_schema: dict[str, JsonValue] | None = None

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None:
            from jsonschema import Draft202012Validator, SchemaError

            try:
                Draft202012Validator.check_schema(value)
            except SchemaError as error:
                raise ValueError(f"is no JSON schema: {error.message}") from None
        return value


class WebuiConfig(_Section):
    """The page and the OpenAI API, one process on one port."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="127.0.0.1 serves this machine only; 0.0.0.0 serves everyone who reaches it.",
    )
    port: Port = Field(default=7860, description="The port of the page and of the API.")
    max_request_mb: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=64,
        description="Larger requests are refused, in MB; pictures count with a third more.",
    )
    max_upload_mb: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=20, description="The largest picture the page takes or a URL gives, in MB."
    )
    image_hosts: list[ImageHost] = Field(
        default=[],
        description="Private hosts that image URLs may name, as name or name:port.",
    )
    thinking: ThinkingMode = Field(
        default="auto",
        description="How much the model thinks where a request does not say: off, low, auto, high.",
    )
    thinking_tokens: dict[Thoughtful, ThoughtTokens] = Field(
        default=dict(THINKING_TOKENS),
        description="The most that it thinks in each of these, in tokens.",
    )
    require_keys: bool = Field(
        default=False,
        description="Refuse to start without a key for the API and the page; see `launch keys`.",
    )
    cors_origins: list[Origin] = Field(
        default=[],
        description="Web pages that may call the API from a browser, as https://name[:port].",
    )
    max_requests: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1024, description="Requests answered at once; more get status 503."
    )
    cache_mb: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0,
        description="Room on disk for answers that the same request gets again, in MB; 0: none.",
    )
    json_keep_alive: bool = Field(
        default=False,
        description="Send white space before a slow answer without stream, so nobody cuts it off.",
    )
    history_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        default=30,
        description="Days for which the page keeps a conversation on this machine; 0: not at all.",
    )
    history_mb: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=500, description="Room for the conversations of one visitor, in MB."
    )
    batch_folder: str = Field(
        default="",
        description="A folder of pictures on this machine that all visitors may run batches over.",
    )
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$", max_length=200)] = Field(
        default="",
        description="The prefix under which a reverse proxy has the page and the API, like /step3.",
    )
    tasks: list[TaskConfig] = Field(
        default=[],
        max_length=50,
        description="Questions of your own in the page's list of tasks: name, title, prompt, ...",
    )
    stop_timeout_s: Annotated[Seconds, Field(ge=1)] = Field(
        default=8.0, description="Seconds that open answers get to finish at a stop."
    )

    @property
    def stop_wait_s(self) -> int:
        """When supervisord kills it."""
        return math.ceil(self.stop_timeout_s + WEBUI_STOP_MARGIN_S)

    @field_validator("tasks")
    @classmethod
    def _have_names_of_their_own(cls, value: list[TaskConfig]) -> list[TaskConfig]:
        if twice := _repeated([task.name for task in value]):
            raise ValueError(f"two tasks have the name {', '.join(twice)}")
        return value


class NodeConfig(_Section):
    """A machine of a cluster."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None


class ClusterConfig(_Section):
    """Several machines with this same file; `launch up --node NAME` starts a machine's part."""

    nodes: list[NodeConfig] = Field(
        default=[],
        max_length=250,
        description="Machines, as {name: gpu1, address: 10.0.0.2, replicas: 2}; the first is the"
        " head: it runs page, API and router, and needs no card with replicas: 0.",
    )
    key_file: str = Field(
        default="cluster-key",
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="The key by which the machines know each other, the same file on each; made by"
        " the head. Relative to this file.",
    )

    @property
    def head(self) -> NodeConfig | None:
        return self.nodes[0] if self.nodes else None

    def node(self, name: str) -> NodeConfig | None:
        return next((node for node in self.nodes if node.name == name), None)

    @field_validator("nodes")
    @classmethod
    def _can_be_told_apart(cls, value: list[NodeConfig]) -> list[NodeConfig]:
        problems = [
            f"two nodes have the {what} {', '.join(twice)}"
            for what in ("name", "address")
            if (twice := _repeated([getattr(node, what) for node in value]))
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return value


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


class ServiceConfig(_Section):
    """All of it together."""

    stop_limit_s: Annotated[Seconds, Field(gt=0)] | None = Field(
        default=None,
        description="Seconds after which something outside kills all: docker stop -t and the like.",
    )


class LogsConfig(_Section):
    """Log files, one a process, in run/logs."""

    max_mb: Annotated[int, Field(ge=1)] = Field(
        default=20, description="A log file is rotated at this size, in MB."
    )
    backups: Annotated[int, Field(ge=0, le=99)] = Field(
        default=5, description="Rotated files kept of each."
    )


class DeployConfig(_Section):
    """One deployment: which model, how it is run, where it is served."""

    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    webui: WebuiConfig = WebuiConfig()
    cluster: ClusterConfig = ClusterConfig()
    service: ServiceConfig = ServiceConfig()
    logs: LogsConfig = LogsConfig()

    @property
    def stop_wait_s(self) -> int:
        """How long a stop of everything may take: the WebUI goes first, then the router where there
        is one, then the engines, which stop together."""
        return self.webui.stop_wait_s + self._others_stop_wait_s + self.engine.stop_wait_s

    @property
    def _others_stop_wait_s(self) -> int:
        router = ROUTER_STOP_S if self.has_router else 0
        return router + (NODE_STOP_S if self.cluster.nodes else 0)

    @property
    def stop_grace_s(self) -> int:
        """When what is outside kills it all; by then supervisord has killed what did not stop."""
        return max(
            self.stop_wait_s + SERVICE_STOP_MARGIN_S, math.ceil(self.service.stop_limit_s or 0)
        )

    @field_validator("*", mode="before")
    @classmethod
    def _may_be_left_empty(cls, value: Any) -> Any:
        """A section whose keys are all commented out is None in YAML."""
        return {} if value is None else value

    @property
    def has_router(self) -> bool:
        """Whether there is one between the WebUI and the engines. Ray Serve has its own."""
        if self.engine.backend == "ray":
            return False
        return self.engine.replicas > 1 or bool(self.cluster.nodes)

    @property
    def last_port(self) -> int:
        """Of those from ``engine.port`` on: the router's, the engines', and last, on whichever
        machine has most of them, the router's own figures."""
        own = [n.replicas for n in self.cluster.nodes if n.replicas is not None]
        return self.engine.port + (max([self.engine.replicas, *own]) + 1 if self.has_router else 0)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.engine.port == self.webui.port:
            raise ValueError(SAME_PORTS)
        first, last = self.engine.port, self.last_port
        if first <= self.webui.port <= last:
            raise ValueError(
                f"webui.port {self.webui.port} is one of those of the router and the replicas,"
                f" {first} to {last}; write another engine.port"
            )
        if last > LAST_PORT:
            raise ValueError(f"engine.port {first} leaves no ports for the replicas after it")
        return self

    @model_validator(mode="after")
    def _fits_ray(self) -> Self:
        if self.engine.backend != "ray":
            return self
        problems = []
        if self.cluster.nodes:
            problems.append(
                "engine.backend: ray has no use for cluster.nodes: Ray spreads engine.replicas over"
                " the machines of its own cluster; leave one of the two out"
            )
        if "data-parallel-size" in self.engine.named_options:
            problems.append("engine.backend: ray: write engine.replicas, not data-parallel-size")
        if ":" in self.model.names[0]:
            name = self.model.names[0]
            problems.append(f"engine.backend: ray: the first of model.names has a colon, {name!r}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _stops_before_it_is_killed(self) -> Self:
        """First the WebUI stops, then the engine, and then whatever is outside may kill."""
        limit = self.service.stop_limit_s
        if limit is not None and self.stop_wait_s > limit:
            others = self._others_stop_wait_s
            between = f" then {others} for the router and its like," if others else ""
            raise ValueError(
                f"a stop may take {self.stop_wait_s} s, more than service.stop_limit_s ({limit:g}):"
                f" webui.stop_timeout_s and {WEBUI_STOP_MARGIN_S} more,{between} then"
                f" engine.stop_timeout_s and {2 * ENGINE_STOP_MARGIN_S} more; lower them, or raise"
                " it"
            )
        return self


def _cross_problems(data: Any) -> list[tuple[tuple[str, ...], str]]:
    """Mistakes between keys, which the models look for only once each key is right by itself."""
    problems: list[tuple[tuple[str, ...], str]] = []
    sections = data if isinstance(data, dict) else {}
    model, engine, webui = (sections.get(name) for name in ("model", "engine", "webui"))
    if isinstance(model, dict) and (model.get("folder") is None) == (model.get("hub_id") is None):
        problems.append((("model",), ONE_SOURCE))
    ports = [
        section.get("port", default) if isinstance(section, dict) else default
        for section, default in ((engine, 8000), (webui, 7860))
    ]
    if ports[0] == ports[1] and isinstance(ports[0], int):
        problems.append(((), SAME_PORTS))
    return problems


def _option_problem(key: str, value: JsonValue) -> str | None:
    """What is wrong with one of vLLM's options, in words."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", key):
        plain = key.strip("-") or "max-num-seqs"
        return f"{key!r} is no option: write {plain}, without dashes before it"
    name = option_name(key)
    # vLLM takes any unambiguous beginning of an option for the option itself.
    owned = [(o, why) for o, why in OWNED_ENGINE_OPTIONS.items() if name and o.startswith(name)]
    if owned:
        return f"{key!r} is set by the launcher: {owned[0][1]}"
    items = value if isinstance(value, list) else []
    if any(isinstance(item, str) and item.startswith("-") for item in items):
        return f"{key!r}: an item of a list cannot begin with a dash; it would be another option"
    return None


def option_name(key: str) -> str:
    """``max_num_seqs`` and ``max-num-seqs`` are one option; so are ``no-x`` and ``x``."""
    return key.lower().replace("_", "-").removeprefix("no-")


def parse_config(source: YamlSource) -> DeployConfig:
    """Validate a parsed file.

    Raises:
        ConfigError: with a line for every mistake.
    """
    try:
        return DeployConfig.model_validate(source.data)
    except ValidationError as error:
        problems = {source.locate(problem, DeployConfig) for problem in error.errors()}
        problems |= {source.place(path, text) for path, text in _cross_problems(source.data)}
        lines = [
            f"line {line}: {path}: {one}"
            for line, path, text in sorted(problems)
            for one in text.split("\n")
        ]
        raise ConfigError("\n  ".join([f"{source.name}:", *lines])) from None


def load_config(path: Path) -> DeployConfig:
    """Read and validate a file.

    Raises:
        ConfigError: the file is missing, is not YAML, or says something wrong.
    """
    return parse_config(YamlSource.read(path))
