"""Values of flags that several verbs have: each fault names the flag, and what to give instead."""

import ipaddress
import re

from msgspec import Struct


class ConfigError(ValueError):
    """A flag that cannot be used; `str` names it, and what to give instead."""


_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*\.?")


class HostPort(Struct, frozen=True):
    """An address to listen on, or to dial. An empty host is every address of this machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, flag: str, *, named: bool = False, anywhere: bool = False) -> "HostPort":
        """`127.0.0.1:4191` or `[::1]:4191`. Raises ConfigError.

        `named`: a DNS name will do, for whom is dialled. `anywhere`: `:8443` is every address, of both families.
        """
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"{flag} {text!r} is not HOST:PORT, for example 127.0.0.1:4191")
        if (anywhere and not host) or (named and _DNS_NAME.fullmatch(host) and not host.replace(".", "").isdigit()):
            return cls(host, int(port))
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(f"{flag} {text!r}: {host!r} is no IP address") from None
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, flag: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `24h` or `7d`. Raises ConfigError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {text!r} is no duration: give seconds, or 90s, 30m, 24h, 7d")
    return value * _UNITS[unit]
