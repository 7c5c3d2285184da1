"""SVIDs from a directory: what is taken, what is not, and that a change is noticed."""

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.files_provider import FilesProvider
from agent.identity.provider import ProviderError, Report
from agent.identity.spiffe import SpiffeId
from agent.tasks import spawn
from tests.tls.pki import TRUST_DOMAIN, Pki

WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "web")
PKI = Pki()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bundle.pem").write_bytes(PKI.bundle().anchors_pem)
    lay(tmp_path)
    return tmp_path


def lay(directory: Path, names: tuple[str, str] = ("svid.pem", "key.pem"), name: str = "web") -> str:
    svid = PKI.svid(name)
    place = directory / "demo" / "web"
    place.mkdir(parents=True, exist_ok=True)
    (place / names[0]).write_bytes(svid.chain_pem)
    (place / names[1]).write_bytes(svid.key_pem)
    return svid.serial


@pytest.mark.parametrize("names", [("svid.pem", "key.pem"), ("tls.crt", "tls.key")])
async def test_an_svid_is_read_under_either_name(tmp_path: Path, names: tuple[str, str]) -> None:
    serial = lay(tmp_path, names)
    svid = await FilesProvider(tmp_path, TRUST_DOMAIN).issue(WEB)
    assert (svid.spiffe_id, svid.serial) == (WEB, serial)
    assert svid.issuer


async def fails(directory: Path, words: str, spiffe_id: SpiffeId = WEB) -> None:
    with pytest.raises(ProviderError, match=words):
        await FilesProvider(directory, TRUST_DOMAIN).issue(spiffe_id)


async def test_what_is_missing_or_wrong_is_named(directory: Path) -> None:
    place = directory / "demo" / "web"
    await fails(directory, "has neither svid.pem nor tls.crt", SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "no"))
    await fails(directory, "is no workload's", SpiffeId.for_agent(TRUST_DOMAIN, "node"))
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
    await fails(directory, "key.pem cannot be read")


async def test_the_bundle_comes_with_a_sequence_that_grows_with_every_change(directory: Path) -> None:
    provider = FilesProvider(directory, TRUST_DOMAIN)
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
    with pytest.raises(ProviderError, match="holds no PEM certificates"):
        await provider.bundle(2, Report(2))
    (directory / "bundle.pem").unlink()
    with pytest.raises(ProviderError, match=r"bundle\.pem cannot be read"):
        await provider.bundle(2, Report(2))
