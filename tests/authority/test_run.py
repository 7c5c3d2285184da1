"""The real authority process over its real HTTPS API: what it issues, what it refuses, what it keeps."""

import asyncio
import base64
import hashlib
import ipaddress
import json
import signal
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.authority.csr import MAX_CSR
from agent.authority.directory import StateDirectory
from agent.authority.pki import GivenFiles
from agent.identity.csr import new_request
from agent.identity.memfd import load_cert_chain
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB, Authority, refused
from tests.tls.pki import Pki


async def test_a_joined_agent_gets_an_svid_that_openssl_verifies_strictly(authority: Authority, tmp_path: Path) -> None:
    client = authority.client()
    svid = await client.issue(WEB)
    assert svid.spiffe_id == WEB
    leaf, _, rest = svid.chain_pem.partition(b"-----END CERTIFICATE-----\n")
    (tmp_path / "leaf.pem").write_bytes(leaf + b"-----END CERTIFICATE-----\n")
    (tmp_path / "issuer.pem").write_bytes(rest)
    (tmp_path / "root.pem").write_text(authority.said["bundle_pem"])
    for purpose in ("sslserver", "sslclient"):
        done = await asyncio.to_thread(
            subprocess.run,
            [
                *("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(tmp_path / "root.pem")),
                *("-untrusted", str(tmp_path / "issuer.pem"), str(tmp_path / "leaf.pem")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


async def test_python_verifies_the_chain_with_the_strict_flag_of_3_13_in_both_roles(authority: Authority) -> None:
    svid = await authority.client().issue(WEB)
    ends: list[tuple[ssl.SSLObject, ssl.MemoryBIO]] = []
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    for protocol, (incoming, outgoing) in (
        (ssl.PROTOCOL_TLS_CLIENT, bios),
        (ssl.PROTOCOL_TLS_SERVER, bios[::-1]),
    ):
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=authority.said["bundle_pem"])
        load_cert_chain(context, svid.chain_pem, svid.key_pem)
        server = protocol is ssl.PROTOCOL_TLS_SERVER
        ends.append((context.wrap_bio(incoming, outgoing, server_side=server), outgoing))
    for _ in range(4):
        for end, _ in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end, _ in ends:
        assert end.version() == "TLSv1.3"
        seen = x509.load_der_x509_certificate(end.getpeercert(binary_form=True) or b"")
        assert f"{seen.serial_number:x}" == svid.serial


async def test_the_leaf_is_an_x509_svid(authority: Authority) -> None:
    before = time.time()
    svid = await authority.client().issue(WEB)
    leaf = x509.load_pem_x509_certificates(svid.chain_pem)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert names.value.get_values_for_type(x509.DNSName) == ["web.demo.serviceaccount.identity.example.test"]
    assert leaf.subject.rdns == []
    assert leaf.serial_number.bit_length() > 64
    assert before - 62 <= leaf.not_valid_before_utc.timestamp() <= before - 58
    assert abs(leaf.not_valid_after_utc.timestamp() - (time.time() + 3600)) < 5


async def test_every_issuance_is_in_the_ledger_before_it_is_answered(authority: Authority) -> None:
    svid = await authority.client().issue(WEB)
    authority.stop(signal.SIGKILL)
    book = authority.book()
    rows = [(each.spiffe_id, each.node) for each in book.issued() if each.serial == svid.serial]
    book.close()
    assert rows == [(str(WEB), "node-a")]
    db = sqlite3.connect(authority.state / "ledger.sqlite")
    tokens = db.execute("SELECT hash, used FROM tokens").fetchall()
    db.close()
    assert len(tokens) == 1
    assert tokens[0][1] is not None


async def test_a_token_is_nowhere_in_the_ledgers_files_but_its_hash_is(authority: Authority) -> None:
    waiting, used = authority.token(), authority.token()
    await authority.client(used).issue(WEB)
    files = list(authority.state.glob("ledger.sqlite*"))
    assert {path.name for path in files} >= {"ledger.sqlite", "ledger.sqlite-wal"}
    written = b"".join(path.read_bytes() for path in files)
    for token in (waiting, used):
        assert hashlib.sha256(token.encode()).digest() in written
        assert token.encode() not in written
        assert base64.urlsafe_b64decode(f"{token}=") not in written, "nor its bytes"
    assert used not in authority.stop()


async def test_a_token_serves_once(authority: Authority) -> None:
    token = authority.token()
    await authority.client(token).issue(WEB)
    error = await refused(authority.client(token).issue(WEB), "bad_token")
    assert "used already" in error.message


async def test_of_agents_that_race_with_one_token_one_wins(authority: Authority) -> None:
    token = authority.token()
    results = await asyncio.gather(*(authority.client(token).issue(WEB) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1


async def test_a_token_is_for_its_node_only(authority: Authority) -> None:
    error = await refused(authority.client(authority.token("node-b")).issue(WEB), "bad_token")
    assert "for another node" in error.message


async def test_a_token_expires(authority: Authority) -> None:
    error = await refused(authority.client(authority.token(seconds=-1)).issue(WEB), "bad_token")
    assert "expired" in error.message


async def test_a_service_account_without_a_pod_on_the_node_is_refused(authority: Authority) -> None:
    client = authority.client()
    await client.issue(WEB)
    await refused(client.issue(SpiffeId.for_service_account(TD, "demo", "elsewhere")), "no_such_workload")
    await refused(client.issue(SpiffeId.for_service_account(TD, "demo", "nobody")), "no_such_workload")
    await refused(client.issue(SpiffeId.for_agent(TD, "node-b")), "not_a_workload")


async def test_an_agent_whose_clock_runs_out_of_token_cannot_ask(authority: Authority) -> None:
    await refused(authority.client("never-made").issue(WEB), "bad_token")


def by_hand(uris: list[str], key: Any = None, others: list[x509.GeneralName] | None = None) -> str:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris] + (others or [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    signing = key or ec.generate_private_key(ec.SECP256R1())
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def forged() -> str:
    """A request whose signature is by another key."""
    good = x509.load_pem_x509_csr(by_hand([str(WEB)]).encode()).public_bytes(serialization.Encoding.DER)
    broken = bytearray(good)
    broken[-1] ^= 1
    return (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(broken)).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (forged, "bad_signature"),
        (lambda: "nonsense", "bad_request"),
        (lambda: by_hand([]), "no_uri_san"),
        (lambda: by_hand([str(WEB), str(WEB) + "2"]), "several_uri_sans"),
        (lambda: by_hand([str(WEB)], others=[x509.DNSName("web.test")]), "other_sans"),
        (lambda: by_hand([], others=[x509.RFC822Name("a@b.test")]), "other_sans"),
        (lambda: by_hand([str(WEB)], others=[x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]), "other_sans"),
        (lambda: by_hand(["spiffe://example.test/a//b"]), "malformed_id"),
        (lambda: by_hand(["spiffe://other.test/ns/demo/sa/web"]), "foreign_trust_domain"),
        (lambda: by_hand([str(WEB)], rsa.generate_private_key(65537, 2048)), "key_not_allowed"),
        (lambda: by_hand([str(WEB)], ec.generate_private_key(ec.SECP521R1())), "key_not_allowed"),
        (lambda: by_hand([str(WEB)], ed25519.Ed25519PrivateKey.generate()), "key_not_allowed"),
        (lambda: "x" * (MAX_CSR + 1), "too_large"),
        (lambda: "x" * 100_000, "too_large"),
    ],
)
async def test_each_wrong_request_is_refused_with_its_own_code(
    authority: Authority, make: Callable[[], str], code: str
) -> None:
    client = authority.client()
    await client.issue(WEB)
    await refused(client._request("POST", "/v1/svid", {"csr": make()}, {}, 10), code)


async def test_both_curves_are_accepted(authority: Authority) -> None:
    client = authority.client()
    await client.issue(WEB)
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        key = ec.generate_private_key(curve)
        answer = await client._request("POST", "/v1/svid", {"csr": by_hand([str(WEB)], key)}, {}, 10)
        assert answer.status == 200
        leaf = x509.load_pem_x509_certificate(json.loads(answer.body)["chain_pem"].encode())
        assert leaf.public_key() == key.public_key()


async def test_who_comes_without_an_agents_certificate_is_refused(authority: Authority) -> None:
    stranger = authority.client("none")
    csr = new_request(WEB).csr_pem.decode()
    for path in ("/v1/svid", "/v1/renew"):
        await refused(stranger._request("POST", path, {"csr": csr}, {}, 10), "unknown_caller")
    wrong: list[Any] = [{}, {"csr": 7}, {"csr": csr, "more": "x"}]
    for body in wrong:
        await refused(stranger._request("POST", "/v1/svid", body, {}, 10), "bad_request")


async def test_a_workloads_certificate_is_no_agents(authority: Authority) -> None:
    client = authority.client()
    thief = authority.client("none")
    thief._agent = await client.issue(WEB)
    await refused(
        thief._request("POST", "/v1/svid", {"csr": new_request(WEB).csr_pem.decode()}, {}, 10), "unknown_caller"
    )


async def test_an_impostor_under_another_root_is_not_spoken_to(authority: Authority) -> None:
    pki = Pki()
    await refused(authority.client("t", bundle=pki.bundle().anchors_pem).issue(WEB), "tls")


async def test_a_server_of_the_right_root_that_is_not_the_authority_is_not_spoken_to(authority: Authority) -> None:
    svid = await authority.client().issue(WEB)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_cert_chain(context, svid.chain_pem, svid.key_pem)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    client = authority.client("a secret token")
    client._addresses = [("127.0.0.1", server.sockets[0].getsockname()[1])]
    await refused(client.issue(WEB), "wrong_authority")
    server.close()
    assert b"".join(heard) == b""


async def test_the_root_is_kept_over_restarts_and_keys_are_for_root_only(authority: Authority) -> None:
    bundle = authority.said["bundle_pem"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.state.iterdir()}
    assert {modes[name] for name in ("root-1.pem", "issuer-1.pem", "ledger.sqlite")} == {0o600}
    assert authority.state.stat().st_mode & 0o777 == 0o700
    (authority.state / "root-1.pem").chmod(0o644)
    authority.stop(signal.SIGKILL)
    authority.start()
    assert authority.said["bundle_pem"] == bundle
    assert (authority.state / "root-1.pem").stat().st_mode & 0o777 == 0o600
    svid = await authority.client().issue(WEB)
    assert svid.spiffe_id == WEB


def _swap_key(state: Path) -> None:
    path = state / "issuer-1.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, marker, _ = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")
    assert marker
    path.write_bytes(
        certificate
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _swap_root(state: Path) -> None:
    StateDirectory(state).create(9, TD, time.time())
    (state / "root-9.pem").rename(state / "root-1.pem")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: (state / "root-1.pem").write_text("nonsense"), "root-1.pem"),
        (lambda state: (state / "issuer-1.pem").unlink(), "issuer-1.pem cannot be read"),
        (_swap_key, "the key in issuer-1.pem"),
        (_swap_root, "was not signed by root-1.pem"),
        (lambda state: (state / "trust-domain").unlink(), "no file 'trust-domain'"),
        (lambda state: (state / "trust-domain").write_text("other.test\n"), "trust domain other.test"),
        (lambda state: (state / "ledger.sqlite").write_bytes(b"nonsense" * 1000), "cannot start"),
        (lambda state: (state / "ledger.sqlite").unlink(), "Restore ledger.sqlite from a backup"),
        (lambda state: (state / "ledger.sqlite").write_bytes(b""), "Restore ledger.sqlite from a backup"),
    ],
)
async def test_damaged_state_stops_the_start_with_its_reason(
    authority: Authority, damage: Callable[[Path], object], words: str
) -> None:
    authority.stop()
    damage(authority.state)
    before = {path.name: path.read_bytes() for path in authority.state.glob("*.pem")}
    authority.start()
    assert authority.said == {}
    assert words in authority.stop()
    assert {path.name: path.read_bytes() for path in authority.state.glob("*.pem")} == before, "no key is lost by it"


async def test_a_first_start_that_was_cut_short_begins_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path, started=False)
    authority.store.prepare(TD)
    book = authority.book()
    book.begin()
    book.close()
    (authority.state / "root-1.pem").write_text("half wri")
    authority.start()
    assert (await authority.client().issue(WEB)).spiffe_id == WEB
    authority.stop()


async def test_the_loss_of_a_ledger_is_noticed_where_the_issuer_is_given_too(tmp_path: Path) -> None:
    files = tmp_path / "given"
    files.mkdir()
    Pki(TD).write_issuer(files)
    authority = Authority(tmp_path, given=GivenFiles(files / "tls.crt", files / "tls.key", files / "ca.crt"))
    assert authority.said
    authority.stop()
    authority.store.ledger.unlink()
    authority.start()
    assert authority.said == {}
    assert "Restore ledger.sqlite from a backup" in authority.stop()


@pytest.mark.parametrize("how", ["gone", "another one"])
async def test_an_authority_whose_ledger_is_replaced_ends_and_signs_nothing_by_the_old_one(
    authority: Authority, how: str
) -> None:
    """A revocation in the new file would be heard by nobody."""
    copy = authority.state / "copy"
    copy.write_bytes(authority.store.ledger.read_bytes())
    if how == "gone":
        authority.store.ledger.unlink()
    else:
        copy.rename(authority.store.ledger)
    assert await asyncio.to_thread(authority.process.wait, 10) == 1
    assert "was replaced, or is gone" in authority.stop()


async def test_one_authority_runs_on_one_state(authority: Authority, tmp_path: Path) -> None:
    second = Authority(tmp_path)
    assert second.said == {}
    assert "another authority runs" in second.stop()


async def test_the_agents_own_svid_is_renewed_at_half_life_and_lives_longer_than_workloads(tmp_path: Path) -> None:
    authority = Authority(tmp_path, ttl=60.0, agent_ttl=2.0)
    client = authority.client()
    agents: set[str] = set()
    while len(agents) < 3:
        await client.issue(WEB)
        assert client.agent is not None
        agents.add(client.agent.serial)
        await asyncio.sleep(0.05)
    authority.stop()


async def test_an_agent_that_slept_through_its_life_joins_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path, agent_ttl=1.0)
    client = authority.client()
    first = await client.issue(WEB)
    await asyncio.sleep(1.1)  # the certificate's own clock is what is waited for
    assert (await client.issue(WEB)).serial != first.serial
    authority.stop()
