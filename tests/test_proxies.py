"""The heartbeat behind the servers and the proxy of the project's docs/proxies.md, as it says."""

import re
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import PROJECT
from test_project import PATIENCE_SECONDS, Project, Server, make_project, user_environment
from test_rendering import readme_blocks

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("proxies")]

GUIDE = (
    (PROJECT / "docs" / "proxies.md")
    .read_text()
    .replace("{{ cookiecutter.project_slug }}", "data_flows")
)
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
(GUNICORN,) = [block for block in readme_blocks(GUIDE) if "import" in block]
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
    (command,) = re.findall(r"^    (\.venv/bin/gunicorn .*)$", GUIDE, re.MULTILINE)
    words = command.replace(":6543", ":0").split()
    server = Server(words, project.folder, project.environment)
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


@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_an_invalid_request_is_quoted_in_no_reply_and_no_log(project: Project, kind: str) -> None:
    start, token = "POST /heartbeat HTTP/1.1\r\n", project.token
    requests = {
        "two lines": f"{start}Authorization: Bearer {token}\n{token}\r\n\r\n",
        "no colon": f"{start}{token}\r\n\r\n",
        "a continuation": f"{start} {token}\r\n\r\n",
        "a name": f"{start}{token} : x\r\n\r\n",
        "NUL": f"{start}Authorization: Bearer {token}\0\r\n\r\n",
        "an encoding": f"{start}Transfer-Encoding: {token}\r\n\r\n",
        "a method": f"{token} / HTTP/1.1\r\n\r\n",
        "a version": f"POST / {token}\r\n\r\n",
    }

    with serve(project, kind) as server:
        replies = {name: exchange(server.port, text) for name, text in requests.items()}

    for name, reply in replies.items():
        assert re.match(r"HTTP/1\.[01] (400|501) ", reply), f"{name}: {reply}"
        assert token not in reply, name
    assert token not in server.said


def exchange(
    port: int, request: str, source: tuple[str, int] | None = None, *, is_cut: bool = False
) -> str:
    """Send a request as it stands; give all that the server answers until it closes."""
    place = ("127.0.0.1", port)
    with closing(socket.create_connection(place, PATIENCE_SECONDS, source)) as line:
        line.sendall(request.encode())
        if is_cut:
            line.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):  # what is refused unread ends so
            while piece := line.recv(65_536):
                received += piece
        return received.decode()


def test_slow_and_idle_callers_keep_no_beat_out(project: Project) -> None:
    with project.serve("production.ini") as server, ExitStack() as lines:
        for number in range(610):
            line = socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS)
            lines.enter_context(closing(line))
            if number < 110:
                line.sendall(b"POST /heartbeat HT")

        status = beat(project, server.port, ALLOWED)

    assert status == 200


@pytest.mark.parametrize(
    ("request_of", "statuses"),
    [
        (b"GET / HTTP/1.1\r\nX-A:" + b"\t" * 8_300 + b"a\r\n\r\n", {"400", "431"}),
        (
            b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n",
            {"413"},
        ),
    ],
    ids=["headers", "body"],
)
def test_a_large_request_is_refused_before_it_is_read(
    project: Project, request_of: bytes, statuses: set[str]
) -> None:
    with project.serve("production.ini") as server:
        reply = exchange(server.port, request_of.decode())

    assert reply.split()[1] in statuses


@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_a_path_that_is_not_text_is_refused(project: Project, tmp_path: Path, kind: str) -> None:
    text = "GET /%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with serve(project, kind) as server:
        replies = [exchange(server.port, text)]
        if NGINX is not None:
            with nginx(tmp_path, server.port) as port:
                replies.append(exchange(port, text))

    assert {reply.split()[1] for reply in replies} == {"400"}
    assert "Traceback" not in server.said


@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
@pytest.mark.parametrize(
    "body",
    ["zz\r\nabc\r\n0\r\n\r\n", "5\r\nab", "5\r\nabcdefg\r\n0\r\n\r\n", "-1\r\n\r\n", "5", "0\r\n"],
    ids=ascii,
)
def test_malformed_and_cut_chunks_are_refused(project: Project, kind: str, body: str) -> None:
    head = f"POST /heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {project.token}\r\n"
    text = f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    with serve(project, kind) as server:
        source = (ALLOWED, 0)
        reply = exchange(server.port, text, source, is_cut=True)

    # waitress waits for the rest, and then closes the connection without a reply.
    assert reply.split()[1:2] in ([["400"]] if kind == "gunicorn" else [["400"], []])
    assert "Traceback" not in server.said


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_tabs_that_nginx_passes_on_delay_no_caller(project: Project, tmp_path: Path) -> None:
    tabs = "".join(f"X-{number}:{chr(9) * 8_000}a\r\n" for number in range(3))
    text = f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{tabs}\r\n"
    with project.serve("production.ini") as server, nginx(tmp_path, server.port) as port:
        reply = exchange(port, text)
        status = beat(project, port, ALLOWED)

    assert reply.split()[1] == "431"
    assert status == 200


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("kind", ["waitress", "gunicorn"])
def test_behind_nginx_the_caller_is_its_client(project: Project, tmp_path: Path, kind: str) -> None:
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
    assert [run["error_type"] for run in project.runs() if run["flow"] == hang.stem] == [
        "Interrupted"
    ]
