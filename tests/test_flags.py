"""Values of flags: what is written is read, and what is none is named with its flag."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.flags import ConfigError, HostPort, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("0.5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--svid-ttl") == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "-1s", "0", "nan", "inf", "1w", "1h30m"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--svid-ttl {text!r} is no duration")):
        parse_duration(text, "--svid-ttl")


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_that_is_written_is_read_again(address: object, port: int) -> None:
    shown = f"[{address}]" if ":" in str(address) else str(address)
    assert HostPort.parse(f"{shown}:{port}", "--admin") == HostPort(str(address), port)


@pytest.mark.parametrize("text", ["4191", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "localhost:1"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--admin {text!r}")):
        HostPort.parse(text, "--admin")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("quietwire-authority.quietwire.svc:8443", "quietwire-authority.quietwire.svc"),
        ("a.b.:1", "a.b."),
        ("[::1]:1", "::1"),
    ],
)
def test_whoever_is_dialled_may_be_named(text: str, host: str) -> None:
    assert HostPort.parse(text, "--authority", named=True).host == host
    if not host.startswith(":"):
        with pytest.raises(ConfigError, match="is no IP address"):
            HostPort.parse(text, "--listen")


@pytest.mark.parametrize("text", ["a_b:1", "-a:1", "192.0.2.300:1", "a..b:1", "A:1", " :1", ":1"])
def test_what_is_no_name_is_no_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is no IP address"):
        HostPort.parse(text, "--authority", named=True)


def test_every_address_of_a_machine_is_written_as_a_port_alone() -> None:
    assert HostPort.parse(":8443", "--listen", anywhere=True) == HostPort("", 8443)
    with pytest.raises(ConfigError, match="is no IP address"):
        HostPort.parse(":8443", "--admin")
