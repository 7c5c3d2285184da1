"""A stage to play on: network namespaces joined by a bridge, which itself stands in a namespace of its own.

Nothing is changed in the machine's own namespace. What was made is written down first, so that a stage that was
left behind (kill -9) is cleared by the next one of the same name.
"""

import ipaddress
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN = Path("/run/quietwire-stage")
ETC_NETNS = Path("/etc/netns")
NETNS = Path("/run/netns")
COMMAND_SECONDS = 30.0


class StageError(Exception):
    """The stage cannot be built; `str` says what is in the way."""


@dataclass(frozen=True)
class Player:
    """One namespace on the stage, with its addresses; `port` is its end on the bridge, in the hub."""

    name: str
    netns: str
    ipv4: str
    ipv6: str
    port: str

    def address(self, version: int) -> str:
        """Its address of IP version 4 or 6."""
        return self.ipv4 if version == 4 else self.ipv6

    def command(self, *words: str) -> list[str]:
        """A command line that runs in this namespace."""
        return ["ip", "netns", "exec", self.netns, *words]


class Stage:
    """`name` tells stages of one machine apart; `prefix` is put before the players' names for their namespaces."""

    def __init__(self, name: str, *, prefix: str = "", ipv4: str = "10.77.0.0/24", ipv6: str = "fd77::/64") -> None:
        self.hub = f"{name}-hub"
        self._prefix = prefix
        self._record = RUN / name
        self._ipv4, self._ipv6 = ipaddress.IPv4Network(ipv4), ipaddress.IPv6Network(ipv6)
        self.players: dict[str, Player] = {}

    def open(self) -> None:
        """Builds the hub and its bridge, after clearing what a stage of this name left. Raises StageError."""
        self._clear_former()
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text("", encoding="ascii")
        self._make(self.hub)
        self._ip(
            self.hub,
            "link add br0 type bridge",
            "link set br0 up",
            f"addr add {self._ipv4[1]}/{self._ipv4.prefixlen} dev br0",
            f"addr add {self._ipv6[1]}/{self._ipv6.prefixlen} dev br0 nodad",
        )

    def add(self, name: str) -> Player:
        """Adds a namespace with an interface on the bridge."""
        number = len(self.players) + 2
        player = Player(
            name,
            f"{self._prefix}{name}",
            str(self._ipv4[number]),
            str(self._ipv6[number]),
            f"port{number}",
        )
        self._make(player.netns)
        self.players[name] = player
        self._ip(player.netns, f"link add eth0 type veth peer name {player.port} netns {self.hub}")
        self._ip(self.hub, f"link set {player.port} master br0 up")
        self._ip(
            player.netns,
            "link set eth0 up",
            f"addr add {player.ipv4}/{self._ipv4.prefixlen} dev eth0",
            f"addr add {player.ipv6}/{self._ipv6.prefixlen} dev eth0 nodad",
            f"route add default via {self._ipv4[1]}",
            f"route add ::/0 via {self._ipv6[1]}",
        )
        return player

    def hosts(self, player: Player, names: Mapping[str, Sequence[str]]) -> None:
        """Gives a namespace its own /etc/hosts (ip-netns(8) mounts /etc/netns/NAME/hosts over it)."""
        directory = ETC_NETNS / player.netns
        directory.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {name}" for name, addresses in names.items() for address in addresses]
        (directory / "hosts").write_text("\n".join(lines) + "\n", encoding="ascii")

    def close(self) -> None:
        """Takes everything down. Whoever still runs in a namespace keeps it, nameless, until it ends."""
        for netns in self._recorded():
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, check=False, timeout=COMMAND_SECONDS)
            shutil.rmtree(ETC_NETNS / netns, ignore_errors=True)
        self.players.clear()
        self._record.unlink(missing_ok=True)

    def _clear_former(self) -> None:
        if self._record.exists():
            self.close()

    def _recorded(self) -> list[str]:
        try:
            return self._record.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return []

    def _make(self, netns: str) -> None:
        if (NETNS / netns).exists():
            raise StageError(
                f"a network namespace {netns} exists already, not ours: `ip netns del {netns}` if nobody needs it"
            )
        with self._record.open("a", encoding="ascii") as record:
            record.write(f"{netns}\n")
        _run(["ip", "netns", "add", netns])
        self._ip(netns, "link set lo up")

    def _ip(self, netns: str, *commands: str) -> None:
        _run(["ip", "-n", netns, "-batch", "-"], "\n".join(commands) + "\n")


def _run(command: list[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise StageError(f"{' '.join(command)} {given.strip()!r} failed: {done.stderr.strip()}")
