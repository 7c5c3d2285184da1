"""Which mesh identities are meant: by SPIFFE ID, by DNS name, by service account, by namespace."""

from functools import lru_cache

from msgspec import Struct

from agent.identity.spiffe import SpiffeId

LINKERD_NAMESPACE = "linkerd"
"""Where Linkerd's own names have its control plane: `<sa>.<ns>.serviceaccount.identity.linkerd.<trust domain>`."""


class IdentityMatch(Struct, frozen=True):
    """Which mesh identities are meant; each part alone is enough.

    `names` are whole DNS names in lower case, `suffixes` begin with a dot, `accounts` are (namespace, name).
    """

    everyone: bool = False
    ids: frozenset[SpiffeId] = frozenset()
    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    accounts: frozenset[tuple[str, str]] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def includes(self, identity: SpiffeId) -> bool:
        """Whether this identity is meant, by its SPIFFE ID or by either of its DNS names.

        An agent's or the authority's own is meant only where its very SPIFFE ID is written out.
        """
        if identity in self.ids:
            return True
        if whose_own(identity):
            return False
        if self.everyone:
            return True
        account, names = names_of(identity)
        if account is None:
            return False
        return (
            account in self.accounts
            or account[0] in self.namespaces
            or not self.names.isdisjoint(names)
            or (bool(self.suffixes) and any(name.endswith(self.suffixes) for name in names))
        )


@lru_cache(maxsize=65536)
def names_of(identity: SpiffeId) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """(namespace, service account) of a workload, and its DNS names in lower case: our form, and Linkerd's own."""
    account = identity.workload
    if account is None:
        return None, ()
    stem = f"{account[1]}.{account[0]}.serviceaccount.identity".lower()
    return account, (f"{stem}.{identity.trust_domain}", f"{stem}.{LINKERD_NAMESPACE}.{identity.trust_domain}")


def whose_own(identity: SpiffeId) -> str:
    """`an agent` or `the authority` for what the mesh itself runs under; empty for everything else.

    Those certificates lie on nodes' disks, and are for talking to the authority: whoever stole one is no workload.
    """
    if identity.path.startswith("/agent/"):
        return "an agent"
    return "the authority" if identity.path == "/authority" else ""
