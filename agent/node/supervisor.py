"""The supervisor: everything that must outlive a worker, and the order in which it comes up and goes down."""

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from agent import disk
from agent.capture import node_addresses
from agent.capture.enrolment_socket import EnrolmentSocket
from agent.catalog.index import CatalogIndex
from agent.catalog.memory import Memory
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.files.directory import MAX_SAID, FilesSource
from agent.flags import ConfigError, HostPort
from agent.identity.keeper import IdentityKeeper
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.link import messages
from agent.manifests.fault import Fault
from agent.node import identity_source
from agent.node.config import Config
from agent.node.enrolment import Desired, Enrolment
from agent.node.hand_over import HandOver
from agent.node.identity_source import IdentitySource
from agent.node.status import Status
from agent.node.workers import WorkerHandle, Workers
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.policy.check import Finding, declared, findings
from agent.policy.explain import Explainer
from agent.policy.index import PolicyIndex, PolicySettings
from agent.proxy.view import Settings
from agent.tasks import spawn
from agent.telemetry.admin import AdminServer
from agent.telemetry.counters import Counters, CounterTotals
from init import agent_mark
from init.constants import ENROL_SOCKET
from init.model import Options

log = logging.getLogger("quietwire.supervisor")

TICK_SECONDS = 0.25
"""How often something that is still missing (a namespace, an address) is looked for again."""
IDLE_TICK_SECONDS = 2.0
"""How often namespaces are looked at when nothing is missing."""
GATHER_SECONDS = 0.02
"""Least time between two rounds: pods that become captured one right after the other are not a round each."""
FINDINGS_SECONDS = 1.0
"""Least time between two looks at the whole policy for what is odd in it."""
PROBE_SOURCES = 32
"""How many of the node's addresses a pod's rules leave alone at probes' ports; from others probes are captured, and
let in by policy."""
DESCRIPTORS = 1 << 20
NAMESPACES = "namespaces"
"""Below the run directory: what init steps handed over, across restarts."""
EXIT_FAULT = 70
"""Exit status after a fault of ours (EX_SOFTWARE of sysexits(3))."""


class DirectoryError(Exception):
    """A directory that the agent needs cannot be used; `str` says which, why, and what to do."""


class Supervisor:
    """One agent, and the authority that it may have of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.catalog = CatalogIndex(Catalog())
        self.policy = PolicyIndex(Catalog(), _policy_settings(config), node=config.node)
        self.node_addresses: tuple[str, ...] = ()
        self.faults: tuple[Fault, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.counters = Counters()
        """What this process counts itself."""
        self.totals = CounterTotals()
        self.live: dict[tuple[int, int], dict[str, int]] = {}
        self.workers = Workers(
            config.workers,
            node=config.node,
            log_format=config.log_format,
            log_level=config.log_level,
            greet=self._greet,
            changed=self._poke,
            counted=self._counted,
        )
        self.enrolment = Enrolment(
            self.workers,
            backend=config.backend,
            verify_seconds=config.verify_seconds,
            memory=config.run_dir / NAMESPACES,
        )
        self.bundle: Bundle | None = None
        self.svids: dict[SpiffeId, Svid] = {}
        self.keeper: IdentityKeeper | None = None
        self._source: IdentitySource | None = None
        self._poked = asyncio.Event()
        self._in_force_changed = asyncio.Event()
        self._policy_changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._said_ready = False

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; drains; a second signal ends at once. Returns the exit status."""
        config = self.config
        _raise_descriptor_limit()
        handing_over = HandOver(
            self.enrolment,
            node=config.node,
            local=self._local_pods,
            missing=self._missing,
            taken=self._namespace_taken,
            stopping=self._stopping,
        )
        sock = EnrolmentSocket(
            config.run_dir / ENROL_SOCKET, handing_over.serve, short=lambda _: self.counters.short("enrolment")
        )
        # All that may fail for want of a directory, before anything runs that would have to be ended again.
        with _needed("--run-dir", config.run_dir):
            lock = _lock(config)
            bound = sock.bind()
        with _needed("--state", config.state):
            config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _needed("the directory of the agent's key", agent_mark.KEY_FILE.parent):
            agent_mark.draw()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        status = Status(self)
        admin = AdminServer(status.handlers(), short=lambda _: self.counters.short("admin"))
        await admin.start(config.admin.host, config.admin.port)
        serving = HostPort(config.admin.host, admin.port)
        log.info("admin server on %s", serving, extra={"fields": {"event": "admin", "address": str(serving)}})
        memory = Memory(config.state / "last-good.msgpack", config.manifests)
        source = FilesSource(config.manifests, self._catalog_changed, memory)
        await source.start()
        # pyroute2 cannot be used on uvloop's thread
        self.node_addresses = await asyncio.to_thread(node_addresses.node_addresses)
        self.policy.set_node_addresses(self.node_addresses)
        identity = self._source = await identity_source.start(config)
        try:
            provider = identity.provider
            self.keeper = IdentityKeeper(provider, on_svid=self._svid_came, on_bundle=self._bundle_came)
            self._want_identities()
            tasks = [
                spawn(self.keeper.run(), name="identity"),
                spawn(source.run(), name="catalog"),
                spawn(node_addresses.follow(self.node_addresses, self._node_addresses_changed), name="node addresses"),
                spawn(self._look_for_oddities(), name="policy warnings"),
                spawn(self._reconcile(), name="enrolment"),
                spawn(self.enrolment.keep_rules(), name="rules"),
                spawn(self.enrolment.watch.run(), name="rule watch"),
                spawn(self.enrolment.conntrack.run(), name="conntrack"),
                spawn(self._report(self.keeper), name="identity report"),
                spawn(identity.run(), name="identity source"),
            ]
            await self.enrolment.restore()
            self.workers.start()
            sock.start(bound)
            status_code = await self._until_stopped([*tasks, *self.workers.keepers])
            await sock.close()
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
        former, now = frozenset(self.faults), frozenset(faults)
        new, mended = [each for each in faults if each not in former], [each for each in self.faults if each not in now]
        for fault in new[:MAX_SAID]:
            log.error(
                "manifest refused: %s",
                fault,
                extra={"fields": {"event": "fault", "file": fault.origin.file, "line": fault.origin.line}},
            )
        if len(new) > MAX_SAID:
            log.error("%d more manifests are refused; quietwire authz check names all", len(new) - MAX_SAID)
        for fault in mended[:MAX_SAID]:
            log.info("manifest is fine again: %s", fault.origin.file or fault.object)
        if len(mended) > MAX_SAID:
            log.info("%d more manifests are fine again", len(mended) - MAX_SAID)
        self.faults = faults
        if change is not None:
            self.workers.broadcast(messages.ChangeCatalog(change))  # before anything that a fault of ours could keep
            self.catalog.apply(change)
            self.policy.apply(change)
            self._want_identities()
            self._policy_changed.set()
        self._poke()

    def _svid_came(self, svid: Svid) -> None:
        self.svids[svid.spiffe_id] = svid
        self.workers.broadcast(messages.SetSvid(svid))
        self._in_force_changed.set()
        self.enrolment.retry_refused()
        self._poke()

    def _bundle_came(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.workers.broadcast(messages.SetBundle(bundle))
        self._in_force_changed.set()
        self.enrolment.retry_refused()
        self._poke()

    def _node_addresses_changed(self, found: tuple[str, ...]) -> None:
        """The kubelet may come from a new address: a bridge that was made with the first pod, say."""
        log.info("this node's addresses are now %s", ", ".join(found) or "none")
        self.node_addresses = found
        self.policy.set_node_addresses(found)
        self.workers.broadcast(messages.SetNodeAddresses(found))
        self._poke()

    def _odd(self, catalog: Catalog) -> tuple[Finding, ...]:
        ours = [pod for pod in catalog.pods if pod.node == self.config.node]
        ports = (self.config.outbound_port, self.config.inbound_port)
        return (*findings(catalog.pods, catalog.policies), *declared(ours, ports))

    async def _look_for_oddities(self) -> None:
        """Says what is legal in the policy and surely not meant, a moment after each change."""
        while True:
            await self._policy_changed.wait()
            self._policy_changed.clear()
            catalog = self.catalog.catalog
            try:
                found = await asyncio.to_thread(self._odd, catalog)
            except Exception:
                log.exception("policy could not be looked through for what is odd in it: by a fault of ours")
                continue  # advice is nothing that the agent cannot be without
            former = frozenset(self.findings)
            for finding in found:
                if finding not in former:
                    about = "" if finding.object.kind == "Pod" else "policy: "
                    log.warning("%s%s", about, finding, extra={"fields": {"event": "policy", "object": finding.object}})
            self.findings = found
            await asyncio.sleep(FINDINGS_SECONDS)

    def explainer(self) -> Explainer:
        """Answers questions about what is in force now."""
        return Explainer(self.catalog, self.policy, egress_mode=self.config.egress_mode)

    async def _report(self, keeper: IdentityKeeper) -> None:
        """Tells the authority what is in force here, once it is in force in every worker."""
        while True:
            await self._in_force_changed.wait()
            self._in_force_changed.clear()
            state = keeper.state()
            if await self.workers.sync():
                keeper.report(state)
            else:
                self._in_force_changed.set()

    def _counted(self, handle: WorkerHandle, counts: messages.Counts) -> None:
        self.totals.update(handle.index, handle.incarnation, counts.values)
        self.live[handle.index, handle.incarnation] = counts.live

    def _namespace_taken(self) -> None:
        self._want_identities()  # somebody waits for it now
        self._poke()

    # -- what follows from it --

    def _local_pods(self) -> list[Pod]:
        return [pod for pod in self.catalog.pods_on(self.config.node) if pod.settings.meshed]

    def _identity(self, pod: Pod) -> SpiffeId:
        return SpiffeId.for_service_account(self.config.trust_domain, pod.namespace, pod.service_account)

    def _want_identities(self) -> None:
        local = self._local_pods()
        wanted = frozenset(self._identity(pod) for pod in local)
        if self.keeper is not None:
            awaited = frozenset(self._identity(pod) for pod in local if self._can_be_enrolled(pod))
            self.keeper.want(awaited, ahead=wanted - awaited)
        for spiffe_id in list(self.svids):
            if spiffe_id not in wanted:
                del self.svids[spiffe_id]
                self.workers.broadcast(messages.ForgetSvid(spiffe_id))

    def _can_be_enrolled(self, pod: Pod) -> bool:
        """Whether its namespace and an address are known; until then, nothing waits for its SVID alone."""
        return bool(pod.ips) and (pod.netns is not None or self.enrolment.knows(pod.key))

    def _greet(self, handle: WorkerHandle) -> Iterable[tuple[msgspec.Struct, tuple[int, ...]]]:
        config = self.config
        settings = Settings(
            node=config.node,
            policy=_policy_settings(config),
            egress_mode=config.egress_mode,
            access_log=config.access_log,
        )
        memories = (self.workers.session_memory, self.workers.affinity_memory)
        yield messages.Configure(settings, config.workers), memories
        yield messages.SetNodeAddresses(self.node_addresses), ()
        yield messages.SetCatalog(self.catalog.catalog), ()
        if self.bundle is not None:
            yield messages.SetBundle(self.bundle), ()
        for svid in self.svids.values():
            yield messages.SetSvid(svid), ()
        yield from self.enrolment.greeting(handle)

    def _certified(self, pod: Pod) -> str | None:
        spiffe_id = self._identity(pod)
        if self.bundle is None:
            return "the trust bundle has not come yet"
        svid = self.svids.get(spiffe_id)
        problem = None if self.keeper is None else self.keeper.problems().get(spiffe_id)
        if svid is None:
            return problem or f"its SVID {spiffe_id} has not come yet"
        if svid.not_after <= time.time():
            return f"its SVID {spiffe_id} has expired{'' if problem is None else f'. {problem}'}"
        if self.bundle.revokes(spiffe_id, svid.serial):
            return f"{spiffe_id} is revoked; quietwire authority unrevoke takes it back"
        return None

    def _missing(self, key: PodKey) -> str | None:
        """Why a pod is not captured and certified yet."""
        pod = self.catalog.pod(key)
        if pod is None:
            return f"{key} is not in the catalog"
        return self.enrolment.missing(key) or self._certified(pod)

    def waiting(self) -> dict[PodKey, str]:
        """Every local pod that is not captured and certified, with what it waits for."""
        found = {pod.key: self._missing(pod.key) for pod in self._local_pods()}
        return {key: reason for key, reason in found.items() if reason is not None}

    @property
    def ready(self) -> bool:
        """Whether `ready` was said, nothing waits, and nothing makes the agent end."""
        return self._said_ready and not self._stopping.is_set() and not self.waiting()

    @property
    def identity_faults(self) -> tuple[str, ...]:
        """What of identities could not be replaced, and what stays in force instead."""
        return () if self.keeper is None else self.keeper.faults()

    @property
    def clock_skew(self) -> float | None:
        """By how many seconds the authority's clock is ahead; None where there is none, or it was not heard."""
        return None if self._source is None else self._source.clock_skew

    @property
    def authority_restarts(self) -> int:
        """How often the authority of this host was replaced."""
        return 0 if self._source is None else self._source.restarts

    def _poke(self) -> None:
        self._poked.set()

    async def _round(self) -> None:
        local = self._local_pods()
        desired = {pod.key: Desired(pod, options_for(pod, self.config, self.node_addresses)) for pod in local}
        unmeshed = [pod for pod in self.catalog.pods_on(self.config.node) if pod.key not in desired]
        await self.enrolment.reconcile(desired, {pod.key: self._certified(pod) for pod in local}, unmeshed)

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
            waiting = self.waiting()
            if not waiting and not self._said_ready:
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


@contextlib.contextmanager
def _needed(what: str, directory: Path) -> Iterator[None]:
    """Whatever fails in here is told of this directory. Raises DirectoryError."""
    try:
        yield
    except OSError as error:
        known = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise DirectoryError(
            f"{what}, {directory}, cannot be used: {disk.reason(known)}. The agent does not start without it, and its "
            f"pods are refused until it does"
        ) from error


def _lock(config: Config) -> int:
    """Makes the run directory ours alone: two agents on one socket would fight. Raises ConfigError, OSError."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(config.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConfigError(
            f"--run-dir {config.run_dir} belongs to another agent that runs; end it, or give each node its own"
        ) from None
    return fd


def _raise_descriptor_limit() -> None:
    """As far as it goes, for this process and those that it starts; says so where that is less than wanted."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (DESCRIPTORS, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        except (ValueError, OSError):
            continue
        break
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        log.warning(
            "each process of the agent may open %d descriptors (hard limit %d) and not %d, which is two for every "
            "connection: with more than about %d at once per worker, those who come wait. Set LimitNOFILE=%d in its "
            "unit, or ulimit -n before it starts, and the sysctl fs.nr_open to no less; or give it CAP_SYS_RESOURCE",
            soft,
            hard,
            DESCRIPTORS,
            soft // 2,
            DESCRIPTORS,
            extra={"fields": {"event": "descriptors", "limit": soft, "wanted": DESCRIPTORS}},
        )


def _policy_settings(config: Config) -> PolicySettings:
    return PolicySettings(
        trust_domain=config.trust_domain,
        default_inbound_policy=config.default_inbound_policy,
        cluster_networks=config.cluster_networks,
    )
