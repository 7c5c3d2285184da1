"""A directory as an image: an archive that containerd imports and registries know (OCI image layout, v1.0)."""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GZIP_LEVEL = 6
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Size(Struct, frozen=True):
    """Bytes of an image: what is fetched, and what it takes on a node's disk."""

    compressed: int
    unpacked: int

    def __str__(self) -> str:
        return f"{self.compressed / 1e6:.1f} MB compressed, {self.unpacked / 1e6:.1f} MB unpacked"


def write(
    archive: Path,
    name: str,
    root: Path,
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    environment: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    compress: bool = False,
) -> Size:
    """One layer with everything below `root`, owned by root; the same content makes the same image."""
    layer = _tar(root)
    stored = gzip.compress(layer, GZIP_LEVEL, mtime=0) if compress else layer
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "Env": [PATH, *environment],
            "WorkingDir": "/",
            "Entrypoint": list(entrypoint),
            "Cmd": list(command),
            "Labels": dict(labels or {}),
        },
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
        "layers": [blob(f"{_LAYER}+gzip" if compress else _LAYER, stored)],
    }
    described = blob("application/vnd.oci.image.manifest.v1+json", _json(manifest))
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [{**described, "annotations": annotations}]}
    with tarfile.open(archive, "w") as out:
        _add(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(out, "index.json", _json(index))
        for digest, content in blobs.items():
            _add(out, f"blobs/sha256/{digest}", content)
    return Size(len(stored), len(layer))


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
