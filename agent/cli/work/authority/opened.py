"""The state of an authority, opened for one verb; and how what came of it is shown."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import msgspec

from agent.authority.directory import StateDirectory
from agent.authority.kubernetes.store import KubernetesStore
from agent.authority.ledger import Book, Revoked
from agent.authority.pki import IssuerError
from agent.authority.rotation import RotationError
from agent.authority.run import SUBDIRECTORY
from agent.authority.store import Keys, StoreError, StoreUnavailableError
from agent.cli.authority.flags import Where
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.flags import ConfigError
from agent.identity.spiffe import SpiffeIdError
from agent.kubernetes.access import AccessError, find
from agent.kubernetes.client import Client

P = ParamSpec("P")
T = TypeVar("T")


class Opened(Protocol):
    """An authority's state, for one verb."""

    @property
    def keys(self) -> Keys:
        """See Store."""

    @property
    def files(self) -> bool:
        """Whether the files of an issuer that is given are on this machine."""

    @property
    def trust_domain(self) -> str:
        """Which it was made for."""

    def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does a work of the book; see Store."""


class _Directory:
    """On a host: the verb writes to the ledger itself."""

    files = True

    def __init__(self, book: Book, keys: StateDirectory) -> None:
        self._book = book
        self.keys = keys

    @property
    def trust_domain(self) -> str:
        return self.keys.trust_domain()

    def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return work(self._book, *args, **kwargs)


class _Cluster:
    """In a cluster: the verb writes as another replica does."""

    files = False

    def __init__(self, runner: asyncio.Runner, store: KubernetesStore) -> None:
        self._runner = runner
        self._store = store

    @property
    def keys(self) -> Keys:
        return self._store.keys

    @property
    def trust_domain(self) -> str:
        return self._store.keys.trust_domain()

    def do(self, work: Callable[Concatenate[Book, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._runner.run(self._store.do(work, *args, **kwargs))


@contextmanager
def opened(where: Where) -> Iterator[Opened]:
    """The state of an authority; every fault is said, and ends."""
    with _in_cluster(where) if where.in_a_cluster else _in_directory(where) as found:
        try:
            yield found
        except (StoreError, IssuerError, RotationError, Revoked, SpiffeIdError, ConfigError) as error:
            fail(str(error), EXIT_FAILED)
        except StoreUnavailableError as error:
            fail(f"nothing was done: {error}", EXIT_FAILED)
        except (sqlite3.Error, OSError) as error:
            fail(f"{where.state}: {error}", EXIT_FAILED)


@contextmanager
def _in_directory(where: Where) -> Iterator[Opened]:
    directory = StateDirectory(where.state / SUBDIRECTORY)
    if not directory.exists:
        fail(
            f"{directory.directory} holds no authority: start one once (quietwire up, or quietwire authority run), or "
            f"name its --state; one in a cluster is found by --kubeconfig or --kubernetes",
            EXIT_USAGE,
        )
    try:
        book = Book(directory.ledger)
    except (sqlite3.Error, OSError) as error:
        fail(f"{directory.ledger} cannot be opened: {error}; are you root?", EXIT_FAILED)
    try:
        yield _Directory(book, directory)
    finally:
        book.close()


@contextmanager
def _in_cluster(where: Where) -> Iterator[Opened]:
    kubeconfig = "" if where.kubeconfig is None else str(where.kubeconfig)
    with asyncio.Runner() as runner:
        try:
            access = find(os.environ, kubeconfig, where.context)
            store = runner.run(_open(Client(access), where.namespace))
        except AccessError as error:
            fail(str(error), EXIT_USAGE)
        except (StoreError, StoreUnavailableError) as error:
            fail(str(error), EXIT_FAILED)
        try:
            if not store.exists:
                fail(
                    f"namespace {where.namespace} of {access.address} holds no authority: start one once (quietwire "
                    f"authority run --kubernetes), or name its --namespace",
                    EXIT_USAGE,
                )
            yield _Cluster(runner, store)
        finally:
            runner.run(store.close())


async def _open(client: Client, namespace: str) -> KubernetesStore:
    store = KubernetesStore(client, namespace=namespace)
    try:
        await store.open()
    except (StoreError, StoreUnavailableError):
        await store.close()
        raise
    return store


def show(value: Any, lines: Callable[[], list[str]], *, as_json: bool) -> None:
    """Prints a value as one JSON document, or as the lines that say it."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines()))
