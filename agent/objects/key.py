"""What an object is called."""

from typing import NewType

from msgspec import Struct

PodKey = NewType("PodKey", str)
"""What a pod is called, in messages, logs and everywhere else: `namespace/name`. Unique among all that an agent knows.

A pod of another cluster is `cluster/namespace/name`. A text, because every connection is looked up by it.
"""


def pod_key(namespace: str, name: str, cluster: str = "") -> PodKey:
    """A pod's key. `cluster` is empty for the cluster that the agent is in."""
    return PodKey(f"{cluster}/{namespace}/{name}" if cluster else f"{namespace}/{name}")


class ObjectKey(Struct, frozen=True, order=True):
    """Kind, namespace (empty for what has none) and name: unique in a catalog."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
