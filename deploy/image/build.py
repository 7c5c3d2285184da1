"""From a checkout to an image, kept for the next time under the name of all that it is made of."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.image import ImageError, packages, root, wheel
from deploy.image.archive import Size, write

PROJECT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
MOST = 120_000_000
"""Bytes, unpacked: an agent is on every node."""
KEPT = 2
REPOSITORY = "localhost/quietwire"
ENVIRONMENT = "PYTHONDONTWRITEBYTECODE=1"
"""All is compiled, and the root may be read-only."""


class Image(Struct, frozen=True):
    """An image that is there."""

    archive: Path
    name: str
    """As in a pod's `image`."""
    size: Size


class TooLargeError(ImageError):
    """The image has grown past what it may have."""


def version(project: Path = PROJECT) -> str:
    """Of the project."""
    with (project / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where what was made outlives the checkout."""
    return Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/root") / ".cache") / "quietwire/image"


def make(say: Callable[[str], None], environ: Mapping[str, str] = os.environ, project: Path = PROJECT) -> Image:
    """The image of this checkout. Whoever comes while another makes one waits. Raises ImageError."""
    cache = cache_directory(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = packages.resolve(packages.read((HERE / "packages.txt").read_text()))
        kept = cache / f"image-{_key(project, files)}"
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as unfinished:
                _make(Path(unfinished), project, _fetched(cache, files, say), say)
                (Path(unfinished) / "image").rename(kept)
        os.utime(kept)
        _forget(cache, "image-*")
    size = msgspec.json.decode((kept / "size.json").read_bytes(), type=Size)
    return Image(kept / "image.tar", f"{REPOSITORY}:{version(project)}", size)


def make_root(to: Path, say: Callable[[str], None], project: Path = PROJECT) -> None:
    """The image's file system alone, in an empty directory: for builders that make layers themselves."""
    files = packages.resolve(packages.read((HERE / "packages.txt").read_text()))
    with tempfile.TemporaryDirectory() as work:
        debs = packages.fetch([packages.name_of(file) for file in files], Path(work))
        built = wheel.build(project, Path(work))
        root.furnish(to, debs, built, (project / "requirements.lock").read_text(), say)


def _make(work: Path, project: Path, debs: list[Path], say: Callable[[str], None]) -> None:
    say("building the wheel")
    built = wheel.build(project, work)
    made, image = work / "root", work / "image"
    made.mkdir()
    image.mkdir()
    root.furnish(made, debs, built, (project / "requirements.lock").read_text(), say)
    say("writing the archive")
    number = version(project)
    size = write(
        image / "image.tar",
        f"{REPOSITORY}:{number}",
        made,
        entrypoint=["/" + root.COMMAND],
        command=["--help"],
        environment=[ENVIRONMENT],
        labels={"org.opencontainers.image.title": "quietwire", "org.opencontainers.image.version": number},
        compress=True,
    )
    if size.unpacked > MOST:
        raise TooLargeError(f"the image has {size}, and may have {MOST / 1e6:g} MB unpacked: see deploy/image/slim.py")
    (image / "size.json").write_bytes(msgspec.json.encode(size))


def _fetched(cache: Path, files: tuple[str, ...], say: Callable[[str], None]) -> list[Path]:
    kept = cache / f"debs-{hashlib.sha256(' '.join(files).encode()).hexdigest()[:16]}"
    if not kept.is_dir():
        say(f"fetching {len(files)} of Debian's packages")
        with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as unfinished:
            to = Path(unfinished) / "debs"
            to.mkdir()
            packages.fetch([packages.name_of(file) for file in files], to)
            to.rename(kept)
    os.utime(kept)
    _forget(cache, "debs-*")
    return sorted(kept.glob("*.deb"))


def _key(project: Path, files: tuple[str, ...]) -> str:
    digest = hashlib.sha256(wheel.key_of(project).encode())
    digest.update(" ".join(files).encode())
    for path in sorted([project / "requirements.lock", *HERE.glob("*.py"), *HERE.glob("*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _forget(cache: Path, pattern: str) -> None:
    for old in sorted(cache.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old)
