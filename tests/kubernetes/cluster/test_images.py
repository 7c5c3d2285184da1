"""An image is what its directory holds, owned by root, and the same for the same content."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/other").symlink_to("tool")
    return root


def blob(archive: tarfile.TarFile, described: dict[str, Any]) -> bytes:
    """What a descriptor leads to, if it is what the descriptor says (OCI image specification, descriptors)."""
    algorithm, digest = described["digest"].split(":")
    file = archive.extractfile(f"blobs/{algorithm}/{digest}")
    assert file is not None
    content = file.read()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) == described["size"]
    return content


def test_a_reader_finds_name_configuration_and_files(tmp_path: Path, root: Path) -> None:
    images.write(tmp_path / "it.tar", "localhost/it:1", root, entrypoint=["/bin/tool"], command=["--help"])
    with tarfile.open(tmp_path / "it.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        manifest = json.loads(blob(archive, described))
        config = json.loads(blob(archive, manifest["config"]))
        (layer,) = manifest["layers"]
        (tmp_path / "layer.tar").write_bytes(blob(archive, layer))
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
    images.write(tmp_path / "first.tar", "localhost/it:1", root)
    (root / "bin/tool").touch()
    images.write(tmp_path / "second.tar", "localhost/it:1", root)
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
