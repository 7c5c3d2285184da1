"""What ends the agent, and what must not."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.catalog.snapshot import CatalogChange
from agent.catalog.sources.files.directory import MAX_SAID
from agent.flags import HostPort
from agent.link.messages import ChangeCatalog
from agent.manifests.fault import Fault
from agent.manifests.origin import Origin
from agent.node import supervisor as module
from agent.node.config import Config, SvidFiles
from agent.node.supervisor import EXIT_FAULT, Supervisor
from agent.objects.model import Pod
from agent.objects.policy import DefaultPolicy
from agent.tasks import spawn


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(
        Config(
            node="node-a",
            trust_domain="example.test",
            manifests=tmp_path / "manifests",
            state=tmp_path / "state",
            run_dir=tmp_path / "run",
            admin=HostPort("127.0.0.1", 0),
            identity=SvidFiles(tmp_path / "svids"),
            workers=1,
            default_inbound_policy=DefaultPolicy.ALL_AUTHENTICATED,
            cluster_networks=(),
            egress_mode="allow",
            backend="auto",
            outbound_port=4140,
            inbound_port=4143,
            drain_seconds=1,
            verify_seconds=1,
            access_log=False,
            log_format="text",
            log_level="info",
        )
    )
    yield made
    made.enrolment.close()


async def follows() -> None:
    await asyncio.Event().wait()


async def dies() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a fault of ours")


async def test_the_death_of_what_the_agent_cannot_be_without_ends_it_and_it_is_not_ready_any_more(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor._said_ready = True
    ready = [supervisor.ready]
    tasks = [spawn(follows(), name="identity"), spawn(dies(), name="catalog")]
    async with asyncio.timeout(10):
        assert await supervisor._until_stopped(tasks) == EXIT_FAULT
    ready.append(supervisor.ready)
    assert ready == [True, False]
    assert "catalog has ended by a fault" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    tasks[0].cancel()


async def test_without_a_fault_it_ends_when_it_is_told_to(supervisor: Supervisor) -> None:
    task = spawn(follows(), name="catalog")
    asyncio.get_running_loop().call_later(0.01, supervisor._stopping.set)
    async with asyncio.timeout(10):
        assert await supervisor._until_stopped([task]) == 0
    task.cancel()


def test_workers_are_told_of_a_change_whatever_goes_wrong_with_it_here(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[msgspec.Struct] = []
    monkeypatch.setattr(supervisor.workers, "broadcast", sent.append)
    change = CatalogChange(1, (Pod("demo", "api", "a" * 3000, "node-a", ("192.0.2.1",)),))
    with pytest.raises(Exception, match="2048"):
        supervisor._catalog_changed(change, ())
    assert sent == [ChangeCatalog(change)]


def test_of_a_hundred_thousand_faults_the_log_has_some_and_their_number(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    faults = tuple(Fault(Origin("many.yaml", line), "", "no kind") for line in range(100_000))
    supervisor._catalog_changed(None, faults)
    assert len(caplog.messages) == MAX_SAID + 1
    assert "99900 more manifests are refused" in caplog.messages[-1]
    caplog.clear()
    supervisor._catalog_changed(None, ())
    assert len(caplog.messages) == MAX_SAID + 1
    assert "99900 more manifests are fine again" in caplog.messages[-1]


async def test_advice_about_policy_is_nothing_that_the_agent_cannot_be_without(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()

    def odd(*_: object) -> object:
        loop.call_soon_threadsafe(asked.set)
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(module, "findings", odd)
    task = spawn(supervisor._look_for_oddities(), name="policy warnings")
    for _ in range(2):
        asked.clear()
        supervisor._policy_changed.set()
        async with asyncio.timeout(10):
            await asked.wait()
    assert not task.done()
    assert "could not be looked through" in caplog.text
    task.cancel()


@pytest.mark.parametrize("wanted", [module.DESCRIPTORS, 4096])
async def test_a_start_that_may_not_open_what_it_wants_says_so(wanted: int) -> None:
    """A real process, which may not raise its own hard limit."""
    code = (
        "import logging, resource; logging.basicConfig()\n"
        "from agent.node import supervisor\n"
        f"supervisor.DESCRIPTORS = {wanted}\n"
        "supervisor._raise_descriptor_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    process = await asyncio.create_subprocess_exec(
        *("prlimit", "--nofile=1024:4096", "setpriv", "--bounding-set=-sys_resource"),
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    limits, said = await process.communicate()
    assert limits == b"4096 4096\n"
    if wanted == 4096:
        assert said == b""
    else:
        assert b"may open 4096 descriptors (hard limit 4096) and not 1048576" in said
        assert b"more than about 2048 at once" in said
        assert b"LimitNOFILE=1048576" in said
