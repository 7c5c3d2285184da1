"""Rules, routes and what else capture stands on, changed by somebody else: put back long before the next verification.

The agents here verify once an hour: what is repaired was heard of.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from agent.capture.address import show
from agent.lab.stage import Player
from tests.netns.test_catalog import asks
from tests.netns.world import Echo, World

PORT = 8080


BROKEN = {
    "legacy": (
        "iptables-legacy -t nat -F",
        "ip6tables-legacy -t nat -F",
        "iptables-legacy -t raw -F",
        "iptables-legacy -t mangle -F QUIETWIRE_OUTPUT",
        "iptables-legacy -t nat -D OUTPUT 1",
        "iptables-legacy -t nat -I OUTPUT 1 -j ACCEPT",
        "echo '*nat\nCOMMIT' | iptables-legacy-restore",
        "iptables-legacy-save | grep -v QUIETWIRE | iptables-legacy-restore",
    ),
    "nft": (
        "nft flush ruleset",
        "nft delete table ip quietwire",
        "nft delete table ip6 quietwire",
        "nft flush chain ip quietwire nat_output",
        "nft insert rule ip6 quietwire nat_output accept",
        "nft -f - <<< 'flush ruleset; add table ip other'",
    ),
}
BESIDES = (
    "ip rule del priority 100",
    "ip -6 rule del priority 100",
    "ip route flush table 100",
    "ip -6 route flush table 100",
    "ip link set lo down",
    "sysctl -w net.ipv4.conf.lo.rp_filter=1",
)


CHECK = """
import sys, time
from init import agent_mark, engine
from init.netns import open_netns
backend, *names = sys.argv[1:]
requests = [engine.Request(engine.CHECK, open_netns(name), backend=backend, key=agent_mark.read()) for name in names]
results = engine.run(requests, time.clock_gettime(time.CLOCK_BOOTTIME))
sys.exit(not all(result.ok for result in results))
"""
"""`quietwire init check` of many pods at once."""


class Place(NamedTuple):
    world: World
    backend: str
    pods: list[Player]
    outside: Player

    def repairs(self) -> float:
        """How often the agent found something broken."""
        return self.world.count("quietwire_rule_repairs_total")

    def break_all(self, commands: tuple[str, ...]) -> None:
        """Runs each in a pod of its own; each is noticed, and everything is in force again everywhere."""
        before = self.repairs()
        for pod, command in zip(self.pods, commands, strict=False):
            done = self.world.run(pod, "bash", "-c", command)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        self.world.until(lambda: self.repairs() >= before + len(commands), f"each of {commands} is noticed")
        self.world.until(partial(self.is_whole, *self.pods), "every pod is whole")

    def is_whole(self, *pods: Player) -> bool:
        """Whether everything is in force in them."""
        words = (sys.executable, "-c", CHECK, self.backend, *(pod.netns for pod in pods))
        return subprocess.run(words, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module", params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, make_shared_world: Callable[..., World]) -> Place:
    world = make_shared_world(
        *("--backend", request.param, "--verify-interval", "3600", "--egress-mode", "meshed-only")
    )
    pods = [world.pod(f"pod-{number}") for number in range(max(len(BROKEN[request.param]), len(BESIDES)) + 2)]
    outside = world.stranger("outside")
    world.start()
    return Place(world, request.param, pods, outside)


def test_rules_that_somebody_takes_away_or_spoils_are_back(place: Place) -> None:
    place.break_all(BROKEN[place.backend])


def test_what_the_rules_stand_on_is_back(place: Place) -> None:
    place.break_all(BESIDES)


def test_a_pod_whose_rules_were_flushed_is_captured_again(place: Place) -> None:
    world, echo, pod = place.world, Echo(place.world, place.outside, PORT, 6), place.pods[0]
    place.break_all(BROKEN[place.backend][:1])
    with pytest.raises(ConnectionResetError):
        asks(world, pod, place.outside.ipv4, PORT)
    world.denial(pod=f"demo/{pod.name}", destination=show(place.outside.ipv4, PORT))
    assert echo.peers == []
    echo.close()


def test_rules_that_are_flushed_again_while_they_are_put_back_are_back_as_soon(place: Place) -> None:
    pod = place.pods[0]
    before = place.repairs()
    flush = {"legacy": "iptables-legacy -t nat -F", "nft": "nft flush ruleset"}[place.backend]
    again = place.world.spawn(pod, "bash", "-c", f"for i in $(seq 60); do {flush}; sleep 0.05; done")
    place.world.until(lambda: again.poll() is not None, "the last flush", 60.0)
    place.world.until(partial(place.is_whole, pod), f"{pod.name} is whole")
    assert place.repairs() >= before + 2


FLUSH_ONCE = {
    "legacy": "until iptables-legacy -t nat -S | grep -q QUIETWIRE_PRE; do :; done; iptables-legacy -t nat -F",
    "nft": "until nft list tables | grep -q quietwire; do :; done; nft flush ruleset",
}


def test_rules_that_are_flushed_in_the_moment_of_their_first_writing_are_back_as_soon(place: Place) -> None:
    world, before = place.world, place.repairs()
    fresh = world.stranger("fresh")
    flush = world.spawn(fresh, "bash", "-c", FLUSH_ONCE[place.backend])
    world.declare(fresh)
    world.until(lambda: flush.poll() is not None, "the flush")
    world.until(lambda: place.repairs() > before, "it is found")
    world.until(partial(place.is_whole, fresh), "it is whole")
    world.withdraw(fresh)


def is_refused(place: Place, pod: Player) -> bool:
    """Whether nobody listens for what the pod dials."""
    try:
        place.world.connect(pod, place.outside.ipv4, PORT).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # the listener closed with it in its queue
    return False


EMPTY = {"legacy": "iptables-legacy -t nat -F", "nft": "true"}
"""Undoes `fill` as its administrator; nft's are in our own table, which the agent writes anew."""


def fill(place: Place, pod: Player) -> None:
    """Writes more rules than can be read in time."""
    words, rule = {
        "legacy": (
            ("iptables-legacy-restore", "--noflush"),
            "-A OUTPUT -s {} -p udp -m multiport --dports 1,2 -j ACCEPT",
        ),
        "nft": (("nft", "-f", "-"), "add rule ip quietwire nat_output ip saddr {} udp dport {{ 1, 2 }} accept"),
    }[place.backend]
    lines = [rule.format(f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(8000)]
    script = "\n".join(["*nat", *lines, "COMMIT"] if place.backend == "legacy" else lines)
    done = place.world.run(pod, *words, given=script + "\n", seconds=60)
    assert done.returncode == 0, done.stderr


def test_a_pod_that_breaks_its_rules_again_and_again_is_refused_until_they_hold_still(place: Place) -> None:
    """Nobody but the keeper writes its rules then, so the keeper must not let go of it, whatever else it does."""
    world, pod, other = place.world, place.pods[-2], place.pods[2]
    key = f"demo/{pod.name}"

    def is_held_back() -> bool:
        words = "somebody in it breaks its rules"
        return any(each["pod"] == key and words in each["reason"] for each in world.ready()["waiting"])

    def is_said(words: str) -> list[dict[str, object]]:
        return [line for line in world.mesh.lines() if words in str(line.get("msg"))]

    breaks = world.spawn(
        pod, "bash", "-c", "while :; do ip rule del priority 100; sleep 0.1; done", stderr=subprocess.DEVNULL
    )
    try:
        world.until(is_held_back, f"{key} is held back", 60.0)
        world.until(partial(is_refused, place, pod), f"{key} is refused")
        assert world.run(other, "ip", "rule", "del", "priority", "100").returncode == 0
        world.until(partial(place.is_whole, other), "another one's rules are put back meanwhile")
        fill(place, pod)
        if place.backend == "legacy":
            world.until(partial(is_said, f"the rules of {key} could not be repaired"), "they are too many", 60.0)
    finally:
        breaks.kill()
        breaks.wait()
    assert world.run(pod, "bash", "-c", EMPTY[place.backend]).returncode == 0
    world.until(lambda: world.ready()["ready"], f"{key} is served again", 90.0)
    assert place.is_whole(pod)
    assert len(is_said(f"{key}: somebody in it breaks its rules")) == 1


def test_a_pod_that_fills_its_tables_holds_up_no_other(place: Place) -> None:
    """Its administrator may do so; whoever reads rules for everybody does not read those to the end."""
    world, filled, flushed = place.world, place.pods[0], place.pods[1]
    fill(place, filled)
    before = place.repairs()
    flush = {"legacy": "iptables-legacy -t nat -F", "nft": "nft flush ruleset"}[place.backend]
    assert world.run(flushed, "bash", "-c", flush).returncode == 0
    world.until(lambda: place.is_whole(flushed), "the other pod is whole again", 20.0)
    assert place.repairs() > before
    assert world.run(filled, "bash", "-c", EMPTY[place.backend]).returncode == 0
    # Other tests have broken its rules too, so it may be held back by now.
    world.until(lambda: world.ready()["ready"], "that one is served again", 90.0)
    assert place.is_whole(filled)


def test_a_pod_that_rings_for_nothing_is_still_heard_and_others_are_not_told_broken(place: Place) -> None:
    before = place.repairs()
    noise = {
        "legacy": "for i in $(seq 100); do iptables-legacy -t nat -A POSTROUTING -p udp -j ACCEPT; done",
        "nft": "for i in $(seq 100); do nft add chain ip quietwire theirs; nft delete chain ip quietwire theirs; done",
    }[place.backend]
    done = place.world.run(place.pods[0], "bash", "-c", noise, seconds=60)
    assert done.returncode == 0, done.stderr
    place.break_all(("ip rule del priority 100",))
    assert place.repairs() == before + 1
    said = [line for line in place.world.mesh.lines() if "changed by somebody else" in str(line.get("msg"))]
    assert not [line for line in said if f"demo/{place.pods[-1].name} " in str(line["msg"])]
