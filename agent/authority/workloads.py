"""Which service accounts have a pod on which node, from the catalog."""

import logging

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.manifests.fault import Fault

log = logging.getLogger("quietwire.authority")


class CatalogWorkloads:
    """Follows the catalog; what the authority asks is one look-up."""

    def __init__(self) -> None:
        self._catalog = CatalogIndex(Catalog())
        self._known: frozenset[tuple[str, str, str]] = frozenset()

    def update(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        """Takes a change of the catalog."""
        if change is not None:
            self._catalog.apply(change)
            self._known = frozenset((pod.node, pod.namespace, pod.service_account) for pod in self._catalog.pods())
        if faults:
            log.debug("%d manifests cannot be used; the agent's log names them", len(faults))

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""
        return (node, namespace, service_account) in self._known
