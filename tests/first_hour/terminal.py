"""A terminal of a newcomer: one shell for all commands, and no further keystroke for any."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_SECONDS = 600.0
# Commands come on descriptor 3, so that none of them can read the next one as its input.
SHELL = """
set -o pipefail
while IFS= read -r -u 3 line; do
  eval "$line" < /dev/null 3<&-
  echo "
ended: $?"
done
"""


class Terminal:
    """A shell that keeps its folder and its variables from one command to the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Open it."""
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", f"exec 3<&{reader}\n{SHELL}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[reader],
            text=True,
            start_new_session=True,
        )
        os.close(reader)
        self._commands = os.fdopen(writer, "w")

    def type(self, line: str) -> str:
        """Run a command that must succeed, and return its output."""
        self._commands.write(f"{line}\n")
        self._commands.flush()
        output: list[str] = []
        watch = threading.Timer(PATIENCE_SECONDS, self._kill)
        watch.start()
        try:
            assert self.process.stdout is not None
            for text in self.process.stdout:
                if text.startswith("ended: "):
                    assert text == "ended: 0\n", f"$ {line}\n{''.join(output)}{text}"
                    return "".join(output)
                output.append(text)
        finally:
            watch.cancel()
        raise AssertionError(f"$ {line}\n{''.join(output)}the shell was ended")

    def start(self, line: str, port: int, log: Path) -> None:
        """Start a server in the background, in place of the last one; wait until it answers."""
        self.stop_server(port)
        command = line.partition(" #")[0]
        self.type(f"{command} > '{log}' 2>&1 &")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_open(port):
            running = self.type("jobs -r")
            assert running, f"$ {line}\n{log.read_text()}"
            assert time.monotonic() < deadline, f"$ {line}\n{log.read_text()}"
            time.sleep(0.1)

    def stop_server(self, port: int) -> None:
        """Stop the server as Ctrl-C does, if there is one, and wait until it is gone."""
        self.type('test -z "$(jobs -p)" || { kill $(jobs -p) && wait; }; true')
        deadline = time.monotonic() + PATIENCE_SECONDS
        while is_open(port):
            assert time.monotonic() < deadline, "the server does not stop"
            time.sleep(0.1)

    def close(self) -> None:
        """End the shell and all that it has started."""
        self._commands.close()
        self._kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def is_open(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
