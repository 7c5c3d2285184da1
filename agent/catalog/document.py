"""YAML and JSON documents with the line of every field, so that a fault can say where it is."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from agent.catalog.fault import FaultError

MAX_FILE = 64 * 1024 * 1024
"""Bytes of one manifest file."""
FREE_NODES = 100_000
"""Values of one file, aliases counted each time: this many, or as many as it has bytes. More only aliases can do."""
MAX_DEPTH = 64

_DOCUMENT = re.compile(rb"^---(?=[ \t\r\n]|$)", re.MULTILINE)
_DIRECTIVE = re.compile(rb"^(%|\.\.\.)", re.MULTILINE)

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]  # the same interface, slower


class Field:
    """One value, its line and its path (`spec.ports[0].port`); mappings hold Fields, and so do sequences."""

    __slots__ = ("line", "path", "value")

    def __init__(self, value: Any, line: int, path: str = "") -> None:
        self.value = value
        self.line = line
        self.path = path

    def get(self, *path: str) -> "Field":
        """The field at a path of keys; a Field of None, on the nearest line that exists, where there is none.

        Raises FaultError where something on the way is no mapping.
        """
        here = self
        for key in path:
            if here.value is not None and not isinstance(here.value, dict):
                raise FaultError(here, f"a mapping with {key!r} is expected here, not {_kind(here.value)}")
            found = None if here.value is None else here.value.get(key)
            here = Field(None, here.line, f"{here.path}.{key}" if here.path else key) if found is None else found
        return here

    def text(self, default: str | None = None) -> str:
        """A string. Raises FaultError where it is something else, or missing with no default."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise FaultError(self, f"a string is expected here, not {_kind(self.value)}")
        return self.value

    def items(self) -> Iterator["Field"]:
        """The elements of a sequence; none where it is missing."""
        if self.value is None:
            return iter(())
        if not isinstance(self.value, list):
            raise FaultError(self, f"a list is expected here, not {_kind(self.value)}")
        return iter(self.value)

    def mapping(self) -> dict[str, "Field"]:
        """A mapping; empty where it is missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise FaultError(self, f"a mapping is expected here, not {_kind(self.value)}")
        return self.value

    def texts(self) -> dict[str, str]:
        """A mapping of strings to strings, as labels and annotations are."""
        return {key: field.text() for key, field in self.mapping().items()}

    def flag(self, *, default: bool) -> bool:
        """A boolean."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise FaultError(self, f"true or false is expected here, not {_kind(self.value)}")
        return self.value

    def port(self) -> int:
        """A TCP port number, 1 to 65535."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not 1 <= self.value <= 65535:
            raise FaultError(self, f"a port number from 1 to 65535 is expected here, not {_kind(self.value)}")
        return self.value


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:60]


class Budget:
    """How many more values the documents of one file may unfold into."""

    def __init__(self, size: int) -> None:
        if size > MAX_FILE:
            raise FaultError(0, f"the file has {size} bytes, over the limit of {MAX_FILE}")
        self.left = max(FREE_NODES, size)


def parts(data: bytes) -> list[tuple[int, bytes]]:
    """A file in its documents, each with the number of lines before it, unparsed: what is as it was can stay parsed.

    A line of `---` begins a document wherever it stands (YAML 1.2, section 9.1.2). Files with directives stay whole.
    """
    if _DIRECTIVE.search(data):
        return [(0, data)]
    starts = [0, *(match.start() for match in _DOCUMENT.finditer(data))]
    ends = [*starts[1:], len(data)]
    found: list[tuple[int, bytes]] = []
    line = 0
    for start, end in zip(starts, ends, strict=True):
        part = data[start:end]
        if part.strip():
            found.append((line, part))
        line += part.count(b"\n")
    return found


def documents(data: bytes, budget: Budget | None = None) -> list[Field]:
    """Every document in `data`, `List` kinds unfolded. Raises FaultError with the line of the fault."""
    budget = budget or Budget(len(data))
    found: list[Field] = []
    try:
        loader = Loader(data)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None:
                    found.extend(_unfold(_convert(loader, node, budget, 0, "")))
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
    kind = document.get("kind").value if isinstance(document.value, dict) else None
    if isinstance(kind, str) and kind.endswith("List") and document.get("items").value is not None:
        for item in document.get("items").items():
            yield from _unfold(item)
    else:
        yield document


def _convert(loader: Any, node: yaml.Node, budget: Budget, depth: int, path: str) -> Field:
    line = node.start_mark.line + 1
    budget.left -= 1
    if budget.left < 0 or depth > MAX_DEPTH:
        raise FaultError(line, "the file unfolds into too many or too deeply nested values")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Field] = {}
        stem = f"{path}." if path else ""
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise FaultError(key_node.start_mark.line + 1, "a key must be a string; quote it")
            if key in values:
                raise FaultError(key_node.start_mark.line + 1, f"key {key!r} comes twice")
            values[key] = _convert(loader, value_node, budget, depth + 1, stem + key)
        return Field(values, line, path)
    if isinstance(node, yaml.SequenceNode):
        return Field(
            [_convert(loader, child, budget, depth + 1, f"{path}[{at}]") for at, child in enumerate(node.value)],
            line,
            path,
        )
    try:
        return Field(loader.construct_object(node), line, path)
    except ValueError as error:
        raise FaultError(line, f"a value cannot be read: {error}") from error
