"""Messages without application data, and records upon records: bounded in number, and in what one call does of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.outcome import Outcome
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsFailure, TlsMachine
from tests.tls.pki import Pki
from tests.tls.records import (
    ALERT,
    DATA,
    FFDHE8192,
    HANDSHAKE,
    NEW_SESSION_TICKET,
    P521,
    X25519,
    Writer,
    before_server,
    client_hello,
    towards_client,
    towards_server,
)

PKI = Pki()
OURS = Contexts(PKI.svid("ours"), PKI.bundle())
MAX_BARE = 128
"""A KeyUpdate that asks for an answer may count twice."""
AT_ONCE = 512
BARE_AT_ONCE = 64
ANSWER = 27
"""Bytes of the record in which a KeyUpdate goes."""
USER_CANCELED = b"\x01\x5a"


def every(machine: TlsMachine, data: bytes) -> Iterator[bytes]:
    """What each turn opens, until all is looked at."""
    while data:
        plain = machine.receive(data)
        yield plain
        assert machine.pending < len(data), "each turn goes on"
        data = data[-machine.pending :] if machine.pending else b""


def towards(side: str, directory: Path) -> tuple[Writer, TlsMachine]:
    if side == "server":
        return towards_server(directory, OURS)
    return towards_client(directory, OURS, PKI.svid("peer"))


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("asked", [True, False])
def test_key_updates_without_a_word_between_end_the_connection(tmp_path: Path, side: str, asked: bool) -> None:
    writer, machine = towards(side, tmp_path)
    assert machine.receive(writer.record(b"hello")) == b"hello"
    some, more = (b"".join(writer.key_update(asked=asked) for _ in range(each)) for each in (MAX_BARE // 2, MAX_BARE))
    assert b"".join(every(machine, some)) == b"", "some tens are nobody's fault"
    assert bool(machine.outgoing()) is asked
    with pytest.raises(TlsFailure) as ended:
        list(every(machine, more))
    assert ended.value.outcome is Outcome.TLS_FLOOD
    assert "KeyUpdate" in ended.value.detail


@pytest.mark.parametrize("in_one_record", [1, 700])
def test_tickets_without_end_end_a_clients_connection(tmp_path: Path, in_one_record: int) -> None:
    writer, machine = towards("client", tmp_path)
    flood = b"".join(writer.record(NEW_SESSION_TICKET * in_one_record, HANDSHAKE) for _ in range(MAX_BARE + 1))
    with pytest.raises(TlsFailure) as ended:
        list(every(machine, flood))
    assert ended.value.outcome is Outcome.TLS_FLOOD


def test_a_few_tickets_are_a_clients_to_keep_and_what_follows_them_is_heard(tmp_path: Path) -> None:
    writer, machine = towards("client", tmp_path)
    tickets = writer.record(NEW_SESSION_TICKET * 3, HANDSHAKE) + writer.record(NEW_SESSION_TICKET, HANDSHAKE)
    assert machine.receive(tickets + writer.record(b"hello")) == b"hello"


def test_a_ticket_has_no_business_at_a_server(tmp_path: Path) -> None:
    writer, machine = towards("server", tmp_path)
    with pytest.raises(TlsFailure) as ended:
        machine.receive(writer.record(NEW_SESSION_TICKET, HANDSHAKE))
    assert ended.value.outcome is Outcome.HANDSHAKE_FAILED


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_mixture_that_keeps_below_each_bound_of_openssls_is_ended_too(tmp_path: Path, side: str) -> None:
    writer, machine = towards(side, tmp_path)
    kinds: list[Callable[[], bytes]] = [
        lambda: writer.record(b"", DATA),
        writer.key_update,
        lambda: writer.record(USER_CANCELED, ALERT),
        lambda: writer.record(b"", DATA, padding=16000),
    ]
    flood = b"".join(kinds[number % len(kinds)]() for number in range(MAX_BARE + 1))
    with pytest.raises(TlsFailure) as ended:
        list(every(machine, flood))
    assert ended.value.outcome is Outcome.TLS_FLOOD


def test_a_word_now_and_then_does_not_hide_a_flood(tmp_path: Path) -> None:
    writer, machine = towards("server", tmp_path)
    flood = b"".join(
        b"".join(writer.key_update() for _ in range(MAX_BARE // 3)) + writer.record(b"x") for _ in range(6)
    )
    with pytest.raises(TlsFailure) as ended:
        list(every(machine, flood))
    assert ended.value.outcome is Outcome.TLS_FLOOD


@pytest.mark.parametrize("side", ["server", "client"])
def test_new_keys_for_every_record_are_served_for_as_long_as_one_likes(tmp_path: Path, side: str) -> None:
    writer, machine = towards(side, tmp_path)
    pairs = 10 * MAX_BARE
    stream = b"".join(writer.key_update() + writer.record(b"%04d" % number) for number in range(pairs))
    assert b"".join(every(machine, stream)) == b"".join(b"%04d" % number for number in range(pairs))


def test_new_keys_for_every_record_that_we_send_are_served_too(tmp_path: Path) -> None:
    """A client that only reads, a large file for one, may ask for new keys all the while."""
    writer, machine = towards("server", tmp_path)
    for _ in range(10 * MAX_BARE):
        assert machine.receive(writer.key_update()) == b""
        machine.seal(b"a part of the file")


def test_one_call_opens_so_many_records_and_leaves_the_rest_for_another_turn(tmp_path: Path) -> None:
    writer, machine = towards("server", tmp_path)
    turns = list(every(machine, b"".join(writer.record(b"x") for _ in range(5000))))
    assert [len(turn) for turn in turns] == [AT_ONCE] * 9 + [5000 - 9 * AT_ONCE]


def test_one_call_takes_few_new_keys(tmp_path: Path) -> None:
    writer, machine = towards("server", tmp_path)
    stream = b"".join(writer.key_update() + writer.record(b"x") for _ in range(200))
    answers = [len(machine.outgoing()) // ANSWER for _ in every(machine, stream)]
    assert sum(answers) in {199, 200}, "the last may wait for what we say next"
    assert max(answers) <= BARE_AT_ONCE


def test_what_comes_with_the_last_word_of_the_handshake_is_bounded_as_well(tmp_path: Path) -> None:
    writer, machine, flight = before_server(tmp_path, OURS)
    flood = b"".join(writer.record(b"x") for _ in range(2 * AT_ONCE))
    assert len(machine.receive(flight + flood)) == AT_ONCE
    assert machine.handshake_complete
    assert machine.pending == len(flood) // 2
    assert len(machine.receive(flood[-machine.pending :])) == AT_ONCE
    assert machine.pending == 0


@pytest.mark.parametrize(("group", "share"), [(FFDHE8192, b"\x02" + bytes(1023)), (P521, b"\x04" + bytes(132))])
def test_a_stranger_chooses_no_group_that_is_dear_to_compute_in(group: int, share: bytes) -> None:
    machine = TlsMachine.server(OURS.server)
    with pytest.raises(TlsFailure, match="no suitable key share") as ended:
        machine.receive(client_hello(group, share))
    assert ended.value.outcome is Outcome.HANDSHAKE_FAILED
    machine = TlsMachine.server(OURS.server)
    machine.receive(client_hello(X25519, bytes(range(32))))
    assert machine.outgoing()[:1] == b"\x16", "a ServerHello: but for its group, such a hello is taken"


words = st.one_of(st.none(), st.binary(min_size=0, max_size=40), st.just(bytes(16384)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # files of its own each time
@given(st.lists(words, max_size=30), st.lists(st.integers(1, 40000), min_size=1, max_size=10))
def test_however_the_stream_is_cut_the_same_is_heard(tmp_path: Path, said: list[bytes | None], cuts: list[int]) -> None:
    """None is a KeyUpdate."""
    writer, machine = towards("server", tmp_path)
    stream = b"".join(writer.key_update() if word is None else writer.record(word) for word in said)
    heard, at, number = b"", 0, 0
    while at < len(stream):
        piece = stream[at : at + cuts[number % len(cuts)]]
        heard += b"".join(every(machine, piece))
        at, number = at + len(piece), number + 1
    assert heard == b"".join(word for word in said if word)
