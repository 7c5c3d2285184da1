"""An issuer that is given to several replicas: their files are replaced one after the other, and they agree."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.authority import ca, control
from agent.authority.directory import StateDirectory
from agent.authority.ledger import Book, Kind
from agent.authority.pki import GivenFiles
from agent.authority.service import AuthorityService, authority_id
from agent.authority.sqlite_store import SqliteStore
from agent.identity.csr import new_request
from tests.authority.running import TD, Everywhere
from tests.tls.pki import Pki


class Replica:
    """One of several on one state, with files of its own."""

    def __init__(self, state: Path, files: Path, *, leads: bool) -> None:
        files.mkdir()
        self.files = files
        self.leads = leads
        self.store = SqliteStore(StateDirectory(state))
        self.service = AuthorityService(
            self.store,
            Everywhere(),
            trust_domain=TD,
            svid_seconds=3600,
            given=GivenFiles(files / "tls.crt", files / "tls.key", files / "ca.crt"),
            leads=lambda: self.leads,
        )

    async def look(self) -> None:
        await self.service.look(lambda: None)

    async def signs_with(self) -> str:
        """Whose key identifier is in what it signs."""
        await self.service.sign_own(new_request(authority_id(TD)).csr_pem.decode())
        return (await self.store.do(Book.issued))[-1].issuer_key_id

    @property
    def published(self) -> str:
        return self.service.publication.trust.issuer_key_id


class Replicas:
    """The one that leads and another, under a first issuer; and a second one that is not given yet."""

    def __init__(self, directory: Path) -> None:
        StateDirectory(directory / "state").prepare(TD)
        self.first, self.second = Pki(), Pki()
        self.leader = Replica(directory / "state", directory / "leader", leads=True)
        self.other = Replica(directory / "state", directory / "other", leads=False)
        self.all = (self.leader, self.other)

    def give(self, issuer: Pki, replica: Replica) -> None:
        """An issuer, with both roots: as cert-manager is told to do it before an issuer is another."""
        roots = b"".join(ca.pem(each.root.certificate) for each in (self.first, self.second) if each is not issuer)
        issuer.write_issuer(replica.files, roots)

    async def look(self) -> None:
        for _ in range(2):
            for each in self.all:
                await each.look()

    @property
    def published(self) -> set[str]:
        return {each.published for each in self.all}


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    made = Replicas(tmp_path)
    for each in made.all:
        made.give(made.first, each)
        await each.service.start()
    yield made
    for each in made.all:
        await each.store.close()


def id_of(pki: Pki) -> str:
    return ca.key_id(pki.issuer.certificate)


async def test_where_the_leaders_files_are_new_it_publishes_them_and_the_other_signs_as_before(
    replicas: Replicas,
) -> None:
    replicas.give(replicas.second, replicas.leader)
    await replicas.look()
    assert replicas.published == {id_of(replicas.second)}
    assert await replicas.leader.signs_with() == id_of(replicas.second)
    assert await replicas.other.signs_with() == id_of(replicas.first), "it has no other key"
    replicas.give(replicas.second, replicas.other)
    await replicas.look()
    assert await replicas.other.signs_with() == id_of(replicas.second)
    assert replicas.published == {id_of(replicas.second)}


async def test_where_the_others_files_are_new_it_waits_for_the_leaders(replicas: Replicas) -> None:
    sequence = replicas.leader.service.publication.sequence
    replicas.give(replicas.second, replicas.other)
    await replicas.look()
    assert await replicas.other.signs_with() == id_of(replicas.first)
    assert {each.service.publication.sequence for each in replicas.all} == {sequence}, "nobody publishes to and fro"
    replicas.give(replicas.second, replicas.leader)
    await replicas.look()
    assert await replicas.other.signs_with() == id_of(replicas.second)
    assert {each.service.publication.sequence for each in replicas.all} == {sequence + 1}


async def test_whoever_comes_to_lead_publishes_what_its_files_say(replicas: Replicas) -> None:
    replicas.give(replicas.second, replicas.other)
    await replicas.look()
    replicas.leader.leads, replicas.other.leads = False, True
    await replicas.look()
    assert replicas.published == {id_of(replicas.second)}
    assert await replicas.other.signs_with() == id_of(replicas.second)


async def test_where_the_files_are_not_what_is_published_is_believed_and_nothing_is_refused(
    replicas: Replicas,
) -> None:
    for each in replicas.all:
        (each.files / "tls.crt").unlink()
    store, now = replicas.other.store, time.time()
    there = await store.do(control.status, store.keys, now)
    assert "cannot be read" in str(there.refused)
    elsewhere = await store.do(control.status, store.keys, now, files=False)
    assert (elsewhere.refused, elsewhere.given) == (None, True)
    assert elsewhere.issuer_key_id == id_of(replicas.first)


async def test_a_revocation_does_not_wait_for_anybodys_files(replicas: Replicas) -> None:
    replicas.give(replicas.second, replicas.other)
    await replicas.look()
    await replicas.other.store.do(control.revoke, Kind.AGENT, "node-a", "sold", time.time())
    await replicas.look()
    assert [await each.store.do(Book.revoked_nodes) for each in replicas.all] == [{"node-a"}] * 2
    assert replicas.published == {id_of(replicas.first)}


async def test_one_that_starts_with_former_files_publishes_nothing(replicas: Replicas, tmp_path: Path) -> None:
    for each in replicas.all:
        replicas.give(replicas.second, each)
    await replicas.look()
    late = Replica(tmp_path / "state", tmp_path / "late", leads=False)
    replicas.give(replicas.first, late)
    await late.service.start()
    await replicas.look()
    assert replicas.published == {id_of(replicas.second)} == {late.published}
    await late.store.close()
