"""An issuer that is given: what is accepted, and each thing that is not."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from agent.authority import ca, pki
from agent.authority.ca import PrivateKey, Signer
from agent.authority.pki import GivenFiles, IssuerError
from agent.identity.spiffe import SpiffeId
from agent.tls import trial
from tests.authority import by_openssl
from tests.authority.running import TD, WEB, Authority, newer
from tests.identity.odd_roots import ODD
from tests.tls.pki import Pki, signing


class Files:
    """tls.crt, tls.key and ca.crt in a directory."""

    def __init__(self, directory: Path, one: Pki) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        one.write_issuer(directory)
        self.paths = GivenFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")

    def write(self, name: str, data: bytes) -> None:
        (self.directory / name).write_bytes(data)

    def key(self, key: PrivateKey | ed25519.Ed25519PrivateKey) -> None:
        self.write(
            "tls.key",
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "given", Pki(TD))


def test_the_form_of_cert_manager_is_taken(files: Files) -> None:
    found = pki.given(files.paths, TD, time.time())
    assert found.upper == ()
    assert len(found.roots) == 1
    assert found.expires <= found.roots[0].not_valid_after_utc.timestamp()


def test_a_chain_with_intermediates_is_taken_and_the_root_in_it_is_left_out(files: Files) -> None:
    chain = (files.directory / "tls.crt").read_bytes() + (files.directory / "ca.crt").read_bytes()
    files.write("tls.crt", chain)
    assert pki.given(files.paths, TD, time.time()).upper == ()
    middle = put_long_chain(files, long_root(path_length=2))
    found = pki.given(files.paths, TD, time.time())
    assert found.upper == (middle.certificate,)
    assert found.chain_pem.count(b"BEGIN CERTIFICATE") == 2


def test_an_rsa_issuer_is_taken_and_signs(files: Files) -> None:
    root = ca.new_root(TD, time.time())
    issuer = ca_under(root, "rsa", time.time(), key=rsa.generate_private_key(65537, 2048))
    files.write("tls.crt", ca.pem(issuer.certificate))
    files.write("ca.crt", ca.pem(root.certificate))
    files.key(issuer.key)
    found = pki.given(files.paths, TD, time.time())
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    leaf = ca.sign_leaf(found.issuer, WEB, key, now=time.time(), seconds=60, until=found.expires)
    leaf.verify_directly_issued_by(issuer.certificate)


def long_root(path_length: int) -> Signer:
    """A root that allows this many signing certificates below."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = ca._name("a root above several")
    builder = ca._ca_builder(name, name, key.public_key(), TD, time.time(), 3650, path_length=path_length)
    return Signer(builder.add_extension(ca_key(key), critical=False).sign(key, hashes.SHA256()), key)


def ca_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def put_long_chain(files: Files, root: Signer) -> Signer:
    """Lays an issuer under another signing certificate, which is returned."""
    middle = ca_under(root, "middle", time.time())
    bottom = ca_under(middle, "bottom", time.time())
    files.write("tls.crt", ca.pem(bottom.certificate) + ca.pem(middle.certificate))
    files.write("ca.crt", ca.pem(root.certificate))
    files.key(bottom.key)
    return middle


def ca_under(
    above: Signer, name: str, now: float, *, begins: float = -60, ends: float = 86400, key: PrivateKey | None = None,
    is_ca: bool = True, may_sign: bool = True, identifier: bool = True,
) -> Signer:  # fmt: skip
    own = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(above.certificate.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca._time(now + begins))
        .not_valid_after(ca._time(now + ends))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(ca._key_usage(sign_certificates=may_sign), critical=True)
        .add_extension(ca._authority_key(above), critical=False)
    )
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    return Signer(builder.sign(above.key, hashes.SHA256()), own)


def put(files: Files, issuer: Signer) -> None:
    files.write("tls.crt", ca.pem(issuer.certificate))
    files.key(issuer.key)


ROOT = ca.new_root(TD, time.time())
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is what must be refused


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda files: files.write("tls.crt", b"nonsense"), "tls.crt holds no PEM certificates"),
        (lambda files: files.write("ca.crt", b""), "ca.crt holds no PEM certificates"),
        (lambda files: files.write("tls.key", b"nonsense"), "tls.key holds no PEM key"),
        (lambda files: (files.directory / "tls.key").unlink(), "tls.key cannot be read: No such file"),
        (lambda files: files.key(ec.generate_private_key(ec.SECP256R1())), "is not the key of"),
        (lambda files: files.key(ed25519.Ed25519PrivateKey.generate()), "neither ECDSA nor RSA"),
        (lambda files: put(files, ca_under(ROOT, "foreign", time.time())), "CN=foreign of .* does not chain to a root"),
        (lambda files: _own(files, "leaf", is_ca=False), "CN=leaf is no CA certificate"),
        (lambda files: _own(files, "mute", may_sign=False), "CN=mute may not sign certificates"),
        (lambda files: _own(files, "anonymous", identifier=False), "CN=anonymous has no subject key identifier"),
        (lambda files: _own(files, "old", begins=-7200, ends=-3600), "CN=old expired at"),
        (lambda files: _own(files, "early", begins=3600, ends=7200), "CN=early is not valid before"),
        (lambda files: files.write("tls.crt", ca.pem(ROOT.certificate) * 6), "has 6 certificates"),
        (lambda files: _svid(files, f"spiffe://{TD}/issuer"), "signing certificate's SPIFFE ID may have no path"),
        (lambda files: _svid(files, "spiffe://other.test"), f"other.test, and not of trust domain {TD}"),
        (lambda files: _svid(files, f"spiffe://{TD}", "spiffe://other.test"), "has 2 URI SANs"),
        (lambda files: _svid(files, f"spiffe://{TD}", usage_critical=False), "key usage of .* not marked critical"),
        (lambda files: _svid(files, usage=None), "no key usage extension"),
        (
            lambda files: _constrained(files, [x509.UniformResourceIdentifier("other.test")]),
            "permitted subtree violation",
        ),
        (lambda files: _constrained(files, [x509.DNSName("elsewhere.test")]), "permitted subtree violation"),
        (lambda files: _constrained(files, None, [x509.UniformResourceIdentifier(TD)]), "excluded subtree violation"),
        (lambda files: put_long_chain(files, long_root(path_length=1)), "path length constraint exceeded"),
        (lambda files: _own(files, "weak", key=WEAK), "key too (small|weak)"),
    ],
)
def test_each_wrong_issuer_is_refused_with_its_reason(
    files: Files, damage: Callable[[Files], object], words: str
) -> None:
    damage(files)
    with pytest.raises(IssuerError, match=words):
        pki.given(files.paths, TD, time.time())


def _own(files: Files, name: str, **more: Any) -> None:
    """A wrong issuer under a root that is trusted."""
    files.write("ca.crt", ca.pem(ROOT.certificate))
    put(files, ca_under(ROOT, name, time.time(), **more))


def _svid(files: Files, *uris: str, **more: Any) -> None:
    """An issuer under a root that is trusted, with SPIFFE IDs of its own."""
    files.write("ca.crt", ca.pem(ROOT.certificate))
    put(files, signing(ROOT, uris, **more))


def _constrained(
    files: Files, permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None = None
) -> None:
    """RFC 5280, section 4.2.1.10: the names of the mesh may be outside."""
    _svid(files, more=[(x509.NameConstraints(permitted, excluded), True)])


def test_an_issuer_whose_name_constraints_leave_the_mesh_in_is_taken(files: Files) -> None:
    _constrained(files, [x509.UniformResourceIdentifier(TD), x509.DNSName(TD)])
    assert pki.given(files.paths, TD, time.time()).upper == ()


DAY = 86400.0


def test_a_root_that_has_expired_spoils_only_an_issuer_under_it(files: Files) -> None:
    now = time.time()
    live, gone = ca.new_root(TD, now), ca.new_root("gone.test", now - 4000 * DAY)
    files.write("ca.crt", ca.pem(gone.certificate) + ca.pem(live.certificate))
    put(files, ca_under(live, "fine", now))
    found = pki.given(files.paths, TD, now)
    assert found.roots == (live.certificate,)
    assert found.trust.anchors_pem == ca.pem(live.certificate), "what has expired is not published"
    (words,) = found.left_out
    assert words.startswith("root CN=gone.test root,O=Quietwire expired at ")
    assert "is left out: take it out of the file" in words
    put(files, ca_under(gone, "doomed", now))
    with pytest.raises(IssuerError, match=r"CN=gone.test root.* which the issuer is under, expired at"):
        pki.given(files.paths, TD, now)
    files.write("ca.crt", ca.pem(gone.certificate))
    with pytest.raises(IssuerError, match="which the issuer is under, expired at"):
        pki.given(files.paths, TD, now)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_root_spoils_nothing_and_is_said(files: Files, kind: str) -> None:
    now = time.time()
    odd, why = ODD[kind](Pki(TD))
    live = ca.new_root(TD, now)
    files.write("ca.crt", ca.pem(odd) + ca.pem(live.certificate))
    put(files, ca_under(live, "fine", now))
    found = pki.given(files.paths, TD, now)
    assert found.trust.anchors_pem == ca.pem(live.certificate), "it is not published"
    (words,) = found.left_out
    assert why in words
    files.write("ca.crt", ca.pem(odd))
    with pytest.raises(IssuerError, match="does not chain to a root"):
        pki.given(files.paths, TD, now)


def test_an_issuer_under_a_root_that_is_none_is_refused_with_what_is_wrong_about_the_root(files: Files) -> None:
    now = time.time()
    live, key = ca.new_root(TD, now), ec.generate_private_key(ec.SECP256R1())
    nameless = ca_under(live, "nameless", now, key=key, identifier=False)
    files.write("ca.crt", ca.pem(nameless.certificate) + ca.pem(live.certificate))
    below = ca_under(ca_under(live, "nameless", now, key=key), "below", now)
    put(files, below)
    with pytest.raises(IssuerError, match=r"under a root of .*ca.crt that is none: CN=nameless has no subject key"):
        pki.given(files.paths, TD, now)


def test_a_root_whose_key_no_bundle_can_have_is_left_out(files: Files) -> None:
    now = time.time()
    live, key = ca.new_root(TD, now), ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edwards")])
    odd = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(ca._time(now - 60))
        .not_valid_after(ca._time(now + 60))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(ca._key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    files.write("ca.crt", ca.pem(odd) + ca.pem(live.certificate))
    put(files, ca_under(live, "fine", now))
    (words,) = pki.given(files.paths, TD, now).left_out
    assert "CN=edwards: an anchor's key is neither ECDSA" in words


@pytest.mark.parametrize("kind", by_openssl.WRONG)
def test_what_is_made_by_hand_is_refused_with_what_to_do_about_it(files: Files, kind: str) -> None:
    made, words = by_openssl.WRONG[kind]
    by_openssl.make(files.directory)
    assert pki.given(files.paths, TD, time.time()).left_out == (), "as it should be made"
    by_openssl.make(files.directory, **made)
    with pytest.raises(IssuerError, match=words):
        pki.given(files.paths, TD, time.time())


def test_an_issuer_in_place_of_its_root_is_refused_with_what_belongs_there(files: Files) -> None:
    by_openssl.make(files.directory)
    files.write("ca.crt", (files.directory / "tls.crt").read_bytes())
    with pytest.raises(IssuerError, match="in its root's place: CN=i is not signed by itself: it is between"):
        pki.given(files.paths, TD, time.time())


def test_an_intermediate_in_place_of_the_root_is_refused_with_what_belongs_there(files: Files) -> None:
    by_openssl.issuer_below(files.directory)
    files.write("ca.crt", (files.directory / "above-tls.crt").read_bytes())
    for chain in ("tls.crt", "b.crt"):
        files.write("tls.crt", (files.directory / chain).read_bytes())
        with pytest.raises(IssuerError, match="CN=i is not signed by itself: it is between a root and what it signs"):
            pki.given(files.paths, TD, time.time())


def test_a_root_that_signs_itself_with_sha_1_is_told_so(files: Files) -> None:
    by_openssl.make(files.directory)
    by_openssl.openssl(files.directory, "req -x509 -config root.cnf -key root.key -out ca.crt -subj /CN=r -sha1")
    with pytest.raises(IssuerError, match="that is none: CN=r signs itself with sha1, which is not verified any more"):
        pki.given(files.paths, TD, time.time())


OF_POLICIES = by_openssl.USUAL + "certificatePolicies=1.2.3.4\npolicyConstraints=critical,requireExplicitPolicy:0\n"
GOOD: dict[str, Callable[[Path], None]] = {
    "keys of P-256": by_openssl.make,
    "keys of P-384, and SHA-384": lambda where: by_openssl.make(
        where, key="P-384", issuer_key="P-384", digest="sha384"
    ),
    "a root of RSA 2048": lambda where: by_openssl.make(where, key="rsa:2048"),
    "an issuer of RSA 2048": lambda where: by_openssl.make(where, issuer_key="rsa:2048"),
    "path lengths that fit": lambda where: by_openssl.make(
        where,
        root=by_openssl.changed(by_openssl.OF_A_ROOT, "CA:true", "CA:true,pathlen:1"),
        issuer=by_openssl.changed(by_openssl.USUAL, "CA:true", "CA:true,pathlen:0"),
    ),
    "an issuer for servers and clients": lambda where: by_openssl.make(
        where, issuer=by_openssl.USUAL + "extendedKeyUsage=serverAuth,clientAuth\n"
    ),
    "name constraints that let the mesh in": lambda where: by_openssl.make(
        where, issuer=by_openssl.USUAL + f"nameConstraints=critical,permitted;URI:{TD},permitted;DNS:{TD}\n"
    ),
    "an issuer with the trust domain's SPIFFE ID": lambda where: by_openssl.make(
        where, issuer=by_openssl.USUAL + f"subjectAltName=URI:spiffe://{TD}\n"
    ),
    "an authority key identifier with name and serial": lambda where: by_openssl.make(
        where, issuer=by_openssl.changed(by_openssl.USUAL, "=keyid", "=keyid:always,issuer:always")
    ),
    "constraints of certificate policies": lambda where: by_openssl.make(where, issuer=OF_POLICIES),
    "an intermediate between issuer and root": by_openssl.issuer_below,
    "a key in openssl's former form, behind its curve": by_openssl.former_key,
    "CRLF, and words around the certificates": by_openssl.wordy,
}


@pytest.mark.parametrize("shape", GOOD)
def test_a_good_issuer_is_taken_in_each_of_its_shapes(tmp_path: Path, shape: str) -> None:
    GOOD[shape](tmp_path)
    found = pki.given(GivenFiles(*(tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt"))), TD, time.time())
    assert found.left_out == ()
    assert found.upper == () or shape.startswith("an intermediate")
    assert [root.subject.rfc4514_string() for root in found.roots] == ["CN=r"]


async def test_agents_are_served_under_an_issuer_whose_policies_nobody_judges(tmp_path: Path) -> None:
    """RFC 5280 has verifiers judge certificate policies, and OpenSSL does so only where it is asked to."""
    given = Files(tmp_path / "given", Pki(TD))
    by_openssl.make(given.directory, issuer=OF_POLICIES)
    authority = Authority(tmp_path, given=given.paths)
    client = authority.client()
    issued = await client.issue(WEB)
    trial.check(issued, await newer(client, 0), now=time.time())
    authority.stop()


async def test_an_authority_that_starts_with_an_issuer_that_nobody_takes_ends_with_the_reason(tmp_path: Path) -> None:
    given = Files(tmp_path / "given", Pki(TD))
    by_openssl.make(given.directory)
    given.write("ca.crt", (given.directory / "tls.crt").read_bytes())
    authority = Authority(tmp_path, given=given.paths)
    assert authority.said == {}, "it serves nobody"
    said = authority.stop()
    assert "the authority cannot start: the issuer stands in" in said
    assert "Traceback" not in said
    assert authority.process.returncode == 1


def test_a_root_that_was_renewed_with_its_key_counts_by_the_certificate_that_lives(files: Files) -> None:
    now = time.time()
    renewed = ca.new_root(TD, now)
    gone = ca_self_signed(renewed, now - 4000 * DAY, now - DAY)
    files.write("ca.crt", ca.pem(gone) + ca.pem(renewed.certificate))
    put(files, ca_under(renewed, "fine", now))
    found = pki.given(files.paths, TD, now)
    assert found.roots == (renewed.certificate,)
    assert len(found.left_out) == 1
    assert found.expires == found.issuer.certificate.not_valid_after_utc.timestamp()


def test_a_root_that_is_there_ahead_of_its_time_is_trusted_ahead_and_signs_nothing_yet(files: Files) -> None:
    now = time.time()
    live, early = ca.new_root(TD, now), ca.new_root("early.test", now + DAY)
    files.write("ca.crt", ca.pem(live.certificate) + ca.pem(early.certificate))
    put(files, ca_under(live, "fine", now))
    assert pki.given(files.paths, TD, now).roots == (live.certificate, early.certificate)
    put(files, ca_under(early, "early", now))
    with pytest.raises(IssuerError, match=r"CN=early.test root.* is not valid before") as caught:
        pki.given(files.paths, TD, now)
    assert caught.value.possible_at == early.certificate.not_valid_before_utc.timestamp()


def ca_self_signed(signer: Signer, begins: float, ends: float) -> x509.Certificate:
    """An older certificate of the same root."""
    name = signer.certificate.subject
    return (
        x509.CertificateBuilder(name, name, signer.key.public_key(), x509.random_serial_number())
        .not_valid_before(ca._time(begins))
        .not_valid_after(ca._time(ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer.key.public_key()), critical=False)
        .sign(signer.key, hashes.SHA256())
    )


def test_kubernetes_data_link_is_noticed(tmp_path: Path) -> None:
    one, two = Pki(TD), Pki(TD)
    mount = tmp_path / "mount"
    for name, each in (("..one", one), ("..two", two)):
        (mount / name).mkdir(parents=True)
        each.write_issuer(mount / name)
    os.symlink("..one", mount / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        os.symlink(f"..data/{name}", mount / name)
    paths = GivenFiles(mount / "tls.crt", mount / "tls.key", mount / "ca.crt")
    before = paths.state()
    assert pki.given(paths, TD, time.time()).roots == (one.root.certificate,)
    os.symlink("..two", mount / "..new")
    os.rename(mount / "..new", mount / "..data")
    assert paths.state() != before
    assert pki.given(paths, TD, time.time()).roots == (two.root.certificate,)


async def test_a_running_authority_follows_and_refuses_and_keeps_the_former(tmp_path: Path) -> None:
    one, two = Pki(TD), Pki(TD)
    given = Files(tmp_path / "given", one)
    authority = Authority(tmp_path, given=given.paths)
    client = authority.client()
    first = await newer(client, 0)
    assert first.anchors_pem == one.bundle().anchors_pem
    assert (await client.issue(WEB)).issuer_key_id == first.issuer_key_id
    given.write("tls.key", b"nonsense")
    await authority.heard("cannot be put in force, the former stays")
    assert (await client.issue(WEB)).issuer_key_id == first.issuer_key_id
    one.write_issuer(given.directory, more_roots=two.bundle().anchors_pem)
    both = await newer(client, first.sequence)
    assert both.anchors_pem.count(b"BEGIN CERTIFICATE") == 2
    two.write_issuer(given.directory, more_roots=one.bundle().anchors_pem)
    switched = await newer(client, both.sequence)
    while switched.issuer_key_id == first.issuer_key_id:  # its three files are three changes
        switched = await newer(client, switched.sequence)
    assert (await client.issue(WEB)).issuer_key_id == switched.issuer_key_id
    authority.stop()


def test_leaves_never_outlive_what_is_above_them() -> None:
    issuer = ca_under(ROOT, "short", time.time(), ends=100)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    agent = SpiffeId.for_agent(TD, "node-a")
    until = issuer.certificate.not_valid_after_utc.timestamp()
    leaf = ca.sign_leaf(issuer, agent, key, now=time.time(), seconds=3600, until=until)
    assert leaf.not_valid_after_utc == issuer.certificate.not_valid_after_utc
