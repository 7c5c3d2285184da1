"""YAML documents with the line of every field, so that a fault can say where it is.

Values are composed from the parser's events, without recursion: libyaml's own composer recurses in C, and 200,000
brackets end the process. What a value means is what kubectl makes of it (sigs.k8s.io/yaml): a scalar that is a key is a
text, and so is what looks like a date.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from agent.objects.field import FaultError, Field

T = TypeVar("T")

MAX_FILE = 64 * 1024 * 1024
"""Bytes of one manifest file."""
FREE_NODES = 100_000
"""Values of one file, aliases counted each time: this many, or as many as it has bytes. More only aliases can do."""
MAX_DEPTH = 64
"""Mappings and sequences inside one another."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The latter where PyYAML was built without libyaml: the same interface, slower."""


class OverBudgetError(FaultError):
    """The values of a file are too many, or too deeply nested: raised for whichever document comes last."""


class Budget:
    """How many more values the documents of one file may unfold into."""

    def __init__(self, size: int) -> None:
        self.remaining = max(FREE_NODES, size)

    def spend(self, line: int, depth: int) -> None:
        """Takes one value. Raises OverBudgetError."""
        self.remaining -= 1
        if self.remaining < 0 or depth > MAX_DEPTH:
            raise OverBudgetError(line, "the file unfolds into too many or too deeply nested values")


def documents(data: bytes, budget: Budget | None = None) -> list[Field]:
    """Every document in `data`, `List` kinds unfolded. Raises FaultError with the line of the fault."""
    return [document for whole in trees(data, budget) for document in unfold(whole)]


def trees(data: bytes, budget: Budget | None = None) -> list[Field]:
    """Every YAML document in `data` as it stands. Raises FaultError with the line of the fault."""
    budget = budget or Budget(len(data))
    found: list[Field] = []
    try:
        loader = _Loader(data)
        try:
            while True:
                event = loader.get_event()
                if isinstance(event, yaml.StreamEndEvent):
                    return found
                if isinstance(event, yaml.DocumentStartEvent):
                    found.append(_Composer(loader, budget).compose())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        as_json = json_tree(data, budget, line=1)  # libyaml does not take all of JSON: no escaped surrogate pairs, say
        if as_json is None:
            raise _syntax_fault(error) from error
        return [as_json]
    except UnicodeDecodeError as error:
        raise FaultError(0, f"the file is no YAML: {error}") from error


def json_tree(data: bytes, budget: Budget, line: int = 0) -> Field | None:
    """The document in `data`, ten times as fast as from YAML, and each field on `line`; None where it is no sound JSON.

    Whoever needs the line of a fault reads the same bytes as YAML. Raises OverBudgetError.
    """
    if data.lstrip()[:1] not in {b"{", b"["}:
        return None
    try:
        if b"\\u" in data:
            msgspec.json.decode(data)  # refuses half a surrogate pair, which json lets through and nothing can encode
        value = json.loads(data.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_json)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    return _json_field(value, budget, 0, "", line)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _json_field(value: Any, budget: Budget, depth: int, path: str, line: int) -> Field:
    budget.spend(line, depth)
    if isinstance(value, dict):
        stem = f"{path}." if path else ""
        value = {key: _json_field(each, budget, depth + 1, stem + key, line) for key, each in value.items()}
    elif isinstance(value, list):
        value = [_json_field(each, budget, depth + 1, f"{path}[{at}]", line) for at, each in enumerate(value)]
    return Field(value, line, path)


class ListType(NamedTuple):
    """What items of a list are that do not say it themselves, as the API writes them; empty in a plain `List`."""

    kind: str = ""
    api_version: str = ""

    @classmethod
    def of(cls, kind: object, api_version: object) -> "ListType":
        """From the list's own kind and apiVersion: a PodList holds Pods."""
        if not isinstance(kind, str) or kind == "List" or not kind.endswith("List"):
            return cls()
        return cls(kind.removesuffix("List"), api_version if isinstance(api_version, str) else "")

    def given_to(self, item: Field) -> Field:
        """The item with the kind, and with it the apiVersion, that its list gives it."""
        if not self.kind or not isinstance(item.value, dict):
            return item
        own = item.get("kind").value
        if own not in {None, self.kind}:
            return item
        lacking = {"kind": self.kind, "apiVersion": self.api_version or None}
        given = {
            name: Field(value, item.line, f"{item.path}.{name}".lstrip("."))
            for name, value in lacking.items()
            if value is not None and item.get(name).value is None
        }
        return Field({**item.value, **given}, item.line, item.path)


def unfold(document: Field) -> Iterator[Field]:
    """What a document holds: itself, or the items of a list. Raises FaultError where those are none."""
    if document.value is None:
        return
    kind = document.get("kind").value if isinstance(document.value, dict) else None
    if isinstance(kind, str) and kind.endswith("List") and document.get("items").value is not None:
        of_list = ListType.of(kind, document.get("apiVersion").value)
        for item in document.get("items").items():
            yield from unfold(of_list.given_to(item))
    else:
        yield document


def _syntax_fault(error: yaml.YAMLError) -> FaultError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = 0 if mark is None else mark.line + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return FaultError(line, f"the file is no valid YAML: {problem}")


class _Open:
    """A mapping or sequence whose end has not come; `key` is the mapping's key whose value has not."""

    __slots__ = ("anchor", "field", "items", "key", "merge", "merged", "values")

    def __init__(self, field: Field, anchor: str | None) -> None:
        self.field = field
        self.anchor = anchor
        self.values: dict[str, Field] | None = field.value if isinstance(field.value, dict) else None
        self.items: list[Field] | None = field.value if isinstance(field.value, list) else None
        self.key: str | None = None
        self.merge = False
        """The key is `<<`."""
        self.merged: list[Field] = []


class _Composer:
    """One document, from the event after its beginning on."""

    def __init__(self, loader: Any, budget: Budget) -> None:
        self._next = loader.get_event
        self._budget = budget
        self._open: list[_Open] = []
        self._anchors: dict[str, Field | None] = {}
        """None while the value is not complete."""

    def compose(self) -> Field:
        """The document, up to and with its end."""
        root: Field | None = None
        opened = self._open
        while True:
            event = self._next()
            kind = type(event)
            if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close(opened.pop())
            elif kind is yaml.DocumentEndEvent:
                return root or Field(None, 0 if event.start_mark is None else event.start_mark.line + 1)
            elif opened and opened[-1].key is None and opened[-1].values is not None:
                self._key(opened[-1], opened[-1].values, event)
            else:
                field = self._value(event)
                root = root or field

    def _value(self, event: Any) -> Field:
        line = event.start_mark.line + 1
        parent = self._open[-1] if self._open else None
        path = "" if parent is None else _path(parent)
        self._budget.spend(line, len(self._open))
        kind = type(event)
        if kind is yaml.ScalarEvent:
            field = Field(_scalar(event, line), line, path)
            if event.anchor is not None:
                self._anchors[event.anchor] = field
        elif kind is yaml.AliasEvent:
            field = self._graft(self._aliased(event, line), path, len(self._open))
        else:
            sequence = kind is yaml.SequenceStartEvent
            if event.tag is not None and event.tag not in {"!", f"{_TAG}seq" if sequence else f"{_TAG}map"}:
                raise FaultError(line, f"the tag {event.tag} has no place in a manifest")
            field = Field([] if sequence else {}, line, path)
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            self._open.append(_Open(field, event.anchor))
        if parent is None:
            return field
        if parent.items is not None:
            parent.items.append(field)
        elif parent.merge:
            parent.merged.append(field)
        elif parent.values is not None and parent.key is not None:
            parent.values[parent.key] = field
        parent.key, parent.merge = None, False
        return field

    def _key(self, parent: _Open, values: dict[str, Field], event: Any) -> None:
        line = event.start_mark.line + 1
        key: str | None = None
        if type(event) is yaml.ScalarEvent:
            if event.value == "<<" and event.implicit[0]:
                parent.key, parent.merge = "<<", True
                return
            key = _key_text(_scalar(event, line), event.value)
            if event.anchor is not None:
                self._anchors[event.anchor] = Field(key, line)
        elif type(event) is yaml.AliasEvent:
            value = self._aliased(event, line).value
            key = None if isinstance(value, dict | list) else _key_text(value, "")
        if key is None:
            raise FaultError(line, "a key must be a text, a number or a boolean")
        if key in values:
            raise FaultError(line, f"key {key!r} comes twice")
        parent.key = key

    def _close(self, done: _Open) -> None:
        """Merges what `<<` named: the mapping's own keys go first, then the first that was named."""
        field = done.field
        for merged in done.merged:
            for source in merged.value if isinstance(merged.value, list) else (merged,):
                if not isinstance(source.value, dict):
                    raise FaultError(source.line, "<< merges mappings, and nothing else")
                for key, value in source.value.items():
                    if key not in field.value:
                        path = f"{field.path}.{key}" if field.path else key
                        field.value[key] = self._graft(value, path, len(self._open) + 1)
        if done.anchor is not None:
            self._anchors[done.anchor] = field

    def _aliased(self, event: Any, line: int) -> Field:
        if event.anchor not in self._anchors:
            raise FaultError(line, f"the file is no valid YAML: there is no anchor {event.anchor!r} before this alias")
        found = self._anchors[event.anchor]
        if found is None:
            raise FaultError(line, f"the alias {event.anchor!r} stands in what it is an alias of")
        return found

    def _graft(self, field: Field, path: str, depth: int) -> Field:
        """The same value in another place; as deep as the budget lets values be, so that recursion is bounded."""
        self._budget.spend(field.line, depth)
        value = field.value
        if isinstance(value, dict):
            stem = f"{path}." if path else ""
            value = {key: self._graft(inner, stem + key, depth + 1) for key, inner in value.items()}
        elif isinstance(value, list):
            value = [self._graft(inner, f"{path}[{at}]", depth + 1) for at, inner in enumerate(value)]
        return Field(value, field.line, path)


def _path(parent: _Open) -> str:
    stem = parent.field.path
    if parent.items is not None:
        return f"{stem}[{len(parent.items)}]"
    return f"{stem}.{parent.key}" if stem else str(parent.key)


def _key_text(value: Any, written: str) -> str | None:
    """A key as sigs.k8s.io/yaml has it: a number or a boolean becomes its text; null is no key."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else written or str(value)


_CONSTRUCTOR = SafeConstructor()
_TAG = "tag:yaml.org,2002:"


def _scalar(event: Any, line: int) -> Any:
    """A scalar's value: by its tag, or, for one without quotes, by what it looks like."""
    text: str = event.value
    tag = event.tag
    try:
        if tag is None:
            return _plain(text) if event.implicit[0] else text
        return text if tag == "!" else _constructed(tag, text)
    except (ValueError, LookupError, ArithmeticError) as error:
        raise FaultError(line, f"{text[:60]!r} cannot be read as {(tag or 'a number').removeprefix(_TAG)}") from error


@lru_cache(maxsize=16384)
def _plain(text: str) -> Any:
    resolvers = Resolver.yaml_implicit_resolvers
    for tag, pattern in (*resolvers.get(text[:1], ()), *resolvers.get(None, ())):
        if pattern.match(text):
            return text if tag in _TEXTS else _constructed(tag, text)
    return text


_TEXTS = frozenset(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))
"""What stays a text. Dates do, as in sigs.k8s.io/yaml."""


def _constructed(tag: str, text: str) -> Any:
    """Raises ValueError, LookupError or ArithmeticError where the text is nothing of the sort."""
    node = yaml.ScalarNode(tag, text)
    match tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return _CONSTRUCTOR.construct_yaml_bool(node)
        case "int" | "float" if ":" in text:
            return text  # base 60, which YAML 1.2 has dropped, and kubectl does not know
        case "int":
            return _CONSTRUCTOR.construct_yaml_int(node)
        case "float":
            return _CONSTRUCTOR.construct_yaml_float(node)
        case "str" | "timestamp":
            return text
        case _:
            raise ValueError(tag)
