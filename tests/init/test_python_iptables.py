"""What the import of python-iptables starts, in processes of their own: it stays in the one that did it."""

import subprocess
import sys

WATCHED = """
import ctypes.util, sys
search = ctypes.util.find_library
started = []
sys.addaudithook(lambda event, found: event == "subprocess.Popen" and started.append(" ".join(map(str, found[1]))))
{before}
from init.python_iptables import iptc
assert ctypes.util.find_library is search
assert not [name for name in sys.modules if name.partition(".")[0] in ("distutils", "setuptools")]
assert iptc.xtables._lib_xtwrapper is not None
print(*started, sep="\\n")
"""
RENAMED = """
import ctypes
class Renamed(ctypes.CDLL):
    def __init__(self, name, *more, **named):
        if name == "libip6tc.so.2" and not more and not named:
            raise OSError("there is none by this name")
        super().__init__(name, *more, **named)
ctypes.CDLL = Renamed
found = []
search = ctypes.util.find_library = lambda name: found.append(name) or f"lib{name}.so.2"
"""


def said(before: str, after: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(before=before) + after],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_program_is_asked_where_libraries_and_extensions_are() -> None:
    """An image has no ldconfig, and no compiler."""
    assert said("").strip() == ""


def test_whoever_says_where_the_extensions_are_is_heard_and_the_environment_is_as_it_was() -> None:
    show = "import os; print(iptc.xtables._xtables_libdir, os.environ.get('XTABLES_LIBDIR'))"
    assert said("import os; os.environ['XTABLES_LIBDIR'] = '/some/where'", show).split() == ["/some/where"] * 2
    found, environment = said("", show).split()
    assert found.endswith("/xtables")
    assert environment == "None"


def test_where_no_extensions_lie_beside_the_library_python_iptables_looks_for_itself() -> None:
    hidden = "import pathlib; pathlib.Path.is_dir = lambda path: False"
    assert "/sbin/ldconfig -N -v" in said(hidden)


def test_a_library_that_has_another_name_is_searched_for() -> None:
    assert said(RENAMED, "print(found)").endswith("['ip6tc']\n")
