"""What this replica knows of the authority's objects: the copy of the ledger, and which version of each it has.

What others write comes in by a watch, by a list, or because it is read anew; it is taken between two rounds. No I/O.
"""

from msgspec import Struct

from agent.authority.kubernetes import objects
from agent.authority.kubernetes.copied import CopiedBook
from agent.authority.kubernetes.keys import CopiedKeys
from agent.authority.kubernetes.objects import (
    Agents,
    CaKey,
    Issued,
    Secret,
    State,
    Token,
    UnreadableObjectError,
)
from agent.authority.store import StoreError


class _Heard(Struct, frozen=True):
    """An object in a version; or that it is gone, and the version in which it was last, or went."""

    version: int
    found: Secret | None


class Mirror:
    """Of one authority."""

    def __init__(self, authority: str, trust_domain: str, where: str) -> None:
        self.authority = authority
        self.wanted_domain = trust_domain
        self.book = CopiedBook()
        self.keys = CopiedKeys(self.book, trust_domain, where)
        self.known: dict[str, str] = {}
        """The versions that the copy has, by name."""
        self.stale: set[str] = set()
        """What may be another than the copy has: to be read before anything is decided by it."""
        self.ca: dict[str, bytes] = {}
        """Every key that there is, by its Secret."""
        self.named: dict[str, str] = {}
        """Those in force: their Secrets, by the keys' names."""
        self.issued: dict[str, tuple[str, ...]] = {}
        """The serials of each object of issued certificates."""
        self.tokens: dict[str, bytes] = {}
        """Hashes, by their objects."""
        self.gone = False
        """There was a state, and it was deleted."""
        self.news = 0
        """Grows when somebody else has changed what is in force."""
        self._heard: dict[str, _Heard] = {}

    @property
    def state_name(self) -> str:
        """The object that says what is in force."""
        return objects.state_name(self.authority)

    # -- hearing --

    @property
    def has_heard(self) -> bool:
        """Whether there is something to take in."""
        return bool(self._heard)

    def hear(self, found: Secret) -> None:
        """An object is there."""
        self._heard[found.metadata.name] = _Heard(int(found.metadata.version), found)

    def hear_gone(self, name: str, version: str) -> None:
        """It is gone, which it was not in an earlier version."""
        self._heard[name] = _Heard(int(version), None)

    def hear_missing(self, before: dict[str, str], listed: set[str]) -> None:
        """A list is complete: what was known before it began, and is not in it, is gone."""
        for name in before.keys() - listed:
            self.hear_gone(name, before[name])

    def take_in(self) -> None:
        """Takes what was heard. Raises UnreadableObjectError, StoreError, each time until it is mended."""
        heard, self._heard = self._heard, {}
        problem: Exception | None = None
        for name in sorted(heard, key=lambda each: each == self.state_name):  # keys before the state that names them
            each = heard[name]
            known = int(self.known.get(name, "-1"))
            # Versions of one server can be compared (API Concepts, "Resource versions"); what is older is no news.
            if each.version > known if each.found is not None else name in self.known and each.version >= known:
                try:
                    self.take(name, each.found)
                except (UnreadableObjectError, StoreError) as error:
                    self.stale.add(name)
                    problem = error
        if problem is not None:
            raise problem

    # -- taking --

    def take(self, name: str, found: Secret | None) -> None:
        """The copy takes one object as it is now. Raises UnreadableObjectError, StoreError."""
        content = None if found is None else objects.decode(found)
        match content:
            case State():
                self._take_state(content)
            case Token():
                self.tokens[name] = content.hash
                self.book.take_token(content.hash, content)
            case Agents():
                self.book.take_agents(content.rows)
            case Issued():
                self._take_issued(name, content)
            case CaKey():
                self.ca[name] = content.pem
            case None:
                self._take_gone(name)
        if found is None:
            self.known.pop(name, None)
        else:
            self.known[name] = found.metadata.version
        self.stale.discard(name)
        self.keys.records = bool(self.issued)

    def missing_keys(self, found: Secret) -> list[str]:
        """The Secrets of keys that a state names, and that are not known. Raises UnreadableObjectError."""
        content = objects.decode(found)
        return [each for each in content.keys.values() if each not in self.ca] if isinstance(content, State) else []

    def _take_state(self, state: State) -> None:
        if self.wanted_domain and state.trust_domain != self.wanted_domain:
            raise StoreError(
                f"{self.keys.where} is of trust domain {state.trust_domain}, not {self.wanted_domain}: "
                f"give each trust domain a namespace of its own"
            )
        missing = [each for each in state.keys.values() if each not in self.ca]
        if missing:
            raise UnreadableObjectError(
                f"{self.keys.where}: its state names Secret {missing[0]}, which is not there: restore it from a backup"
            )
        self.keys.domain = state.trust_domain
        self.book.take_state(state, {name: self.ca[each] for name, each in state.keys.items()})
        self.named = dict(state.keys)
        self.gone = False
        self.news += 1

    def _take_issued(self, name: str, content: Issued) -> None:
        self.book.take_issued(self.issued.get(name, ()), content.rows)
        self.issued[name] = tuple(each.serial for each in content.rows)
        if self.book.revoked_nodes():
            self.news += 1  # what is given to a revoked agent is revoked with it

    def _take_gone(self, name: str) -> None:
        if name == self.state_name and name in self.known:
            self.gone = True
            self.news += 1
        elif name in self.tokens:
            self.book.take_token(self.tokens.pop(name), None)
        elif name in self.issued:
            self.book.take_issued(self.issued.pop(name), ())
        self.ca.pop(name, None)
