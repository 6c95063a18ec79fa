"""Whatever stands in token files, lists, headers or settings: no crash, and the door stays shut.

The engine's pure modules are taken out of a rendering, and installed with what they need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Render

PROPERTIES = r"""
import contextlib
import ipaddress
import pathlib
import sys
import tempfile

from hypothesis import example, given, settings, strategies as st

from door.heartbeat.errors import SettingsError
from door.heartbeat.security.addresses import (
    client_address,
    is_within,
    parse_address,
    parse_networks,
)
from door.heartbeat.security.token import Tokens, presented_token, read_tokens
from door.heartbeat.settings import Settings
from door.heartbeat.views.preferences import parse_preferences

FOLDER = pathlib.Path(tempfile.mkdtemp())
settings.register_profile("door", deadline=None, max_examples=300, database=None)
settings.load_profile("door")

addresses = st.ip_addresses().map(str)
hops = st.one_of(
    addresses,
    addresses.map("[{}]:80".format),
    addresses.map("{}:80".format),
    st.text(max_size=30),
    st.sampled_from(["", "unknown", "::ffff:10.0.0.1", "fe80::1%x", "10.0.0.1"]),
)
networks = st.one_of(
    addresses,
    st.ip_addresses().map(lambda a: f"{a}/8"),
    st.sampled_from(["0.0.0.0/0", "::/0", "", ","]),
)
header = st.binary(max_size=200).map(lambda data: data.decode("latin-1"))


@given(content=st.binary(max_size=400), presented=header)
@example(content=b"\xef\xbb\xbfa\n", presented="a")
@example(content=b"a\x00b\n", presented="a")
@example(content=b"", presented="")
def test_a_token_file_of_any_bytes(content, presented):
    file = FOLDER / "token"
    file.write_bytes(content + b"\n")  # else it may be in the middle of being written
    tokens = Tokens(file=file)
    matched = tokens.match(presented)
    if matched is not None:
        sent = presented.encode("latin-1")
        assert sent and sent in content and matched.secret.encode() == sent
    for token in read_tokens(file):
        assert token.secret and token.secret.split() == [token.secret]
        assert tokens.match(token.secret.encode().decode("latin-1"))


@given(authorization=st.none() | header, own=st.none() | header)
def test_presented_tokens(authorization, own):
    token = presented_token(authorization, own)
    assert token is None or (token and token == token.strip() and token in f"{authorization} {own}")
    assert Tokens("the-token").match(token or "") is None or token == "the-token"


@given(
    words=st.lists(networks | st.text(max_size=20), max_size=5),
    separator=st.sampled_from([" ", ",", "\n", ", "]),
)
def test_address_lists(words, separator):
    text = separator.join(words)
    try:
        parsed = parse_networks(text)
    except ValueError as error:
        assert str(error)
        return
    assert parsed  # never a list of nothing
    assert all(isinstance(net, ipaddress.IPv4Network | ipaddress.IPv6Network) for net in parsed)


@given(text=st.text(max_size=60) | hops)
def test_addresses(text):
    address = parse_address(text)
    if address is not None:
        assert parse_address(str(address)) == address
        assert getattr(address, "ipv4_mapped", None) is None
        assert "%" not in str(address)


@given(
    peer=hops,
    chain=st.lists(hops, max_size=6),
    trusted=st.lists(st.sampled_from(["10.0.0.0/8", "::/0", "127.0.0.1"]), max_size=3),
)
def test_forwarded_chains(peer, chain, trusted):
    trusted = [ipaddress.ip_network(each) for each in trusted]
    caller = client_address(peer, ",".join(chain), trusted)
    first = parse_address(peer)
    if first is None or not is_within(first, trusted):
        assert caller == first  # what is forwarded by a stranger has no say
        return
    # What stands left of the first stranger from the right has no say either.
    for hop in reversed(",".join(chain).split(",")):
        address = parse_address(hop)
        if address is None or not is_within(address, trusted):
            assert caller == address
            break
    else:
        assert caller is None or is_within(caller, trusted)


@given(chain=st.lists(hops, max_size=5), last=addresses)
def test_nothing_that_a_caller_sends_moves_its_own_address(chain, last):
    trusted = [ipaddress.ip_network("127.0.0.1")]
    if parse_address(last) == ipaddress.ip_address("127.0.0.1"):
        return
    assert client_address("127.0.0.1", ", ".join([*chain, last]), trusted) == parse_address(last)


@given(headers=st.lists(header, max_size=5))
def test_preferences(headers):
    preferences = parse_preferences(headers)
    assert preferences.wait is None or 0 <= preferences.wait <= 300


NAMES = [*Settings.model_fields, "worker", "", "Token", "x" * 300]
values = st.text(max_size=60) | st.sampled_from(
    ["true", "0", "5m", "1e9", "9" * 5000, "/", "/a", "::1", "\0"]
)


@given(
    ini=st.dictionaries(st.sampled_from(NAMES).map("heartbeat.{}".format), values, max_size=8),
    environment=st.dictionaries(
        st.sampled_from(NAMES).map(lambda n: "HEARTBEAT_" + n.upper()), values, max_size=4
    ),
)
def test_settings(ini, environment):
    try:
        read = Settings.read(ini, environment)
    except SettingsError as error:
        told = str(error)
        assert all(line.startswith("heartbeat.") for line in told.splitlines())
        assert len(told) < 30_000
        return
    assert read.workers >= 1 and read.path.startswith("/") and read.path != "/"
    assert read.allowed_ips is None or read.allowed_ips
    assert read.trusted_proxies is None or read.trusted_proxies
    if not read.require_token:
        given = environment.get("HEARTBEAT_REQUIRE_TOKEN", ini.get("heartbeat.require_token"))
        assert given is not None and given.strip()
    for token in (read.token, read.operator_token):
        assert token is None or len(token.get_secret_value()) >= 16
        assert token is None or token.get_secret_value() not in repr(read)
    Tokens(None, read.token_file).all()
"""


@pytest.mark.install
def test_the_door_stays_shut_whatever_is_put_before_it(render: Render) -> None:
    project = render(project_name="Door")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HEARTBEAT_") and key != "DATABASE_URL"
    }
    python = project / ".venv" / "bin" / "python"
    (project / "test_properties.py").write_text(PROPERTIES, encoding="utf-8")

    uv = str(Path(sys.executable).with_name("uv"))
    for command in (
        [uv, "venv", "--quiet", ".venv"],
        [uv, "pip", "install", "--quiet", "-p", str(python), "-e", ".[dev]", "hypothesis"],
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_properties.py"],
    ):
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert "8 passed" in done.stdout
