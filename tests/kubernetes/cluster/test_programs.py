"""The cluster's programs: what a build depends on, what it says, and who may build."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.kubernetes.cluster import programs

VERSION = "go version go1.26.0 linux/amd64"

GO = """#!/bin/sh
case "$1 $2" in
  version*) echo "go version go1.26.0 linux/amd64" ;;
  "list -m") echo v1.36.3 ;;
  "list -deps") echo one; echo two ;;
  build*)
    echo "$@" >>"$GO_CALLS"
    if [ -n "$GO_FAILS" ]; then echo "cmd/kube/main.go:1: no such thing" >&2; exit 1; fi
    while [ "$1" != -o ]; do shift; done
    for each in kube coredns pause helm; do echo "$each" >"$2/$each"; done ;;
esac
"""


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """With a Go that builds at once, and writes down that it was asked to."""
    go = tmp_path / "go"
    go.write_text(GO)
    go.chmod(0o755)
    monkeypatch.setattr(programs, "go_program", lambda: go)
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "GO_CALLS": str(tmp_path / "calls")}


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A Go module with one program."""
    module = tmp_path / "module"
    (module / "cmd/kube").mkdir(parents=True)
    (module / "go.mod").write_text("module x\n")
    (module / "go.sum").write_text("")
    (module / "cmd/kube/main.go").write_text("package main\n")
    return module


def calls(environ: dict[str, str]) -> int:
    """How often Go was asked to build."""
    path = Path(environ["GO_CALLS"])
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_what_was_built_is_there_under_every_name(environ: dict[str, str], module: Path) -> None:
    built = programs.build(print, environ, module)
    assert {path.name for path in built.iterdir()} == {*programs.BUILT, *programs.LINKS, programs.TOLD}
    assert (built / "kubelet").read_text() == "kube\n"


def test_it_is_built_once(environ: dict[str, str], module: Path) -> None:
    first = programs.build(print, environ, module)
    assert programs.build(print, environ, module) == first
    assert calls(environ) == 1


def test_when_it_was_built_and_how_long_that_took_is_told_to_whoever_uses_it_later(
    environ: dict[str, str], module: Path
) -> None:
    assert programs.told(environ) == ""
    said: list[str] = []
    programs.build(said.append, environ, module)
    assert programs.told(environ) == said[-1]
    assert "built Kubernetes" in said[-1]
    assert " s, until 20" in said[-1]


@pytest.mark.parametrize("changed", ["go.mod", "go.sum", "cmd/kube/main.go"])
def test_whatever_changes_in_the_module_is_built_again(environ: dict[str, str], module: Path, changed: str) -> None:
    first = programs.build(print, environ, module)
    (module / changed).write_text((module / changed).read_text() + "// more\n")
    assert programs.build(print, environ, module) != first
    assert calls(environ) == 2


def test_another_toolchain_builds_again(module: Path) -> None:
    assert programs.key_of(module, VERSION) != programs.key_of(module, VERSION.replace("1.26", "1.27"))


def test_files_that_swap_their_content_are_another_module(module: Path) -> None:
    (module / "go.mod").write_text("a")
    (module / "go.sum").write_text("b")
    before = programs.key_of(module, VERSION)
    (module / "go.mod").write_text("b")
    (module / "go.sum").write_text("a")
    assert programs.key_of(module, VERSION) != before


def test_a_build_that_fails_says_gos_words_and_is_tried_again(environ: dict[str, str], module: Path) -> None:
    with pytest.raises(programs.BuildError, match=r"(?s)main\.go:1: no such thing.*GOPROXY"):
        programs.build(print, {**environ, "GO_FAILS": "1"}, module)
    programs.build(print, environ, module)
    assert calls(environ) == 2


def test_what_a_killed_build_left_is_in_nobodys_way(environ: dict[str, str], module: Path) -> None:
    left = programs.cache_directory(environ) / "building"
    left.mkdir(parents=True)
    (left / "half").write_text("half of something")
    assert not (programs.build(print, environ, module) / "half").exists()


def test_the_build_before_is_kept_and_older_ones_are_not(environ: dict[str, str], module: Path) -> None:
    made = []
    for number in range(3):
        (module / "go.sum").write_text(str(number))
        made.append(programs.build(print, environ, module))
        os.utime(made[-1], (number, number))
    assert [path.exists() for path in made] == [False, True, True]


def test_whoever_comes_while_another_builds_waits_and_says_so(environ: dict[str, str], module: Path) -> None:
    cache = programs.cache_directory(environ)
    cache.mkdir(parents=True)
    said: list[str] = []
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def hears(words: str) -> None:
            said.append(words)
            fcntl.flock(lock, fcntl.LOCK_UN)  # the other has finished

        programs.build(hears, environ, module)
    assert said[0] == "somebody else builds Kubernetes: waiting"


def test_without_go_it_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(programs.BuildError, match="make cluster"):
        programs.build(print, {"HOME": str(tmp_path)})


def test_kubernetes_says_which_version_it_is() -> None:
    flags = programs.version_flags("v1.36.3")
    assert "gitVersion=v1.36.3" in flags
    assert "gitMajor=1 " in flags
    assert "gitMinor=36 " in flags


def test_a_version_that_is_none_is_named() -> None:
    with pytest.raises(programs.BuildError, match="'v1'"):
        programs.version_flags("v1")


@pytest.mark.parametrize(
    ("environ_", "expected"),
    [
        ({"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/quietwire/kubernetes"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/quietwire/kubernetes"),
        ({}, "/root/.cache/quietwire/kubernetes"),
    ],
)
def test_the_cache_is_outside_every_checkout(environ_: dict[str, str], expected: str) -> None:
    assert programs.cache_directory(environ_) == Path(expected)


def test_progress_says_how_far_it_is() -> None:
    assert str(programs.Progress(412, 2310, 93.4)) == "building Kubernetes, once: 412 of 2310 packages, 93 s"
