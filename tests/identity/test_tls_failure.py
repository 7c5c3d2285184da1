"""Why TLS with the authority failed: each kind of it, by certificates that are really wrong in that way."""

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from agent.authority import ca
from agent.identity import tls_failure
from agent.identity.authority_client import AuthorityClient
from agent.identity.memfd import load_cert_chain
from agent.identity.provider import ProviderError
from agent.identity.svid import Svid
from tests.authority.running import TD, WEB, Authority, refused
from tests.tls.pki import Pki, signing

PKI, OTHER = Pki(), Pki()
AUTHORITY = "spiffe://example.test/authority"
DAY = 86_400


@contextlib.asynccontextmanager
async def serving(svid: Svid, ahead: float | None = 0.0, **more: Any) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server with this certificate, and a clock that is so many seconds ahead; what it heard."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_cert_chain(context, svid.chain_pem, svid.key_pem)
    for name, value in more.items():
        setattr(context, name, value)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await reader.read(10_000))
            date = "" if ahead is None else f"Date: {formatdate(time.time() + ahead, usegmt=True)}\r\n"
            writer.write(f"HTTP/1.1 404 Not Found\r\n{date}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    server.close()


async def failure(address: str, anchors: bytes | None = None) -> str:
    """What an agent that holds these anchors says of its try to join there."""

    async def token() -> str:
        return "a secret token"

    client = AuthorityClient(
        addresses=[address],
        anchors_pem=PKI.bundle().anchors_pem if anchors is None else anchors,
        trust_domain=TD,
        node="node-a",
        tokens=token,
    )
    with pytest.raises(ProviderError) as caught:
        await client.issue(WEB)
    return caught.value.message


def deep() -> Svid:
    """Under one signer more than its root allows."""
    upper = signing(PKI.root, name="upper")
    lower = signing(upper, name="lower")
    svid = PKI.under(lower).certificate([AUTHORITY])
    return msgspec.structs.replace(svid, chain_pem=svid.chain_pem + ca.pem(upper.certificate))


def excluded() -> Svid:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier("elsewhere.test")], None)
    return PKI.under(signing(PKI.root, more=[(constraints, True)])).certificate([AUTHORITY])


CLOCK = "( or the system clock is incorrect)?"
"""As later versions of OpenSSL say it."""
KINDS: dict[str, tuple[Callable[[], Svid], str]] = {
    "not yet valid": (
        lambda: PKI.certificate([AUTHORITY], begins=DAY, ends=2 * DAY),
        rf"certificate is not yet valid{CLOCK}; it is valid from 20..-..-..T..:..:..Z on, in 8\d{{4}} s by this clock",
    ),
    "expired": (
        lambda: PKI.certificate([AUTHORITY], begins=-2 * DAY, ends=-DAY),
        rf"certificate has expired{CLOCK}; it was valid until 20..-..-..T..:..:..Z, 86[34]\d\d s ago by this clock",
    ),
    "unknown issuer": (
        lambda: OTHER.certificate([AUTHORITY]),
        r"unable to get local issuer certificate\. No root of the bundle that this agent holds has signed it",
    ),
    "path length": (deep, r"path length constraint exceeded.*pathlen"),
    "name constraints": (excluded, r"permitted subtree violation.*must permit the trust domain"),
    "purpose": (
        lambda: PKI.certificate([AUTHORITY], purposes=[x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]),
        r"does not allow serverAuth",
    ),
    "another SPIFFE ID": (
        lambda: PKI.certificate(["spiffe://example.test/ns/demo/sa/web"]),
        r"the server is spiffe://example.test/ns/demo/sa/web, and",
    ),
    "another trust domain": (
        lambda: PKI.certificate(["spiffe://elsewhere.test/authority"]),
        r"is not of this mesh's trust domain example.test",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_reason_is_told_in_words_and_the_token_to_nobody(kind: str) -> None:
    make, words = KINDS[kind]
    async with serving(make()) as (address, heard):
        message = await failure(address)
    assert address in message
    assert re.search(words, message), message
    assert b"secret" not in b"".join(heard)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (3600.0, r"the clock of whoever answers there is 3[56]\d\d s ahead of this one"),
        (-3600.0, r"the clock of whoever answers there is 36\d\d s behind this one"),
        (0.0, "agree: the certificate must be renewed"),
        (None, "this clock says 20"),
    ],
)
async def test_where_dates_are_the_matter_both_clocks_are_told(ahead: float | None, words: str) -> None:
    async with serving(PKI.certificate([AUTHORITY], begins=-2 * DAY, ends=-DAY), ahead) as (address, _):
        assert re.search(words, await failure(address))


async def test_a_root_of_the_bundle_that_has_expired_is_named() -> None:
    pki = Pki(now=time.time() - 20 * 365 * DAY)
    fresh = pki.under(signing(pki.root)).certificate([AUTHORITY])
    async with serving(fresh) as (address, _):
        message = await failure(address, pki.bundle().anchors_pem)
    assert "of this agent's bundle was valid until" in message


async def test_a_server_that_says_nothing_at_the_second_look_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_failure, "LOOK_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel takes connections, and nobody reads
        async with asyncio.timeout(5):
            assert await tls_failure.look(listener.getsockname()) == tls_failure.Seen()


async def test_what_a_server_showed_is_known_though_it_then_speaks_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr("agent.identity.http.exchange", ends)
    svid = PKI.certificate([AUTHORITY])
    async with serving(svid) as (address, _):
        seen = await tls_failure.look(("127.0.0.1", int(address.rpartition(":")[2])))
    assert seen.leaf is not None
    assert ssl.DER_cert_to_PEM_cert(seen.leaf).encode() in svid.chain_pem
    assert seen.date is None


async def test_a_server_that_is_gone_at_the_second_look_costs_only_words() -> None:
    assert await tls_failure.look(("127.0.0.1", 1)) == tls_failure.Seen()
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = tls_failure.EXPIRED, "certificate has expired"
    said = tls_failure.does_not_verify(error, tls_failure.Seen(b"nonsense"), b"nonsense", 0.0)
    assert "a certificate above it is not valid by this clock" in said


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "does not know the root that this agent's certificate is under"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "has expired by its clock"),
        ("WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
    ],
)
def test_an_alert_of_the_authoritys_is_told_in_words(reason: str, words: str) -> None:
    error = ssl.SSLError()
    error.reason = reason
    assert words in tls_failure.refused_by_authority(error)


async def test_an_authority_that_does_not_take_the_agents_certificate_says_why_to_both(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    client = authority.client()
    stranger = OTHER.certificate(["spiffe://example.test/agent/node-a"])
    client._agent, client._renew_at = stranger, float("inf")
    error = await refused(client.issue(WEB), "tls")
    assert "unknown_ca: it does not know the root that this agent's certificate is under" in error.message
    assert re.search(
        r"a caller from 127\.0\.0\.1 is not served: the peer.s certificate does not verify: unable to get",
        authority.stop(),
    )


@pytest.mark.parametrize(
    ("now", "words"), [(50.0, "is valid only from 1970-01-01T00:01:40Z on"), (200.0, "expired at 1970-01-01T00:03:20Z")]
)
def test_a_certificate_of_the_agents_own_that_is_not_valid_is_told_of(now: float, words: str) -> None:
    shown = msgspec.structs.replace(PKI.svid(), not_before=100.0, not_after=200.0)
    said = tls_failure.without_an_answer(shown, now)
    assert words in said
    assert said.endswith(f"by this clock ({time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now))})")
    assert "does something else listen there" in tls_failure.without_an_answer(None, now)
