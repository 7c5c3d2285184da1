"""Which objects: a kind of the API, and where it is served (Kubernetes, API Concepts, "Resource URIs")."""

from msgspec import Struct


class Kind(Struct, frozen=True):
    """One kind in one version of its group; the core group's name is empty."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def path(self) -> str:
        """Of all objects of this kind, in all namespaces."""
        base = f"/apis/{self.group}" if self.group else "/api"
        return f"{base}/{self.version}/{self.plural}"

    def path_of(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or of a namespace's; `namespace` is empty for kinds that have none."""
        base = f"/apis/{self.group}" if self.group else "/api"
        parts = [f"{base}/{self.version}"]
        if namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        return "/".join([*parts, *(part for part in (name, subresource) if part)])

    @property
    def api_version(self) -> str:
        """As objects say it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        """As kubectl names it: `pods`, `servers.policy.linkerd.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural
