"""Which service accounts have a pod on which node, from the catalog."""

import logging

from agent.catalog.fault import Fault
from agent.catalog.model import Catalog

log = logging.getLogger("quietwire.authority")


class CatalogWorkloads:
    """Follows the catalog; what the authority asks is one look-up."""

    def __init__(self) -> None:
        self._known: frozenset[tuple[str, str, str]] = frozenset()

    def update(self, catalog: Catalog, faults: tuple[Fault, ...]) -> None:
        """Takes a new catalog."""
        self._known = frozenset((pod.node, pod.namespace, pod.service_account) for pod in catalog.pods)
        if faults:
            log.debug("%d manifests cannot be used; the agent's log names them", len(faults))

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""
        return (node, namespace, service_account) in self._known
