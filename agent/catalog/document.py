"""YAML and JSON documents with the line of every field, so that a fault can say where it is."""

from collections.abc import Iterator
from typing import Any

import yaml

from agent.catalog.fault import FaultError

MAX_FILE = 64 * 1024 * 1024
"""Bytes of one manifest file."""
FREE_NODES = 100_000
"""Values of one file, aliases counted each time: this many, or as many as it has bytes. More only aliases can do."""
MAX_DEPTH = 64

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]  # the same interface, slower


class Field:
    """One value with the line on which it stands; mappings hold Fields, and so do sequences."""

    __slots__ = ("line", "value")

    def __init__(self, value: Any, line: int) -> None:
        self.value = value
        self.line = line

    def get(self, *path: str) -> "Field":
        """The field at a path of keys; a Field of None, on the nearest line that exists, where there is none.

        Raises FaultError where something on the way is no mapping.
        """
        here = self
        for key in path:
            if here.value is None:
                return Field(None, here.line)
            if not isinstance(here.value, dict):
                raise FaultError(here.line, f"a mapping with {key!r} is expected here, not {_kind(here.value)}")
            here = here.value.get(key) or Field(None, here.line)
        return here

    def text(self, default: str | None = None) -> str:
        """A string. Raises FaultError where it is something else, or missing with no default."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise FaultError(self.line, f"a string is expected here, not {_kind(self.value)}")
        return self.value

    def items(self) -> Iterator["Field"]:
        """The elements of a sequence; none where it is missing."""
        if self.value is None:
            return iter(())
        if not isinstance(self.value, list):
            raise FaultError(self.line, f"a list is expected here, not {_kind(self.value)}")
        return iter(self.value)

    def mapping(self) -> dict[str, "Field"]:
        """A mapping; empty where it is missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise FaultError(self.line, f"a mapping is expected here, not {_kind(self.value)}")
        return self.value

    def texts(self) -> dict[str, str]:
        """A mapping of strings to strings, as labels and annotations are."""
        return {key: field.text() for key, field in self.mapping().items()}

    def flag(self, *, default: bool) -> bool:
        """A boolean."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise FaultError(self.line, f"true or false is expected here, not {_kind(self.value)}")
        return self.value

    def port(self) -> int:
        """A TCP port number, 1 to 65535."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not 1 <= self.value <= 65535:
            raise FaultError(self.line, f"a port number from 1 to 65535 is expected here, not {_kind(self.value)}")
        return self.value


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:60]


def documents(data: bytes) -> list[Field]:
    """Every document of a file, `List` kinds unfolded. Raises FaultError with the line of the fault."""
    if len(data) > MAX_FILE:
        raise FaultError(0, f"the file has {len(data)} bytes, over the limit of {MAX_FILE}")
    found: list[Field] = []
    budget = [max(FREE_NODES, len(data))]
    try:
        loader = Loader(data)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None:
                    found.extend(_unfold(_convert(loader, node, budget, 0)))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _syntax_fault(error) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise FaultError(0, f"the file is no YAML: {error}") from error
    return found


def _syntax_fault(error: yaml.YAMLError) -> FaultError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 0 if mark is None else mark.line + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return FaultError(line, f"the file is no valid YAML: {problem}")


def _unfold(document: Field) -> Iterator[Field]:
    if document.value is None:
        return
    kind = document.get("kind").value
    if isinstance(kind, str) and kind.endswith("List") and document.get("items").value is not None:
        for item in document.get("items").items():
            yield from _unfold(item)
    else:
        yield document


def _convert(loader: Any, node: yaml.Node, budget: list[int], depth: int) -> Field:
    line = node.start_mark.line + 1
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        raise FaultError(line, "the file unfolds into too many or too deeply nested values")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Field] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise FaultError(key_node.start_mark.line + 1, "a key must be a string; quote it")
            if key in values:
                raise FaultError(key_node.start_mark.line + 1, f"key {key!r} comes twice")
            values[key] = _convert(loader, value_node, budget, depth + 1)
        return Field(values, line)
    if isinstance(node, yaml.SequenceNode):
        return Field([_convert(loader, child, budget, depth + 1) for child in node.value], line)
    try:
        return Field(loader.construct_object(node), line)
    except ValueError as error:
        raise FaultError(line, f"a value cannot be read: {error}") from error
