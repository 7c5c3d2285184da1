"""`quietwire init` and the rules that it leaves in the kernel; what they capture: test_capture.py."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.lab.stage import Player
from init import agent_mark, legacy, nft
from init.client import BatchRequest, BatchResult, run_batch
from init.constants import AGENT_MARK, MEMORY_DIRECTORY
from init.engine import TRUST_SECONDS
from init.kernel import Memory
from init.model import Family, Options, chains
from init.netns import open_netns, path_of
from tests.netns.world import SOON, Echo, World, alive

PORT = 8080
OPTIONS = (
    *("--skip-outbound-ports", "9,7000-7010"),
    *("--skip-inbound-ports", "9,7000-7010"),
    *("--skip-outbound-subnets", "203.0.113.0/24,2001:db8:113::/48"),
    *("--skip-inbound-subnets", "10.77.0.4/32,fd77::4/128"),
)
AS_OPTIONS = Options(
    skip_outbound_ports=((9, 9), (7000, 7010)),
    skip_inbound_ports=((9, 9), (7000, 7010)),
    skip_outbound_subnets=("203.0.113.0/24", "2001:db8:113::/48"),
    skip_inbound_subnets=("10.77.0.4/32", "fd77::4/128"),
)


def init(player: Player, *words: str) -> subprocess.CompletedProcess[str]:
    """`quietwire init …`, from outside of the pod."""
    verb, *more = words
    return subprocess.run(
        [sys.executable, "-m", "init", verb, "--netns", player.netns, *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def inside(player: Player, *words: str) -> str:
    """A command in the pod that must succeed."""
    done = subprocess.run(player.command(*words), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def everything(player: Player) -> str:
    """All that could be changed in a namespace, by the tools that everybody has."""
    parts = []
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        parts += [inside(player, tool, "-t", table, "-S") for table in ("raw", "nat", "mangle", "filter")]
    # nft shows what the kernel's xtables emulation holds too, with a warning on stderr.
    parts.append(inside(player, "nft", "list", "ruleset"))
    for family in ("-4", "-6"):
        parts.append(inside(player, "ip", family, "rule"))
        parts.append(inside(player, "ip", family, "route", "show", "table", "all"))
    parts.append(inside(player, "sysctl", "net.ipv4.conf.lo.rp_filter", "net.ipv4.conf.all.rp_filter"))
    parts.append(inside(player, "sysctl", "net.ipv4.tcp_early_demux", "net.ipv4.ip_early_demux"))
    parts.append(re.sub(r"(qdisc|state) \w+", "", inside(player, "ip", "-br", "link", "show", "lo")))
    # Link-local addresses come when they come; a route's expiry is counted down. Neither is configuration.
    lines = [line for part in parts for line in part.splitlines() if "fe80::" not in line and "ff00::" not in line]
    return re.sub(r" (expires|age) \d+sec", "", "\n".join(lines))


# -- apply, check, remove --


@pytest.fixture
def pod(make_world: Callable[..., World]) -> Player:
    return make_world().stranger("pod")


@pytest.fixture(params=["legacy", "nft"])
def backend(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_applying_twice_changes_nothing(pod: Player, backend: str) -> None:
    first = init(pod, "apply", "--backend", backend, *OPTIONS)
    assert (first.returncode, first.stdout) == (0, f"captured by {backend} (changed)\n"), first.stderr
    before = everything(pod)
    second = init(pod, "apply", "--backend", backend, *OPTIONS)
    assert (second.returncode, second.stdout) == (0, f"captured by {backend} (nothing to change)\n"), second.stderr
    assert everything(pod) == before
    assert init(pod, "check", "--backend", backend, *OPTIONS).returncode == 0


def test_other_options_replace_the_rules_whole(pod: Player, backend: str) -> None:
    init(pod, "apply", "--backend", backend, *OPTIONS)
    assert init(pod, "check", "--skip-inbound-ports", "1").returncode == 1
    assert init(pod, "apply", "--backend", backend, "--skip-inbound-ports", "1").returncode == 0
    assert init(pod, "check", "--skip-inbound-ports", "1").returncode == 0
    assert "7000" not in everything(pod)


CHANGED = ("net.ipv4.conf.lo.rp_filter = 1", "net.ipv4.tcp_early_demux = 1")


def test_remove_leaves_the_namespace_as_it_was_with_everything_that_others_put_there(pod: Player, backend: str) -> None:
    inside(pod, "sysctl", "-w", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.lo.rp_filter=1")
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        inside(pod, tool, "-t", "nat", "-N", "THEIRS")
        inside(pod, tool, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "25", "-j", "THEIRS")
        inside(pod, tool, "-t", "mangle", "-A", "PREROUTING", "-m", "mark", "--mark", "0x7", "-j", "ACCEPT")
    inside(pod, "nft", "add table inet theirs; add chain inet theirs input { type filter hook input priority 0; }")
    inside(pod, "ip", "rule", "add", "fwmark", "0x111", "lookup", "main", "priority", "50")
    inside(pod, "ip", "route", "add", "192.0.2.0/24", "dev", "lo", "table", "100")
    before = everything(pod)
    assert init(pod, "apply", "--backend", backend).returncode == 0
    during = everything(pod)
    assert during != before
    for line in before.splitlines():
        assert line in during or line in CHANGED, "what others wrote stays while ours is there"
    assert init(pod, "remove").stdout == "as it was (changed)\n"
    assert everything(pod) == before
    assert init(pod, "remove").stdout == "as it was (nothing to change)\n"


def test_loopback_that_was_down_is_up_while_captured_and_down_again(pod: Player) -> None:
    inside(pod, "ip", "link", "set", "lo", "down")
    assert init(pod, "apply").returncode == 0
    assert "UP" in inside(pod, "ip", "-br", "link", "show", "lo")
    assert init(pod, "remove").returncode == 0
    assert "UP" not in inside(pod, "ip", "-br", "link", "show", "lo")


def test_the_other_backends_rules_are_replaced(pod: Player) -> None:
    for chosen, other in (("nft", "legacy"), ("legacy", "nft"), ("nft", "legacy")):
        assert init(pod, "apply", "--backend", other).returncode == 0
        assert init(pod, "apply", "--backend", chosen).returncode == 0
        assert init(pod, "check", "--backend", chosen).returncode == 0
        assert ("QUIETWIRE" in inside(pod, "iptables-legacy", "-t", "nat", "-S")) == (chosen == "legacy")
        assert ("table ip quietwire" in inside(pod, "nft", "list", "tables")) == (chosen == "nft")


def test_ipv6_that_is_disabled_has_its_rules_all_the_same_and_its_route_when_it_comes(
    pod: Player, backend: str
) -> None:
    inside(pod, "sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    done = init(pod, "apply", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "IPv6 is disabled (disable_ipv6): its rules are there, its route must wait" in done.stderr
    assert init(pod, "check", "--backend", backend).returncode == 0
    words = {"legacy": ("ip6tables-legacy-save",), "nft": ("nft", "list", "table", "ip6", "quietwire")}[backend]
    assert "4140" in inside(pod, *words)
    inside(pod, "sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=0")
    found = init(pod, "check", "--backend", backend)
    assert found.stdout.startswith("missing: IPv6: route 'local ::/0 dev lo table 100' is missing\nnot captured"), found
    assert init(pod, "apply", "--backend", backend).stdout == f"captured by {backend} (changed)\n"
    assert init(pod, "check", "--backend", backend).returncode == 0
    assert init(pod, "remove").returncode == 0


def test_no_ipv6_takes_ipv6_rules_away(pod: Player, backend: str) -> None:
    init(pod, "apply", "--backend", backend)
    assert init(pod, "apply", "--backend", backend, "--no-ipv6").returncode == 0
    assert init(pod, "check", "--backend", backend, "--no-ipv6").returncode == 0
    assert init(pod, "check", "--backend", backend).returncode == 1
    assert "QUIETWIRE" not in inside(pod, "ip6tables-legacy", "-t", "nat", "-S")
    assert "ip6 quietwire" not in inside(pod, "nft", "list", "tables")


def marked(player: Player, options: Options) -> Options:
    """Options with the agent's mark for the pod."""
    key = agent_mark.draw()
    numbers = inside(player, sys.executable, "-c", "from init.kernel import *; print(cookie(), inode())").split()
    return dataclasses.replace(options, mark=agent_mark.mark_of(key, int(numbers[0]), int(numbers[1])))


def _found_after(pod: Player, backend: str, *words: str) -> str:
    """Breaks one thing; what check says."""
    inside(pod, *words)
    found = init(pod, "check", "--backend", backend, *OPTIONS)
    assert found.returncode == 1, f"{words} went unnoticed"
    return found.stdout


def _missing_after(pod: Player, backend: str, *words: str) -> str:
    """Breaks one thing; what check says; repairs."""
    found = _found_after(pod, backend, *words)
    repaired = init(pod, "apply", "--backend", backend, *OPTIONS)
    assert "(changed)" in repaired.stdout, repaired.stderr
    assert init(pod, "check", "--backend", backend, *OPTIONS).returncode == 0
    return found


def test_check_names_each_legacy_rule_that_is_missing(pod: Player) -> None:
    agent_mark.draw()
    assert init(pod, "apply", "--backend", "legacy", *OPTIONS).returncode == 0
    for family, tool in ((Family.IPV4, "iptables-legacy"), (Family.IPV6, "ip6tables-legacy")):
        wanted = chains(family, marked(pod, AS_OPTIONS))
        flush = "; ".join(f"{tool} -t {chain.hook.table} -F {chain.hook.chain}" for chain in wanted)
        said = _found_after(pod, "legacy", "sh", "-c", flush)
        for chain in wanted:
            table, name = chain.hook.table, chain.hook.chain
            for rule in chain.rules:
                assert f"missing: {family} {table}: rule '-A {name} {legacy.text(rule)}' is missing" in said
                # Put back by iptables itself from the words that were shown, which so are proven to be true.
                words = legacy.text(rule).replace(AGENT_MARK, f"{rule.mark or 0:#x}")
                inside(pod, tool, "-t", table, "-A", name, *words.split())
        assert init(pod, "check", "--backend", "legacy", *OPTIONS).returncode == 0
        unlink = "; ".join(f"{tool} -t {table} -F {chain}" for table, chain in {c.hook.value[:2] for c in wanted})
        said = _missing_after(pod, "legacy", "sh", "-c", unlink)
        for chain in wanted:
            words = f"the jump from {chain.hook.builtin} to {chain.hook.chain} is missing"
            assert f"missing: {family} {chain.hook.table}: {words}" in said


def test_check_names_one_legacy_rule_that_is_missing_of_many(pod: Player) -> None:
    assert init(pod, "apply", "--backend", "legacy", *OPTIONS).returncode == 0
    for chain in ("QUIETWIRE_INPUT", "QUIETWIRE_FORWARD", "QUIETWIRE_LEAVING"):
        said = _missing_after(pod, "legacy", "iptables-legacy", "-t", "mangle", "-D", chain, "2")
        assert said.count("missing: ") == 1, said


def test_check_names_each_nft_rule_that_is_missing(pod: Player) -> None:
    agent_mark.draw()
    assert init(pod, "apply", "--backend", "nft", *OPTIONS).returncode == 0
    for family, name in ((Family.IPV4, "ip"), (Family.IPV6, "ip6")):
        wanted = nft.layout(family, marked(pod, AS_OPTIONS))
        for each in (0, 1):  # one rule of each chain, then those that are left
            handles = []
            gone = [(chain, line) for chain in wanted for line in (chain.lines[1:] if each else chain.lines[:1])]
            listed = inside(pod, "nft", "-a", "list", "table", name, "quietwire")
            for chain, line in gone:
                (handle,) = re.findall(
                    rf'comment "{line.comment}" # handle (\d+)', listed.partition(f"chain {chain.name} ")[2]
                )[:1]
                handles.append(f"delete rule {name} quietwire {chain.name} handle {handle}")
            said = _missing_after(pod, "nft", "nft", "; ".join(handles))
            for chain, line in gone:
                assert f"rule '{line.shown}' of chain {chain.name} is missing" in said
        said = _missing_after(pod, "nft", "nft", "delete", "table", name, "quietwire")
        assert f"missing: {family}: table {name} quietwire is missing" in said


def test_check_notices_rules_that_somebody_put_before_or_among_ours(pod: Player) -> None:
    assert init(pod, "apply", "--backend", "legacy", *OPTIONS).returncode == 0
    said = _missing_after(pod, "legacy", "iptables-legacy", "-t", "nat", "-I", "OUTPUT", "1", "-j", "ACCEPT")
    assert "the jump from OUTPUT to QUIETWIRE_OUTPUT is not the first rule" in said
    said = _missing_after(pod, "legacy", "iptables-legacy", "-t", "nat", "-I", "QUIETWIRE_OUTPUT", "1", "-j", "ACCEPT")
    assert "chain QUIETWIRE_OUTPUT has other rules, or another order, than ours" in said
    assert init(pod, "apply", "--backend", "nft", *OPTIONS).returncode == 0
    said = _missing_after(pod, "nft", "nft", "insert", "rule", "ip", "quietwire", "nat_output", "accept")
    assert "chain nat_output has other rules, or another order, than ours" in said


def batch(player: Player, op: str, options: Options, backend: str = "auto") -> BatchResult:
    """What the agent does for each of its pods."""
    fd = open_netns(player.netns)
    (result,) = run_batch([BatchRequest(0, op, fd, options, backend)], 60)
    os.close(fd)
    return result


@pytest.fixture
def reads(pod: Player, tmp_path: Path) -> Callable[[str, Options], bool]:
    """Whether an agent's batch reads the rules through libxtables: it cannot, and says so, or has no need to."""
    (tmp_path / "iptc.py").write_text("raise ImportError('the rules are read')")

    def tried(op: str, options: Options) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path))
            result = batch(pod, op, options)
        assert result.error in {None, "the rules are read"}
        assert result.ok == (result.error is None)
        return not result.ok

    return tried


def memory_of(player: Player) -> Path:
    """What is remembered of a namespace."""
    return Path(MEMORY_DIRECTORY, f"{os.stat(path_of(player.netns)).st_ino}.json")


def test_tables_that_nobody_wrote_to_are_verified_without_reading_their_rules(
    pod: Player, reads: Callable[[str, Options], bool]
) -> None:
    assert batch(pod, "apply", AS_OPTIONS).changed
    assert reads("check", AS_OPTIONS), "nobody has looked yet at what was written"
    assert batch(pod, "check", AS_OPTIONS).ok
    inside(pod, "bash", "-c", "true > /dev/tcp/127.0.0.1/1 || true")
    assert re.search(r"^\[[1-9]\d*:\d+\] -A QUIETWIRE_OUTPUT", inside(pod, "iptables-legacy-save", "-c"), re.MULTILINE)
    assert not reads("check", AS_OPTIONS), "counters count"
    assert not reads("apply", AS_OPTIONS)
    assert reads("check", Options()), "something else is wanted now"
    last = len(chains(Family.IPV4, AS_OPTIONS)[1].rules)
    elsewhere = ("-p", "tcp", "-j", "REDIRECT", "--to-ports", "4141")  # as many bytes as the rule that it replaces
    for words in (
        ("iptables-legacy", "-t", "nat", "-R", "QUIETWIRE_OUTPUT", str(last), *elsewhere),
        ("iptables-legacy", "-t", "nat", "-D", "QUIETWIRE_PREROUTING", "1"),
        ("iptables-legacy", "-t", "mangle", "-I", "OUTPUT", "1", "-j", "ACCEPT"),
        ("ip6tables-legacy", "-t", "raw", "-F"),
    ):
        inside(pod, *words)
        assert reads("check", AS_OPTIONS), f"{words} went unnoticed"
        assert batch(pod, "apply", AS_OPTIONS).changed
        assert batch(pod, "check", AS_OPTIONS).ok
        assert not reads("check", AS_OPTIONS)
    inside(pod, "iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    assert reads("check", AS_OPTIONS)
    assert batch(pod, "check", AS_OPTIONS).ok, "what is no business of ours is read once"
    assert not reads("check", AS_OPTIONS)


def test_tables_are_read_again_after_a_while_and_always_by_hand(
    pod: Player, reads: Callable[[str, Options], bool]
) -> None:
    assert batch(pod, "apply", Options()).changed
    assert batch(pod, "check", Options()).ok
    memory = memory_of(pod)
    known = json.loads(memory.read_text())
    # As if somebody had changed the rules to and fro while they were read: what is remembered is not what was read.
    inside(pod, "iptables-legacy", "-t", "nat", "-F", "QUIETWIRE_OUTPUT")
    digests = inside(pod, sys.executable, "-c", DIGESTS)
    memory.write_text(json.dumps({**known, "tables": {**known["tables"], "IPv4": json.loads(digests)}}))
    assert not reads("check", Options())
    assert init(pod, "check").returncode == 1
    assert not reads("check", Options()), "by hand nothing is remembered"
    overdue = {family: at - TRUST_SECONDS for family, at in known["read_at"].items()}
    memory.write_text(json.dumps({**json.loads(memory.read_text()), "read_at": overdue}))
    assert reads("check", Options())
    assert batch(pod, "check", Options()).missing


DIGESTS = """
import dataclasses
import json
from init.model import Family, Options
from init.tables import fingerprints
print(json.dumps(fingerprints(Family.IPV4, Options())))
"""


@pytest.mark.parametrize("meanwhile", ["removed", "other backend"])
def test_what_a_check_found_is_not_remembered_of_rules_that_others_replaced_meanwhile(
    pod: Player, meanwhile: str
) -> None:
    assert batch(pod, "apply", Options()).changed
    path = memory_of(pod)
    loaded = json.loads(path.read_text())
    memory = Memory("legacy", tables={"IPv4": {"raw": "a digest"}}, cookie=loaded["cookie"], path=path)
    memory.save_fingerprints()
    assert json.loads(path.read_text()) == {**loaded, "tables": memory.tables}
    words = ("remove",) if meanwhile == "removed" else ("apply", "--backend", "nft")
    assert init(pod, *words).returncode == 0
    before = path.read_text() if path.exists() else None
    memory.save_fingerprints()
    assert (path.read_text() if path.exists() else None) == before


def test_what_must_be_put_back_is_known_of_each_namespace_of_a_batch(make_world: Callable[..., World]) -> None:
    world = make_world()
    pods = [world.stranger(name) for name in ("one", "two", "three")]
    fds = [open_netns(player.netns) for player in pods]
    for player in pods:
        inside(player, "sysctl", "-qw", "net.ipv4.conf.lo.rp_filter=1")
        inside(player, "ip", "link", "set", "lo", "down")
    before = [everything(player) for player in pods]
    for op in ("apply", "check", "remove"):
        results = run_batch([BatchRequest(number, op, fd) for number, fd in enumerate(fds)], 60)
        assert all(result.ok for result in results), results
    assert [everything(player) for player in pods] == before
    for fd in fds:
        os.close(fd)


BESIDES_RULES = (
    {
        "ip rule del priority 100": "IPv4: ip rule 'fwmark 0x111/0xfff lookup 100' is missing",
        "ip -6 rule del priority 100": "IPv6: ip rule 'fwmark 0x111/0xfff lookup 100' is missing",
        "ip route flush table 100": "IPv4: route 'local 0.0.0.0/0 dev lo table 100' is missing",
        "ip -6 route flush table 100": "IPv6: route 'local ::/0 dev lo table 100' is missing",
        "sysctl -qw net.ipv4.conf.lo.rp_filter=1": "IPv4: sysctl net.ipv4.conf.lo.rp_filter must not be strict",
        "sysctl -qw net.ipv4.tcp_early_demux=1": "sysctl net.ipv4.tcp_early_demux must be 0",
    },
    {"ip link set lo down": "interface lo is down"},  # which takes its routes along
)


def test_check_names_each_thing_that_is_missing_besides_rules(pod: Player, backend: str) -> None:
    assert init(pod, "apply", "--backend", backend, *OPTIONS).returncode == 0
    for broken in BESIDES_RULES:
        said = _missing_after(pod, backend, "sh", "-ec", "; ".join(broken))
        assert all(f"missing: {words}" in said for words in broken.values()), said


def test_a_lock_that_iptables_holds_is_waited_for(pod: Player) -> None:
    holder = subprocess.Popen(
        ["flock", "/run/xtables.lock", "sh", "-c", "echo held; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    waiting = subprocess.Popen(
        [sys.executable, "-m", "init", "apply", "--netns", pod.netns, "--backend", "legacy"], stdout=subprocess.PIPE
    )
    _until_it_polls_the_lock(waiting.pid)
    assert "QUIETWIRE" not in inside(pod, "iptables-legacy-save")
    holder.communicate(b"\n", timeout=SOON)
    said, _ = waiting.communicate(timeout=SOON)
    assert said == b"captured by legacy (changed)\n"


def _until_it_polls_the_lock(parent: int) -> None:
    """Returns once a child of the process has iptables' lock file open."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            try:
                links = [os.readlink(link) for link in Path(f"/proc/{child}/fd").iterdir()]
            except OSError:
                continue
            if "/run/xtables.lock" in links:
                return
        time.sleep(0.005)
    raise AssertionError("nobody opened the lock")


def test_check_names_processes_that_capture_cannot_hold(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.stranger("pod")
    assert init(pod, "apply").returncode == 0
    assert init(pod, "check").stderr == ""
    keeps = {"sleep": "net_raw", "cat": "net_admin", "tail": "chown"}
    arguments = {"sleep": ("1000",), "cat": (), "tail": ("-f", "/dev/null")}
    running = {
        name: world.spawn(
            pod,
            *("setpriv", f"--bounding-set=-all,+{kept}", f"--inh-caps=-all,+{kept}", name, *arguments[name]),
            stdin=subprocess.PIPE,
        )
        for name, kept in keeps.items()
    }
    wanted = [f"sleep (process {running['sleep'].pid}, NET_RAW)", f"cat (process {running['cat'].pid}, NET_ADMIN)"]
    world.until(lambda: all(words in init(pod, "check").stderr for words in wanted), "both are named")
    found = init(pod, "check", "--json")
    assert found.returncode == 0, "it is no fault of the rules"
    assert sorted(json.loads(found.stdout)["privileged"]) == sorted(wanted)


def test_what_was_opened_while_the_rules_were_gone_does_not_outlive_their_repair(
    make_world: Callable[..., World], backend: str
) -> None:
    world = make_world()
    pod, peer = world.stranger("pod"), world.stranger("peer")
    options = Options(skip_outbound_ports=((PORT + 1, PORT + 1),))
    echoes = [Echo(world, peer, PORT + number, 6) for number in range(2)] + [Echo(world, pod, PORT, 6)]
    assert batch(pod, "apply", options, backend).ok
    flush = {
        "legacy": "for ip in ip ip6; do for table in nat mangle; do ${ip}tables-legacy -t $table -F; done; done",
        "nft": "nft flush ruleset",
    }[backend]
    inside(pod, "sh", "-c", flush)
    with contextlib.ExitStack() as stack:

        def opened(client: Player, server: Player, version: int, port: int = PORT) -> socket.socket:
            return stack.enter_context(world.connect(client, server.address(version), port))

        found = []
        for version in (4, 6):
            found.append(opened(pod, peer, version))
            found.append(opened(peer, pod, version))
            found.append(opened(pod, peer, version, PORT + 1))
            found.append(opened(pod, pod, version))
        assert all(alive(sock) for sock in found)
        repaired = batch(pod, "repair", options, backend)
        assert repaired.ok
        assert repaired.missing
        outward, inward, skipped, itself = False, False, True, True
        assert [alive(sock) for sock in found] == [outward, inward, skipped, itself] * 2
    for echo in echoes:
        echo.close()


# -- as a pod's own init step --


PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
"""A container's: what would be seen of the host in another one tells that this is not the host's namespace, or not."""


def as_init_container(pod: Player, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the init step in a pod's namespaces with NET_ADMIN only, /proc/sys read-only and no /run to write to."""
    prepare = (
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && mount -t tmpfs -o ro none /run && "
        "exec setpriv --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --no-new-privs "
    )
    command = " ".join([sys.executable, "-m", "init", *words])
    return subprocess.run(
        pod.command(*PID_NAMESPACE, "sh", "-c", prepare + command),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_nodes_own_namespace_is_never_touched_without_being_asked_to() -> None:
    """`check` stands for every verb, because it would do no harm: the guard is before all of them.

    Whoever may not look at process 1 (no SYS_PTRACE) has no answer, and above all not the answer no.
    """
    may_not_look = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    for prefix, words in (
        ((), []),
        (may_not_look, []),
        ((), ["--pid", str(os.getpid())]),
        ((), ["--netns", f"/proc/{os.getpid()}/ns/net"]),
    ):
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "init", "check", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stdout
        assert "the machine's own network namespace" in done.stderr
        assert "--allow-host" in done.stderr


def test_it_works_as_an_init_container_with_net_admin_only(pod: Player) -> None:
    assert as_init_container(pod, "check").returncode == 1
    done = as_init_container(pod, "apply")
    assert (done.returncode, done.stdout) == (0, "captured by nft (changed)\n"), done.stderr
    assert "net.ipv4.tcp_early_demux is on and cannot be turned off here" in done.stderr
    done = as_init_container(pod, "check")
    assert (done.returncode, done.stdout) == (0, "everything is in force\n"), "it asks for nothing that it cannot set"
    assert "net.ipv4.tcp_early_demux is on" in done.stderr
    assert "missing: sysctl net.ipv4.tcp_early_demux" in init(pod, "check", "--backend", "nft").stdout
    assert "meta mark" not in everything(pod).replace("meta mark set 0x00000111", ""), "no mark excepts from anything"
    done = as_init_container(pod, "apply")
    assert done.stdout == "captured by nft (nothing to change)\n"
    assert as_init_container(pod, "remove").returncode == 0
    assert as_init_container(pod, "check").returncode == 1


def test_an_init_step_that_cannot_read_the_key_leaves_the_agents_mark_in_the_rules(pod: Player, backend: str) -> None:
    agent_mark.draw()
    assert init(pod, "apply", "--backend", backend).returncode == 0
    before = everything(pod)
    unreadable = ("mount", "-t", "tmpfs", "none", "/run")
    for verb in ("check", "apply"):
        command = f"{' '.join(unreadable)} && exec {sys.executable} -m init {verb} --backend {backend}"
        done = subprocess.run(
            pod.command(*PID_NAMESPACE, "sh", "-c", command), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(changed)" not in done.stdout
    assert everything(pod) == before


def test_the_node_names_what_an_init_step_could_not_write_and_tells_the_mark_to_nobody(pod: Player) -> None:
    agent_mark.draw()
    assert as_init_container(pod, "apply").returncode == 0
    for words in (("check",), ("check", "--json")):
        said = init(pod, *words)
        assert said.returncode == 1
        assert "AGENT_MARK" in said.stdout
        mark = marked(pod, Options()).mark
        assert mark is not None
        assert f"{mark:x}" not in said.stdout
        assert str(mark) not in said.stdout
    assert "(changed)" in init(pod, "apply", "--backend", "nft").stdout
    assert init(pod, "check").stdout == "everything is in force\n"
    assert as_init_container(pod, "check").stdout == "everything is in force\n"


def test_what_an_init_container_may_not_do_is_said(pod: Player) -> None:
    done = as_init_container(pod, "apply", "--backend", "legacy")
    assert done.returncode == 1
    assert "it needs NET_ADMIN and NET_RAW, --backend nft only NET_ADMIN" in done.stderr
    inside(pod, "sysctl", "-w", "net.ipv4.conf.lo.rp_filter=1")
    done = as_init_container(pod, "apply")
    assert done.returncode == 1
    assert "set it to 2 in the pod's securityContext.sysctls" in done.stderr


def test_rules_without_an_agent_refuse_each_way_and_let_nothing_past(make_world: Callable[..., World]) -> None:
    world = make_world()
    here, there = world.stranger("here"), world.stranger("there")
    echoes = [Echo(world, here, PORT), Echo(world, there, PORT)]
    assert init(here, "apply").returncode == 0
    with pytest.raises(ConnectionRefusedError):
        world.connect(here, there.ipv4, PORT)
    with pytest.raises(ConnectionRefusedError):
        world.connect(there, here.ipv6, PORT)
    for echo in echoes:
        assert echo.peers == []
        echo.close()


NOTRACK = {
    "legacy": (
        "for ip in ip ip6; do ${ip}tables-legacy -t raw -I PREROUTING -p tcp -j CT --notrack; "
        "${ip}tables-legacy -t raw -A OUTPUT -p tcp -j CT --notrack; done"
    ),
    "nft": (
        "nft 'table inet other { chain o { type filter hook output priority -310; tcp dport 1-65535 notrack; }; "
        "chain p { type filter hook prerouting priority -310; tcp dport 1-65535 notrack; }; }'"
    ),
}


def test_what_conntrack_is_told_not_to_follow_passes_uncaptured_neither_way(
    make_world: Callable[..., World], backend: str
) -> None:
    world = make_world()
    pod, outside = world.stranger("pod"), world.stranger("outside")
    assert init(pod, "apply", "--backend", backend).returncode == 0
    inside(pod, "bash", "-c", NOTRACK[backend])
    echoes = [Echo(world, player, 8080, 6) for player in (pod, outside)]
    for (client, server), version in itertools.product(((outside, pod), (pod, outside)), (4, 6)):
        with world.open_socket(client, version) as sock:
            sock.settimeout(1.0)
            with pytest.raises(OSError, match=r"timed out|refused"):
                sock.connect((server.address(version), 8080))
    for echo in echoes:
        assert echo.peers == []
        echo.close()


@pytest.mark.parametrize(
    ("spoilt", "written_by"),
    [("", "nft"), ("[]", "nft"), ('{"cookie": 1}', "legacy"), ("read_at", "nft"), ("tables", "legacy")],
)
def test_a_memory_that_cannot_be_read_is_none(pod: Player, spoilt: str, written_by: str) -> None:
    assert batch(pod, "apply", Options(), written_by).changed
    path = memory_of(pod)
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, spoilt: [1]}) if spoilt in known else spoilt)
    assert batch(pod, "check", Options()).ok
    assert batch(pod, "remove", Options()).ok
