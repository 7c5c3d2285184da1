"""Objects are written as a round has touched them: each in the version that was read, what is in force last.

Whatever breaks off in between means nothing, or less than was asked: a key that no state names, a token that is used
up, a record of a certificate that nobody got.
"""

import logging
import secrets as randomness
from collections.abc import Collection, Iterable

from agent.authority.kubernetes import objects
from agent.authority.kubernetes.copied import Touched
from agent.authority.kubernetes.mirror import Mirror
from agent.authority.kubernetes.objects import Agents, CaKey, Content, Issued
from agent.authority.kubernetes.secrets import ConflictError, Secrets
from agent.authority.ledger import Issuance
from agent.kubernetes.errors import ApiError

log = logging.getLogger("quietwire.authority")

MERGES = 20
"""How often agents' rows are merged with those of replicas that were quicker."""


class Keeping:
    """Writes what one replica has changed in its copy."""

    def __init__(self, secrets: Secrets, mirror: Mirror, replica: str) -> None:
        self._secrets = secrets
        self._mirror = mirror
        self._replica = replica
        self._rows: list[Issuance] = []
        """What the object of issued certificates holds that this replica writes to."""
        self._next: list[Issuance] = []
        self._number = 0
        self.unflushed: set[int] = set()
        """Buckets of agents whose confirmations are not written."""

    @property
    def own(self) -> str:
        """The object of issued certificates that this replica writes to."""
        return objects.issued_name(self._mirror.authority, self._replica, self._number)

    async def keep(self, touched: Touched) -> None:
        """Writes what was touched. Raises ConflictError, ApiError, TooLargeError: then none of it counts."""
        made = await self._keep_keys(touched.keys)
        for hashed in touched.tokens:
            await self._keep_token(hashed)
        for bucket in sorted({objects.bucket_of(node) for node in touched.joined}):
            await self.keep_agents(bucket)
        if touched.issuances:
            await self._keep_issued(self._mirror.book.issuances(touched.issuances))
        if touched.state or made:
            await self._keep_state(made)
        elif touched.issuances:
            await self._look_again()

    def kept(self, touched: Touched) -> None:
        """The round is over, and all of it counts."""
        self.unflushed |= {objects.bucket_of(node) for node in touched.confirmed}
        if touched.issuances:
            self._rows = self._next

    async def keep_agents(self, bucket: int) -> None:
        """Where others have newer rows those stay: so it needs no new decision. Raises ConflictError, ApiError."""
        name = objects.agents_name(self._mirror.authority, bucket)
        for _ in range(MERGES):
            try:
                await self._write(name, Agents(self._mirror.book.agents_in(bucket)))
            except ConflictError:
                self._mirror.take(name, await self._secrets.get(name))
            else:
                self.unflushed.discard(bucket)
                return
        raise ConflictError(name)

    async def _write(self, name: str, content: Content) -> None:
        known = self._mirror.known
        try:
            known[name] = await self._secrets.write(name, content, known.get(name))
        except ApiError:
            self._mirror.stale.add(name)  # it may be written, or not
            raise

    async def _keep_keys(self, names: Collection[str]) -> dict[str, str]:
        """Puts each into a Secret of its own; their names, by the keys'."""
        made = {}
        for name in names:
            pem = self._mirror.book.key(name)
            if pem is not None:
                made[name] = objects.ca_name(self._mirror.authority, name, randomness.token_hex(4))
                await self._write(made[name], CaKey(pem))
                self._mirror.ca[made[name]] = pem
        return made

    async def _keep_token(self, hashed: bytes) -> None:
        name, token = objects.token_name(self._mirror.authority, hashed), self._mirror.book.token(hashed)
        self._mirror.stale.add(name)  # if what comes after this fails, the copy goes back, and this does not
        if token is None:
            await self._secrets.delete(name)
        else:
            await self._write(name, token)

    async def _keep_issued(self, rows: list[Issuance]) -> None:
        if len(self._rows) + len(rows) > objects.ROWS:
            self._turn_over()
        name = self.own
        self._next = [*self._rows, *rows]
        try:
            await self._write(name, Issued(self._next))
        except (ConflictError, ApiError):
            self._turn_over()  # what is in it by now is to be read first
            raise
        self._mirror.issued[name] = tuple(each.serial for each in self._next)

    def _turn_over(self) -> None:
        self._rows, self._number = [], self._number + 1

    async def _keep_state(self, made: dict[str, str]) -> None:
        mirror = self._mirror
        named = {**mirror.named, **made}
        try:
            await self._write(mirror.state_name, mirror.book.state(mirror.keys.trust_domain(), named))
        except ConflictError:
            await self._discard(made.values())
            raise
        former, mirror.named = mirror.named, named
        await self._discard(former[key] for key in made if key in former)

    async def _discard(self, names: Iterable[str]) -> None:
        """Deletes keys that are in force no more, or never were; those that it cannot are tidied up later."""
        for name in names:
            try:
                await self._secrets.delete(name)
            except (ApiError, ConflictError) as error:
                log.info("Secret %s could not be deleted, and will be later: %s", name, error)
                continue
            self._mirror.take(name, None)

    async def _look_again(self) -> None:
        """Whether what was decided by is still in force. Raises ConflictError."""
        name = self._mirror.state_name
        if await self._secrets.version(name) != self._mirror.known.get(name):
            raise ConflictError(name)
