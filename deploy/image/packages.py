"""Debian's packages, fetched by apt and unpacked beside the system, and not installed in it.

apt is the machine's own: its distribution, its mirrors, its keys.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from msgspec import Struct

from deploy.image import ImageError

APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")
RESOLVED = (
    *("-y", "--no-install-recommends", "-o", "Debug::NoLocking=true"),
    *("-o", "Dir::State::status=/dev/null", "-o", "Dir::State::extended_states=/dev/null"),
    *("-o", "Dir::Cache::archives=/nonexistent"),  # what is there already would not be named
)
"""As on a machine that has nothing, whatever this one has."""
STANDS_FOR_PYTHON = "python3"


class PackageError(ImageError):
    """A package could not be had; says which, and apt's words."""


class Wanted(Struct, frozen=True):
    """What packages.txt says: what is in the image, and what is not, though something depends on it."""

    packages: tuple[str, ...]
    without: frozenset[str]


def read(text: str, python: tuple[int, int] = sys.version_info[:2]) -> Wanted:
    """The content of packages.txt, for a version of Python."""
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    own = f"python{python[0]}.{python[1]}"
    return Wanted(
        tuple(own if word == STANDS_FOR_PYTHON else word for word in words if not word.startswith("-")),
        frozenset(word[1:] for word in words if word.startswith("-")),
    )


def resolve(wanted: Wanted) -> tuple[str, ...]:
    """Files of the packages and of what they depend on, as in `libc6_2.36-9_amd64.deb`. Raises PackageError.

    One file is one version: the same files are the same content.
    """
    words = (*APT, *RESOLVED, "install", "--print-uris", *wanted.packages)
    found = resolved(_with_lists(lambda: run(*words)))
    return tuple(sorted(file for file in found if name_of(file) not in wanted.without))


def resolved(said: str) -> tuple[str, ...]:
    """The names of files in what `apt-get --print-uris` says."""
    return tuple(line.split()[1] for line in said.splitlines() if line.startswith("'"))


def name_of(file: str) -> str:
    """The package's name."""
    return unquote(file).partition("_")[0]


def fetch(names: Sequence[str], to: Path) -> list[Path]:
    """The packages' files, in a directory that is there. Raises PackageError."""
    _with_lists(lambda: run(*APT, "download", *names, cwd=to))
    return sorted(to.glob("*.deb"))


def candidates(names: Sequence[str]) -> str:
    """What would be fetched, as apt describes it: names, versions, sums. Raises PackageError."""
    return _with_lists(lambda: run("apt-cache", "show", "--no-all-versions", *names))


def _with_lists(ask: Callable[[], str]) -> str:
    """Asks again with new lists of packages: there may be none yet, or they name what the archive has no more."""
    try:
        return ask()
    except PackageError:
        run(*APT, "update")
        return ask()


def run(*words: str, cwd: Path | None = None) -> str:
    """What a program says. Raises PackageError with what it says instead."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise PackageError(f"`{' '.join(words)}` says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
