"""Issuers as people make them, by openssl(1) and from a page that they have found: good ones, and what goes wrong."""

import subprocess
import tempfile
from pathlib import Path

from cryptography import x509

NAMES = ("ca.crt", "tls.key", "tls.crt")
USAGE = "keyUsage=critical,keyCertSign,cRLSign\n"
USUAL = f"""
basicConstraints=critical,CA:true
{USAGE}subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
OF_A_ROOT = USUAL.replace("authorityKeyIdentifier=keyid\n", "")
KEYS = {"ec": "ec -pkeyopt ec_paramgen_curve:P-256", "P-384": "ec -pkeyopt ec_paramgen_curve:P-384"}
"""Kinds of keys that need more than their names in openssl's words."""


def changed(text: str, old: str, new: str = "") -> str:
    """Extensions with something else in place of something that is there."""
    assert old in text
    return text.replace(old, new)


def openssl(where: Path, words: str) -> None:
    """One command, with files of a directory."""
    subprocess.run(["openssl", *words.split()], cwd=where, check=True, capture_output=True)


def make(
    where: Path,
    *,
    root: str = OF_A_ROOT,
    issuer: str = USUAL,
    digest: str = "sha256",
    key: str = "ec",
    issuer_key: str = "ec",
) -> None:
    """A root and an issuer under it, as tls.crt, tls.key and ca.crt, and the root's key beside them.

    `root` and `issuer` are their extensions; `key` and `issuer_key` what kind each one's key is of.
    """
    (where / "root.cnf").write_text(f"[req]\ndistinguished_name=name\nx509_extensions=more\n[name]\n[more]\n{root}")
    (where / "issuer.cnf").write_text(issuer)
    keys = [KEYS.get(each, each) for each in (key, issuer_key)]
    for words in (
        f"req -x509 -config root.cnf -newkey {keys[0]} -nodes -keyout root.key -out ca.crt -subj /CN=r -{digest}",
        f"req -newkey {keys[1]} -nodes -keyout tls.key -out i.csr -subj /CN=i",
        f"x509 -req -in i.csr -CA ca.crt -CAkey root.key -CAcreateserial -out tls.crt -extfile issuer.cnf -{digest}",
    ):
        openssl(where, words)


def root(digest: str) -> x509.Certificate:
    """A root, signed by this hash."""
    with tempfile.TemporaryDirectory() as where:
        make(Path(where), digest=digest)
        return x509.load_pem_x509_certificate(Path(where, "ca.crt").read_bytes())


def issuer_below(where: Path) -> None:
    """An issuer under the one of `make`, which is in its chain then."""
    make(where)
    for name in ("tls.crt", "tls.key"):
        (where / name).rename(where / f"above-{name}")
    openssl(where, f"req -newkey {KEYS['ec']} -nodes -keyout tls.key -out b.csr -subj /CN=b")
    openssl(
        where,
        "x509 -req -in b.csr -CA above-tls.crt -CAkey above-tls.key -CAcreateserial -out b.crt -extfile issuer.cnf",
    )
    (where / "tls.crt").write_bytes((where / "b.crt").read_bytes() + (where / "above-tls.crt").read_bytes())


def former_key(where: Path) -> None:
    """The key as `openssl ecparam -genkey` writes it: the curve, and then the key of SEC 1."""
    make(where)
    openssl(where, "ec -in tls.key -out sec1.key")
    openssl(where, "ecparam -name prime256v1 -out curve.pem")
    (where / "tls.key").write_bytes((where / "curve.pem").read_bytes() + (where / "sec1.key").read_bytes())


def wordy(where: Path) -> None:
    """Certificates as `openssl x509 -text` prints them, and as an editor of Windows' saves them."""
    make(where)
    for name in ("tls.crt", "ca.crt"):
        openssl(where, f"x509 -text -in {name} -out wordy-{name}")
        (where / name).write_bytes((where / f"wordy-{name}").read_bytes().replace(b"\n", b"\r\n"))


def lay(directory: Path, **made: str) -> None:
    """The same into a directory that somebody follows: each file is replaced by rename."""
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        make(Path(fresh), **made)
        for name in NAMES:
            (Path(fresh) / name).rename(directory / name)


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a root without key usage": (
        {"root": changed(OF_A_ROOT, USAGE)},
        "under a root of .* that is none: CN=r has no key usage",
    ),
    "a root whose basic constraints are not critical": (
        {"root": changed(OF_A_ROOT, "critical,CA:true", "CA:true")},
        "not marked critical; make it anew with basic",
    ),
    "a root with pathlen 0": (
        {"root": changed(OF_A_ROOT, "CA:true", "CA:true,pathlen:0")},
        "path length .* exceeded; a root above an issu",
    ),
    "an issuer without key usage": ({"issuer": changed(USUAL, USAGE)}, "CN=i has no key usage extension"),
    "an issuer without authority key identifier": (
        {"issuer": changed(USUAL, "authorityKeyIdentifier=keyid", "authorityKeyIdentifier=none")},
        "Missing Authority Key Identifier; make it anew",
    ),
    "an issuer whose basic constraints are not critical": (
        {"issuer": changed(USUAL, "critical,CA:true", "CA:true")},
        "not marked critical; make it anew with basicCon",
    ),
    "an issuer for servers only": (
        {"issuer": USUAL + "extendedKeyUsage=serverAuth\n"},
        "certificate purpose; .* needs serverAuth and client",
    ),
    "an issuer with an extension that nobody knows": (
        {"issuer": USUAL + "1.2.3.4=critical,ASN1:UTF8String:x\n"},
        "unhandled critical extension; make it anew",
    ),
    "an issuer whose name constraints leave the mesh out": (
        {"issuer": USUAL + "nameConstraints=critical,permitted;URI:elsewhere.test\n"},
        "permitted subtree violation; its name constraints must let",
    ),
    "an issuer that is signed by SHA-1": (
        {"digest": "sha1"},
        "CN=i is signed with sha1, which nobody takes; sign it with SHA-256",
    ),
    "a root of RSA 1024": ({"key": "rsa:1024"}, "key too weak; make it anew with a key of P-256"),
    "an issuer of RSA 1024": ({"issuer_key": "rsa:1024"}, "key too (small|weak); make it anew with a key of P-256"),
}
"""What no peer takes: how it is made, and words of the reason."""
