"""`quietwire authority …` as an operator types it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from agent.authority import control, rotation
from agent.authority.ca import ROOT_DAYS
from agent.authority.control import Expiry
from agent.authority.pki import GivenFiles
from agent.cli.work.issuing import svid_seconds
from tests.authority.running import TD, WEB, Authority
from tests.cli.typed import Done, quietwire
from tests.tls.pki import Pki


class Typed:
    """What an operator types, and what comes back."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    def words(self, *words: str, state: Path | None = None) -> tuple[str, ...]:
        return ("authority", *words, "--state", str(state or self.authority.base))

    def __call__(self, *words: str, state: Path | None = None) -> Done:
        return quietwire(*self.words(*words, state=state))

    def object(self, *words: str) -> object:
        """The JSON document that a verb prints."""
        done = self(*words, "--json")
        assert done.code == 0, done.err
        return done.json


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """An authority that has run once; every verb works without one that runs, too."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    yield Typed(authority)
    authority.stop()


def test_a_token_is_printed_alone_so_that_it_can_go_to_a_file(typed: Typed) -> None:
    """In a process of its own, as all the others are when an operator types them."""
    words = typed.words("token", "create", "--node", "node-a")
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 40
    assert len(done.stdout.split()) == 1


async def test_it_serves_for_its_node(typed: Typed) -> None:
    token = typed("token", "create", "--node", "node-a", "--ttl", "1m").out.strip()
    assert (await typed.authority.client(token).issue(WEB)).spiffe_id == WEB
    agents = typed.object("agents")
    assert isinstance(agents, list)
    assert [each["node"] for each in agents] == ["node-a"]
    issued = typed.object("issued", "--live")
    assert isinstance(issued, list)
    assert {each["spiffe_id"] for each in issued} >= {
        str(WEB),
        f"spiffe://{TD}/authority",
        f"spiffe://{TD}/agent/node-a",
    }
    assert str(WEB) in typed("issued").out


def test_status_says_what_ends_when(typed: Typed) -> None:
    said = typed("status").out
    assert "trust domain example.test, bundle" in said
    assert "issuer CN=example.test issuer,O=Quietwire" in said
    assert "root CN=example.test root,O=Quietwire" in said
    assert "no rotation is under way" in said
    assert typed("rotate-root", "status").out == said


def test_the_bundle_is_printed_in_both_forms(typed: Typed) -> None:
    pem = typed("bundle", "--pem").out
    assert pem == typed.authority.said["bundle_pem"]
    document = json.loads(typed("bundle").out)
    assert [key["use"] for key in document["keys"]] == ["x509-svid"]


def test_revoking_and_taking_back_are_said(typed: Typed) -> None:
    name = f"spiffe://{TD}/ns/demo/sa/somebody"
    assert typed("revoke", "--spiffe-id", name).out == f"spiffe_id {name} is revoked\n"
    assert typed("revoke", "--spiffe-id", name).out == f"spiffe_id {name} was revoked already\n"
    assert "revocations 1" in typed("status").out
    assert typed.object("unrevoke", "--spiffe-id", name) == {"kind": "spiffe_id", "value": name, "changed": True}
    assert typed("unrevoke", "--spiffe-id", name).out == f"spiffe_id {name} was not revoked\n"


def test_a_minted_svid_is_three_files_and_is_recorded(typed: Typed, tmp_path: Path) -> None:
    name = f"spiffe://{TD}/ns/ops/sa/debug"
    (tmp_path / "key.pem").write_text("an old one")
    (tmp_path / "key.pem").chmod(0o644)
    made = typed.object("mint", "--spiffe-id", name, "--ttl", "5m", "--out", str(tmp_path))
    assert isinstance(made, dict)
    modes = {path.name: path.stat().st_mode & 0o777 & ~0o022 for path in tmp_path.iterdir()}
    assert modes == {"svid.pem": 0o644, "key.pem": 0o600, "bundle.pem": 0o644}
    leaf = x509.load_pem_x509_certificate((tmp_path / "svid.pem").read_bytes())
    assert f"{leaf.serial_number:x}" == made["serial"]
    issued = typed.object("issued")
    assert isinstance(issued, list)
    assert (name, "(mint)") in {(each["spiffe_id"], each["node"]) for each in issued}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("token", "create", "--node", "a/b"), "has a slash"),
        (("token", "create", "--node", "a", "--ttl", "soon"), "--ttl 'soon' is no duration"),
        (("revoke",), "one of --spiffe-id, --agent NODE and --serial"),
        (("revoke", "--agent", "a", "--serial", "1"), "one of --spiffe-id, --agent NODE and --serial"),
        (("revoke", "--spiffe-id", "web"), "is not a SPIFFE ID"),
        (("revoke", "--serial", "xyz"), "'xyz' is no hexadecimal number"),
        (("revoke", "--spiffe-id", "spiffe://other.test/agent/a"), "is not of this authority's trust domain"),
        (("revoke", "--spiffe-id", f"spiffe://{TD}/authority"), "is the authority itself: revoke its certificate"),
        (("revoke", "--agent", "(mint)"), "is not a SPIFFE ID"),
        (
            ("mint", "--spiffe-id", "spiffe://other.test/ns/a/sa/b", "--out", "x"),
            "not of this authority's trust domain",
        ),
        (("mint", "--spiffe-id", f"spiffe://{TD}/agent/node-a", "--out", "x"), "is no workload's"),
        (("rotate-root", "advance"), "no rotation is under way: start one"),
        (("rotate-root", "abort"), "nothing to abort"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_reason(typed: Typed, words: tuple[str, ...], said: str) -> None:
    done = typed(*words)
    assert done.code == 1
    assert said in done.err
    assert done.out == ""


def test_a_state_without_an_authority_is_named(typed: Typed, tmp_path: Path) -> None:
    done = typed("status", state=tmp_path)
    assert done.code == 2
    assert f"{tmp_path}/authority holds no authority: start one once" in done.err
    assert not (tmp_path / "authority").exists(), "looking makes nothing"


def test_a_rotation_is_walked_through_by_hand(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    typed = Typed(authority)
    assert "started: now in stage distribute" in typed("rotate-root", "start").out
    assert "already: advance or abort it" in typed("rotate-root", "start").err
    assert "nothing holds it: advance" in typed("rotate-root", "status").out
    assert "now in stage switch" in typed("rotate-root", "advance").out
    assert "now in stage none" in typed("rotate-root", "advance").out
    assert typed("bundle", "--pem").out != authority.said["bundle_pem"]
    authority.stop()


def test_warnings_come_before_anything_expires(tmp_path: Path) -> None:
    day = 86400.0
    expiry = Expiry("root x", 100 * day)
    assert expiry.warning(69 * day) is None
    assert expiry.warning(71 * day) == "root x expires in 29.0 days, at 1970-04-11T00:00:00Z"
    assert expiry.warning(100 * day - 5400) == "root x expires in 1.5 hours, at 1970-04-11T00:00:00Z"
    assert expiry.warning(101 * day) == "root x has expired"


class Aged(Typed):
    """An authority whose root was made long ago, and has some days left; it does not run."""

    def __init__(self, directory: Path, days: float) -> None:
        authority = Authority(directory, started=False)
        authority.store.prepare(TD)
        made = time.time() + (days - ROOT_DAYS) * 86400
        authority.store.create(1, TD, made)
        book = authority.book()
        book.set_rotation(rotation.first(made))
        control.publish(book, authority.store, time.time())
        book.close()
        super().__init__(authority)


@pytest.mark.parametrize(("days", "warned"), [(40.0, 0), (29.0, 1), (6.0, 1)])
def test_status_warns_of_what_ends_soon(tmp_path: Path, days: float, warned: int) -> None:
    typed = Aged(tmp_path, days)
    status = typed.object("status")
    assert isinstance(status, dict)
    warnings = [each for each in status["warnings"] if each.startswith("root CN=example.test root")]
    assert len(warnings) == warned
    said = typed("status").out
    assert said.count("WARNING: root CN=example.test root") == warned
    assert all(f"WARNING: {each}" in said for each in warnings)


def test_the_shortest_life_is_ten_seconds_in_both_verbs(typed: Typed, tmp_path: Path) -> None:
    for verb in (("authority", "run"), ("up",)):
        for given, shown in (("9s", "'9s'"), ("9.9", "'9.9'"), ("0.1m", "'0.1m'")):
            done = quietwire(*verb, "--svid-ttl", given, "--manifests", tmp_path, "--state", tmp_path / "state")
            assert done.code == 2
            assert f"--svid-ttl {shown} is less than 10s" in done.err
            assert "give 10s or more" in done.err
            assert not (tmp_path / "state").exists()
    assert svid_seconds("10s") == 10.0


def test_status_of_an_issuer_that_is_refused_says_why_and_what_is_in_force(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    Pki(TD).write_issuer(given)
    authority = Authority(tmp_path, given=GivenFiles(given / "tls.crt", given / "tls.key", given / "ca.crt"))
    typed = Typed(authority)
    assert "refused" not in typed("status").out
    (given / "tls.key").write_text("nonsense")
    done = typed("status")
    assert done.code == 0, done.err
    assert "WARNING: the issuer that is given is refused, and the former stays in force" in done.out
    assert "tls.key holds no PEM key" in done.out
    assert "issuer in force (" in done.out
    authority.stop()


@pytest.mark.parametrize(
    "words", [("run",), ("token", "create"), ("rotate-root", "start"), ("revoke",), ("mint",), ("bundle",), ("issued",)]
)
def test_every_verb_has_help_with_an_example(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = quietwire("authority", *words, "--help")
    assert done.code == 0
    assert f"Example: quietwire authority {' '.join(words)}" in " ".join(done.out.split())
