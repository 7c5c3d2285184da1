"""Images without a registry: a directory becomes an archive that containerd imports (OCI image layout, v1.0)."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster.configuration import PAUSE_IMAGE

BASE_IMAGE = "localhost/base:1"
"""busybox and curl."""
DNS_IMAGE = "localhost/coredns:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
        write(unfinished / "pause.tar", PAUSE_IMAGE, unfinished / "pause", entrypoint=["/pause"])
        write(unfinished / "coredns.tar", DNS_IMAGE, unfinished / "coredns", entrypoint=["/coredns"])
        write(unfinished / "base.tar", BASE_IMAGE, unfinished / "base", command=["/bin/sh"])
        for name in ("pause", "coredns", "base"):
            shutil.rmtree(unfinished / name)
        unfinished.rename(images)
    for old in cache.glob("images-*"):
        if old != images:
            shutil.rmtree(old)
    return sorted(images.glob("*.tar"))


def write(archive: Path, name: str, root: Path, *, entrypoint: Sequence[str] = (), command: Sequence[str] = ()) -> None:
    """One layer with everything below `root`, owned by root; the same content makes the same image."""
    layer = _tar(root)
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": [PATH], "WorkingDir": "/", "Entrypoint": list(entrypoint), "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", _json(config)),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar", layer)],
    }
    described = blob("application/vnd.oci.image.manifest.v1+json", _json(manifest))
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [{**described, "annotations": annotations}]}
    with tarfile.open(archive, "w") as out:
        _add(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(out, "index.json", _json(index))
        for digest, content in blobs.items():
            _add(out, f"blobs/sha256/{digest}", content)


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


def _tar(root: Path) -> bytes:
    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = 0
        return entry

    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as layer:
        for path in sorted(root.rglob("*")):
            layer.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=owned_by_root)
    return written.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _key(*parts: str) -> str:
    own = Path(__file__).read_bytes()
    return hashlib.sha256("\0".join(parts).encode() + own).hexdigest()[:16]
