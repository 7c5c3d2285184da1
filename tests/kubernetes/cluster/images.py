"""The images that every node has: what a pod of the tests runs, made without a registry."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.image import archive
from tests.kubernetes.cluster.configuration import PAUSE_IMAGE

BASE_IMAGE = "localhost/base:1"
"""busybox and curl."""
DNS_IMAGE = "localhost/coredns:1"


def made(cache: Path, programs: Path, packages: Path) -> list[Path]:
    """Archives of the images that every node has, made where they are not there yet.

    Who calls it has `cache` for himself.
    """
    images = cache / f"images-{_key(programs.name, packages.name)}"
    if not images.is_dir():
        unfinished = cache / "images"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        for name in ("pause", "coredns"):
            root = unfinished / name
            root.mkdir(parents=True)
            shutil.copy2(programs / name, root / name)
        _furnish_base(unfinished / "base", packages)
        archive.write(unfinished / "pause.tar", PAUSE_IMAGE, unfinished / "pause", entrypoint=["/pause"])
        archive.write(unfinished / "coredns.tar", DNS_IMAGE, unfinished / "coredns", entrypoint=["/coredns"])
        archive.write(unfinished / "base.tar", BASE_IMAGE, unfinished / "base", command=["/bin/sh"])
        for name in ("pause", "coredns", "base"):
            shutil.rmtree(unfinished / name)
        unfinished.rename(images)
    for old in cache.glob("images-*"):
        if old != images:
            shutil.rmtree(old)
    return sorted(images.glob("*.tar"))


def _furnish_base(root: Path, packages: Path) -> None:
    for directory in ("bin", "etc", "tmp", "usr/bin"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy2(packages / "bin/busybox", root / "bin/busybox")
    said = subprocess.run(
        [str(root / "bin/busybox"), "--list"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    for applet in said.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    curl = Path(shutil.which("curl") or "/usr/bin/curl")
    shutil.copy2(curl, root / "usr/bin/curl")
    for library in _libraries(curl):
        to = root / str(library).lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library.resolve(), to)


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True, timeout=30).stdout
    return [Path(word) for line in said.splitlines() for word in line.split() if word.startswith("/")]


def _key(*parts: str) -> str:
    own = b"".join(Path(path).read_bytes() for path in (__file__, archive.__file__))
    return hashlib.sha256("\0".join(parts).encode() + own).hexdigest()[:16]
