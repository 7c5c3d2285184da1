"""What mypy is told of a native module is what its source has: names, parameters, what may be None, what may be set."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

NATIVE = sorted((Path(__file__).parent.parent / "agent").glob("*/_*.pyx"))
PYTHONS = {"bint": "bool", "int": "int", "unsigned int": "int", "long long": "int", "Py_ssize_t": "int"}
"""What C's types are to whoever calls."""
NARROWER = {"Connection | None": "TlsMachine | None", "Flow": "Leg", "tuple": "tuple[Any, ...]"}
"""Where the stub is more exact than the source: who else comes is not what the other side expects."""

_CLASS = re.compile(r"(?:cdef )?class (\w+)")
_FUNCTION = re.compile(r"(?:cp)?def (?:int |bint |bytes )?(\w+)\((.*)\)[^()]*:$")
_ATTRIBUTE = re.compile(r"cdef (readonly|public) (.+) (\w+)$")
_CONSTANT = re.compile(r"([A-Z_]+) = ")
_PARAMETER = re.compile(r"(?:([a-zA-Z_ ]+) )?(\w+)(?:=(.+))?$")


class Parameter(NamedTuple):
    """`kind` is None where the source takes any object."""

    name: str
    kind: str | None
    default: str | None


Public = dict[str, list[Parameter] | str]
"""By `name` or `Class.name`: parameters, or `constant`, `property` (what may not be set), or an attribute's type."""


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """The class, or nothing, and a line at its own depth, without comments and with all parameters in it."""
    inside, begun = "", ""
    for full in path.read_text().splitlines():
        line = full.split("  #")[0].rstrip()
        if begun or (line.endswith("(") and "def " in line):
            begun = f"{begun} {line.strip()}" if begun else line
            if not line.endswith(":"):
                continue
            line, begun = begun, ""
        indent = len(line) - len(line.lstrip())
        if line and indent == 0:
            match = _CLASS.match(line)
            inside = match[1] if match else ""
        if line and indent == (4 if inside else 0):
            yield inside, line.strip()


def parameters(text: str) -> Iterator[Parameter]:
    for each in (part.strip() for part in text.split(",")):
        if each in {"", "self"}:
            continue
        match = _PARAMETER.match(each)
        if match is None:
            yield Parameter(each, None, None)  # the asterisk
            continue
        kind, name, default = match.groups()
        kind = PYTHONS.get(kind or "", kind)
        yield Parameter(name, f"{kind} | None" if kind and default == "None" else kind, default)


def native(module: Path) -> Public:
    """What is public in the source of a module and of its classes' attributes."""
    found: Public = {}
    for path in (module.with_suffix(".pxd"), module):
        is_property = False
        for inside, line in lines(path) if path.exists() else ():
            where = f"{inside}." if inside else ""
            if (match := _FUNCTION.match(line)) and (match[1] == "__init__" or not match[1].startswith("_")):
                found[where + match[1]] = "property" if is_property else list(parameters(match[2]))
            elif match := _ATTRIBUTE.match(line):
                found[where + match[3]] = "property" if match[1] == "readonly" else PYTHONS.get(match[2], match[2])
            elif (match := _CONSTANT.match(line)) and not inside:
                found[match[1]] = "constant"
            is_property = line == "@property"
    return found


def told(module: Path) -> Public:
    """What the stub says is there."""
    found: Public = {}

    def look(body: list[ast.stmt], where: str) -> None:
        for each in body:
            match each:
                case ast.ClassDef(name=name, body=inner):
                    look(inner, f"{name}.")
                case ast.FunctionDef(name=name, args=arguments, decorator_list=decorators):
                    is_property = any(ast.unparse(decorator) == "property" for decorator in decorators)
                    found[where + name] = "property" if is_property else list(declared(arguments))
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                    found[where + name] = ast.unparse(annotation) if where else "constant"

    look(ast.parse(module.with_suffix(".pyi").read_text()).body, "")
    return found


def declared(arguments: ast.arguments) -> Iterator[Parameter]:
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + [*arguments.defaults]
    given = [*zip(arguments.args, defaults, strict=True)]
    if arguments.kwonlyargs:
        given += [(ast.arg("*"), None), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for each, default in given:
        if each.arg != "self":
            kind = None if each.annotation is None else ast.unparse(each.annotation)
            yield Parameter(each.arg, kind, None if default is None else ast.unparse(default))


def as_exact(source: list[Parameter] | str, stub: list[Parameter] | str | None) -> list[Parameter] | str:
    """What the stub must say: the source's own words, the stub's where the source takes any object."""
    if isinstance(source, str) or not isinstance(stub, list) or len(source) != len(stub):
        return source
    return [
        each._replace(kind=said.kind if each.kind is None else NARROWER.get(each.kind, each.kind))
        for each, said in zip(source, stub, strict=True)
    ]


@pytest.mark.parametrize("module", NATIVE, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_stub_says_what_the_native_module_has(module: Path) -> None:
    stub = told(module)
    assert stub == {name: as_exact(source, stub.get(name)) for name, source in native(module).items()}


def test_the_native_modules_are_found_and_read() -> None:
    assert len(NATIVE) == 5
    assert all(native(module) for module in NATIVE)
