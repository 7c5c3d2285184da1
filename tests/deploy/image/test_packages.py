"""What the image has of Debian: one list, which apt resolves as on a machine that has nothing."""

from pathlib import Path

import pytest

from deploy.image import packages
from deploy.image.packages import PackageError, Wanted

OWN = Path(packages.__file__).with_name("packages.txt")


def test_the_list_names_packages_python_by_its_version_and_what_is_left_out() -> None:
    text = "# why\npython3\n\nnftables\n# nobody installs anything in there\n-dpkg\n"
    assert packages.read(text, (3, 13)) == Wanted(("python3.13", "nftables"), frozenset({"dpkg"}))


def test_our_list_has_what_rules_are_written_with_and_no_compiler_and_no_installer() -> None:
    wanted = packages.read(OWN.read_text())
    assert {"iptables", "nftables"} <= set(wanted.packages)
    assert not [name for name in wanted.packages if name.startswith(("gcc", "python3-pip", "lib.*-dev"))]
    assert {"dpkg", "tar"} <= wanted.without


def test_files_are_read_from_what_apt_prints() -> None:
    said = (
        "Reading package lists...\n"
        "'http://deb.debian.org/libc6_2.36-9%2bdeb12u14_amd64.deb' libc6_2.36-9+deb12u14_amd64.deb 2759320 SHA256:ba\n"
        "'http://deb.debian.org/pool/nftables_1.0.6-2_amd64.deb' nftables_1%3a1.0.6-2_amd64.deb 77560 SHA256:cc\n"
    )
    files = packages.resolved(said)
    assert files == ("libc6_2.36-9+deb12u14_amd64.deb", "nftables_1%3a1.0.6-2_amd64.deb")
    assert [packages.name_of(file) for file in files] == ["libc6", "nftables"]


def test_a_package_that_does_not_exist_is_named_in_apts_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(*words: str, cwd: Path | None = None) -> str:
        asked.append(words)
        if "update" in words:
            return ""
        raise PackageError("E: Unable to locate package nftable")

    monkeypatch.setattr(packages, "run", run)
    with pytest.raises(PackageError, match="nftable"):
        packages.resolve(Wanted(("nftable",), frozenset()))
    first, update, second = asked
    assert "update" in update
    assert first == second  # the lists were old, perhaps: it is asked again with new ones


def test_what_something_depends_on_and_nobody_needs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "run", lambda *_, **__: "'u' dpkg_1_amd64.deb 1 S\n'u' nftables_1_amd64.deb 1 S\n")
    assert packages.resolve(Wanted(("nftables",), frozenset({"dpkg"}))) == ("nftables_1_amd64.deb",)


def test_a_program_that_fails_says_its_own_words() -> None:
    with pytest.raises(PackageError, match=r"`ls /does/not/exist` says: .*No such file"):
        packages.run("ls", "/does/not/exist")


@pytest.mark.netns
def test_what_apt_has_in_its_cache_already_is_in_the_image_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = Wanted(("netbase",), frozenset())
    found = packages.resolve(wanted)
    assert [packages.name_of(file) for file in found] == ["netbase"]
    archives = tmp_path / "archives"
    (archives / "partial").mkdir(parents=True)
    packages.fetch(["netbase"], archives)
    (tmp_path / "apt.conf").write_text(f'Dir::Cache::archives "{archives}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    assert packages.resolve(wanted) == found
