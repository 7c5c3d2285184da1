"""A file in its documents, and a `List` in its items, unparsed: what is as it was can stay parsed."""

import json
import re
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from agent.manifests.document import Budget, ListType, json_tree, trees
from agent.objects.field import FaultError, Field

_DOCUMENT = re.compile(rb"\n---(?=[ \t\r\n]|\Z)")
_MARKER = re.compile(rb"---[ \t]*\r?\n")
_ITEMS = re.compile(rb"^items:[ \t]*(?:#[^\n]*)?\r?\n", re.MULTILINE)
_FIRST = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*( *)-(?=[ \t\r\n])")
_MEMBER = re.compile(rb"[ \t\r\n]*,?[ \t\r\n]*(\"(?:[^\"\\]|\\.)*\")[ \t\r\n]*:[ \t\r\n]*")
_GAP = re.compile(rb"[ \t\r\n,\[]*")
_END = re.compile(rb"[ \t\r\n]*}[ \t\r\n]*\Z")


class Part(Struct, frozen=True):
    """One document: the lines before it, its bytes, and, of a list, each item with the lines before it."""

    before: int
    data: bytes
    items: tuple[tuple[int, bytes], ...] = ()
    of_list: ListType = ListType()


def parts(data: bytes) -> Iterator[Part]:
    """Each document. A line of `---` begins one wherever it stands (YAML 1.2, 9.1.2); with directives all is one."""
    if data.startswith((b"%", b"...")) or b"\n%" in data or b"\n..." in data:
        yield Part(0, data)
        return
    starts = [0, *(match.start() + 1 for match in _DOCUMENT.finditer(data))]
    line = 0
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        marker = _MARKER.match(data, start, end)
        # The marker's line is no part of it: a document is the same, whether it is the first or not.
        part = data[start if marker is None else marker.end() : end]
        line += marker is not None
        if part.strip():
            of_list, found = _json_items(part) if part.lstrip().startswith(b"{") else _yaml_items(part)
            yield Part(line, part, tuple((line + before, item) for before, item in found), of_list)
        line += part.count(b"\n")


_Items = tuple[ListType, list[tuple[int, bytes]]]
_NONE: _Items = (ListType(), [])


def _yaml_items(part: bytes) -> _Items:
    """Items in block style, cut at the dashes in their column: no line of an item begins so far to the left.

    None where what is around the items is not plainly a list's: that is parsed, and judged, as a whole.
    """
    heads = list(_ITEMS.finditer(part))
    first = _FIRST.match(part, heads[0].end()) if len(heads) == 1 else None
    if first is None:
        return _NONE
    indent = len(first[1])
    inside = rb" {%d}(?: |-[ \t\r\n])|[ \t]*(?:#|\r?\n|\Z)" % indent
    begin, over = heads[0].end(), re.compile(rb"\n(?!%s)" % inside).search(part, first.end())
    end = len(part) if over is None else over.start() + 1
    of_list = _list_type(part[:begin], part[end:])
    if of_list is None:
        return _NONE
    starts = [
        match.start() + 1 for match in re.compile(rb"\n {%d}-(?=[ \t\r\n])" % indent).finditer(part, begin - 1, end)
    ]
    found = []
    line = part.count(b"\n", 0, starts[0])
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        found.append((line, b" " * (indent + 1) + part[start + indent + 1 : stop]))
        line += part.count(b"\n", start, stop)
    return of_list, found


def _list_type(head: bytes, tail: bytes) -> ListType | None:
    """What list these lines before and after the items are of; None where they are none, or hold something else."""
    try:
        before, after = _mapping(head), _mapping(tail)
    except FaultError:
        return None  # then all of it is parsed, and judged, as one document
    if tail[:1].isspace() or [*before][-1:] != ["items"] or before["items"].value is not None or before.keys() & after:
        return None
    around = before | after
    kind = around["kind"].value if "kind" in around else None
    if not isinstance(kind, str) or not kind.endswith("List"):
        return None
    return ListType.of(kind, around["apiVersion"].value if "apiVersion" in around else None)


def _mapping(data: bytes) -> dict[str, Field]:
    return {key: field for tree in trees(data) for key, field in tree.mapping().items()}


def _json_items(part: bytes) -> _Items:
    """The same for JSON."""
    try:
        members = msgspec.json.decode(part, type=dict[str, msgspec.Raw])
        kind = msgspec.json.decode(members.get("kind", b"0"), type=str)
        items = msgspec.json.decode(members.get("items", b"0"), type=list[msgspec.Raw])
        version = msgspec.json.decode(members.get("apiVersion", b"null"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NONE  # as above
    at = _value_of(part, members, "items")
    if at is None or not kind.endswith("List"):
        return _NONE
    around = part[:at] + b"[]" + part[at + len(bytes(members["items"])) :]
    if json_tree(around, Budget(len(around))) is None:
        return _NONE
    found = []
    line = part.count(b"\n", 0, at)
    for item in map(bytes, items):
        gap = _GAP.match(part, at)
        start = at if gap is None else gap.end()
        line += part.count(b"\n", at, start)
        found.append((line, item))
        at = start + len(item)
        line += item.count(b"\n")
    return ListType.of(kind, version), found


def _value_of(part: bytes, members: dict[str, msgspec.Raw], name: str) -> int | None:
    """Where the value of a member begins; None where the members in the bytes are others: one of them comes twice."""
    at, found = part.index(b"{") + 1, None
    for key, raw in members.items():
        member, value = _MEMBER.match(part, at), bytes(raw)
        if member is None or not part.startswith(value, member.end()) or json.loads(member[1]) != key:
            return None
        if key == name:
            found = member.end()
        at = member.end() + len(value)
    return found if _END.match(part, at) else None
