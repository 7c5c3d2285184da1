"""Code of ours that runs where a cluster's machines are: on a thread, in one of their network namespaces."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from init.netns import open_netns, setns
from tests.kubernetes.cluster.cluster import Cluster

T = TypeVar("T")


def inside(cluster: Cluster, work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 60.0) -> T:
    """What comes of `work` in the namespace of the control plane, on a loop of its own, or what it raises."""
    done: list[T] = []
    failed: list[BaseException] = []

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            try:
                return await work()
            finally:
                await asyncio.sleep(0)  # connections that were closed just now end in the loop's next turn

    def run() -> None:
        try:
            fd = open_netns(cluster.layout.hub)
            try:
                setns(fd)
            finally:
                os.close(fd)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                done.append(runner.run(bounded()))
        except BaseException as error:  # noqa: BLE001 - raised below, on the thread of whoever asked
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
