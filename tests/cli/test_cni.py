"""`quietwire cni`: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest

from agent.cni.conflist import entries
from tests.cli.typed import Done, quietwire


class Typed:
    """Commands about one node."""

    def __init__(self, directory: Path) -> None:
        self.net, self.bin = directory / "net.d", directory / "bin"
        self.net.mkdir()
        self._run = directory / "run"

    def __call__(self, *words: str) -> Done:
        where = ("--net-dir", self.net, "--bin-dir", self.bin, "--run-dir", self._run)
        return quietwire("cni", *words[:1], *where, *words[1:])


@pytest.fixture
def typed(tmp_path: Path) -> Typed:
    made = Typed(tmp_path)
    file = made.net / "10-it.conflist"
    file.write_text(json.dumps({"cniVersion": "1.0.0", "name": "it", "plugins": [{"type": "bridge"}]}))
    return made


def test_it_is_put_there_and_taken_away_and_each_says_what_it_changed(typed: Typed) -> None:
    done = typed("install", "--exempt-namespace", "kube-system", "--exempt-namespace", "mesh", "--timeout", "7")
    assert done.code == 0
    assert "10-it.conflist has quietwire-cni last" in done.out
    (_, ours) = entries((typed.net / "10-it.conflist").read_bytes())
    assert (ours["exemptNamespaces"], ours["timeoutSeconds"]) == (["kube-system", "mesh"], 7)
    assert ours["socket"].endswith("run/cni/cni.sock")
    again = typed("install", "--exempt-namespace", "kube-system", "--exempt-namespace", "mesh", "--timeout", "7")
    assert again.out == "it is as it should be already\n"
    assert len(typed("uninstall", "--json").json["changed"]) == 2
    assert typed("uninstall").out == "there was nothing of it\n"


def test_a_status_that_is_not_well_names_each_part_and_ends_with_1(typed: Typed) -> None:
    done = typed("status")
    assert done.code == 1
    assert "not in it as asked: quietwire cni install" in done.out
    assert "missing, or another version's" in done.out
    typed("install")
    found = typed("status", "--json")
    assert found.code == 1
    assert (found.json["configuration"], found.json["in_it"], found.json["program"]) == ("10-it.conflist", True, True)
    assert "does not answer" in found.json["agent"]
    assert found.json["well"] is False


def test_what_cannot_be_is_said(typed: Typed, tmp_path: Path) -> None:
    done = typed("install", "--timeout", "0")
    assert (done.code, done.err) == (2, "quietwire: --timeout 0 must be 1 to 600 seconds\n")
    (typed.net / "10-it.conflist").unlink()
    done = typed("install")
    assert done.code == 1
    assert "the plugins of the cluster's own network come first" in done.err
    typed.net.rmdir()
    typed.net.write_text("a file")
    for verb in ("install", "uninstall", "status"):
        done = typed(verb)
        assert done.code == 1
        assert f"{typed.net}: Not a directory" in done.err
