"""What an application holds of the heartbeat: settings, database, flows and workers, in one place.

`request.heartbeat` and the command line receive it; nothing here does any work of its own.
"""

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from .clock import Clock
from .executors.local import LocalExecutor
from .registry import FlowDefinition
from .security.token import Tokens
from .settings import Settings


@dataclass(eq=False)
class Heartbeat:
    """One application's heartbeat. Made by `includeme`; safe to use from many threads."""

    settings: Settings
    engine: Engine
    clock: Clock
    tokens: Tokens
    operator_tokens: Tokens
    executor: LocalExecutor
    flows: dict[str, FlowDefinition] = field(default_factory=dict)
    registered: threading.Event = field(default_factory=threading.Event)

    @property
    def worker(self) -> str:
        """A name for this process: host, process id, and a part no later process can repeat.

        Made on first use, so after any fork of the server.
        """
        return _worker_name(os.getpid())

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session for the engine's own bookkeeping: commits at the end, or rolls back."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def secrets(self) -> list[str]:
        """Return the engine's own secrets, for taking them out of what is stored."""
        password: Any = self.engine.url.password
        tokens = (*self.tokens.all(), *self.operator_tokens.all())
        return [*(token.secret for token in tokens), *([str(password)] if password else [])]


@cache
def _worker_name(process: int) -> str:
    return f"{socket.gethostname()[:100]}:{process}:{uuid.uuid4().hex[:12]}"
