"""An image is what its directory holds, owned by root, and the same for the same content."""

import gzip
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.image import archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/other").symlink_to("tool")
    return root


def blob(opened: tarfile.TarFile, described: dict[str, Any]) -> bytes:
    """What a descriptor leads to, if it is what the descriptor says (OCI image specification, descriptors)."""
    algorithm, digest = described["digest"].split(":")
    file = opened.extractfile(f"blobs/{algorithm}/{digest}")
    assert file is not None
    content = file.read()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) == described["size"]
    return content


def test_a_reader_finds_name_configuration_and_files(tmp_path: Path, root: Path) -> None:
    archive.write(tmp_path / "it.tar", "localhost/it:1", root, entrypoint=["/bin/tool"], command=["--help"])
    with tarfile.open(tmp_path / "it.tar") as opened:
        index = opened.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        manifest = json.loads(blob(opened, described))
        config = json.loads(blob(opened, manifest["config"]))
        (layer,) = manifest["layers"]
        (tmp_path / "layer.tar").write_bytes(blob(opened, layer))
    assert described["annotations"]["io.containerd.image.name"] == "localhost/it:1"
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]  # not compressed: they are one
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert config["config"]["Cmd"] == ["--help"]
    with tarfile.open(tmp_path / "layer.tar") as files:
        found = {entry.name: entry for entry in files}
    assert found.keys() == {"bin", "bin/tool", "bin/other"}
    assert {(entry.uid, entry.gid, entry.mtime) for entry in found.values()} == {(0, 0, 0)}
    assert found["bin/tool"].mode & 0o777 == 0o755
    assert found["bin/other"].linkname == "tool"


def test_the_same_content_is_the_same_image_whenever_it_was_written(tmp_path: Path, root: Path) -> None:
    archive.write(tmp_path / "first.tar", "localhost/it:1", root)
    (root / "bin/tool").touch()
    archive.write(tmp_path / "second.tar", "localhost/it:1", root)
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_a_compressed_layer_is_known_by_what_is_in_it_and_its_sizes_are_said(tmp_path: Path, root: Path) -> None:
    size = archive.write(tmp_path / "it.tar", "localhost/it:1", root, compress=True)
    with tarfile.open(tmp_path / "it.tar") as opened:
        index = opened.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(opened, json.load(index)["manifests"][0]))
        config = json.loads(blob(opened, manifest["config"]))
        stored = blob(opened, manifest["layers"][0])
    assert manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    layer = gzip.decompress(stored)
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert size == archive.Size(compressed=len(stored), unpacked=len(layer))
    assert str(archive.Size(40_000_000, 110_340_000)) == "40.0 MB compressed, 110.3 MB unpacked"
