"""The supervisor: starts what must outlive a worker, and stops it; the order in which it comes up and goes down."""

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from agent.capture import node_addresses
from agent.capture.enrolment_socket import EnrolmentSocket
from agent.catalog.snapshot import CatalogChange
from agent.catalog.source import Source, SourceState
from agent.catalog.sources.files.directory import FilesSource
from agent.catalog.sources.files.remembered import FilesMemory
from agent.catalog.sources.kubernetes.asking import Asking
from agent.catalog.sources.kubernetes.remembered import ClusterMemory
from agent.catalog.sources.kubernetes.source import KubernetesSource
from agent.cni.server import CniSocket
from agent.flags import HostPort
from agent.kubernetes.client import Client
from agent.link import messages
from agent.manifests.fault import Fault
from agent.node import identity_source, start
from agent.node.cni import CniService
from agent.node.conditions import Conditions, Due, due
from agent.node.config import Cluster, Config, Directory
from agent.node.enrolment import Desired, Enrolment
from agent.node.events import LEFT_TO_LINKERD, Events
from agent.node.facts import Facts
from agent.node.hand_over import HandOver
from agent.node.identities import Identities
from agent.node.identity_source import IdentitySource
from agent.node.known import Known, policy_settings
from agent.node.status import Scraped, Status
from agent.node.workers import Ending, WorkerHandle, Workers
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.proxy.view import Settings
from agent.tasks import spawn
from agent.telemetry.admin import AdminServer
from agent.telemetry.counters import Counters, CounterTotals
from init import agent_mark
from init.constants import CNI_SOCKET, ENROL_SOCKET
from init.model import Options

log = logging.getLogger("quietwire.supervisor")

TICK_SECONDS = 0.25
"""How often something that is still missing (a namespace, an address) is looked for again."""
IDLE_TICK_SECONDS = 2.0
"""How often namespaces are looked at when nothing is missing."""
GATHER_SECONDS = 0.02
"""Least time between two rounds: pods that become captured one right after the other are not a round each."""
PROBE_SOURCES = 32
"""How many of the node's addresses a pod's rules leave alone at probes' ports; from others probes are captured, and
let in by policy."""
ITSELF = -1
"""The supervisor, where its workers are numbered from 0."""
NAMESPACES = "namespaces"
"""Below the run directory: what init steps handed over, across restarts."""
EXIT_FAULT = 70
"""Exit status after a fault of ours (EX_SOFTWARE of sysexits(3))."""


class Supervisor:
    """One agent, and the authority that it may have of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.counters = Counters()
        """What this process counts itself."""
        self.totals = CounterTotals()
        self.live_counts: dict[tuple[int, int], dict[str, int]] = {}
        self.workers = Workers(
            config.workers,
            node=config.node,
            log_format=config.log_format,
            log_level=config.log_level,
            greet=self._greet,
            changed=self._poke,
            counted=self._counted,
        )
        self.known = Known(config, tell=self.workers.broadcast, changed=self._poke)
        self.identities = Identities(config.trust_domain, tell=self.workers.broadcast, changed=self._identities_changed)
        self.enrolment = Enrolment(
            self.workers,
            backend=config.backend,
            verify_seconds=config.verify_seconds,
            memory=config.run_dir / NAMESPACES,
        )
        self._source: IdentitySource | None = None
        self._catalog: Source | None = None
        self._conditions: Conditions | None = None
        self._poked = asyncio.Event()
        self._stopping = asyncio.Event()
        self._said_ready = False

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; drains; a second signal ends at once. Returns the exit status."""
        config = self.config
        start.raise_descriptor_limit()
        handing_over = HandOver(
            self.enrolment,
            node=config.node,
            local=lambda: self.known.meshed,
            missing=self._missing,
            taken=self._namespace_taken,
            stopping=self._stopping,
        )
        cni = CniService(
            self.enrolment,
            pod=self.known.catalog.pod,
            ask=self._asking(),
            missing=self._missing,
            unready=self._unready,
            taken=self._namespace_taken,
        )
        plugin = CniSocket(config.run_dir / CNI_SOCKET, cni.serve, short=lambda _: self.counters.short("cni"))
        sock = EnrolmentSocket(
            config.run_dir / ENROL_SOCKET, handing_over.serve, short=lambda _: self.counters.short("enrolment")
        )
        # All that may fail for want of a directory, before anything runs that would have to be ended again.
        with start.needed("--run-dir", config.run_dir):
            lock = start.lock(config)
            bound = sock.bind()
            plugin_bound = plugin.bind()
        with start.needed("--state", config.state):
            config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with start.needed("the directory of the agent's key", agent_mark.KEY_FILE.parent):
            agent_mark.draw()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        status = Status(self.facts, self._scraped, self.known.explainer)
        admin = AdminServer(status.handlers(), short=lambda _: self.counters.short("admin"))
        await admin.start(config.admin.host, config.admin.port)
        serving = HostPort(config.admin.host, admin.port)
        log.info("admin server on %s", serving, extra={"fields": {"event": "admin", "address": str(serving)}})
        source = self._catalog = self._catalog_source()
        await source.start()
        # pyroute2 cannot be used on uvloop's thread
        addresses = await asyncio.to_thread(node_addresses.node_addresses)
        self.known.take_node_addresses(addresses)
        identity = self._source = await identity_source.start(config)
        try:
            provider = identity.provider
            keeper = self.identities.keep(provider)
            self._want_identities()
            await self.enrolment.restore()
            tasks = [
                spawn(keeper.run(), name="identity"),
                spawn(source.run(), name="catalog"),
                spawn(node_addresses.follow(addresses, self.known.take_node_addresses), name="node addresses"),
                spawn(self.known.look_for_oddities(), name="policy warnings"),
                spawn(self._reconcile(), name="enrolment"),
                spawn(self.enrolment.keep_rules(), name="rules"),
                spawn(self.enrolment.watch.run(), name="rule watch"),
                spawn(self.enrolment.conntrack.run(), name="conntrack"),
                spawn(self.identities.report(keeper, self.workers.sync), name="identity report"),
                spawn(identity.run(), name="identity source"),
                *self._in_cluster(),
            ]
            self.workers.start()
            sock.start(bound)
            plugin.start(plugin_bound)
            status_code = await self._until_stopped([*tasks, *self.workers.keepers])
            await sock.close()
            await plugin.close()
            # After a fault nobody follows what live connections are allowed any more: they end now.
            await self._shut_down(tasks, 0.0 if status_code else config.drain_seconds)
            await provider.close()
        finally:
            self.workers.kill()
            self.enrolment.close()
            await identity.stop()
            await admin.close()
            os.close(lock)
        return status_code

    def _in_cluster(self) -> list[asyncio.Task[None]]:
        """What this agent says in the cluster's objects."""
        if not isinstance(self.config.source, Cluster):
            return []
        chance, node = random.SystemRandom().random, self.config.node
        client = Client(self.config.source.access)
        self._conditions = Conditions(client, self._conditions_due, chance=chance, clock=time.time)
        events = Events(
            client, lambda: self.known.faults, self._waiting_pods, node=node, chance=chance, clock=time.time
        )
        return [spawn(self._conditions.run(), name="conditions"), spawn(events.run(), name="events")]

    def _conditions_due(self) -> set[Due]:
        pods = self.known.catalog.pods_on(self.config.node)
        return due(pods, lambda key: self._missing(key) is None, self.enrolment.knows)

    def _waiting_pods(self) -> list[tuple[Pod, str]]:
        """With those that are left to Linkerd, of which nothing is waited for here."""
        found = ((self.known.catalog.pod(key), reason) for key, reason in self._waiting().items())
        left = [(pod, LEFT_TO_LINKERD) for pod in self.known.unmeshed if pod.settings.left_to_linkerd]
        return [*((pod, reason) for pod, reason in found if pod is not None), *left]

    def _asking(self) -> Callable[[PodKey], Awaitable[Pod | None]] | None:
        if not isinstance(self.config.source, Cluster):
            return None
        access, beside_linkerd = self.config.source.access, self.config.source.beside_linkerd
        return Asking(Client(access), beside_linkerd=beside_linkerd).pod

    def _unready(self) -> str | None:
        """Why no pod is taken now; None where any that is to be meshed would be captured."""
        if self._stopping.is_set():
            return "it is shutting down"
        return "the trust bundle has not come yet" if self.identities.bundle is None else None

    def _catalog_source(self) -> Source:
        state = self.config.state
        match self.config.source:
            case Directory(path):
                return FilesSource(path, self._catalog_changed, FilesMemory(state / "last-good.msgpack", path))
            case Cluster(access, beside_linkerd):
                memory = ClusterMemory(state / "last-good-of-cluster.msgpack", access.address)
                return KubernetesSource(Client(access), self._catalog_changed, memory, beside_linkerd=beside_linkerd)

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> int:
        """Waits for a signal; the exit status.

        Each task is one that the agent cannot be without: without its catalog, say, it would enforce for ever what was
        allowed yesterday. So the end of one ends the agent, and its pods are refused until it is started again.
        """
        stopping = spawn(self._stopping.wait(), name="stopping")
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        ended = [task.get_name() for task in tasks if task.done()]
        if not ended:
            return 0
        log.critical(
            "%s has ended by a fault (its traceback is above), and the agent cannot be without it: it ends, and its "
            "pods are refused until it is started again",
            ended[0],
        )
        stopping.cancel()
        self._stopping.set()
        return EXIT_FAULT

    # -- what comes in --

    def _catalog_changed(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        self.known.take(change, faults)
        if change is not None:
            self._want_identities()

    def _identities_changed(self) -> None:
        self.enrolment.retry_refused()
        self._poke()

    def _namespace_taken(self) -> None:
        self._want_identities()  # somebody waits for it now
        self._poke()

    def _counted(self, handle: WorkerHandle, counts: messages.Counts) -> None:
        self.totals.update(handle.index, handle.incarnation, counts.values)
        self.live_counts[handle.index, handle.incarnation] = counts.live

    def _poke(self) -> None:
        self._poked.set()

    # -- what follows from it --

    def _want_identities(self) -> None:
        self.identities.want(self.known.meshed, self._can_be_enrolled)

    def _can_be_enrolled(self, pod: Pod) -> bool:
        """Whether its namespace and an address are known; until then, nothing waits for its SVID alone."""
        return self.enrolment.knows(pod.key) or (bool(pod.ips) and pod.netns is not None)

    def _greet(self, handle: WorkerHandle) -> Iterable[tuple[msgspec.Struct, tuple[int, ...]]]:
        config = self.config
        settings = Settings(
            node=config.node,
            policy=policy_settings(config),
            egress_mode=config.egress_mode,
            access_log=config.access_log,
        )
        memories = (self.workers.session_memory, self.workers.affinity_memory)
        yield messages.Configure(settings, config.workers), memories
        yield messages.SetNodeAddresses(self.known.node_addresses), ()
        yield messages.SetCatalog(self.known.catalog.catalog), ()
        for message in self.identities.greeting():
            yield message, ()
        yield from self.enrolment.greeting(handle)

    def _missing(self, key: PodKey) -> str | None:
        """Why a pod is not captured and certified yet."""
        pod = self.known.catalog.pod(key)
        if pod is None:
            return f"{key} is not in the catalog"
        return self.enrolment.missing(key) or self.identities.missing(pod, time.time())

    def _waiting(self) -> dict[PodKey, str]:
        """Every local pod that is not captured and certified, with what it waits for."""
        found = {pod.key: self._missing(pod.key) for pod in self.known.meshed}
        return {key: reason for key, reason in found.items() if reason is not None}

    def _held_back(self, waiting: Mapping[PodKey, str]) -> bool:
        """Whether readiness is: by a pod that waits; in a cluster only by a trust bundle that has not come.

        There a pod that was started before it was to be meshed waits until it is started again, and must not hold up
        the roll-out of the agents; it is named in /ready, in metrics, and in an Event of its own.
        """
        return self.identities.bundle is None if isinstance(self.config.source, Cluster) else bool(waiting)

    async def _round(self) -> None:
        local, now = self.known.meshed, time.time()
        addresses = self.known.node_addresses
        desired = {pod.key: Desired(pod, options_for(pod, self.config, addresses)) for pod in local}
        certified = {pod.key: self.identities.missing(pod, now) for pod in local}
        await self.enrolment.reconcile(desired, certified, self.known.unmeshed)

    async def _reconcile(self) -> None:
        while True:
            self._poked.clear()
            try:
                await self._round()
            except OSError as error:
                # No descriptors, no memory, no process numbers: what is captured stays, what is not waits, and says so.
                log.error("enrolment: a round failed (%s): the next one tries again", error)
                await asyncio.sleep(TICK_SECONDS)
                continue
            waiting = self._waiting()
            if self._conditions is not None:
                self._conditions.stir()
            if not self._held_back(waiting) and not self._said_ready:
                self._said_ready = True
                log.info("ready: %d pods captured and certified", len(self.enrolment.captured))
                sys.stdout.write("ready\n")
                sys.stdout.flush()
            try:
                async with asyncio.timeout(TICK_SECONDS if waiting else IDLE_TICK_SECONDS):
                    await self._poked.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_SECONDS)

    # -- what is reported --

    def facts(self) -> Facts:
        """The agent as it is at this moment."""
        waiting, enrolment = self._waiting(), self.enrolment
        return Facts(
            # `ready` was said, nothing holds it back, and nothing makes the agent end
            ready=self._said_ready and not self._stopping.is_set() and not self._held_back(waiting),
            waiting=waiting,
            captured=len(enrolment.captured),
            left=enrolment.left,
            ports_occupied=enrolment.ports_occupied,
            foreign_nat=enrolment.foreign_nat,
            capabilities=enrolment.capabilities,
            conntrack_used=enrolment.conntrack.used,
            rule_repairs=enrolment.repairs,
            catalog_version=self.known.catalog.version,
            catalog=SourceState() if self._catalog is None else self._catalog.state,
            faults=self.known.faults,
            findings=self.known.findings,
            identity_faults=self.identities.faults,
            expiries=self.identities.expiries,
            bundle=self.identities.bundle,
            clock_skew=None if self._source is None else self._source.clock_skew,
            authority_restarts=0 if self._source is None else self._source.restarts,
            worker_restarts={ending.value: self.workers.restarts[ending] for ending in Ending},
        )

    async def _scraped(self) -> Scraped:
        """What every process of the agent has counted so far, and how many connections live."""
        await self.workers.scrape()
        live: Counter[str] = Counter()
        for handle in self.workers.handles:
            live.update(self.live_counts.get((handle.index, handle.incarnation), {}))
        self.totals.update(ITSELF, 0, self.counters.snapshot())
        return Scraped(self.totals, live)

    # -- the end --

    def _signalled(self, number: int) -> None:
        if self._stopping.is_set():
            log.warning("second %s: ending now; open connections are reset", signal.Signals(number).name)
            self.workers.kill()
            return
        log.info(
            "%s: draining for up to %g s; a second signal ends at once. The rules stay: enrolled pods are refused "
            "until an agent runs again",
            signal.Signals(number).name,
            self.config.drain_seconds,
        )
        self._stopping.set()

    async def _shut_down(self, tasks: list[asyncio.Task[None]], drain_seconds: float) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.enrolment.refuse_all()
        await self.workers.drain(drain_seconds)


def options_for(pod: Pod, config: Config, node_addresses: tuple[str, ...] = ()) -> Options:
    """The rules' options that a pod's annotations and probes and the agent's flags ask for.

    Its kubelet comes from the node's addresses.
    """
    settings = pod.settings
    sources = sorted({*node_addresses, *pod.host_ips})[:PROBE_SOURCES] if pod.probe_ports else ()
    return Options(
        skip_inbound_ports=tuple((ports.first, ports.last) for ports in settings.skip_inbound_ports),
        skip_outbound_ports=tuple((ports.first, ports.last) for ports in settings.skip_outbound_ports),
        skip_inbound_subnets=settings.skip_subnets,
        skip_outbound_subnets=settings.skip_subnets,
        outbound_port=config.outbound_port,
        inbound_port=config.inbound_port,
        probe_ports=tuple((port, port) for port in pod.probe_ports) if sources else (),
        probe_sources=tuple(sources),
    )
