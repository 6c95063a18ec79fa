"""Who calls, as the connection and the proxies before it tell, and what stays unclear."""

from ipaddress import ip_address, ip_network

import pytest

from data_flows.heartbeat.security.addresses import (
    client_address,
    is_within,
    parse_address,
    parse_networks,
)

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:65535", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:c000:201]:80", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%<script>", "fe80::1"),
        ("::ffff:192.0.2.1%eth0", "192.0.2.1"),
    ],
)
def test_an_address_is_read_as_servers_and_proxies_write_it(text: str, address: str) -> None:
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "localhost",
        "unknown",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:",
        "192.0.2.1 ,",
        "192.0.2.1/32",
        "192.0.2.1\n",
        "192.0.2.1\u00a0",
        "\u0661.2.3.4",
        "2001:db8::1:4711:1:2:3:4:5",
        "[2001:db8::1",
        "2001:db8::1]",
        "[[2001:db8::1]]",
        "fe80::1%",
        "3221225985",
        "\0",
        "_hidden",
    ],
)
def test_an_invalid_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("192.0.2.1", ["192.0.2.1/32"]),
        ("10.0.0.0/8, 2001:db8::/32", ["10.0.0.0/8", "2001:db8::/32"]),
        ("\n  10.0.0.0/8\n  ::1 ,\n", ["10.0.0.0/8", "::1/128"]),
        ("10.0.0.0/8,,\t::1", ["10.0.0.0/8", "::1/128"]),
        ("10.0.0.0/255.0.0.0", ["10.0.0.0/8"]),
        ("::ffff:192.0.2.0/120", ["192.0.2.0/24"]),
        ("::ffff:192.0.2.1", ["192.0.2.1/32"]),
    ],
)
def test_networks_are_separated_by_spaces_commas_or_new_lines(
    value: str, networks: list[str]
) -> None:
    assert parse_networks(value) == tuple(map(ip_network, networks))


@pytest.mark.parametrize("value", ["", " ", "\n", ",", " ,\n, "])
def test_an_empty_list_is_a_problem(value: str) -> None:
    with pytest.raises(ValueError, match="remove it to allow any"):
        parse_networks(value)


@pytest.mark.parametrize(
    "value", ["10.0.0.1/8", "10.0.0.0/33", "*", "any", "10.0.0.0/8; ::1", "example.org", "[::1]"]
)
def test_a_list_with_one_invalid_network_is_a_problem(value: str) -> None:
    with pytest.raises(ValueError, match="is neither an address nor a network"):
        parse_networks(f"192.0.2.1 {value}")


def test_an_ipv4_address_is_in_no_ipv6_network() -> None:
    address = ip_address("192.0.2.1")

    assert not is_within(address, [ip_network("::/0")])
    assert is_within(address, [ip_network("::/0"), ip_network("192.0.2.0/24")])
    assert not is_within(address, [])


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9, 10.0.0.7:99", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "garbage, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, garbage", "None"),
        ("10.0.0.1", "203.0.113.9, garbage, 10.0.0.2", "None"),
        ("10.0.0.1", "", "None"),
        ("10.0.0.1", "203.0.113.9,", "None"),
        ("garbage", "203.0.113.9", "None"),
        ("", None, "None"),
        (None, "203.0.113.9", "None"),
    ],
)
def test_a_chain_is_believed_as_far_as_its_proxies_are(
    peer: str | None, forwarded: str | None, caller: str
) -> None:
    assert str(client_address(peer, forwarded, TRUSTED)) == caller


def test_without_a_trusted_proxy_nothing_forwarded_counts() -> None:
    assert str(client_address("10.0.0.1", "203.0.113.9", ())) == "10.0.0.1"
