"""What a worker knows at one moment: the catalog, the policy, the bundle and the SVIDs of this node's pods."""

from functools import lru_cache

from msgspec import Struct

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.objects.annotations import ALLOW
from agent.objects.model import Pod
from agent.policy.index import PolicyIndex, PolicySettings
from agent.tls._store import SessionStore
from agent.tls.contexts import Certificate, Contexts, anchor_ids


class Settings(Struct, frozen=True):
    """What holds for the whole agent, from its flags."""

    node: str
    policy: PolicySettings
    egress_mode: str = ALLOW
    access_log: bool = False

    @property
    def trust_domain(self) -> str:
        """The mesh's trust domain."""
        return self.policy.trust_domain


class Touched(Struct, frozen=True):
    """What a change of the catalog was about: pods by name, and every address that they or services have or had."""

    pods: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()


class View:
    """The current snapshot of everything that decides about connections. Replaced part by part as it arrives."""

    def __init__(self, settings: Settings, sessions: SessionStore | None = None) -> None:
        self.settings = settings
        self._sessions = sessions
        self.generation = 0
        """Goes up with each change: what was found out under the same one need not be asked again."""
        self._bundles: dict[str, Bundle] = {}
        """By trust domain."""
        self._vouched: dict[str, frozenset[bytes]] = {}
        """The same: anchors that live connections may stand on, those of the bundle and those that left it in order."""
        self._svids: dict[SpiffeId, Svid] = {}
        self._contexts: dict[SpiffeId, Contexts] = {}
        self._node_addresses: tuple[str, ...] = ()
        self.set_catalog(Catalog())

    def set_catalog(self, catalog: Catalog) -> None:
        """Puts a whole catalog in force, with the policy that it holds."""
        self.generation += 1
        self.catalog = CatalogIndex(catalog, self.settings.node, self._node_addresses)
        self.policy = PolicyIndex(catalog, self.settings.policy, self._node_addresses, node=self.settings.node)

    def change_catalog(self, change: CatalogChange) -> Touched:
        """Puts a change of the catalog in force; what it was about."""
        self.generation += 1
        pods = {f"{key.namespace}/{key.name}" for key in change.gone if key.kind == "Pod"}
        pods.update(pod.key for pod in change.pods)
        addresses = frozenset(self.catalog.addresses_touched(change))
        self.catalog.apply(change)
        self.policy.apply(change)
        return Touched(frozenset(pods), addresses)

    def set_node_addresses(self, addresses: tuple[str, ...]) -> None:
        """From where the kubelet of this node probes its pods, and where NodePorts and hostPorts are reached."""
        self.generation += 1
        self._node_addresses = addresses
        self.catalog.set_node_addresses(addresses)
        self.policy.set_node_addresses(addresses)

    def knows(self, address: str) -> bool:
        """Whether an address is a pod's of the catalog, or this node's own; else it is a stranger's."""
        return self.catalog.pod_at(address) is not None or address in self._node_addresses

    def set_bundle(self, bundle: Bundle) -> None:
        """Puts a new bundle of its trust domain in force.

        With other anchors every context of that domain is made anew, and sessions of the old ones cannot be resumed.
        """
        self.generation += 1
        domain = bundle.trust_domain
        former = self._bundles.get(domain)
        if former is None or bundle.anchors_pem != former.anchors_pem:
            for spiffe_id in [each for each in self._contexts if each.trust_domain == domain]:
                self._drop_contexts(spiffe_id)
        self._vouched[domain] = anchor_ids(bundle) | {bytes.fromhex(anchor) for anchor in bundle.retired}
        self._bundles[domain] = bundle

    def set_svid(self, svid: Svid) -> None:
        """Puts a new SVID in force for new connections."""
        self.generation += 1
        if self._svids.get(svid.spiffe_id) != svid:
            self._svids[svid.spiffe_id] = svid
            self._drop_contexts(svid.spiffe_id)

    def forget_svid(self, spiffe_id: SpiffeId) -> None:
        """Drops an SVID that no pod of this node needs any more."""
        self.generation += 1
        self._svids.pop(spiffe_id, None)
        self._drop_contexts(spiffe_id)

    def _drop_contexts(self, spiffe_id: SpiffeId) -> None:
        dropped = self._contexts.pop(spiffe_id, None)
        if dropped is not None:  # its connections live on, perhaps for days
            dropped.server.forget()

    def identity_of(self, pod: Pod) -> SpiffeId:
        """The SPIFFE ID of a pod."""
        return _identity(self.settings.trust_domain, pod.namespace, pod.service_account)

    def contexts_of(self, pod: Pod, now: float) -> Contexts | None:
        """The TLS contexts of one of this node's pods; None while it has no SVID that is valid at `now`."""
        spiffe_id = self.identity_of(pod)
        svid = self._svids.get(spiffe_id)
        bundle = self._bundles.get(spiffe_id.trust_domain)
        if svid is None or bundle is None or not svid.not_before <= now < svid.not_after:
            return None
        if bundle.revokes(spiffe_id, svid.serial):
            return None
        contexts = self._contexts.get(spiffe_id)
        if contexts is None:
            contexts = self._contexts[spiffe_id] = Contexts(svid, bundle, self._sessions)
        return contexts

    def problem_of(self, certificate: Certificate) -> str | None:
        """Why nobody may go on under this certificate; None where all is well."""
        spiffe_id, serial = certificate.spiffe_id, certificate.serial
        bundle = self._bundles.get(spiffe_id.trust_domain)
        if bundle is None:
            return f"no bundle of trust domain {spiffe_id.trust_domain} is there"
        if bundle.revokes(spiffe_id, serial):
            what = f"certificate {serial} of {spiffe_id}" if serial in bundle.revoked_serials else str(spiffe_id)
            return f"{what} is revoked"
        if not certificate.anchors <= self._vouched[spiffe_id.trust_domain]:
            return f"the root that {spiffe_id} was verified against was thrown out of the bundle"
        return None

    def egress_mode(self, pod: Pod) -> str:
        """`allow` or `meshed-only`: the pod's annotation (its namespace's inherited), else the agent's flag."""
        return pod.settings.egress_mode or self.settings.egress_mode


@lru_cache(maxsize=16384)
def _identity(trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
    return SpiffeId.for_service_account(trust_domain, namespace, service_account)
