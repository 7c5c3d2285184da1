"""python-iptables, imported without the programs that its search for libraries starts.

ctypes asks ldconfig, gcc and ld in turn for a library. python-iptables asks so under four names before it looks where
its own lies, and asks setuptools where that is; and it asks ldconfig where the extensions are, which an image may not
have. Every child that writes rules would pay more for it than for the rules.
"""

import contextlib
import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

SONAMES = {"c": "libc.so.6", "xtables": "libxtables.so.12", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2"}
"""One that is not there by this name is searched for as ever."""
EXTENSIONS = "XTABLES_LIBDIR"
"""In the environment: the directory of libxtables' extensions (iptables(8)); whoever set it is heard."""
BESIDE_IT = "xtwrapper"
"""python-iptables' own library, which no linker knows."""

_search = ctypes.util.find_library


def _find(name: str) -> str | None:
    if BESIDE_IT in name:
        return None
    with contextlib.suppress(KeyError, OSError):
        ctypes.CDLL(SONAMES[name])
        return SONAMES[name]
    return _search(name)


def _extensions() -> str | None:
    """The directory `xtables` beside libxtables, where distributions have them; None where there is none beside it."""
    with contextlib.suppress(OSError):  # then python-iptables asks ldconfig, and says what is missing
        ctypes.CDLL(SONAMES["xtables"])
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            library = Path(line.split(maxsplit=5)[-1])
            if library.name.startswith("libxtables.so") and (library.parent / "xtables").is_dir():
                return str(library.parent / "xtables")
    return None


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    missing = "distutils" not in sys.modules
    extensions = None if EXTENSIONS in os.environ else _extensions()
    if extensions is not None:
        os.environ[EXTENSIONS] = extensions
    if missing:
        sys.modules["distutils"] = None  # type: ignore[assignment] # "is not there": it goes by sysconfig then
    ctypes.util.find_library = _find
    try:
        yield
    finally:
        ctypes.util.find_library = _search
        if extensions is not None:
            del os.environ[EXTENSIONS]
        if missing:
            del sys.modules["distutils"]


with _nothing_started():
    import iptc

__all__ = ["iptc"]
