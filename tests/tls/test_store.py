"""Sessions in memory that all workers share: what one keeps, another finds, and never half of it."""

from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Contexts
from tests.tls.test_machine import PKI, RECORD_SIZE, SERVER, joined, neighbour, session_of


def test_a_session_is_resumed_by_each_worker_that_has_seen_the_clients_certificate() -> None:
    session, second = session_of(), neighbour()
    again, other = joined(server=second, session=session)
    assert not again.resumed, "it has not seen it"
    assert other.peer_certificate == joined()[1].peer_certificate, "the client shows it"
    for _ in range(2):
        again, other = joined(server=second, session=session)
        assert again.resumed
        assert other.resumed
        assert other.peer_certificate == joined()[1].peer_certificate


def test_a_session_whose_worker_died_while_it_wrote_is_not_found() -> None:
    memory = bytearray(size_for(1))
    server = Contexts(SERVER.svid, PKI.bundle(), SessionStore(memory))
    session = session_of(server=server)
    (begin,) = (at for at in range(0, len(memory), RECORD_SIZE) if any(memory[at : at + RECORD_SIZE]))
    memory[begin] += 1
    assert not joined(server=server, session=session)[1].resumed
    memory[begin] -= 1
    assert joined(server=server, session=session)[1].resumed
    session = session_of(server=server)
    assert joined(server=server, session=session)[1].resumed, "and the place is not lost"
