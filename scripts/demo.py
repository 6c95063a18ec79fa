"""`make demo`: what a user gets, from nothing to a history of runs, on real data.

Renders the template with its defaults, sets the project up, puts a file of airports into the inbox,
serves, beats over HTTP and shows what came of it. With SERVE=1 it stays up until Ctrl-C.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).resolve().parent.parent
SLUG = "data_flows"
READY_WITHIN_SECONDS = 30


def main() -> int:
    """Run the demonstration; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="heartbeat-demo-") as folder:
        project = render(Path(folder))
        shutil.copy(str(files("airportsdata") / "airports.csv"), project / "var" / "inbox")
        with serve(project) as url:
            say("The first beat finds import_csv due, and runs it")
            first = beat(project, url)
            say("A second beat finds nothing due; run by hand, the flow finds nothing new")
            second = beat(project, url)
            heartbeat(project, "run", "import_csv")
            say("The history")
            heartbeat(project, "runs")
            airports = count_airports(project)
            print(f"\nairports in the database: {airports}")
            if os.environ.get("SERVE"):
                stay_up(project, url)
    return 0 if first["flows_succeeded"] == 1 and second["flows_due"] == 0 and airports else 1


def render(folder: Path) -> Path:
    """Render the template and set the project up, as a user does; return its folder."""
    say("cookiecutter renders the project and sets it up")
    command = ["-m", "cookiecutter", "--no-input", "--output-dir", str(folder), str(TEMPLATE)]
    subprocess.run([sys.executable, *command], check=True)
    project = folder / SLUG
    if not (project / "var" / f"{SLUG}.sqlite").exists():
        sys.exit("the set-up did not come to its end: see above for the cause")
    return project


@contextmanager
def serve(project: Path) -> Iterator[str]:
    """Serve the project with pserve on a free port; give the URL, and end the server after."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    ini = project / "development.ini"
    ini.write_text(ini.read_text().replace("localhost:6543", f"127.0.0.1:{port}"))
    say("pserve serves it")
    with (project / "var" / "pserve.log").open("wb") as log:
        server = subprocess.Popen(
            [".venv/bin/pserve", ini.name], cwd=project, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(server, url, project)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=READY_WITHIN_SECONDS)


def wait_until_ready(server: subprocess.Popen[bytes], url: str, project: Path) -> None:
    """Return when the server answers; end with its log if it does not."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit((project / "var" / "pserve.log").read_text())


def beat(project: Path, url: str) -> dict[str, Any]:
    """Call the heartbeat over HTTP with the project's token; print and return the reply."""
    token = (project / "var" / "beat.token").read_text().strip()
    request = urllib.request.Request(
        f"{url}/heartbeat", method="POST", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        reply: dict[str, Any] = json.load(response)
        print(f"POST {url}/heartbeat: {response.status}")
    print(json.dumps(reply, indent=2))
    return reply


def heartbeat(project: Path, *arguments: str) -> None:
    """Run the project's command `heartbeat`, which prints."""
    command = [".venv/bin/heartbeat", *arguments]
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(command, cwd=project, check=True, stderr=subprocess.DEVNULL)


def count_airports(project: Path) -> int:
    """Return how many records the flow has written."""
    with closing(sqlite3.connect(project / "var" / f"{SLUG}.sqlite")) as connection:
        count: int = connection.execute("SELECT count(*) FROM csv_records").fetchone()[0]
    return count


def stay_up(project: Path, url: str) -> None:
    """Leave the server running until Ctrl-C."""
    say(f"It serves at {url} until you press Ctrl-C")
    print(f"cd {project}")
    current = "$(.venv/bin/heartbeat token show)"
    print(f'curl -X POST -H "Authorization: Bearer {current}" {url}/heartbeat')
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # everything is already removed and stopped
        sys.exit(130)
