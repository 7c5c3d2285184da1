"""The image's file system as a directory."""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from deploy.image import ImageError, distributions, packages, slim

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"usr/local/lib/{PYTHON}/dist-packages"
COMMAND = "usr/local/bin/quietwire"
_COMMAND = f"""#!/usr/bin/{PYTHON} -I
import sys

from agent.cli import main

sys.exit(main())
"""
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_DIRECTORIES = ("dev", "etc/quietwire", "proc", "run", "sys", "tmp", "var/lib/quietwire")
"""Where the runtime, or a volume, mounts something: the root itself may be read-only."""
STATUS = "var/lib/dpkg/status.d"
"""Where scanners look for what a distroless image is made of."""


class RootError(ImageError):
    """The file system is not whole; says what is missing."""


def furnish(root: Path, debs: Sequence[Path], wheel: Path, lock: str, say: Callable[[str], None]) -> None:
    """Fills an empty directory. Needs root, for chroot(2). Raises RootError, LockError, PackageError, OSError."""
    for name in slim.MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for deb in debs:
        unpack(root, deb)
    for name, content in _ACCOUNTS.items():
        (root / name).write_text(content)
    say("adding the project and what requirements.lock names")
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            if slim.is_kept(f"{SITE}/{name}"):
                files.extract(name, root / SITE)
    used = {name: version for name, version in distributions.locked(lock).items() if name not in slim.UNUSED}
    distributions.copy(used, root / SITE, slim.is_kept, SITE)
    command = root / COMMAND
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(_COMMAND)
    command.chmod(0o755)
    say("compiling Python's modules")
    _compile(root)
    drop_empty(root)


def unpack(root: Path, deb: Path) -> None:
    """What is kept of a package, and what it says of itself."""
    inside = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True, timeout=120)
    with tarfile.open(fileobj=io.BytesIO(inside.stdout)) as members:
        for member in members:
            path = slim.merged(member.name)
            if member.isdir() or not slim.is_kept(path):
                continue
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                target.symlink_to(member.linkname)
            elif member.islnk():
                target.hardlink_to(root / slim.merged(member.linkname))
            elif (content := members.extractfile(member)) is not None:
                target.write_bytes(content.read())
                target.chmod(member.mode & 0o755)
    said = packages.run("dpkg-deb", "--field", str(deb))
    status = root / STATUS / packages.name_of(deb.name)
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(said)


def _compile(root: Path) -> None:
    """By the image's own Python. Neither times nor hashes' seeds get into what it writes."""
    words = [f"/usr/bin/{PYTHON}", "-s", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run(
        ["/usr/sbin/chroot", str(root), *words, f"/usr/lib/{PYTHON}", f"/{SITE}"],
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise RootError(f"Python's modules could not be compiled: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def drop_empty(root: Path) -> None:
    """Removes directories in which nothing is left, but those where something is mounted."""
    needed = {PurePosixPath(name) for name in _DIRECTORIES}
    for path in sorted(root.rglob("*"), reverse=True):
        is_needed = PurePosixPath(path.relative_to(root)) in needed
        if path.is_dir() and not path.is_symlink() and not is_needed and not any(path.iterdir()):
            path.rmdir()
