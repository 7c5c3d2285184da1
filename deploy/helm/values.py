"""The chart's values as a table: each with its default, and the comment above it. Pure."""

import json
from typing import Any

import yaml
from msgspec import Struct


class Value(Struct, frozen=True):
    """One value: its path, as in `agent.admin.port`, its default, and what is said of it."""

    path: str
    default: Any
    said: str


def documented(text: str) -> list[Value]:
    """The values of values.yaml. A comment belongs to what follows it, and to what a mapping holds that has none."""
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    above: list[str] = []
    holding: list[tuple[int, str, str]] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        words = line.strip()
        if words.startswith("#"):
            above.append(words.removeprefix("#").strip())
            continue
        name, colon, rest = words.partition(":")
        if not colon or words.startswith("-"):
            above.clear()
            continue
        while holding and holding[-1][0] >= indent:
            holding.pop()
        said = " ".join(above) or (holding[-1][2] if holding else "")
        above.clear()
        path = ".".join([*(each[1] for each in holding), name])
        default = _at(defaults, path)
        if isinstance(default, dict) and not rest.strip() and name not in WHOLE:
            holding.append((indent, name, said))
        elif default is not None and (not holding or holding[-1][1] not in WHOLE):
            found.append(Value(path, default, said))
            if not rest.strip():
                holding.append((indent, WHOLE[0], said))
    return found


WHOLE = ("resources",)
"""Mappings that are one value: what they hold is Kubernetes'."""


def _at(defaults: Any, path: str) -> Any:
    for name in path.split("."):
        defaults = defaults.get(name) if isinstance(defaults, dict) else None
    return defaults


def table(values: list[Value]) -> str:
    """For README.md."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{each.path}` | `{json.dumps(each.default)}` | {each.said} |" for each in values]
    return "\n".join(lines)
