"""What a stage plans, by an ip(8) that only notes what it is told; tests/netns stands on real ones."""

import ipaddress
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.lab import stage as module
from agent.lab.stage import Player, Stage, StageError

NOTING_IP = """#!/bin/sh
echo "call $*" >> {log}
failed=0
if [ "$3" = -batch ]; then
  while read -r line; do
    echo "command $line" >> {log}
    [ "$line" = "{refused}" ] && failed=1
  done
fi
[ -f {record} ] && while read -r line; do echo "recorded $line" >> {log}; done < {record}
case "$1 $2" in
  "netns add") : > {netns}/$3 ;;
  "netns del") rm {netns}/$3 ;;
esac
[ $failed = 0 ] || echo "RTNETLINK answers: no" >&2
exit $failed
"""


class Call(NamedTuple):
    """One call of ip(8): its words, the commands of its batch, and what the stage had written down by then."""

    words: list[str]
    commands: list[str]
    recorded: list[str]


class Ground:
    """Where a stage writes, in place of /run and /etc, and the ip(8) that it calls."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.netns, self.etc, self.run = base / "netns", base / "etc", base / "run"
        self.netns.mkdir()
        self._base = base
        for name, value in (("NETNS", self.netns), ("ETC_NETNS", self.etc), ("RUN", self.run)):
            monkeypatch.setattr(module, name, value)
        monkeypatch.setenv("PATH", f"{base}:{os.environ['PATH']}")
        self.refuse("")

    def refuse(self, command: str) -> None:
        """Makes ip(8) fail at one command."""
        places = {"log": self._base / "log", "netns": self.netns, "record": self.run / "play"}
        (self._base / "ip").write_text(NOTING_IP.format(refused=command, **places))
        (self._base / "ip").chmod(0o755)

    def calls(self) -> list[Call]:
        """All calls, in order."""
        found: list[Call] = []
        for line in (self._base / "log").read_text().splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "call":
                found.append(Call(rest.split(), [], []))
            else:
                {"command": found[-1].commands, "recorded": found[-1].recorded}[kind].append(rest)
        return found

    def commands(self, netns: str) -> list[str]:
        """All that was done in a namespace, in order."""
        return [command for call in self.calls() if call.words[:2] == ["-n", netns] for command in call.commands]

    def of_namespaces(self) -> list[list[str]]:
        """`add` and `del` of namespaces, in order."""
        return [call.words[1:] for call in self.calls() if call.words[0] == "netns"]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(tmp_path, monkeypatch)


def opened(*players: str, **flags: str) -> Stage:
    stage = Stage("play", **flags)
    stage.open()
    for name in players:
        stage.add(name)
    return stage


def test_players_have_addresses_of_their_own_in_the_stages_networks(ground: Ground) -> None:
    stage = opened("web", "api", "db", ipv4="192.0.2.0/28", ipv6="2001:db8::/64")
    assert stage.players["web"] == Player("web", "web", "192.0.2.2", "2001:db8::2", "port2")
    addresses = [player.address(version) for player in stage.players.values() for version in (4, 6)]
    assert len(set(addresses)) == 6
    networks = (ipaddress.ip_network("192.0.2.0/28"), ipaddress.ip_network("2001:db8::/64"))
    assert all(any(ipaddress.ip_address(each) in network for network in networks) for each in addresses)


def test_the_hub_is_the_gateway_of_each_player_and_its_bridge_has_all_their_ports(ground: Ground) -> None:
    stage = opened("web", "api", ipv4="192.0.2.0/28", ipv6="2001:db8::/64")
    hub = ground.commands(stage.hub)
    assert {"addr add 192.0.2.1/28 dev br0", "addr add 2001:db8::1/64 dev br0 nodad"} <= set(hub)
    for player in stage.players.values():
        assert f"link set {player.port} master br0 up" in hub
        own = ground.commands(player.netns)
        assert f"link add eth0 type veth peer name {player.port} netns {stage.hub}" in own
        assert {"link set lo up", "link set eth0 up"} <= set(own)
        assert {f"addr add {player.ipv4}/28 dev eth0", f"addr add {player.ipv6}/64 dev eth0 nodad"} <= set(own)
        assert {"route add default via 192.0.2.1", "route add ::/0 via 2001:db8::1"} <= set(own)


def test_nothing_is_done_in_the_machines_own_namespace(ground: Ground) -> None:
    stage = opened("web", "api", prefix="x-")
    stage.close()
    made = {"play-hub", "x-web", "x-api"}
    for call in ground.calls():
        assert call.words[0] == "netns" or (call.words[0] == "-n" and call.words[1] in made), call


def test_a_command_of_a_player_runs_in_its_namespace(ground: Ground) -> None:
    stage = opened("web", prefix="x-")
    assert stage.players["web"].command("curl", "-s") == ["ip", "netns", "exec", "x-web", "curl", "-s"]


def test_each_namespace_is_written_down_before_it_is_made(ground: Ground) -> None:
    opened("web", "api")
    added = [(call.words[2], call.recorded) for call in ground.calls() if call.words[:2] == ["netns", "add"]]
    assert [name for name, _ in added] == ["play-hub", "web", "api"]
    assert all(name in recorded for name, recorded in added)


def test_what_a_stage_left_behind_is_cleared_by_the_next_of_its_name(ground: Ground) -> None:
    opened("web", "api")
    opened("web")
    made = ["play-hub", "web", "api"]
    again = [["add", name] for name in made] + [["del", name] for name in made] + [["add", "play-hub"], ["add", "web"]]
    assert ground.of_namespaces() == again


def test_a_closed_stage_leaves_nothing(ground: Ground) -> None:
    stage = opened("web")
    stage.hosts(stage.players["web"], {"api": ["192.0.2.9"]})
    stage.close()
    assert [list(path.iterdir()) for path in (ground.netns, ground.etc, ground.run)] == [[], [], []]
    assert stage.players == {}
    stage.close()
    assert ground.of_namespaces()[-2:] == [["del", "play-hub"], ["del", "web"]]


def test_a_namespace_of_somebody_elses_is_neither_used_nor_removed(ground: Ground) -> None:
    (ground.netns / "web").touch()
    stage = opened()
    with pytest.raises(StageError, match=r"a network namespace web exists already, not ours: `ip netns del web`"):
        stage.add("web")
    stage.close()
    assert ground.of_namespaces() == [["add", "play-hub"], ["del", "play-hub"]]


def test_a_command_that_fails_is_named_with_the_reason_and_what_was_made_is_cleared(ground: Ground) -> None:
    ground.refuse("link set eth0 up")
    stage = opened()
    with pytest.raises(StageError, match=r"^ip -n web -batch - '.*link set eth0 up.* failed: RTNETLINK answers: no$"):
        stage.add("web")
    stage.close()
    assert ground.of_namespaces()[-2:] == [["del", "play-hub"], ["del", "web"]]


def test_the_hosts_file_of_a_player_has_every_address_of_every_name(ground: Ground) -> None:
    stage = opened("web", prefix="x-")
    stage.hosts(stage.players["web"], {"api.demo": ["192.0.2.9", "2001:db8::9"], "db": ["192.0.2.8"]})
    assert (ground.etc / "x-web" / "hosts").read_text().splitlines() == [
        "127.0.0.1 localhost",
        "::1 localhost",
        "192.0.2.9 api.demo",
        "2001:db8::9 api.demo",
        "192.0.2.8 db",
    ]
