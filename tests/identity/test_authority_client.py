"""The client of the authority by itself: when it joins, renews and joins anew, and what it believes; no process."""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct
from msgspec.structs import replace

from agent.authority import ca
from agent.identity import bundle_document
from agent.identity.authority_client import (
    POLL_SECONDS,
    SKEW_SAID_EVERY_SECONDS,
    SKEW_SECONDS,
    AuthorityClient,
    _split,
    projected,
)
from agent.identity.http import Answer
from agent.identity.peer import PeerRefused
from agent.identity.provider import ProviderError, Report
from agent.identity.renewal import BACKOFF_CAP_SECONDS
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from agent.outcome import Outcome
from tests.tls.pki import Pki

TD = "example.test"
NOW = 2_000_000_000.0
TTL = 3600.0
WEB = SpiffeId.for_service_account(TD, "demo", "web")
AGENT = SpiffeId.for_agent(TD, "node-a")
AT = ("192.0.2.1", 8443)


class Request(Struct, frozen=True):
    """What came to the authority."""

    at: tuple[str, int]
    anonymous: bool
    method: str
    target: str
    body: dict[str, str]
    headers: dict[str, str]

    @property
    def what(self) -> str:
        """As an operator would note it."""
        return f"{self.method} {self.target}{' by a stranger' if self.anonymous else ''}"


class Kept:
    """A credential in memory."""

    def __init__(self, svid: Svid | None = None) -> None:
        self.svid = svid
        self.saved: list[Svid] = []
        self.anchors: list[bytes] = []
        self.retried = 0

    def load(self) -> Svid | None:
        return self.svid

    def save(self, svid: Svid) -> None:
        self.saved.append(svid)

    def save_anchors(self, anchors_pem: bytes) -> None:
        self.anchors.append(anchors_pem)

    def retry(self) -> None:
        self.retried += 1


class Authority:
    """Signs what it is asked for, and fails as it is told; the client's clock is here too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kept: Kept | None = None, *, addresses: int = 1) -> None:
        self.now = NOW
        self.pki = Pki(TD, NOW)
        self.bundle = self.pki.bundle()
        self.requests: list[Request] = []
        self.fails: Callable[[Request], object] = lambda _: None
        """An exception to raise, or an answer to give, or None."""
        self.ahead: float | None = None
        self.tokens: Iterator[str] = (f"token {number}" for number in range(1, 99))
        self.kept = kept
        self.client = AuthorityClient(
            addresses=tuple(f"192.0.2.{number}:8443" for number in range(1, addresses + 1)),
            anchors_pem=self.bundle.anchors_pem,
            trust_domain=TD,
            node="node-a",
            tokens=self._token,
            credential=kept,
            clock=lambda: self.now,
        )
        monkeypatch.setattr(self.client, "_context", lambda *, anonymous: anonymous)
        monkeypatch.setattr(self.client, "_exchange", self._exchange)

    async def _token(self) -> str:
        token = next(self.tokens, None)
        if token is None:
            raise ProviderError("no_token", "there is no token")
        return token

    async def _exchange(
        self,
        at: tuple[str, int],
        anonymous: Any,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        request = Request(at, anonymous, method, target, json.loads(body or b"{}"), dict(headers))
        self.requests.append(request)
        found = self.fails(request)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Answer):
            return found
        date = None if self.ahead is None else self.now + self.ahead
        if method == "GET":
            return Answer(200, bundle_document.encode(self.bundle), date)
        return Answer(200, json.dumps({"chain_pem": self.sign(request).decode()}).encode(), date)

    def sign(self, request: Request) -> bytes:
        csr = x509.load_pem_x509_csr(request.body["csr"].encode())
        (name,) = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        leaf = ca.sign_leaf(
            self.pki.issuer, SpiffeId.parse(name), key, now=self.now, seconds=TTL, until=self.now + 10 * TTL
        )
        return ca.pem(leaf) + ca.pem(self.pki.issuer.certificate)

    @property
    def asked(self) -> list[str]:
        """What was asked since the last look."""
        found = [each.what for each in self.requests]
        self.requests.clear()
        return found

    @property
    def own(self) -> Svid:
        """The agent's own SVID."""
        assert self.client.agent is not None
        return self.client.agent

    async def refused(self, attempt: Any, code: str) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await attempt
        assert caught.value.code == code, caught.value
        return caught.value


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> Authority:
    return Authority(monkeypatch, Kept())


def where(words: str, failure: object) -> Callable[[Request], object]:
    """Fails what is noted so."""
    return lambda request: failure if words == request.what else None


JOIN, RENEW, SVID = "POST /v1/join by a stranger", "POST /v1/renew", "POST /v1/svid"
READ, POLL = "GET /v1/bundle?wait=0 by a stranger", f"GET /v1/bundle?wait={POLL_SECONDS}"
GONE = ConnectionRefusedError("gone")
NOT_TAKEN = ssl.SSLError(1, "not taken")
NOT_TAKEN.reason = "NOT_TAKEN"  # which _ssl.c always sets


# joining and renewing


async def test_the_first_request_joins_with_a_token_and_the_next_ones_show_the_agents_own_svid(
    authority: Authority,
) -> None:
    got = await authority.client.issue(WEB)
    join, _ = authority.requests
    assert (join.body["token"], join.body["node"], set(join.body)) == ("token 1", "node-a", {"token", "node", "csr"})
    assert authority.asked == [JOIN, SVID]
    assert (got.spiffe_id, authority.own.spiffe_id) == (WEB, AGENT)
    assert authority.kept is not None
    assert authority.kept.saved == [authority.own]
    await authority.client.issue(WEB)
    assert authority.asked == [SVID]


async def test_the_agents_own_svid_is_renewed_at_half_life_and_not_before(authority: Authority) -> None:
    await authority.client.issue(WEB)
    first, _ = authority.own, authority.asked
    authority.now = NOW + TTL / 2 - 1
    await authority.client.issue(WEB)
    assert authority.asked == [SVID]
    authority.now = NOW + TTL / 2
    await authority.client.issue(WEB)
    assert authority.asked == [RENEW, SVID]
    assert authority.own.serial != first.serial
    assert authority.kept is not None
    assert authority.kept.saved == [first, authority.own]
    authority.now += TTL / 2 - 1
    await authority.client.issue(WEB)
    assert authority.asked == [SVID], "the next life has a middle of its own"


async def test_one_that_was_kept_is_renewed_at_the_middle_of_its_own_life(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Authority(monkeypatch)
    await before.client.issue(WEB)
    made = Authority(monkeypatch, Kept(before.own))
    made.pki = before.pki
    middle = (before.own.not_before + before.own.not_after) / 2
    made.now = middle - 1
    await made.client.bundle(1, Report(1))
    assert made.asked == [POLL]
    made.now = middle
    await made.client.bundle(1, Report(1))
    assert made.asked == [RENEW, POLL]


async def test_one_that_has_expired_is_shown_to_nobody_and_a_token_is_used(authority: Authority) -> None:
    await authority.client.issue(WEB)
    authority.now = authority.own.not_after
    authority.requests.clear()
    await authority.client.issue(WEB)
    assert authority.asked == [JOIN, SVID]


async def test_one_that_is_revoked_is_replaced_by_joining_anew(authority: Authority) -> None:
    await authority.client.issue(WEB)
    former = authority.own.serial
    authority.bundle = replace(authority.bundle, sequence=2, revoked_serials=frozenset({former}))
    await authority.client.bundle(1, Report(1))
    authority.requests.clear()
    await authority.client.issue(WEB)
    assert authority.asked == [JOIN, SVID]
    assert authority.own.serial != former
    await authority.client.issue(WEB)
    assert authority.asked == [SVID], "others' serials are revoked now, and not this one"


async def test_a_new_issuer_has_the_agents_own_svid_renewed_at_once(authority: Authority) -> None:
    await authority.client.issue(WEB)
    assert authority.own.issuer_key_id == ca.key_id(authority.pki.issuer.certificate)
    authority.bundle = replace(authority.bundle, issuer_key_id=authority.own.issuer_key_id)
    await authority.client.bundle(0, Report())
    authority.requests.clear()
    await authority.client.issue(WEB)
    assert authority.asked == [SVID], "it is under that one"
    authority.pki.issuer = ca.new_issuer(authority.pki.root, TD, NOW)
    authority.bundle = replace(authority.bundle, issuer_key_id=ca.key_id(authority.pki.issuer.certificate))
    await authority.client.bundle(0, Report())
    authority.requests.clear()
    await authority.client.issue(WEB)
    assert authority.asked == [RENEW, SVID]
    assert authority.own.issuer_key_id == authority.bundle.issuer_key_id


async def test_a_renewal_that_fails_is_said_and_tried_again_while_the_former_svid_works(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    await authority.client.issue(WEB)
    former, _ = authority.own, authority.asked
    authority.now = NOW + TTL / 2
    authority.fails = where(RENEW, GONE)
    for _ in range(2):
        await authority.client.issue(WEB)
        assert authority.asked == [RENEW, SVID], "and no token is used up for it"
    assert authority.own == former
    assert "could not be renewed" in caplog.text
    authority.now = former.not_after
    authority.fails = where(JOIN, GONE)
    await authority.refused(authority.client.issue(WEB), "unreachable")
    assert authority.asked == [JOIN], "nothing is asked with one that has expired"
    authority.fails = lambda _: None
    await authority.client.issue(WEB)


async def test_without_a_token_there_is_no_svid_and_the_reason_is_told(authority: Authority) -> None:
    authority.tokens = iter(())
    await authority.refused(authority.client.issue(WEB), "no_token")
    assert authority.asked == []
    assert authority.client.agent is None


async def test_of_many_that_ask_at_once_one_joins(authority: Authority) -> None:
    await asyncio.gather(*(authority.client.issue(WEB) for _ in range(5)))
    assert authority.asked.count(JOIN) == 1
    assert next(authority.tokens) == "token 2"


# an agent whose certificate is not taken any more


@pytest.mark.parametrize("failure", [GONE, NOT_TAKEN], ids=["reset", "refused"])
async def test_one_that_the_authority_does_not_take_any_more_joins_anew_once_it_was_heard(
    authority: Authority, failure: Exception
) -> None:
    await authority.client.issue(WEB)
    authority.requests.clear()
    authority.fails = lambda request: None if request.anonymous else failure
    authority.bundle = replace(authority.bundle, sequence=2)
    got = await authority.client.bundle(1, Report(1))
    assert got is not None
    assert got.sequence == 2, "the bundle is anybody's to read"
    assert authority.asked == [POLL, READ]
    authority.fails = lambda request: failure if request.what == RENEW else None
    await authority.client.issue(WEB)
    assert authority.asked == [RENEW, JOIN, SVID]
    authority.now += 1
    await authority.client.issue(WEB)
    assert authority.asked == [SVID], "the doubt is gone"


@pytest.mark.parametrize("status", [403, 503])
async def test_an_authority_that_answers_no_is_not_asked_to_let_it_join(authority: Authority, status: int) -> None:
    """It took the certificate: a token would be used up for nothing."""
    await authority.client.issue(WEB)
    authority.requests.clear()
    said = Answer(status, b'{"code": "revoked", "message": "it is revoked"}', None)
    authority.fails = where(POLL, said)
    authority.bundle = replace(authority.bundle, sequence=2)
    assert await authority.client.bundle(1, Report(1)) is not None
    assert authority.asked == [POLL, READ]
    authority.fails = where(RENEW, said)
    await authority.client.issue(WEB)
    assert authority.asked == [SVID], "there is no doubt of it"
    authority.client._doubted = True
    await authority.client.issue(WEB)
    assert authority.asked == [RENEW, SVID]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TimeoutError(), "timeout"),
        (PeerRefused(Outcome.WRONG_SERVER_IDENTITY, "another"), "wrong_authority"),
        (h11.RemoteProtocolError("no HTTP"), "bad_answer"),
    ],
)
async def test_whoever_is_not_the_authority_or_does_not_answer_is_asked_nothing_more(
    authority: Authority, failure: Exception, code: str
) -> None:
    await authority.client.issue(WEB)
    authority.requests.clear()
    authority.fails = where(POLL, failure)
    await authority.refused(authority.client.bundle(1, Report(1)), code)
    assert authority.asked == [POLL]
    assert not authority.client._doubted


async def test_no_news_for_one_that_is_not_taken_is_a_failure(authority: Authority) -> None:
    await authority.client.issue(WEB)
    authority.fails = lambda request: Answer(304, b"", None) if request.anonymous else NOT_TAKEN
    await authority.refused(authority.client.bundle(1, Report(1)), "tls")
    assert authority.client._doubted
    assert authority.requests[-1].headers == {"If-None-Match": '"1"'}


async def test_a_bundle_without_the_root_that_it_is_under_has_it_join_anew(authority: Authority) -> None:
    await authority.client.issue(WEB)
    await authority.client.bundle(1, Report(1))
    assert not authority.client._doubted
    authority.bundle = Pki(TD, NOW).bundle(2)
    await authority.client.bundle(1, Report(1))
    assert authority.client._doubted


# the bundle


async def test_the_first_bundle_is_asked_for_by_nobody_and_uses_no_token(authority: Authority) -> None:
    got = await authority.client.bundle(0, Report())
    assert got == authority.bundle
    assert authority.requests[0].headers == {}
    assert authority.asked == [READ]
    assert authority.client.agent is None
    assert authority.kept is not None
    assert authority.kept.anchors == [authority.bundle.anchors_pem]


async def test_a_poll_says_what_is_in_force_with_the_agents_own_issuer(authority: Authority) -> None:
    got = await authority.client.bundle(7, Report(7, frozenset({"bb", "aa"})))
    assert got == authority.bundle
    poll = authority.requests[-1]
    assert (poll.target, poll.anonymous) == (f"/v1/bundle?wait={POLL_SECONDS}", False)
    issuers = ",".join(sorted({"aa", "bb", authority.own.issuer_key_id}))
    assert poll.headers == {"If-None-Match": '"7"', "Quietwire-Trusts": "7", "Quietwire-Issuers": issuers}
    authority.fails = where(POLL, Answer(304, b"", None))
    assert await authority.client.bundle(7, Report(7)) is None


async def test_what_could_not_be_kept_is_tried_again_with_every_answer(authority: Authority) -> None:
    assert authority.kept is not None
    await authority.client.bundle(0, Report())
    assert authority.kept.retried == 1
    authority.fails = where(POLL, Answer(304, b"", None))
    assert await authority.client.bundle(1, Report()) is None
    assert authority.kept.retried == 2


async def test_what_is_no_bundle_is_an_error_and_the_former_one_stays(authority: Authority) -> None:
    await authority.client.bundle(0, Report())
    authority.fails = where(READ, Answer(200, b'{"keys": []}', None))
    await authority.refused(authority.client.bundle(0, Report()), "bad_bundle")
    assert authority.client._bundle == authority.bundle
    assert authority.kept is not None
    assert len(authority.kept.anchors) == 1
    assert (await authority.client.issue(WEB)).spiffe_id == WEB


async def test_what_is_given_is_verified_by_the_newest_bundle(authority: Authority) -> None:
    newer = Pki(TD, NOW)
    authority.bundle = newer.bundle(2)
    await authority.client.bundle(0, Report())
    error = await authority.refused(authority.client.issue(WEB), "bad_answer")
    assert "does not chain to the bundle" in error.message
    authority.pki = newer
    authority.now += BACKOFF_CAP_SECONDS
    assert (await authority.client.issue(WEB)).spiffe_id == WEB


# answers


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"chain_pem": 1}', b'{"chain_pem": "nonsense"}', b"\xff", b'"chain_pem"']
)
async def test_what_cannot_be_used_is_told_and_is_nobodys_svid(authority: Authority, body: bytes) -> None:
    authority.fails = where(JOIN, Answer(200, body, None))
    await authority.refused(authority.client.issue(WEB), "bad_answer")
    assert authority.client.agent is None


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer(403, b'{"code": "revoked", "message": "it is revoked"}', None), "revoked", "refused: it is revoked"),
        (Answer(500, b"<html>", None), "http_500", "answered with status 500"),
        (Answer(404, b'{"code": "x"}', None), "http_404", "answered with status 404"),
        (Answer(404, b"[]", None), "http_404", "answered with status 404"),
        (Answer(201, b"{}", None), "http_201", "answered with status 201"),
    ],
)
async def test_a_refusal_is_told_by_its_code(authority: Authority, answer: Answer, code: str, words: str) -> None:
    authority.fails = where(SVID, answer)
    error = await authority.refused(authority.client.issue(WEB), code)
    assert words in error.message


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (TimeoutError(), "timeout", "the authority at 192.0.2.1:8443 did not answer in 10 s"),
        (NOT_TAKEN, "tls", "TLS with the authority at 192.0.2.1:8443 failed: NOT_TAKEN"),
        (EOFError("it ended"), "unreachable", "the authority at 192.0.2.1:8443 ended the connection"),
        (GONE, "unreachable", "cannot be reached: gone"),
        (h11.RemoteProtocolError("what is this?"), "bad_answer", "does not speak HTTP: what is this?"),
        (
            PeerRefused(Outcome.WRONG_SERVER_IDENTITY, "the server is another"),
            "wrong_authority",
            "the authority at 192.0.2.1:8443 is not spiffe://example.test/authority: the server is another",
        ),
    ],
)
async def test_whatever_fails_on_the_way_has_a_code_and_says_where(
    authority: Authority, failure: Exception, code: str, words: str
) -> None:
    authority.fails = lambda _: failure
    error = await authority.refused(authority.client.issue(WEB), code)
    assert words in error.message


async def test_an_answer_that_does_not_come_is_not_waited_for_without_end(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.identity.authority_client.REQUEST_SECONDS", 0.01)
    monkeypatch.setattr(authority.client, "_exchange", lambda *_: asyncio.Event().wait())
    for attempt in (authority.client.issue(WEB), authority.client.bundle(0, Report())):
        async with asyncio.timeout(5):
            error = await authority.refused(attempt, "timeout")
        assert "did not answer in 0.01 s" in error.message


async def test_an_end_without_an_answer_is_told_with_what_the_agent_had_shown_of_itself(authority: Authority) -> None:
    await authority.client.issue(WEB)
    authority.now += 1.0
    authority.fails = lambda _: EOFError("it ended")
    shown = await authority.refused(authority.client.issue(WEB), "unreachable")
    assert f"This agent's, serial {authority.own.serial}, is valid until 2033-05-18T04:33:20Z" in shown.message
    assert shown.message.endswith("by this clock (2033-05-18T03:33:21Z)")
    unshown = await authority.refused(authority.client.bundle(0, Report()), "unreachable")
    assert unshown.message.endswith("ended the connection: is it overloaded, or does something else listen there?")


def test_tls_with_the_authority_verifies_by_all_that_x509_demands() -> None:
    """A certificate without its issuer's key identifier, say, is none (RFC 5280, section 4.2.1.1)."""
    pki = Pki(TD, NOW)
    client = AuthorityClient(
        addresses=(), anchors_pem=pki.bundle().anchors_pem, trust_domain=TD, node="node-a", tokens=asyncio.Queue().get
    )
    context = client._context(anonymous=True)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


# addresses


@pytest.mark.parametrize("failure", [GONE, EOFError("it ended")])
async def test_of_several_addresses_each_is_tried_and_the_one_that_answers_goes_first(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    made = Authority(monkeypatch, addresses=3)
    made.fails = lambda request: None if request.at[0] == "192.0.2.2" else failure
    await made.client.bundle(0, Report())
    assert [each.at[0] for each in made.requests] == ["192.0.2.1", "192.0.2.2"]
    made.requests.clear()
    await made.client.bundle(0, Report())
    assert [each.at[0] for each in made.requests] == ["192.0.2.2"]
    made.fails = lambda request: OSError(f"no {request.at[0]}")
    error = await made.refused(made.client.bundle(0, Report()), "unreachable")
    assert "no 192.0.2.2" in error.message, "the first failure is the one that is told"
    assert [each.at[0] for each in made.requests[1:]] == ["192.0.2.2", "192.0.2.1", "192.0.2.3"]


async def test_an_authority_that_refuses_is_the_authority_and_no_other_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Authority(monkeypatch, addresses=2)
    made.fails = lambda _: Answer(403, b'{"code": "revoked", "message": "it is"}', None)
    await made.refused(made.client.bundle(0, Report()), "revoked")
    assert len(made.requests) == 1


async def test_without_an_address_nobody_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Authority(monkeypatch, addresses=0)
    await made.refused(made.client.bundle(0, Report()), "unreachable")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("authority.example.test:8443", ("authority.example.test", 8443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]:8443", ("2001:db8::1", 8443)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert _split(text) == expected


# clocks


async def test_clocks_that_differ_by_more_are_warned_of_now_and_then(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def said(ahead: float | None) -> list[str]:
        caplog.clear()
        authority.ahead = ahead
        await authority.client.bundle(0, Report())
        return [record.getMessage() for record in caplog.records]

    def skew() -> float | None:
        return authority.client.skew

    assert await said(None) == []
    assert skew() is None
    assert await said(SKEW_SECONDS) == await said(-SKEW_SECONDS) == []
    assert skew() == -SKEW_SECONDS
    (words,) = await said(SKEW_SECONDS + 1)
    assert words.startswith("this clock is 31 s behind the authority's")
    authority.now += SKEW_SAID_EVERY_SECONDS
    assert await said(-40) == []
    authority.now += 1
    (words,) = await said(-40)
    assert words.startswith("this clock is 40 s ahead of the authority's")
    assert await said(None) == []
    assert skew() == -40


async def test_a_projected_token_is_read_each_time_for_the_kubelet_renews_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = projected(file)
    file.write_text("first\n")
    assert await tokens() == "first"
    file.write_text("second")
    assert await tokens() == "second"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
async def test_without_a_projected_token_there_is_nothing_to_join_with(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProviderError, match="service account token") as caught:
        await projected(file)()
    assert caught.value.code == "no_token"
