"""Which service accounts have a pod on which node, from the catalog."""

import logging
from collections import Counter

from agent.catalog.snapshot import CatalogChange
from agent.manifests.fault import Fault
from agent.objects.key import ObjectKey

log = logging.getLogger("quietwire.authority")

_Place = tuple[str, str, str]
"""A node, and a service account by namespace and name."""


class CatalogWorkloads:
    """Follows the catalog by what changes in it; what the authority asks is one look-up."""

    def __init__(self) -> None:
        self._of: dict[ObjectKey, _Place] = {}
        self._pods: Counter[_Place] = Counter()

    def update(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        """Takes a change of the catalog."""
        if change is not None:
            for key in change.gone:
                self._forget(key)
            for pod in change.pods:
                self._forget(pod.object_key)
                place = (pod.node, pod.namespace, pod.service_account)
                self._of[pod.object_key] = place
                self._pods[place] += 1
        if faults:
            log.debug("%d manifests cannot be used; the agent's log names them", len(faults))

    def _forget(self, key: ObjectKey) -> None:
        place = self._of.pop(key, None)
        if place is None:
            return
        self._pods[place] -= 1
        if not self._pods[place]:
            del self._pods[place]

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of this service account is on this node."""
        return (node, namespace, service_account) in self._pods
