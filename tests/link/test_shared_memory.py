"""Memory that workers share: all see the same bytes, and nobody can take them away."""

import os

import pytest

from agent.link.shared_memory import attach, create

SIZE = 8192


def test_whoever_maps_it_sees_what_the_others_write() -> None:
    fd = create("quietwire-test", SIZE)
    other = os.dup(fd)
    with attach(fd, SIZE) as one, attach(other, SIZE) as two:
        assert one[:] == bytes(SIZE)
        one[100:103] = b"abc"
        assert two[100:103] == b"abc"
    os.close(fd)
    os.close(other)


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_nobody_changes_its_size(size: int) -> None:
    """Whoever mapped it would be killed (SIGBUS) where it ends."""
    fd = create("quietwire-test", SIZE)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
    assert os.fstat(fd).st_size == SIZE
    os.close(fd)


def test_it_is_no_programs_that_is_started() -> None:
    fd = create("quietwire-test", SIZE)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_one_that_is_smaller_than_is_thought_is_not_mapped() -> None:
    fd = create("quietwire-test", SIZE)
    with pytest.raises(ValueError, match="size"):
        attach(fd, 2 * SIZE)
    os.close(fd)
