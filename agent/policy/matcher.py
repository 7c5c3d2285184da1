"""Who is let in, without a word: one port's authorizations, prepared so that a decision does not walk through them.

An authorization asks for an identity and for a network. By identity they are found in dicts, once for each that asks,
and what was found is remembered; by network they are walked through, each set of networks once.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.identity.spiffe import SpiffeId
from agent.policy.identities import names_of, whose_own
from agent.policy.networks import Address, AddressSet, address_set, number_of

if TYPE_CHECKING:
    from agent.policy.model import Authorization, Client

MAX_REMEMBERED = 1024
"""Identities of which one matcher remembers who lets them in; the longest known is forgotten for the next."""

_Candidate = tuple[str, AddressSet | None, bool]
"""An authorization's name, from where it lets in (None: anywhere), and whether those are the cluster's networks."""


class Matcher:
    """The authorizations of one port, in their order: the first that lets a client in is the one that decides."""

    __slots__ = (
        "_accounts",
        "_by_identity",
        "_candidates",
        "_everyone",
        "_ids",
        "_names",
        "_namespaces",
        "_plain",
        "_suffixes",
        "_tls",
        "_usable",
        "_with_tls",
    )

    def __init__(self, authorizations: Iterable["Authorization"], probe: "Authorization | None") -> None:
        self._candidates: list[_Candidate] = []
        plain: list[int] = []
        self._with_tls: list[int] = []
        """By position: who is content with TLS, or with nothing; `_everyone`: with any workload."""
        self._everyone: list[int] = []
        self._ids: defaultdict[SpiffeId, list[int]] = defaultdict(list)
        self._names: defaultdict[str, list[int]] = defaultdict(list)
        self._suffixes: defaultdict[str, list[int]] = defaultdict(list)
        self._accounts: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._namespaces: defaultdict[str, list[int]] = defaultdict(list)
        usable = [each for each in authorizations if not each.nobody]
        for at, each in enumerate(usable if probe is None else (*usable, probe)):
            addresses = address_set(each.networks) if each.networks else None
            self._candidates.append((each.name, addresses, each.in_cluster))
            if each.of_plaintext:
                plain.append(at)
            if each.of_tls:
                self._with_tls.append(at)
            elif each.identities is None or each.identities.everyone:
                self._everyone.append(at)
            if each.identities is not None:
                for spiffe_id in each.identities.ids:
                    self._ids[spiffe_id].append(at)
                for name in each.identities.names:
                    self._names[name].append(at)
                for suffix in each.identities.suffixes:
                    self._suffixes[suffix].append(at)
                for account in each.identities.accounts:
                    self._accounts[account].append(at)
                for namespace in each.identities.namespaces:
                    self._namespaces[namespace].append(at)
        self._plain = self._pruned(plain)
        self._tls = self._pruned(self._with_tls)
        self._usable = self._pruned(range(len(usable)))
        self._by_identity: dict[SpiffeId, tuple[_Candidate, ...]] = {}

    @property
    def is_usable(self) -> bool:
        """Whether anything but a probe could let anybody in."""
        return bool(self._usable)

    def first(self, client: "Client") -> str | None:
        """The name of the first authorization that lets this client in."""
        identity = client.identity
        if identity is None:
            candidates = self._tls if client.tls else self._plain
        else:
            known = self._by_identity.get(identity)
            candidates = self._remember(identity) if known is None else known
        return _first(candidates, client.address)

    def lets_plaintext_in(self, address: Address) -> bool:
        """Whether a client without TLS is let in from there."""
        return _first(self._plain, address) is not None

    def lets_somebody_in(self, address: Address) -> bool:
        """Whether anybody at all is let in from there, by anything but a probe."""
        return _first(self._usable, address) is not None

    def _remember(self, identity: SpiffeId) -> tuple[_Candidate, ...]:
        found = set(self._with_tls)
        found.update(self._ids.get(identity, ()))
        if not whose_own(identity):
            found.update(self._everyone)
            account, names = names_of(identity)
            if account is not None:
                found.update(self._accounts.get(account, ()), self._namespaces.get(account[0], ()))
            for name in names:
                found.update(self._names.get(name, ()))
                if self._suffixes:
                    for at in (at for at, char in enumerate(name) if char == "."):
                        found.update(self._suffixes.get(name[at:], ()))
        if len(self._by_identity) >= MAX_REMEMBERED:
            del self._by_identity[next(iter(self._by_identity))]
        candidates = self._by_identity[identity] = self._pruned(sorted(found))
        return candidates

    def _pruned(self, positions: Iterable[int]) -> tuple[_Candidate, ...]:
        """Without those that cannot be the first: after one that lets in from anywhere, or from the same networks."""
        found: list[_Candidate] = []
        seen: set[tuple[int, bool]] = set()
        for at in positions:
            _, addresses, in_cluster = candidate = self._candidates[at]
            if (id(addresses), in_cluster) not in seen:
                seen.add((id(addresses), in_cluster))
                found.append(candidate)
            if addresses is None:
                break
        return tuple(found)


def _first(candidates: tuple[_Candidate, ...], address: Address | None) -> str | None:
    number, six = -1, False
    for name, addresses, in_cluster in candidates:
        if addresses is None:
            return name
        if address is None:
            if in_cluster:
                return name
            continue
        if number < 0:
            number, six = number_of(address)
        if addresses.has(number, six=six):
            return name
    return None
