"""The file system's parts that need neither root nor packages of a distribution."""

import subprocess
from pathlib import Path

import pytest

from deploy.image import root


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """A package as Debian has them, with something to keep and something to leave out."""
    packed = tmp_path / "packed"
    for name, mode in {
        "lib/x86_64-linux-gnu/libx.so.1": 0o644,
        "usr/sbin/nft": 0o4755,
        "usr/share/man/nft.8": 0o644,
    }.items():
        path = packed / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
        path.chmod(mode)
    (packed / "lib/x86_64-linux-gnu/libx.so").symlink_to("libx.so.1")
    (packed / "DEBIAN").mkdir()
    (packed / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1:2\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    )
    to = tmp_path / "x_1%3a2_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", packed, to], check=True, capture_output=True)
    return to


def test_a_package_is_unpacked_below_usr_without_what_is_left_out(deb: Path, tmp_path: Path) -> None:
    made = tmp_path / "root"
    root.unpack(made, deb)
    found = {str(path.relative_to(made)) for path in made.rglob("*") if not path.is_dir()}
    library = "usr/lib/x86_64-linux-gnu/libx.so"
    assert found == {library, f"{library}.1", "usr/sbin/nft", "var/lib/dpkg/status.d/x"}
    assert (made / library).readlink() == Path("libx.so.1")


def test_nothing_in_it_is_setuid_or_writable_by_others(deb: Path, tmp_path: Path) -> None:
    root.unpack(tmp_path / "root", deb)
    assert (tmp_path / "root/usr/sbin/nft").stat().st_mode & 0o7777 == 0o755


def test_scanners_find_what_it_is_made_of(deb: Path, tmp_path: Path) -> None:
    root.unpack(tmp_path / "root", deb)
    said = (tmp_path / "root/var/lib/dpkg/status.d/x").read_text()
    assert "Package: x\n" in said
    assert "Version: 1:2\n" in said


def test_empty_directories_go_but_those_where_something_is_mounted(tmp_path: Path) -> None:
    for name in ("proc", "usr/share/empty", "usr/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "usr/lib/it").write_text("")
    (tmp_path / "lib").symlink_to("usr/lib")
    root.drop_empty(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.iterdir()) == ["lib", "proc", "usr"]
    assert [path.name for path in (tmp_path / "usr").iterdir()] == ["lib"]
