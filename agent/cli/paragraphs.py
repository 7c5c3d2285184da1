"""Help as plain text: the terminal breaks its lines, and not the source."""

from inspect import cleandoc
from typing import TypeVar

Typed = TypeVar("Typed")
"""A command, or a class of flags."""


def flowing(text: str) -> str:
    """A docstring in numpy's style with each of its paragraphs, and each parameter's description, on one line.

    A renderer of Markdown does the same, and was a third of what `--help` cost.
    """
    lines: list[str] = []
    names = False  # below "Parameters" what is not indented is the name of one
    before: int | None = None
    for line in cleandoc(text).splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == before and not (names and indent == 0):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
        names = names or line == "Parameters"
        before = indent if line.strip() else None
    return "\n".join(lines)


def typed(what: Typed) -> Typed:
    """Lets the help of a command, or of a class of flags, flow."""
    what.__doc__ = flowing(what.__doc__ or "")
    return what
