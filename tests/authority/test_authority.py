"""The real authority process over its real HTTPS API: what it issues, what it refuses, what it keeps."""

import asyncio
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.authority.csr import MAX_CSR
from agent.identity.authority_client import AuthorityClient
from agent.identity.csr import new_request
from agent.identity.provider import ProviderError
from agent.identity.spiffe import SpiffeId
from tests.tls.pki import Pki

TD = "example.test"
WEB = SpiffeId.for_service_account(TD, "demo", "web")
POD = """
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: demo}
spec: {nodeName: node-a, serviceAccountName: web}
---
kind: Pod
apiVersion: v1
metadata: {name: elsewhere, namespace: demo}
spec: {nodeName: node-b, serviceAccountName: elsewhere}
"""


class Authority:
    """A running authority."""

    def __init__(self, directory: Path, ttl: float = 3600.0, trust_domain: str = TD) -> None:
        self.state = directory / "state"
        self.manifests = directory / "manifests"
        self.manifests.mkdir(exist_ok=True)
        (self.manifests / "pods.yaml").write_text(POD)
        self._ttl, self._trust_domain = ttl, trust_domain
        self.start()

    def start(self) -> None:
        ready_read, ready_write = os.pipe()
        join_read, self._join = os.pipe()
        self.process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "agent.authority",
                    "--state",
                    str(self.state),
                    "--trust-domain",
                    self._trust_domain,
                ),
                *("--listen", "127.0.0.1:0", "--manifests", str(self.manifests), "--svid-ttl", str(self._ttl)),
                *("--ready-fd", str(ready_write), "--join-fd", str(join_read)),
            ],
            pass_fds=(ready_write, join_read),
            stderr=subprocess.PIPE,
        )
        os.close(ready_write)
        os.close(join_read)
        with os.fdopen(ready_read, "rb") as ready:
            line = ready.readline()
        self.said: dict[str, str] = json.loads(line) if line else {}

    def token(self, token: str, node: str = "node-a") -> str:
        os.write(self._join, json.dumps({"token": token, "node": node}).encode() + b"\n")
        return token

    def client(self, token: str, node: str = "node-a", bundle: bytes | None = None) -> AuthorityClient:
        return AuthorityClient(
            address=self.said["address"],
            bootstrap_bundle_pem=bundle or self.said["bundle_pem"].encode(),
            trust_domain=self._trust_domain,
            node=node,
            token=token,
        )

    def stop(self, number: int = signal.SIGTERM) -> str:
        if self.process.poll() is None:
            self.process.send_signal(number)
        os.close(self._join)
        _, said = self.process.communicate(timeout=20)
        return said.decode()


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    made = Authority(tmp_path)
    yield made
    if made.process.poll() is None:
        made.stop()


async def issued(client: AuthorityClient, spiffe_id: SpiffeId = WEB) -> Any:
    """An SVID; a token that was just written may take a moment to be known."""
    for _ in range(200):
        try:
            return await client.issue(spiffe_id)
        except ProviderError as error:
            if error.code != "bad_token" or "unknown" not in error.message:
                raise
            await asyncio.sleep(0.01)
    raise AssertionError("the token never became known")


async def test_a_joined_agent_gets_an_svid_that_openssl_verifies_strictly(authority: Authority, tmp_path: Path) -> None:
    client = authority.client(authority.token("t1"))
    svid = await issued(client)
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


async def test_the_leaf_is_an_x509_svid(authority: Authority) -> None:
    before = time.time()
    svid = await issued(authority.client(authority.token("t1")))
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
    svid = await issued(authority.client(authority.token("t1")))
    authority.stop(signal.SIGKILL)
    db = sqlite3.connect(authority.state / "ledger.sqlite")
    rows = db.execute("SELECT spiffe_id, node FROM issuances WHERE serial = ?", (svid.serial,)).fetchall()
    tokens = db.execute("SELECT hash, used FROM tokens").fetchall()
    db.close()
    assert rows == [(str(WEB), "node-a")]
    assert len(tokens) == 1
    assert b"t1" not in tokens[0][0]
    assert tokens[0][1] is not None


async def refused(attempt: Any, code: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await attempt
    assert caught.value.code == code, caught.value
    return caught.value


async def test_a_token_serves_once(authority: Authority) -> None:
    token = authority.token("t1")
    await issued(authority.client(token))
    error = await refused(authority.client(token).issue(WEB), "bad_token")
    assert "used already" in error.message


async def test_of_two_agents_with_one_token_one_wins(authority: Authority) -> None:
    await issued(authority.client(authority.token("first")))  # so that the pipe has been read up to here
    token = authority.token("raced")
    authority.token("after")
    results = await asyncio.gather(*(issued(authority.client(token)) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1


async def test_a_token_is_for_its_node_only(authority: Authority) -> None:
    await issued(authority.client(authority.token("mine")))
    authority.token("other", node="node-b")
    error = None
    for _ in range(200):
        with pytest.raises(ProviderError) as caught:
            await authority.client("other", node="node-a").issue(WEB)
        error = caught.value
        if "unknown" not in error.message:
            break
        await asyncio.sleep(0.01)
    assert error is not None
    assert "for another node" in error.message


async def test_a_service_account_without_a_pod_on_the_node_is_refused(authority: Authority) -> None:
    client = authority.client(authority.token("t1"))
    await issued(client)
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
    import base64  # noqa: PLC0415 - here only

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
    client = authority.client(authority.token("t1"))
    await issued(client)
    await refused(client._request("POST", "/v1/svid", {"csr": make()}), code)


async def test_who_comes_without_an_agents_certificate_is_refused(authority: Authority) -> None:
    stranger = authority.client("none")
    csr = new_request(WEB).csr_pem.decode()
    for path in ("/v1/svid", "/v1/renew"):
        await refused(stranger._request("POST", path, {"csr": csr}), "unknown_caller")
    for body in ({}, {"csr": 7}, {"csr": csr, "more": "x"}):
        await refused(stranger._request("POST", "/v1/svid", body), "bad_request")  # type: ignore[arg-type]


async def test_a_workloads_certificate_is_no_agents(authority: Authority) -> None:
    client = authority.client(authority.token("t1"))
    thief = authority.client("none")
    thief._agent = await issued(client)
    await refused(thief._request("POST", "/v1/svid", {"csr": new_request(WEB).csr_pem.decode()}), "unknown_caller")


async def test_an_impostor_under_another_root_is_not_spoken_to(authority: Authority) -> None:
    pki = Pki()
    await refused(authority.client("t", bundle=pki.bundle().anchors_pem).issue(WEB), "tls")


async def test_a_server_of_the_right_root_that_is_not_the_authority_is_not_spoken_to(authority: Authority) -> None:
    from agent.identity.memfd import load_cert_chain  # noqa: PLC0415 - here only

    svid = await issued(authority.client(authority.token("t1")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_cert_chain(context, svid.chain_pem, svid.key_pem)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    client = authority.client("a secret token")
    client._port = server.sockets[0].getsockname()[1]
    await refused(client.issue(WEB), "wrong_authority")
    server.close()
    assert b"".join(heard) == b""


async def test_the_root_is_kept_over_restarts_and_keys_are_for_root_only(authority: Authority) -> None:
    bundle = authority.said["bundle_pem"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.state.iterdir()}
    assert {modes[name] for name in ("root.key", "issuer.key", "root.crt", "issuer.crt")} == {0o600}
    assert authority.state.stat().st_mode & 0o777 == 0o700
    (authority.state / "root.key").chmod(0o644)
    authority.stop(signal.SIGKILL)
    authority.start()
    assert authority.said["bundle_pem"] == bundle
    assert (authority.state / "root.key").stat().st_mode & 0o777 == 0o600
    svid = await issued(authority.client(authority.token("again")))
    assert svid.spiffe_id == WEB


def _swap_issuer(state: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (state / "issuer.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: (state / "root.key").write_text("nonsense"), "root.key or root.crt"),
        (lambda state: (state / "issuer.crt").unlink(), "issuer.crt cannot be read"),
        (_swap_issuer, "issuer.key in"),
        (lambda state: (state / "complete").unlink(), "no file 'complete'"),
        (lambda state: (state / "complete").write_text("other.test\n"), "trust domain other.test"),
        (lambda state: (state / "ledger.sqlite").write_bytes(b"nonsense" * 1000), "cannot start"),
    ],
)
async def test_damaged_state_stops_the_start_with_its_reason(
    authority: Authority, damage: Callable[[Path], object], words: str
) -> None:
    authority.stop()
    damage(authority.state)
    authority.start()
    assert authority.said == {}
    assert words in authority.stop()


async def test_a_first_start_that_was_cut_short_begins_again(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "root.key").write_text("half wri")
    authority = Authority(tmp_path)
    assert (await issued(authority.client(authority.token("t1")))).spiffe_id == WEB
    authority.stop()


async def test_the_agents_own_svid_is_renewed_at_half_life(tmp_path: Path) -> None:
    authority = Authority(tmp_path, ttl=2.0)
    client = authority.client(authority.token("t1"))
    first = await issued(client)
    agents: set[str] = set()
    while len(agents) < 3:
        agents.add(client._agent.serial if client._agent else "")
        await client.issue(WEB)
        await asyncio.sleep(0.05)
    assert first.not_after - time.time() < 2.0
    authority.stop()
