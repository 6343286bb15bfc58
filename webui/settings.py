"""What the WebUI is told, all of it through the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webui.gateway.thinking import STANDARD, Thinking


@dataclass(frozen=True)
class Settings:
    """Sizes in MB of a million bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 7860
    upstream: str = "http://127.0.0.1:8000"
    backend: str = "vllm"
    model: str = "Step3-VL-10B"
    aliases: tuple[str, ...] = ()
    """Further names of the model, that the engine does not know."""
    notice: str = ""
    notice_zh: str = ""
    max_request_mb: int = 64
    max_upload_mb: int = 20
    image_hosts: frozenset[str] = frozenset()
    stop_timeout_s: float = 10.0
    upstream_idle_s: float = 300.0
    keep_alive_s: float = 15.0
    thinking: Thinking = STANDARD
    max_requests: int = 1024
    keys_file: Path | None = None
    require_keys: bool = False
    cors_origins: frozenset[str] = frozenset()
    json_keep_alive: bool = False
    cache_mb: int = 0
    cache_file: Path | None = None
    secret_file: Path | None = None
    uploads: Path | None = None
    checkpoint: str = ""
    tasks: tuple[Mapping[str, Any], ...] = ()
    """The operator's own, as the YAML has them."""
    root_path: str = ""
    """The prefix of all addresses, where a proxy in front has one."""
    history: Path | None = None
    history_mb: int = 500
    history_days: int = 30
    batches: Path | None = None
    """For the batches that visitors start on the page."""
    batch_folder: Path | None = None
    """Of the operator's, with pictures that all visitors may run batches over."""
    sockets: Path | None = None
    """A folder of this user's alone, for those between the gateway and the page. Its path must be
    short: a socket's has 107 bytes at most."""
    upload_secret: str = field(default="", repr=False)
    """Which the gateway makes, and tells the page."""
    engine_state: Path | None = None
    sessions: bool = False
    """The upstream is a router that keeps a conversation on one engine."""
    replicas: Path | None = None
    """Where our own router's parent writes which engines it has."""
    engine_key_file: Path | None = None
    """With the key of engines on other machines."""
    address_file: Path | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read ``WEBUI_HOST``, ``WEBUI_PORT``, ...; what is not set keeps its default."""

        def path(name: str) -> Path | None:
            return Path(value) if (value := environ.get(name)) else None

        return cls(
            host=environ.get("WEBUI_HOST", cls.host),
            port=int(environ.get("WEBUI_PORT", cls.port)),
            upstream=environ.get("WEBUI_UPSTREAM", cls.upstream).rstrip("/"),
            backend=environ.get("WEBUI_BACKEND", cls.backend),
            model=environ.get("WEBUI_MODEL", cls.model),
            aliases=tuple(environ.get("WEBUI_ALIASES", "").split()),
            notice=environ.get("WEBUI_NOTICE", cls.notice),
            notice_zh=environ.get("WEBUI_NOTICE_ZH", cls.notice_zh),
            max_request_mb=int(environ.get("WEBUI_MAX_REQUEST_MB", cls.max_request_mb)),
            max_upload_mb=int(environ.get("WEBUI_MAX_UPLOAD_MB", cls.max_upload_mb)),
            image_hosts=frozenset(environ.get("WEBUI_IMAGE_HOSTS", "").split()),
            stop_timeout_s=float(environ.get("WEBUI_STOP_TIMEOUT_S", cls.stop_timeout_s)),
            upstream_idle_s=float(environ.get("WEBUI_UPSTREAM_IDLE_S", cls.upstream_idle_s)),
            keep_alive_s=float(environ.get("WEBUI_KEEP_ALIVE_S", cls.keep_alive_s)),
            thinking=Thinking(
                environ.get("WEBUI_THINKING", cls.thinking.default),  # type: ignore[arg-type]
                json.loads(environ.get("WEBUI_THINKING_TOKENS", "null")) or cls.thinking.tokens,
            ),
            max_requests=int(environ.get("WEBUI_MAX_REQUESTS", cls.max_requests)),
            keys_file=path("WEBUI_KEYS_FILE"),
            require_keys=environ.get("WEBUI_REQUIRE_KEYS") == "1",
            cors_origins=frozenset(environ.get("WEBUI_CORS_ORIGINS", "").split()),
            json_keep_alive=environ.get("WEBUI_JSON_KEEP_ALIVE") == "1",
            cache_mb=int(environ.get("WEBUI_CACHE_MB", cls.cache_mb)),
            cache_file=path("WEBUI_CACHE_FILE"),
            checkpoint=environ.get("WEBUI_CHECKPOINT", ""),
            tasks=tuple(json.loads(environ.get("WEBUI_TASKS", "[]"))),
            secret_file=path("WEBUI_SECRET_FILE"),
            uploads=path("GRADIO_TEMP_DIR"),  # gradio's own name for it
            root_path=environ.get("WEBUI_ROOT_PATH", "").rstrip("/"),
            history=path("WEBUI_HISTORY"),
            history_mb=int(environ.get("WEBUI_HISTORY_MB", cls.history_mb)),
            history_days=int(environ.get("WEBUI_HISTORY_DAYS", cls.history_days)),
            batches=path("WEBUI_BATCHES"),
            batch_folder=path("WEBUI_BATCH_FOLDER"),
            sockets=path("WEBUI_SOCKETS"),
            upload_secret=environ.get("WEBUI_UPLOAD_SECRET", ""),
            engine_state=path("WEBUI_ENGINE_STATE"),
            sessions=environ.get("WEBUI_SESSIONS") == "1",
            replicas=path("WEBUI_REPLICAS"),
            engine_key_file=path("WEBUI_ENGINE_KEY_FILE"),
            address_file=path("WEBUI_ADDRESS_FILE"),
        )
