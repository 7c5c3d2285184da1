"""Network configurations of a node: which one its runtime takes, and our plugin as the last of that one. Pure.

CNI specification 1.1.0, section 1. A runtime takes the first file by name whose ending it knows, as containerd and
CRI-O do. What others wrote is kept as it means: fields that nobody here knows stay, and their order.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

TYPE = "quietwire-cni"
ENDINGS = (".conf", ".conflist", ".json")
OLDEST = (0, 3, 0)
"""The version from which on plugins get the result of those before (prevResult)."""


class ConfigurationError(ValueError):
    """A configuration that cannot have us in it; `str` says why, and what helps."""


class Plugin(Struct, frozen=True, kw_only=True):
    """Our entry, as `client.c` reads it."""

    socket: str
    seconds: int
    exempt_namespaces: tuple[str, ...]

    @property
    def entry(self) -> dict[str, Any]:
        """In a list of plugins."""
        return {
            "type": TYPE,
            "socket": self.socket,
            "timeoutSeconds": self.seconds,
            "exemptNamespaces": list(self.exempt_namespaces),
        }


def taken(names: Iterable[str]) -> str | None:
    """The file that a runtime takes; None where there is none."""
    return min((each for each in names if each.endswith(ENDINGS) and not each.startswith(".")), default=None)


def name_with(name: str) -> str:
    """The name of a file that has a list: a list of plugins is one by its file's ending."""
    stem, dot, ending = name.rpartition(".")
    return name if ending == "conflist" else f"{stem}{dot}conflist"


def entries(raw: bytes) -> list[dict[str, Any]]:
    """The plugins of a file, of which a `.conf` has one. Raises ConfigurationError."""
    document = _document(raw)
    plugins = document.get("plugins", [document] if "type" in document else None)
    if not isinstance(plugins, list) or not plugins or not all(isinstance(each, dict) for each in plugins):
        raise ConfigurationError("it is no network configuration: there is neither a plugin's type nor plugins")
    return plugins


def is_as_it_should_be(raw: bytes, plugin: Plugin) -> bool:
    """Whether we are in it, once, as the last, and with these settings. Raises ConfigurationError."""
    found = entries(raw)
    return "plugins" in _document(raw) and found[-1] == plugin.entry and _ours(found) == [found[-1]]


def with_us(raw: bytes, plugin: Plugin) -> bytes:
    """A list with us as the last, whatever else of us was in it. Raises ConfigurationError."""
    document = _document(raw)
    others = [each for each in entries(raw) if each.get("type") != TYPE]
    if not others:
        raise ConfigurationError("there is no other plugin in it: somebody has to make the pods' network first")
    version = document.get("cniVersion", "")
    if _parsed(version) < OLDEST:
        raise ConfigurationError(
            f"its cniVersion is {version!r}, and plugins get the result of others from 0.3.0 on: raise it, as whoever "
            f"wrote the file describes"
        )
    if "plugins" not in document:
        kept: dict[str, Any] = {name: document[name] for name in ("cniVersion", "name") if name in document}
        alone = {name: value for name, value in document.items() if name not in kept}
        return _written({**kept, "plugins": [alone, plugin.entry]})
    return _written({**document, "plugins": [*others, plugin.entry]})


def without_us(raw: bytes) -> bytes | None:
    """The same without us; None where we are not in it. Raises ConfigurationError."""
    found = entries(raw)
    if not _ours(found):
        return None
    return _written({**_document(raw), "plugins": [each for each in found if each.get("type") != TYPE]})


def _ours(plugins: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in plugins if each.get("type") == TYPE]


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError("it is no JSON object")
    return document


def _parsed(version: object) -> tuple[int, ...]:
    """() for what is no version: older than all."""
    if not isinstance(version, str):
        return ()
    parts = version.split(".")
    return tuple(map(int, parts)) if len(parts) == 3 and all(each.isdecimal() for each in parts) else ()


def _written(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
