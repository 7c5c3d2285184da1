"""sessionAffinity: a client goes where it went before, whichever worker takes its connection, and for so long."""

import os
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.catalog.fronts import Front
from agent.link import affinity_memory
from agent.objects.model import Endpoint
from agent.proxy.affinity import _ENTRY, SLOTS, WAYS, Affinity, _digest, _of, size_for

A, B, C, D = (Endpoint(f"192.0.2.{number}", 80) for number in range(1, 5))
TIMEOUT = 100


def front(*endpoints: Endpoint, service: str = "demo/web", port: int = 80) -> Front:
    return Front(service, port, endpoints, affinity_seconds=TIMEOUT)


def workers(count: int) -> list[Affinity]:
    memory = memoryview(bytearray(size_for(count)))
    return [Affinity(memory, count, own) for own in range(count)]


def clients(count: int) -> list[str]:
    return [f"10.0.{number // 250}.{number % 250}" for number in range(count)]


def test_workers_that_know_nothing_of_each_other_choose_the_same_endpoint_for_a_client() -> None:
    chosen = [{client: workers(1)[0].pick(front(A, B, C), client, 1.0) for client in clients(200)} for _ in range(2)]
    assert chosen[0] == chosen[1]
    shares = Counter(each.address for each in chosen[0].values())
    assert len(shares) == 3
    assert min(shares.values()) > 40, shares


def test_an_endpoint_that_comes_takes_no_client_away_whichever_worker_is_asked() -> None:
    one, other = workers(2)
    before = {client: one.pick(front(A), client, 1.0) for client in clients(50)}
    assert {client: other.pick(front(A, B, C, D), client, 2.0) for client in clients(50)} == before
    fresh = [other.pick(front(A, B, C, D), client, 2.0) for client in clients(100)[50:]]
    assert set(fresh) == {A, B, C, D}


def test_a_client_is_led_elsewhere_when_its_time_is_over_and_each_connection_begins_it_anew() -> None:
    one, other = workers(2)
    client = next(each for each in clients(50) if workers(1)[0].pick(front(A, B), each, 0.0) == B)
    assert one.pick(front(A), client, 0.0) == A
    assert other.pick(front(A, B), client, TIMEOUT) == A
    assert one.pick(front(A, B), client, TIMEOUT * 2.0) == A, "its last connection was a hundred seconds ago"
    assert one.pick(front(A, B), client, TIMEOUT * 3.0 + 1) == B


def test_a_client_whose_endpoint_is_gone_is_led_to_another_and_stays_there() -> None:
    one, other = workers(2)
    assert one.pick(front(A), "10.0.0.1", 1.0) == A
    moved = other.pick(front(B, C), "10.0.0.1", 2.0)
    assert one.pick(front(A, B, C), "10.0.0.1", 3.0) == moved


def test_services_and_their_ports_have_nothing_to_do_with_each_other() -> None:
    (one,) = workers(1)
    one.pick(front(A), "10.0.0.1", 1.0)
    for other in (front(B, service="demo/api"), front(B, port=81)):
        assert one.pick(other, "10.0.0.1", 1.0) == B
    assert one.pick(front(A, B), "10.0.0.1", 2.0) == A


def test_the_memory_has_a_bound_and_the_client_that_was_away_longest_makes_room() -> None:
    (one,) = workers(1)
    many = clients(SLOTS * 2)
    for at, client in enumerate(many):
        one.pick(front(A), client, float(at))
    now = float(len(many))
    kept = [one._find(_key(client), now - 10 * SLOTS) is not None for client in many]
    assert sum(kept) <= SLOTS
    assert sum(kept[-SLOTS // WAYS :]) > 0.9 * SLOTS / WAYS, "who came last is there still"
    assert sum(kept) > 0.6 * SLOTS


def _key(client: str) -> int:
    return _digest(f"{client}|demo/web|80")


def test_what_is_read_while_it_is_written_counts_as_nothing() -> None:
    memory = memoryview(bytearray(size_for(1)))
    one = Affinity(memory, 1, 0)
    client = next(each for each in clients(50) if workers(1)[0].pick(front(B, C), each, 0.0) == B)
    assert one.pick(front(A), client, 1.0) == A
    (written,) = [at for at in range(0, len(memory), 32) if any(memory[at : at + 32])]
    memory[written + 8 : written + 16] = _of(C).to_bytes(8, sys.byteorder)  # of the next write, whose rest is to come
    assert one.pick(front(B, C), client, 2.0) == B


def test_a_worker_that_starts_anew_finds_what_its_predecessor_noted() -> None:
    fd = affinity_memory.create(2)
    try:
        affinity_memory.attach(fd, 2, 1).pick(front(A), "10.0.0.1", 1.0)
        assert affinity_memory.attach(fd, 2, 1).pick(front(A, B, C, D), "10.0.0.1", 2.0) == A
        with pytest.raises(ValueError, match="worker 2 of 2"):
            affinity_memory.attach(fd, 2, 2)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1"]),
        st.sets(st.sampled_from([A, B, C, D]), min_size=1),
        st.sampled_from([0.001, 1.0, TIMEOUT / 2, TIMEOUT, TIMEOUT + 1.0]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(STEPS)
def test_within_its_time_a_client_leaves_an_endpoint_only_when_that_is_gone(
    steps: list[tuple[int, str, set[Endpoint], float]],
) -> None:
    here = workers(3)
    last: dict[str, tuple[Endpoint, float]] = {}
    now = 1000.0
    for worker, client, endpoints, later in steps:
        now += later
        chosen = here[worker].pick(front(*sorted(endpoints, key=str)), client, now)
        assert chosen in endpoints
        if client in last and last[client][0] in endpoints and now - last[client][1] <= TIMEOUT:
            assert chosen == last[client][0]
        last[client] = (chosen, now)


def test_each_worker_writes_into_its_own_part_and_no_bit_of_an_entry_may_be_another() -> None:
    """Others read it while it is written: what is half of one entry and half of another counts as none."""
    for own in range(3):
        memory = bytearray(size_for(3))
        made = Affinity(memoryview(memory), 3, own)
        chosen = {made.pick(front(A, B), client, 1.0) for client in clients(50)}
        assert chosen == {A, B}
        written = [any(memory[part * size_for(1) : (part + 1) * size_for(1)]) for part in range(3)]
        assert written == [part == own for part in range(3)]
    memory = bytearray(size_for(1))
    made = Affinity(memoryview(memory), 1, 0)
    made.pick(front(A, B), "203.0.113.1", 1.0)
    first = next(at for at, byte in enumerate(memory) if byte) // _ENTRY.size * _ENTRY.size
    key, endpoint, _, _ = _ENTRY.unpack_from(memory, first)
    assert made._find(key, 0.0) == endpoint
    for bit in range(_ENTRY.size * 8):
        memory[first + bit // 8] ^= 1 << bit % 8
        assert made._find(key, 0.0) is None
        memory[first + bit // 8] ^= 1 << bit % 8
    assert made._find(key, 0.0) == endpoint
