"""The store of an authority in a cluster: a copy of its Secrets in memory, and rounds that keep what works change.

A round runs works on the copy, writes the objects that they touched, and only then tells anybody. Each object is
written in the version that was read (optimistic concurrency): where somebody else was quicker, the copy goes back, his
version is read, and the works are run again. Works that only record certificates are kept together; any other has a
round of its own.

A certificate is recorded first, and then the state is looked at once more; whoever revokes writes the state, and every
replica that hears of it looks at what is recorded. So of the two at least one sees the other.
"""

import asyncio
import logging
import secrets as randomness
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent.authority.kubernetes import objects
from agent.authority.kubernetes.copied import CopiedBook
from agent.authority.kubernetes.keeping import Keeping
from agent.authority.kubernetes.keys import CopiedKeys
from agent.authority.kubernetes.mirror import Mirror
from agent.authority.kubernetes.objects import TooLargeError, UnreadableObjectError
from agent.authority.kubernetes.secrets import ConflictError, Secrets, secret
from agent.authority.kubernetes.tidy import KEPT_SECONDS, tidy
from agent.authority.ledger import Book
from agent.authority.store import StoreError, StoreUnavailableError
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError
from agent.kubernetes.follow import Follower
from agent.tasks import spawn

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("quietwire.authority")

NAME = "quietwire-authority"
TRIES = 20
"""How often a round decides again before it gives up."""
TOGETHER = 50
"""Works of one round: signing takes half a millisecond each, on the loop that serves everybody."""
FLUSH_SECONDS = 5.0
"""How long what agents confirm may wait to be written: they say it with each poll."""


class _ApartError(Exception):
    """A work that must have a round of its own."""


class _Job:
    """A work, and who waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait any more
        self.outcome: Callable[[], None] = lambda: None
        self.writes = False

    def run(self, book: CopiedBook) -> None:
        """Runs it; who waits is not told yet."""
        before = book.writes
        try:
            with book.work():
                found = self.work()
        except Exception as error:  # noqa: BLE001 - raised for whoever asked for the work
            raised = error
            self.outcome = lambda: self.fail(raised)
        else:
            self.outcome = lambda: self.done.set_result(found)
        self.writes = book.writes != before

    def fail(self, error: Exception) -> None:
        """Tells who waits."""
        self.done.set_exception(error)


class KubernetesStore:
    """See Store. `open` before anything else; `run` for as long as others are to be heard of."""

    def __init__(
        self, client: Client, *, namespace: str, trust_domain: str = "", authority: str = NAME, replica: str = ""
    ) -> None:
        self._client = client
        self._secrets = Secrets(client, namespace, authority)
        self._mirror = Mirror(authority, trust_domain, f"authority {namespace}/{authority}")
        self._keeping = Keeping(self._secrets, self._mirror, replica or randomness.token_hex(4))
        self._queue: deque[_Job] = deque()
        self._between: deque[tuple[Callable[[], Awaitable[None]], asyncio.Future[None]]] = deque()
        """What is done between two rounds."""
        self._busy: asyncio.Task[None] | None = None
        """The one task that changes the copy."""
        self._listing: asyncio.Task[ApiError | None] | None = None

    @property
    def keys(self) -> CopiedKeys:
        """See Store."""
        return self._mirror.keys

    @property
    def exists(self) -> bool:
        """Whether an authority has been started here."""
        return self._mirror.state_name in self._mirror.known

    async def open(self) -> None:
        """Reads everything. Raises StoreUnavailableError, StoreError where it cannot be used."""
        await self.refresh()
        await self.do(lambda _: None)  # takes it in, and raises what is wrong with it

    async def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See Store."""
        job = _Job(lambda: work(self._mirror.book, *args, **kwargs))
        self._queue.append(job)
        self._kick()
        result: T = await asyncio.shield(job.done)
        return result

    async def changes(self) -> object:
        """See Store."""
        if self._mirror.has_heard:
            self._kick()
            await self._idle()
        return self._mirror.news

    async def refresh(self) -> None:
        """See Store. Several who ask at once are answered together."""
        if self._listing is None or self._listing.done():
            self._listing = spawn(self._list(), name="list of the authority's Secrets")
        if (error := await asyncio.shield(self._listing)) is not None:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """See Store."""
        await self._alone(self._flush)
        self._client.close()

    # -- what others do --

    async def run(self) -> None:
        """Hears of what others write, and writes what agents confirm, until it is cancelled."""
        follower = Follower(
            self._client,
            (objects.SECRETS,),
            _Ear(self._mirror, self._kick),
            streaming=True,
            namespace=self._secrets.namespace,
            labels=self._secrets.selector,
        )
        flushing = spawn(self._flush_often(), name="confirmations")
        try:
            await follower.run()
        finally:
            flushing.cancel()
            await asyncio.wait([flushing])

    async def tidy(self, now: float) -> None:
        """Deletes what serves no more, see `tidy`. One of the replicas does it. Raises StoreUnavailableError."""
        await self.do(lambda _: self._mirror.book.forget_serials(now - KEPT_SECONDS))
        await self._alone(lambda: tidy(self._secrets, self._mirror, self._keeping.own, now))

    async def _list(self) -> ApiError | None:
        before = dict(self._mirror.known)
        try:
            found = await self._secrets.all()
        except ApiError as error:  # raised for each who asked
            return error
        for each in found:
            self._mirror.hear(each)
        self._mirror.hear_missing(before, {each.metadata.name for each in found})
        return None

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if self._keeping.unflushed:
                await self._alone(self._flush)

    async def _flush(self) -> None:
        for bucket in sorted(self._keeping.unflushed):
            try:
                await self._keeping.keep_agents(bucket)
            except (ApiError, ConflictError) as error:
                log.info("what agents confirmed is not written yet: %s", error)
                return

    # -- rounds --

    def _kick(self) -> None:
        if self._busy is None or self._busy.done():
            self._busy = spawn(self._rounds(), name="the authority's store")

    async def _idle(self) -> None:
        while self._busy is not None and not self._busy.done():
            await asyncio.wait([self._busy])

    async def _alone(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does something between two rounds."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._between.append((work, done))
        self._kick()
        await asyncio.shield(done)

    async def _rounds(self) -> None:
        while self._queue or self._between or self._mirror.has_heard:
            try:
                while self._between:
                    work, done = self._between.popleft()
                    try:
                        await work()
                    finally:
                        done.set_result(None)
                self._mirror.take_in()
                if self._queue:
                    await self._round()
            except UnreadableObjectError as error:  # closes: nothing is decided by half of the state
                self._fail_all(StoreError(str(error)))
            except StoreError as error:
                self._fail_all(error)
            except BaseException:
                self._fail_all(StoreUnavailableError("by a fault of ours, which the log has"))
                raise

    def _fail_all(self, error: Exception) -> None:
        while self._queue:
            self._queue.popleft().fail(error)

    async def _round(self) -> None:
        """One. Raises StoreError, UnreadableObjectError: then nothing can be decided."""
        for _ in range(TRIES):
            self._mirror.take_in()
            try:
                await self._reread()
            except ApiError as error:  # who only asks is answered by what is known
                self._read_only(error)
                return
            if self._mirror.gone:
                raise StoreError(
                    f"{self.keys.where}: its state was deleted, and with it what was revoked and trusted. Restore "
                    f"Secret {self._mirror.state_name} from a backup of the cluster"
                )
            if await self._tried():
                return
        self._fail_all(StoreUnavailableError(f"others write all the time: it was tried {TRIES} times"))

    async def _tried(self) -> bool:
        """Runs works and keeps what they change; False where it has to be decided again."""
        book = self._mirror.book
        book.start_round()
        try:
            jobs = self._run(book)
            touched = book.touched()
            if not touched.nothing:
                await self._keeping.keep(touched)
        except ConflictError as conflict:
            book.undo_round()
            self._mirror.stale.add(conflict.name)
            return False
        except (ApiError, TooLargeError) as error:
            book.undo_round()
            self._not_kept(jobs, error)
            return True
        except BaseException:
            book.undo_round()
            raise
        book.keep_round()
        self._keeping.kept(touched)
        for job in jobs:
            self._queue.popleft()
            job.outcome()
        return True

    def _run(self, book: CopiedBook) -> list[_Job]:
        """Runs the next works: one that changes what is in force, or some that do not."""
        jobs: list[_Job] = []
        for job in list(self._queue)[:TOGETHER]:
            try:
                with book.work():
                    job.run(book)
                    if jobs and not book.shareable:
                        raise _ApartError
            except _ApartError:
                break
            jobs.append(job)
            if not book.shareable:
                break
        return jobs

    def _not_kept(self, jobs: Collection[_Job], error: Exception) -> None:
        reason: Exception = StoreError(str(error)) if isinstance(error, TooLargeError) else _unavailable(error)
        for job in jobs:
            self._queue.popleft()
            if job.writes:
                job.fail(reason)
            else:
                job.outcome()

    def _read_only(self, error: ApiError) -> None:
        book = self._mirror.book
        jobs = list(self._queue)[:TOGETHER]
        book.start_round()
        for job in jobs:
            job.run(book)
        book.undo_round()
        self._not_kept(jobs, error)

    async def _reread(self) -> None:
        """Reads what may be another by now, what is in force last. Raises ApiError, UnreadableObjectError."""
        mirror = self._mirror
        for name in sorted(mirror.stale, key=lambda each: each == mirror.state_name):
            found = await self._secrets.get(name)
            if name == mirror.state_name and found is not None:
                for key in mirror.missing_keys(found):
                    mirror.take(key, await self._secrets.get(key))
            mirror.take(name, found)


class _Ear:
    """The sink of a Follower."""

    def __init__(self, mirror: Mirror, heard: Callable[[], None]) -> None:
        self._mirror = mirror
        self._told = heard
        self._before: dict[str, str] = {}
        self._listed: set[str] = set()

    def begin(self) -> None:
        """See Sink."""
        self._before, self._listed = dict(self._mirror.known), set()

    def put(self, raw: bytes) -> None:
        """See Sink."""
        found = secret(raw)
        self._listed.add(found.metadata.name)
        self._mirror.hear(found)
        self._told()

    def remove(self, raw: bytes) -> None:
        """See Sink."""
        found = secret(raw)
        self._mirror.hear_gone(found.metadata.name, found.metadata.version)
        self._told()

    def complete(self) -> None:
        """See Sink."""
        self._mirror.hear_missing(self._before, self._listed)
        self._told()


def _unavailable(error: Exception) -> StoreUnavailableError:
    made = StoreUnavailableError(str(error))
    made.__cause__ = error
    return made
