"""The page and all that it stands on, put together."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from webui.chat.batch_handlers import BatchHandlers
from webui.chat.batches import Batches
from webui.chat.control import Control
from webui.chat.engine import connect, http_client, metrics
from webui.chat.history import History, HistoryError
from webui.chat.page import Service, build_app
from webui.chat.session import ChatSession
from webui.chat.status_handlers import StatusHandlers
from webui.chat.tasks import all_tasks
from webui.chat.vitals import Monitor, gpu_used
from webui.engine_status import EngineProbe, engine_client
from webui.gateway.keys import Keys
from webui.gateway.uploads import Uploads
from webui.settings import Settings

logger = logging.getLogger(__name__)


class PageService:
    """``app`` is what a server runs, its lifespan included.

    Must be created inside a running event loop.

    Args:
        gateway: the socket of the API.
    """

    def __init__(self, settings: Settings, gateway: Path) -> None:
        http = http_client(gateway)
        client, tasks = connect(http), all_tasks(settings.tasks)
        self._probe = EngineProbe(engine_client(settings), settings.model, settings.engine_state)
        self._session = ChatSession(
            client,
            settings.model,
            self._probe,
            Uploads(settings.upload_secret).address_of,
            tasks,
            _history(settings),
        )
        # Whoever has come this far has been let in by the gateway.
        keys = Keys(settings.keys_file, required=False)
        status = StatusHandlers(Monitor(partial(metrics, http), gpu_used), Control(), keys.is_admin)
        self._batches: Batches | None = None
        batch = None
        if settings.batches is not None and settings.uploads is not None:
            self._batches = Batches(
                settings.batches,
                client,
                settings.history_days or 1,
                settings.max_upload_mb,
                settings.batch_folder,
            )
            batch = BatchHandlers(self._batches, settings.model, tasks, settings.uploads)
        self.app = build_app(self._session, Service(status, batch), settings)

    async def close(self) -> None:
        """End what runs; what has come is kept."""
        self._probe.closing = True
        if self._batches is not None:
            self._batches.close()
        await self._session.close()


def _history(settings: Settings) -> History | None:
    if settings.history is None or settings.uploads is None:
        return None
    try:
        return History(
            settings.history, settings.uploads, settings.history_mb, settings.history_days
        )
    except HistoryError as error:
        logger.warning("conversations are not kept: %s: %s", error.code, error.__cause__)
        return None
