"""The project's wheel, built from a copy of its sources, so that a build beside running tests disturbs none."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.image import ImageError

BUILD = ("pyproject.toml", "README.md", "LICENSE", "deploy/build_native.py")
PACKAGES = ("agent", "init")
NATIVE_CACHE = ".cache/native"
_NOT_SOURCE = {".so", ".pyc"}


class WheelError(ImageError):
    """The wheel could not be built; has the builder's last words."""


def sources(project: Path) -> Iterator[Path]:
    """What the wheel is made of."""
    for name in BUILD:
        yield project / name
    for package in PACKAGES:
        for path in sorted((project / package).rglob("*")):
            if path.is_file() and path.suffix not in _NOT_SOURCE:
                yield path


def key_of(project: Path) -> str:
    """What the wheel depends on, as one name: the sources, and Python's version."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sources(project):
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(project)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def build(project: Path, work: Path) -> Path:
    """Builds it in `work`, an empty directory. What was compiled and is up to date is not again. Raises WheelError."""
    copied = work / "project"
    for path in sources(project):
        _copy(path, copied / path.relative_to(project))
    for package in PACKAGES:
        for compiled in (project / package).rglob("_*.so"):
            _copy(compiled, copied / compiled.relative_to(project))
    if (project / NATIVE_CACHE).is_dir():
        shutil.copytree(project / NATIVE_CACHE, copied / NATIVE_CACHE)
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work)]
    done = subprocess.run(words, cwd=copied, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise WheelError(f"the wheel could not be built; last words:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (wheel,) = work.glob("*.whl")
    return wheel


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, to)
