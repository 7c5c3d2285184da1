"""SVIDs from a directory: what is taken, what is not, and that a change is noticed."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from agent.authority import ca
from agent.identity.files_provider import LOOK_SECONDS, PAIR_SECONDS, FilesProvider
from agent.identity.keeper import IdentityKeeper
from agent.identity.provider import ProviderError, Report
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.tasks import spawn
from agent.tls import trial
from tests.identity.odd_roots import ODD
from tests.tls.pki import TRUST_DOMAIN, Pki, signing
from tests.tls.wrong import WRONG

WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "web")
END = b"-----END CERTIFICATE-----\n"
VICTIM = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "victim")
PKI = Pki()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bundle.pem").write_bytes(PKI.bundle().anchors_pem)
    lay(tmp_path)
    return tmp_path


def put(directory: Path, svid: Svid, names: tuple[str, str] = ("svid.pem", "key.pem"), *, account: str = "web") -> str:
    """Lays an SVID there; its serial."""
    place = directory / "demo" / account
    place.mkdir(parents=True, exist_ok=True)
    (place / names[0]).write_bytes(svid.chain_pem)
    (place / names[1]).write_bytes(svid.key_pem)
    return svid.serial


def lay(directory: Path, names: tuple[str, str] = ("svid.pem", "key.pem"), name: str = "web") -> str:
    return put(directory, PKI.svid(name), names)


@pytest.mark.parametrize("names", [("svid.pem", "key.pem"), ("tls.crt", "tls.key")])
async def test_an_svid_is_read_under_either_name(tmp_path: Path, names: tuple[str, str]) -> None:
    (tmp_path / "bundle.pem").write_bytes(PKI.bundle().anchors_pem)
    serial = lay(tmp_path, names)
    svid = await FilesProvider(tmp_path, TRUST_DOMAIN, trial.check).issue(WEB)
    assert (svid.spiffe_id, svid.serial) == (WEB, serial)
    assert svid.issuer_key_id


async def fails(directory: Path, words: str, spiffe_id: SpiffeId = WEB, *, code: str = "bad_svid") -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        await FilesProvider(directory, TRUST_DOMAIN, trial.check).issue(spiffe_id)
    assert caught.value.code == code


async def test_what_is_missing_or_wrong_is_named(directory: Path) -> None:
    place = directory / "demo" / "web"
    nobody, agent = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "no"), SpiffeId.for_agent(TRUST_DOMAIN, "node")
    await fails(directory, "has neither svid.pem nor tls.crt", nobody, code="no_svid")
    await fails(directory, "is no workload's", agent, code="not_a_workload")
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "key.pem").write_bytes(other)
    await fails(directory, "is not the key of")
    lay(directory, name="somebody-else")
    await fails(directory, "is for spiffe://.*/sa/somebody-else, not for")
    (place / "svid.pem").write_text("nonsense")
    await fails(directory, "is no SVID")
    lay(directory)
    (place / "key.pem").unlink()
    await fails(directory, "key.pem cannot be read: No such file", code="no_svid")
    (place / "key.pem").mkdir()
    await fails(directory, "key.pem cannot be read: it is no regular file", code="no_svid")


async def test_the_bundle_comes_with_a_sequence_that_grows_with_every_change(directory: Path) -> None:
    provider = FilesProvider(directory, TRUST_DOMAIN, trial.check)
    await provider.issue(WEB)
    first = await provider.bundle(0, Report())
    assert first is not None
    assert (first.sequence, first.anchors_pem) == (1, PKI.bundle().anchors_pem)
    waiting = spawn(provider.bundle(1, Report(1)), name="waiting")
    await asyncio.sleep(0)
    lay(directory)
    second = await asyncio.wait_for(waiting, 10)
    assert second is not None
    assert second.sequence == 2
    (directory / "bundle.pem").write_text("nonsense")
    with pytest.raises(ProviderError, match=r"holds no PEM certificates.*\(bad_bundle\)"):
        await provider.bundle(2, Report(2))
    (directory / "bundle.pem").unlink()
    with pytest.raises(ProviderError, match=r"bundle\.pem cannot be read: .*\(no_bundle\)"):
        await provider.bundle(2, Report(2))


# -- what is bad replaces nothing that is good --

BAD: dict[str, tuple[Callable[[], Svid], str]] = {
    "of another CA": (Pki().svid, "no peer would take .*does not verify.*whose roots are in bundle.pem"),
    "expired": (lambda: PKI.svid(begins=-7200, ends=-3600), "no peer would take .*does its issuer renew it"),
    "not valid yet": (lambda: PKI.svid(begins=3600, ends=7200), "no peer would take .*do the clocks agree"),
    "of another identity": (lambda: PKI.svid("api"), "is for .*/sa/api, not for .*/sa/web"),
    "with another's key": (lambda: replace(PKI.svid(), key_pem=PKI.svid().key_pem), "is not the key of"),
    "that is none": (lambda: replace(PKI.svid(), chain_pem=b"nonsense"), "is no SVID"),
    "without its issuer": (
        lambda: replace(good := PKI.svid(), chain_pem=good.chain_pem.partition(b"-----END")[0] + END),
        "no peer would take .*unable to get local issuer certificate",
    ),
} | {
    f"with {name}": (partial(wrong.make, PKI), "is no X.509-SVID|no peer would take|is for ")
    for name, wrong in WRONG.items()
}


class Followed:
    """A keeper over a directory: what a node has in force."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.svids: list[Svid] = []
        self.bundles: list[Bundle] = []
        self.offset = 0.0
        self.keeper = IdentityKeeper(
            FilesProvider(directory, TRUST_DOMAIN, trial.check, self.clock),
            on_svid=self.svids.append,
            on_bundle=self.bundles.append,
            clock=self.clock,
        )
        self.keeper.want(frozenset({WEB}))

    def clock(self) -> float:
        return time.time() + self.offset

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - a directory offers no event for a test to wait on
                await asyncio.sleep(0.01)


@pytest.fixture
async def followed(directory: Path) -> AsyncIterator[Followed]:
    made = Followed(directory)
    task = spawn(made.keeper.run(), name="the one under test")
    await made.until(lambda: made.svids and made.bundles)
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_svid_is_an_error_that_names_it(directory: Path, name: str) -> None:
    make, words = BAD[name]
    svid = make()
    wanted = VICTIM if svid.spiffe_id == VICTIM else WEB
    put(directory, svid, account=wanted.path.rpartition("/")[2])
    provider = FilesProvider(directory, TRUST_DOMAIN, trial.check)
    with pytest.raises(ProviderError, match=words) as caught:
        await provider.issue(wanted)
    assert str(directory) in str(caught.value)
    assert caught.value.code == "bad_svid"


async def test_a_bad_svid_replaces_no_good_one_and_is_told_until_it_is_mended(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (good,) = followed.svids
    put(followed.directory, Pki().svid())
    await followed.until(followed.keeper.faults)
    (fault,) = followed.keeper.faults()
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(good.not_after))
    assert f"no peer would take what lies in {followed.directory}/demo/web" in fault
    assert fault.endswith(f"The one in force, serial {good.serial}, stays until {until}")
    assert followed.keeper.svid(WEB) == good
    assert followed.svids == [good], "no worker hears of the bad one"
    warned = [record for record in caplog.records if record.getMessage() == fault]
    assert warned[0].levelno == logging.WARNING
    better = lay(followed.directory)
    await followed.until(lambda: followed.svids[-1].serial == better)
    assert followed.keeper.faults() == ()


async def test_the_former_file_that_is_put_back_is_no_fault_any_more(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (good,) = followed.svids
    put(followed.directory, Pki().svid())
    await followed.until(followed.keeper.faults)
    put(followed.directory, good)
    await followed.until(lambda: not followed.keeper.faults())
    assert followed.svids == [good]
    assert "is its source's newest again" in caplog.text


async def test_a_last_good_svid_that_expires_is_told_to_be_expired(followed: Followed) -> None:
    (good,) = followed.svids
    put(followed.directory, Pki().svid())
    await followed.until(followed.keeper.faults)
    followed.offset = 3601.0
    followed.keeper._changed.set()
    await followed.until(lambda: "its pods are refused" in followed.keeper.problems()[WEB])
    assert f"serial {good.serial}, expired at" in followed.keeper.problems()[WEB]


async def test_of_a_pair_that_is_being_written_the_other_half_is_waited_for(directory: Path) -> None:
    provider = FilesProvider(directory, TRUST_DOMAIN, trial.check)
    svid, place = PKI.svid(), directory / "demo" / "web"
    (place / "svid.pem").write_bytes(svid.chain_pem)
    asked = spawn(provider.issue(WEB), name="asked")
    await asyncio.sleep(PAIR_SECONDS / 20)
    assert not asked.done(), "the key is the former one's"
    (place / "key.pem").write_bytes(svid.key_pem)
    assert (await asked).serial == svid.serial


@pytest.mark.parametrize("kind", ODD)
async def test_what_is_no_root_is_left_out_of_a_bundle_and_said(
    directory: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd, why = ODD[kind](PKI)
    (directory / "bundle.pem").write_bytes(ca.pem(odd) + PKI.bundle().anchors_pem)
    followed = Followed(directory)
    keeping = spawn(followed.keeper.run(), name="the one under test")
    await followed.until(lambda: followed.svids and followed.bundles)
    assert followed.bundles[-1].anchors_pem == PKI.bundle().anchors_pem
    assert any(why in message and "a root is left out" in message for message in caplog.messages)
    assert not followed.keeper.faults()
    keeping.cancel()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("nonsense"), "holds no PEM certificates"),
        (lambda path: path.write_bytes(PKI.svid().chain_pem), "cannot be trusted: .* is no CA certificate"),
        (
            lambda path: path.write_bytes(ca.pem(signing(PKI.root, ["spiffe://example.test/a/path"]).certificate)),
            "cannot be trusted: .* may have no path",
        ),
        (
            lambda path: path.write_bytes(Pki(now=time.time() - 4000 * 86400).bundle().anchors_pem),
            "every root in .* has expired",
        ),
    ],
)
async def test_a_bad_bundle_replaces_no_good_one_and_keeps_no_svid_out(
    followed: Followed, damage: Callable[[Path], object], words: str
) -> None:
    (good,) = followed.bundles
    damage(followed.directory / "bundle.pem")
    await followed.until(followed.keeper.faults)
    (fault,) = followed.keeper.faults()
    assert re.search(words, fault)
    assert fault.endswith("stays in force")
    newer = lay(followed.directory)
    await followed.until(lambda: followed.svids[-1].serial == newer)
    assert followed.bundles == [good]
    (followed.directory / "bundle.pem").write_bytes(PKI.bundle().anchors_pem)
    await followed.until(lambda: not followed.keeper.faults())


async def test_a_new_ca_is_taken_over_in_whichever_order_its_files_come(followed: Followed) -> None:
    for bundle_first in (True, False):
        other = Pki()
        steps: list[Callable[[], object]] = [
            partial((followed.directory / "bundle.pem").write_bytes, other.bundle().anchors_pem),
            partial(put, followed.directory, other.svid()),
        ]
        first, second = steps if bundle_first else steps[::-1]
        first()
        await followed.until(followed.keeper.faults)
        second()
        await followed.until(lambda: not followed.keeper.faults())
        assert followed.bundles[-1].anchors_pem == other.bundle().anchors_pem


async def test_an_svid_is_tried_once_and_not_at_every_look(directory: Path) -> None:
    tried = []

    def counted(svid: Svid, bundle: Bundle, *, now: float) -> None:
        tried.append(svid.serial)
        trial.check(svid, bundle, now=now)

    provider = FilesProvider(directory, TRUST_DOMAIN, counted)
    first = await provider.issue(WEB)
    assert await provider.issue(WEB) == first
    assert tried == [first.serial]
    second = lay(directory)
    assert (await provider.issue(WEB)).serial == second
    (directory / "bundle.pem").write_bytes(Pki().bundle().anchors_pem)
    await provider.bundle(0, Report())
    with pytest.raises(ProviderError, match="no peer would take"):
        await provider.issue(WEB)
    assert tried == [first.serial, second, second]


async def test_that_somebody_is_asked_for_is_no_change_and_what_comes_for_whoever_was_is_one(directory: Path) -> None:
    provider = FilesProvider(directory, TRUST_DOMAIN, trial.check)
    first = await provider.bundle(0, Report())
    assert first is not None
    await provider.issue(WEB)
    with pytest.raises(ProviderError, match="has neither"):
        await provider.issue(VICTIM)
    (directory / "demo" / "nobody").mkdir()
    (directory / "demo" / "nobody" / "svid.pem").write_text("nobody has asked for it")
    waiting = spawn(provider.bundle(first.sequence, Report(1)), name="waiting")
    await asyncio.sleep(LOOK_SECONDS * 1.5)
    assert not waiting.done()
    put(directory, PKI.certificate([str(VICTIM)]), account="victim")
    second = await asyncio.wait_for(waiting, 10)
    assert second is not None
    assert second.sequence == first.sequence + 1
    assert (await provider.issue(VICTIM)).spiffe_id == VICTIM


async def test_files_behind_links_are_followed(directory: Path) -> None:
    """As Kubernetes mounts a secret: `..data` is replaced, and nothing else."""
    place = directory / "demo" / "web"
    for each in place.iterdir():
        each.unlink()
    for name, svid in (("..one", PKI.svid()), ("..two", PKI.svid())):
        (place / name).mkdir()
        (place / name / "tls.crt").write_bytes(svid.chain_pem)
        (place / name / "tls.key").write_bytes(svid.key_pem)
    (place / "..data").symlink_to("..one")
    for name in ("tls.crt", "tls.key"):
        (place / name).symlink_to(f"..data/{name}")
    provider = FilesProvider(directory, TRUST_DOMAIN, trial.check)
    one = await provider.issue(WEB)
    bundle = await provider.bundle(0, Report())
    assert bundle is not None
    (place / "..new").symlink_to("..two")
    (place / "..new").rename(place / "..data")
    assert await asyncio.wait_for(provider.bundle(bundle.sequence, Report()), 10) is not None
    assert (await provider.issue(WEB)).serial != one.serial
