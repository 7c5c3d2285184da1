"""What of a package is not in the image. Pure."""

import re
from pathlib import PurePosixPath

MERGED = ("bin", "lib", "lib64", "sbin")
"""Below /usr since Debian 12; older packages have them at the top."""

UNUSED = frozenset({"markdown-it-py", "mdurl", "pygments", "rich-rst"})
"""Distributions that cyclopts depends on, and that are not in the image: they render help that is not plain text, and
ours is. They were a tenth of it."""

_LEFT_OUT = re.compile(
    r"""
    usr/share/(doc/(?!.*/copyright$) | bash-completion | bug | info | lintian | locale | man | menu | pixmaps
               | applications | gcc | gdb | python3/debpython | perl5 | zsh )
    | usr/(games | include | src | lib/mime | lib/tmpfiles.d | lib/systemd | share/binfmts)
    | etc/(init\.d | default | alternatives | systemd)
    | usr/lib/[^/]+/(gconv | audit | perl[^/]*)
    | usr/lib/locale
    | usr/lib/python3[^/]*/(config-[^/]* | idlelib | lib2to3 | pydoc_data | test | tkinter | turtledemo
                            | ensurepip | distutils | sitecustomize\.py )
    | usr/(local/)?lib/python3[^/]*/(dist-packages/)?(.*/)?(tests? | __pycache__)(/|$)
    | usr/local/lib/.*\.(pyx | pxd | pyi | c | h | a | cpp)$
    | usr/local/lib/.*\.dist-info/(RECORD | INSTALLER | REQUESTED | direct_url\.json)$
    | var/(log | cache)
    """,
    re.VERBOSE,
)
_PROGRAMS = re.compile(r"usr/(bin|sbin)/(?!(python3[^/]*|nft|quietwire)$)[^/]+$")
"""One of libc6's programs, or of Python's: nobody calls them here."""


def merged(name: str) -> str:
    """A path in a package as it is in the image: relative, and below /usr what belongs there. Raises ValueError."""
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts:
        raise ValueError(f"{name} leads out of the image")
    first = path.parts[0] if path.parts else ""
    return f"usr/{path}" if first in MERGED else str(path)


def is_kept(path: str) -> bool:
    """Whether a path of the image is in it: `merged` says what it is called there."""
    if _PROGRAMS.match(path):
        return False
    return not _LEFT_OUT.match(path)
