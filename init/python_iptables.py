"""python-iptables, imported without the programs that its search for libraries starts.

ctypes asks ldconfig, gcc and ld in turn for a library. python-iptables asks so under four names before it looks where
its own lies, and asks setuptools where that is. Every child that writes rules would pay more for it than for the rules.
"""

import contextlib
import ctypes
import ctypes.util
import sys
from collections.abc import Iterator

SONAMES = {"c": "libc.so.6", "xtables": "libxtables.so.12", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2"}
"""One that is not there by this name is searched for as ever."""
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


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    missing = "distutils" not in sys.modules
    if missing:
        sys.modules["distutils"] = None  # type: ignore[assignment] # "is not there": it goes by sysconfig then
    ctypes.util.find_library = _find
    try:
        yield
    finally:
        ctypes.util.find_library = _search
        if missing:
            del sys.modules["distutils"]


with _nothing_started():
    import iptc

__all__ = ["iptc"]
