"""containerd, runc, CNI's plugins and busybox: Debian's packages, unpacked beside the system and not installed in it.

A machine may have another containerd (Docker's), which must neither go nor be used.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("busybox-static", "containerd", "containernetworking-plugins", "runc")
KEPT = 2
APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")


class PackageError(Exception):
    """A package could not be had; says which, and apt's words."""


def unpack(cache: Path, say: Callable[[str], None], packages: Sequence[str] = PACKAGES) -> Path:
    """The root of a file system with what the packages hold, without the rest of one. Raises PackageError, OSError.

    Who calls it has `cache` for himself.
    """
    candidates = _candidates(packages)
    root = cache / f"packages-{hashlib.sha256(candidates.encode()).hexdigest()[:16]}"
    if not root.is_dir():
        say(f"fetching {', '.join(packages)}")
        unfinished, fetched = cache / "unpacking", cache / "fetching"
        for left in (unfinished, fetched):
            if left.exists():  # of somebody who was killed
                shutil.rmtree(left)
            left.mkdir()
        try:
            _apt("download", *packages, cwd=fetched)
        except PackageError:  # the list may be old, and name what the archive has no more
            _apt("update")
            _apt("download", *packages, cwd=fetched)
        for archive in sorted(fetched.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(archive), str(unfinished))
        shutil.rmtree(fetched)
        unfinished.rename(root)
    root.touch()
    for old in sorted(cache.glob("packages-*"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old)
    return root


def _candidates(packages: Sequence[str]) -> str:
    """What would be fetched, as apt describes it: names, versions, sums."""
    shown = ("apt-cache", "show", "--no-all-versions", *packages)
    try:
        return _run(*shown)
    except PackageError:  # no list of packages yet, or an older one
        _apt("update")
        return _run(*shown)


def _apt(*words: str, cwd: Path | None = None) -> None:
    _run(*APT, *words, cwd=cwd)


def _run(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise PackageError(f"`{' '.join(words)}` says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
