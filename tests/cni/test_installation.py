"""The plugin on a node: put there, put there again, changed by others, and taken away without a trace."""

import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from agent.cni.conflist import TYPE, Plugin, entries
from agent.cni.installation import PROGRAM, InstallationError, Node, install, state, uninstall
from agent.cni.request import CniError, Code, answer, error
from init import on_disk

LIST = {"cniVersion": "1.0.0", "name": "it", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}
SINGLE = {"cniVersion": "0.4.0", "name": "it", "type": "bridge"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "net.d", tmp_path / "opt" / "bin")
    made.configurations.mkdir()
    return made


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(socket=str(tmp_path / "cni.sock"), seconds=5, exempt_namespaces=("kube-system",))


def write(node: Node, name: str, document: object) -> Path:
    file = node.configurations / name
    file.write_text(json.dumps(document))
    return file


def names(node: Node) -> list[str]:
    return sorted(each.name for each in node.configurations.iterdir())


def test_it_comes_last_and_the_program_is_there_before_it_is_named(
    node: Node, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(node, "10-it.conflist", LIST)
    replace = on_disk.replace

    def watching(path: Path, content: bytes, *, durable: bool = False) -> None:
        assert path != file or (node.programs / TYPE).exists()
        replace(path, content, durable=durable)

    monkeypatch.setattr(on_disk, "replace", watching)
    assert len(install(node, plugin)) == 2
    assert [each["type"] for each in entries(file.read_bytes())] == ["bridge", "portmap", TYPE]
    program = node.programs / TYPE
    assert program.read_bytes() == PROGRAM.read_bytes()
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert os.listdir(node.programs) == [TYPE]
    assert names(node) == ["10-it.conflist"]


def test_done_again_it_changes_nothing(node: Node, plugin: Plugin) -> None:
    file = write(node, "10-it.conflist", LIST)
    install(node, plugin)
    before = (file.stat().st_ino, (node.programs / TYPE).stat().st_ino)
    assert install(node, plugin) == []
    assert (file.stat().st_ino, (node.programs / TYPE).stat().st_ino) == before


def test_what_others_write_anew_and_an_older_program_are_mended(node: Node, plugin: Plugin) -> None:
    file = write(node, "10-it.conflist", LIST)
    install(node, plugin)
    write(node, "10-it.conflist", {**LIST, "plugins": [*LIST["plugins"], {"type": "bandwidth"}]})
    (node.programs / TYPE).write_bytes(b"older")
    assert not state(node, plugin).in_it
    assert not state(node, plugin).program
    assert len(install(node, plugin)) == 2
    assert [each["type"] for each in entries(file.read_bytes())] == ["bridge", "portmap", "bandwidth", TYPE]


def test_a_network_that_comes_first_later_has_us_and_the_former_one_too(node: Node, plugin: Plugin) -> None:
    write(node, "10-it.conflist", LIST)
    install(node, plugin)
    write(node, "05-other.conflist", LIST)
    assert not state(node, plugin).in_it
    install(node, plugin)
    assert state(node, plugin).configuration == "05-other.conflist"
    assert state(node, plugin).in_it
    uninstall(node)
    assert all(TYPE not in each.read_text() for each in node.configurations.iterdir())


def test_a_single_plugin_is_put_aside_and_comes_back(node: Node, plugin: Plugin) -> None:
    file = write(node, "10-it.conf", SINGLE)
    before = file.read_bytes()
    install(node, plugin)
    assert names(node) == ["10-it.conf.before-quietwire", "10-it.conflist"]
    assert state(node, plugin).in_it
    assert install(node, plugin) == []
    assert len(uninstall(node)) == 2
    assert names(node) == ["10-it.conf"]
    assert file.read_bytes() == before


def test_what_is_taken_away_leaves_no_trace_and_others_as_they_were(node: Node, plugin: Plugin) -> None:
    file = write(node, "10-it.conflist", LIST)
    (node.configurations / "20-broken.conflist").write_text("{")
    install(node, plugin)
    assert len(uninstall(node)) == 2
    assert json.loads(file.read_bytes()) == LIST
    assert (node.configurations / "20-broken.conflist").read_text() == "{"
    assert os.listdir(node.programs) == []
    assert uninstall(node) == []
    assert uninstall(Node(node.configurations / "none", node.programs / "none")) == []


def test_where_there_is_no_network_yet_or_none_that_can_have_us_it_is_said(node: Node, plugin: Plugin) -> None:
    with pytest.raises(InstallationError, match="has no network configuration"):
        install(node, plugin)
    assert state(node, plugin).problem.endswith("has no network configuration")
    write(node, "10-it.conflist", {**LIST, "cniVersion": "0.2.0"})
    with pytest.raises(InstallationError, match=r"10-it\.conflist: its cniVersion"):
        install(node, plugin)
    (node.configurations / "10-it.conflist").write_text("{")
    with pytest.raises(InstallationError, match="no JSON"):
        install(node, plugin)
    assert "no JSON" in state(node, plugin).problem
    assert not state(node, plugin).is_well


def answering(path: str, said: bytes) -> threading.Thread:
    """An agent that answers once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def work() -> None:
        with listener, listener.accept()[0] as client:
            while client.recv(65536):
                pass
            client.sendall(said)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(0, b""), ""),
        (answer(1, error(CniError(Code.NOT_AVAILABLE, "no pods", "no bundle"), "1.1.0")), "no pods: no bundle"),
        (answer(1, b"nothing"), "ended with 1 and no answer"),
    ],
)
def test_its_agent_is_asked_as_a_runtime_asks(node: Node, plugin: Plugin, said: bytes, words: str) -> None:
    write(node, "10-it.conflist", LIST)
    install(node, plugin)
    agent = answering(plugin.socket, said)
    found = state(node, plugin)
    agent.join(10)
    assert words in found.agent
    assert found.is_well == (words == "")


def test_without_an_agent_it_is_not_well(node: Node, plugin: Plugin) -> None:
    write(node, "10-it.conflist", LIST)
    install(node, plugin)
    assert "does not answer" in state(node, plugin).agent
    assert not state(node, plugin).is_well
