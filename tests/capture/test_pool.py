"""Sockets made ahead in a pod's namespace."""

import asyncio
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.capture.netns import NetnsThread, host_netns, identify
from agent.capture.pool import FIRST_BATCH, LARGEST_BATCH, SocketPool
from init.constants import MARK
from init.netns import unshare

pytestmark = pytest.mark.netns  # SO_MARK and setns want root


@pytest.fixture
def thread() -> Iterator[NetnsThread]:
    made = NetnsThread()
    yield made
    made.close()


@pytest.fixture
def netns() -> Iterator[int]:
    """A namespace of its own, that nothing but its descriptor keeps alive."""

    def made() -> int:
        unshare()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    with ThreadPoolExecutor(max_workers=1) as gone:  # the thread that went there ends there
        fd = gone.submit(made).result()
    yield fd
    os.close(fd)


async def test_sockets_live_in_the_pod_and_carry_the_mark(thread: NetnsThread, netns: int) -> None:
    pool = SocketPool(thread, netns, socket.AF_INET)
    with await pool.take() as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == MARK
        with pytest.raises(OSError, match="Network is unreachable"):
            sock.connect(("192.0.2.1", 9))  # a new namespace has no route, wherever this runs
    pool.close()


async def test_a_shortage_doubles_the_batch_up_to_a_bound(thread: NetnsThread, netns: int) -> None:
    pool = SocketPool(thread, netns, socket.AF_INET6)
    taken = await asyncio.gather(*(pool.take() for _ in range(300)))
    assert len({sock.fileno() for sock in taken}) == 300
    assert FIRST_BATCH < pool._batch <= LARGEST_BATCH
    assert len(pool._ready) <= LARGEST_BATCH * 2
    for sock in taken:
        sock.close()
    pool.close()


async def test_a_closed_pool_gives_nothing_and_keeps_nothing(thread: NetnsThread, netns: int) -> None:
    pool = SocketPool(thread, netns, socket.AF_INET)
    (await pool.take()).close()
    before = len(os.listdir("/proc/self/fd"))
    ready = len(pool._ready)
    pool.close()
    assert len(os.listdir("/proc/self/fd")) == before - ready
    with pytest.raises(ConnectionAbortedError, match="left the mesh"):
        await pool.take()


async def test_takers_who_give_up_do_not_take_the_filling_down(thread: NetnsThread, netns: int) -> None:
    pool = SocketPool(thread, netns, socket.AF_INET)
    first, second = asyncio.ensure_future(pool.take()), asyncio.ensure_future(pool.take())  # noqa: TID251 - cancelled
    await asyncio.sleep(0)
    first.cancel()
    (await second).close()
    pool.close()


def test_the_thread_always_comes_home(thread: NetnsThread, netns: int) -> None:
    def where() -> tuple[int, int]:
        status = os.stat("/proc/thread-self/ns/net")
        return status.st_dev, status.st_ino

    assert thread.executor.submit(thread.run, netns, where).result() == identify(netns)
    assert thread.executor.submit(where).result() == host_netns()

    def fails() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        thread.executor.submit(thread.run, netns, fails).result()
    assert thread.executor.submit(where).result() == host_netns()
