"""The memory that workers share for their sessions."""

import os

import pytest

from agent.link import session_memory
from agent.tls.contexts import Contexts
from tests.tls.test_machine import PKI, joined, session_of

SVID = PKI.svid("server")


def test_what_one_worker_keeps_another_one_finds() -> None:
    fd = session_memory.create(2)
    one, other = (Contexts(SVID, PKI.bundle(), session_memory.attach(fd, 2, own)) for own in (0, 1))
    os.close(fd)  # each has mapped it
    session = session_of(server=one)
    joined(server=other)  # and has seen the client's certificate
    assert joined(server=other, session=session)[1].resumed
    assert joined(server=one, session=session)[1].resumed


def test_a_worker_that_starts_anew_resumes_what_its_predecessor_negotiated() -> None:
    fd = session_memory.create(1)
    session = session_of(server=Contexts(SVID, PKI.bundle(), session_memory.attach(fd, 1, 0)))
    successor = Contexts(SVID, PKI.bundle(), session_memory.attach(fd, 1, 0))
    os.close(fd)
    joined(server=successor)
    assert joined(server=successor, session=session)[1].resumed


def test_nobody_makes_it_smaller_under_the_others() -> None:
    fd = session_memory.create(1)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


@pytest.mark.parametrize(("workers", "own"), [(1, 1), (1, -1)])
def test_a_worker_has_a_place_of_its_own_in_it(workers: int, own: int) -> None:
    fd = session_memory.create(1)
    with pytest.raises(ValueError, match="no memory of worker"):
        session_memory.attach(fd, workers, own)
    os.close(fd)
