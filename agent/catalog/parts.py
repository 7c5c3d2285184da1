"""A file in its documents, and a `List` in its items, unparsed: what is as it was can stay parsed."""

import re

import msgspec

_DOCUMENT = re.compile(rb"^---(?=[ \t\r\n]|$)", re.MULTILINE)
_DIRECTIVE = re.compile(rb"^(%|\.\.\.)", re.MULTILINE)
_LIST = re.compile(rb"^kind:[ \t]*[\"']?[A-Za-z]*List[\"']?[ \t\r]*$", re.MULTILINE)
_ITEMS = re.compile(rb"^items:[ \t\r]*\n(?:[ \t]*(?:#.*)?\r?\n)*( *)-(?=[ \r\n])", re.MULTILINE)


class _JsonList(msgspec.Struct):
    """What kubectl prints with `-o json`: each item as it stands."""

    kind: str = ""
    items: list[msgspec.Raw] = []


def parts(data: bytes) -> list[tuple[int, bytes]]:
    """Each document, or item of a list, with the number of lines before it.

    A change of one object in a file of thousands then parses that one. A line of `---` begins a document wherever it
    stands (YAML 1.2, section 9.1.2). Files with directives stay whole.
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
            found.extend((line + before, piece) for before, piece in _items_of(part))
        line += part.count(b"\n")
    return found


def _items_of(part: bytes) -> list[tuple[int, bytes]]:
    """The items of a `List`; anything else as it is."""
    if part.lstrip().startswith(b"{"):
        return _json_items(part) or [(0, part)]
    if _LIST.search(part):
        return _yaml_items(part) or [(0, part)]
    return [(0, part)]


def _json_items(part: bytes) -> list[tuple[int, bytes]]:
    try:
        listed = msgspec.json.decode(part, type=_JsonList)
    except msgspec.MsgspecError:
        return []  # not that shape, or no JSON: parsed, and judged, as a whole
    if not listed.kind.endswith("List"):
        return []
    found: list[tuple[int, bytes]] = []
    line = at = 0
    for raw in listed.items:
        item = bytes(raw)
        start = part.index(item, at)
        line += part.count(b"\n", at, start)
        found.append((line, item))
        at = start
    return found


def _yaml_items(part: bytes) -> list[tuple[int, bytes]]:
    """Items in block style, cut at the dashes in their column: no line inside an item can begin so far to the left."""
    first = _ITEMS.search(part)
    if first is None:
        return []
    indent = len(first[1])
    begin = first.end() - 1 - indent
    over = re.compile(rb"^ {0,%d}(?=[^ \-#\r\n])" % indent, re.MULTILINE).search(part, begin)
    end = len(part) if over is None else over.start()
    dash = re.compile(rb"^ {%d}-(?=[ \r\n])" % indent, re.MULTILINE)
    starts = [match.start() for match in dash.finditer(part, begin, end)]
    found = []
    line = part.count(b"\n", 0, begin)
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        found.append((line, b" " * (indent + 1) + part[start + indent + 1 : stop]))
        line += part.count(b"\n", start, stop)
    return found
