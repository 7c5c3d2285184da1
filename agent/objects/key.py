"""What an object is called."""

from msgspec import Struct


class ObjectKey(Struct, frozen=True, order=True):
    """Kind, namespace (empty for what has none) and name: unique in a catalog."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
