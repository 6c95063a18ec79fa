"""The heartbeat behind the servers and the proxy of docs/proxies.md, with what is written there."""

import re
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import TEMPLATE
from test_project import PATIENCE_SECONDS, Project, Server, make_project, user_environment

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("proxies")]

GUIDE = (TEMPLATE / "docs" / "proxies.md").read_text()
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
# The Python among what the guide indents.
GUNICORN = textwrap.dedent("".join(re.findall(r"^    (?:from|\w+ = \d).*\n", GUIDE, re.MULTILINE)))
HANG = '''"""A flow that never ends."""

import threading

from ..heartbeat import Run, flow


@flow(every="1d")
def hang(_run: Run) -> None:
    """Hang."""
    threading.Event().wait()
'''
ALLOWED, STRANGER = "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with gunicorn, and the settings of the guide for addresses of this machine."""
    folder = tmp_path_factory.mktemp("proxies")
    project = make_project(folder, user_environment(folder))
    project.done("uv", "pip", "install", "--quiet", "-p", ".venv/bin/python", "gunicorn")
    (settings,) = re.findall(r"^    (heartbeat\.allowed_ips = .*)\n    (.*)$", GUIDE, re.MULTILINE)
    lines = "\n".join(settings).replace("192.0.2.0/24", ALLOWED)
    ini = project.folder / "production.ini"
    ini.write_text(ini.read_text().replace("[server:main]", f"{lines}\n\n[server:main]"))
    (project.folder / "gunicorn.conf.py").write_text(GUNICORN)
    return project


@contextmanager
def serve(project: Project, kind: str) -> Iterator[Server]:
    """Serve the project by the command of the guide, on a free port."""
    if kind == "waitress":
        with project.serve("production.ini") as server:
            yield server
        return
    (command,) = re.findall(r"^    (gunicorn .*)$", GUIDE, re.MULTILINE)
    words = command.replace(":6543", ":0").split()
    server = Server([f".venv/bin/{words[0]}", *words[1:]], project.folder, project.environment)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[int]:
    """Put nginx with the guide's block before a port; give its own."""
    assert NGINX is not None
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        own_port = probe.getsockname()[1]
    block = GUIDE.partition("    location / {\n")[2].partition("\n    }\n")[0]
    location = textwrap.dedent(block).replace(":6543", f":{port}")
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{path}_temp_path {folder}/{path};" for path in paths)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}\n"
        f"server {{\nlisten 127.0.0.1:{own_port};\nlocation / {{\n{location}\n}}\n}}\n}}\n"
    )
    process = subprocess.Popen([NGINX, "-c", str(file)])
    try:
        wait_until_listening(own_port)
        yield own_port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def wait_until_listening(port: int) -> None:
    """Return when something accepts connections on a port."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"nothing listens on port {port}")


def beat(project: Project, port: int, source: str, **headers: str) -> int:
    """Beat from an address of this machine; give the status."""
    line = HTTPConnection("127.0.0.1", port, PATIENCE_SECONDS, source_address=(source, 0))
    with closing(line):
        line.request(
            "POST", "/heartbeat", headers={"Authorization": f"Bearer {project.token}", **headers}
        )
        return line.getresponse().status


@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_without_a_proxy_the_peer_is_the_caller(project: Project, kind: str) -> None:
    with serve(project, kind) as server:
        statuses = [
            beat(project, server.port, ALLOWED),
            beat(project, server.port, STRANGER),
            beat(project, server.port, STRANGER, **{"X-Forwarded-For": ALLOWED}),
        ]

    assert statuses == [200, 403, 403]


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_behind_nginx_the_caller_is_who_calls_nginx(
    project: Project, tmp_path: Path, kind: str
) -> None:
    with serve(project, kind) as server, nginx(tmp_path, server.port) as port:
        statuses = [
            beat(project, port, ALLOWED),
            beat(project, port, STRANGER),
            beat(project, port, STRANGER, **{"X-Forwarded-For": ALLOWED}),
            beat(project, port, ALLOWED, **{"X-Forwarded-For": "garbage"}),
        ]

    assert statuses == [200, 403, 403, 200]


@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_a_server_that_stops_interrupts_the_runs_that_do_not_end(
    project: Project, kind: str
) -> None:
    hang = project.package / "flows" / f"hang_{kind}.py"
    hang.write_text(HANG.replace("def hang", f"def hang_{kind}"))
    impatient = project.environment | {"HEARTBEAT_SHUTDOWN_GRACE": "1s"}

    with serve(replace(project, environment=impatient), kind) as server:
        status = beat(project, server.port, ALLOWED, Prefer="wait=0")
    hang.unlink()

    assert status == 202
    assert server.process.returncode == 0
    assert [run["error_type"] for run in project.runs() if run["name"] == hang.stem] == [
        "Interrupted"
    ]
