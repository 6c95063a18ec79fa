"""Pings of beats and of the runs of flows, in the format of healthchecks.io."""

import uuid
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, Secret

from ...core import Heartbeat
from ...events import BeatEnded, BeatStarted, Event, RunEnded, RunStarted
from ...models import RunStatus
from ...redaction import error_of, error_text, shorten
from .sender import Message, Sender

# The limit for the text of a failure, in characters.
LONGEST_TEXT = 1_000
START, SUCCESS, FAIL = "/start", "", "/fail"


class Pings:
    """The pings of an application in this process."""

    def __init__(self, heartbeat: Heartbeat, sender: Sender) -> None:
        self.heartbeat, self.sender = heartbeat, sender

    def has_urls(self) -> bool:
        """Return whether there is anything to ping."""
        flows = self.heartbeat.flows.values()
        return bool(self.heartbeat.settings.ping_url) or any(flow.ping_url for flow in flows)

    def follow(self, happened: Event) -> None:
        """Send the ping of an event, if it has one."""
        if isinstance(happened, BeatStarted):
            self._ping_beat(happened.key, START)
        elif isinstance(happened, BeatEnded):
            error = happened.error
            kind = FAIL if error else SUCCESS
            self._ping_beat(happened.started.key, kind, error_text(error) if error else "")
        elif isinstance(happened, RunStarted):
            self._ping_run(happened.run.handler, happened.run.id, START)
        # Not for a run that has never begun, nor for a failure that is retried.
        elif isinstance(happened, RunEnded) and happened.duration is not None:
            text = error_of(happened.error_type, happened.error_message) or ""
            if happened.status == RunStatus.SUCCESS:
                self._ping_run(happened.handler, happened.id, SUCCESS)
            elif happened.retry_at is None:
                self._ping_run(happened.handler, happened.id, FAIL, text)

    def _ping_beat(self, key: uuid.UUID, kind: str, text: str = "") -> None:
        self._send("heartbeat.ping_url", self.heartbeat.settings.ping_url, kind, key, text)

    def _ping_run(self, handler: str, run_id: int, kind: str, text: str = "") -> None:
        definition = self.heartbeat.flows.get(handler)
        if definition and definition.ping_url:
            # The process that ends a run may not be the one that started it.
            key = uuid.uuid5(uuid.NAMESPACE_OID, f"heartbeat run {run_id}")
            self._send(f"ping_url of flow {handler}", definition.ping_url, kind, key, text)

    def _send(
        self, name: str, url: Secret[AnyHttpUrl] | None, kind: str, key: uuid.UUID, text: str
    ) -> None:
        if url is None:
            return
        parts = urlsplit(str(url.get_secret_value()))
        query = f"{parts.query}&rid={key}" if parts.query else f"rid={key}"
        path = parts.path.rstrip("/") + kind
        address = parts._replace(path=path, query=query, fragment="").geturl()
        body = shorten(text, LONGEST_TEXT).encode()
        self.sender.send(name, Message(address, body, "text/plain; charset=utf-8"))
