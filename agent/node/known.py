"""What an agent knows of its cluster: catalog, policy, its node's own addresses, and what is wrong or odd in it."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from agent.catalog.index import CatalogIndex
from agent.catalog.remarks import MAX_SAID
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.link import messages
from agent.manifests.fault import Fault
from agent.node.config import Config
from agent.objects.model import Pod
from agent.policy.check import Finding, declared, findings
from agent.policy.explain import Explainer
from agent.policy.index import PolicyIndex, PolicySettings

log = logging.getLogger("quietwire.supervisor")

FINDINGS_SECONDS = 1.0
"""Least time between two looks at the whole policy for what is odd in it."""


class Known:
    """What is in force in this process, and in every worker: `tell` sends them what is new.

    `changed` is called after each change.
    """

    def __init__(self, config: Config, *, tell: Callable[[msgspec.Struct], None], changed: Callable[[], None]) -> None:
        self._config = config
        self._tell = tell
        self._changed = changed
        self.catalog = CatalogIndex(Catalog())
        self.policy = PolicyIndex(Catalog(), policy_settings(config), node=config.node)
        self.node_addresses: tuple[str, ...] = ()
        self.faults: tuple[Fault, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self._policy_changed = asyncio.Event()

    def take(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        """What a source of the catalog says: see `agent.catalog.source`."""
        former, now = frozenset(self.faults), frozenset(faults)
        new, mended = [each for each in faults if each not in former], [each for each in self.faults if each not in now]
        for fault in new[:MAX_SAID]:
            log.error(
                "manifest refused: %s",
                fault,
                extra={"fields": {"event": "fault", **fault.origin.fields}},
            )
        if len(new) > MAX_SAID:
            log.error("%d more manifests are refused; quietwire authz check names all", len(new) - MAX_SAID)
        for fault in mended[:MAX_SAID]:
            log.info("manifest is fine again: %s", fault.origin.file or fault.origin)
        if len(mended) > MAX_SAID:
            log.info("%d more manifests are fine again", len(mended) - MAX_SAID)
        self.faults = faults
        if change is not None:
            self._tell(messages.ChangeCatalog(change))  # before anything that a fault of ours could keep
            self.catalog.apply(change)
            self.policy.apply(change)
            self._policy_changed.set()
        self._changed()

    def take_node_addresses(self, found: tuple[str, ...]) -> None:
        """The kubelet may come from a new address: a bridge that was made with the first pod, say."""
        log.info("this node's addresses are now %s", ", ".join(found) or "none")
        self.node_addresses = found
        self.policy.set_node_addresses(found)
        self._tell(messages.SetNodeAddresses(found))
        self._changed()

    @property
    def meshed(self) -> list[Pod]:
        """This node's pods that are to be meshed."""
        return [pod for pod in self.catalog.pods_on(self._config.node) if pod.settings.injected]

    @property
    def unmeshed(self) -> list[Pod]:
        """This node's other pods."""
        return [pod for pod in self.catalog.pods_on(self._config.node) if not pod.settings.injected]

    def explainer(self) -> Explainer:
        """Answers questions about what is in force now."""
        return Explainer(self.catalog, self.policy, egress_mode=self._config.egress_mode)

    async def look_for_oddities(self) -> None:
        """Says what is legal in the policy and surely not meant, a moment after each change, until it is cancelled."""
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

    def _odd(self, catalog: Catalog) -> tuple[Finding, ...]:
        ours = [pod for pod in catalog.pods if pod.node == self._config.node]
        ports = (self._config.outbound_port, self._config.inbound_port)
        return (*findings(catalog.pods, catalog.policies), *declared(ours, ports))


def policy_settings(config: Config) -> PolicySettings:
    """What the flags say about policy."""
    return PolicySettings(
        trust_domain=config.trust_domain,
        default_inbound_policy=config.default_inbound_policy,
        cluster_networks=config.cluster_networks,
    )
