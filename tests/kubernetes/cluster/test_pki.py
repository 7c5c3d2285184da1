"""What the cluster's parts show one another, judged by openssl(1) as a stranger would."""

import datetime
import json
import subprocess
from pathlib import Path

import pytest
from jwcrypto import jwk, jws, jwt

from tests.kubernetes.cluster import pki

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def issuer(tmp_path: Path) -> pki.Issuer:
    return pki.make_issuer(tmp_path, "ca", NOW)


def openssl(directory: Path, *words: str) -> str:
    """What it says; fails where it refuses."""
    done = subprocess.run(["openssl", *words], cwd=directory, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def test_a_server_and_client_certificate_is_good_for_both(tmp_path: Path, issuer: pki.Issuer) -> None:
    pki.issue(tmp_path, "n1", issuer, NOW, user="system:node:n1", groups=["system:nodes"], hosts=["n1", "192.0.2.11"])
    for purpose in ("sslserver", "sslclient"):
        said = openssl(tmp_path, "verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", purpose, "n1.crt")
        assert said == "n1.crt: OK\n"
    text = openssl(tmp_path, "x509", "-in", "n1.crt", "-noout", "-subject", "-ext", "subjectAltName")
    assert "O = system:nodes, CN = system:node:n1" in text
    assert "DNS:n1, IP Address:192.0.2.11" in text


def test_a_key_belongs_to_its_certificate_and_is_its_owners_alone(tmp_path: Path, issuer: pki.Issuer) -> None:
    pki.issue(tmp_path, "admin", issuer, NOW, user="admin")
    public = openssl(tmp_path, "x509", "-in", "admin.crt", "-noout", "-pubkey")
    assert openssl(tmp_path, "pkey", "-in", "admin.key", "-pubout") == public
    assert all((tmp_path / name).stat().st_mode & 0o077 == 0 for name in ("admin.key", "ca.key"))


def test_tokens_are_signed_with_rsa(tmp_path: Path) -> None:
    pki.make_token_key(tmp_path)
    assert openssl(tmp_path, "pkey", "-in", "sa.key", "-pubout") == (tmp_path / "sa.pub").read_text()
    assert "Private-Key: (2048 bit" in openssl(tmp_path, "pkey", "-in", "sa.key", "-noout", "-text")
    assert (tmp_path / "sa.key").stat().st_mode & 0o077 == 0


def test_a_token_that_is_issued_again_says_the_same_but_for_its_life(tmp_path: Path) -> None:
    pki.make_token_key(tmp_path)
    key = jwk.JWK.from_pem((tmp_path / "sa.key").read_bytes())
    former = jwt.JWT(header={"alg": "RS256"}, claims={"sub": "web", "aud": ["it"], "exp": 1})
    former.make_signed_token(key)
    again = pki.reissued(tmp_path, former.serialize(), 10_000.0)
    signed = jws.JWS()
    signed.deserialize(again, jwk.JWK.from_pem((tmp_path / "sa.pub").read_bytes()))
    expires = 10_000 - int(pki.LEEWAY_SECONDS)
    lived = {"exp": expires, "iat": expires - 3600, "nbf": expires - 3600}
    assert json.loads(signed.payload) == {"sub": "web", "aud": ["it"], **lived}


def test_a_kubeconfig_names_what_is_there(tmp_path: Path, issuer: pki.Issuer) -> None:
    pki.issue(tmp_path, "admin", issuer, NOW, user="admin")
    said = json.loads(pki.write_kubeconfig(tmp_path, "admin", "https://192.0.2.1:6443").read_text())
    user, cluster = said["users"][0]["user"], said["clusters"][0]["cluster"]
    assert cluster["server"] == "https://192.0.2.1:6443"
    assert all(
        Path(path).exists()
        for path in (user["client-certificate"], user["client-key"], cluster["certificate-authority"])
    )
