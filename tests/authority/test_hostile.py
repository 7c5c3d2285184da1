"""Hostile clients of the authority: bounded, and no hindrance to honest ones."""

import asyncio
import json
import select
import socket
import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.authority import server, service
from agent.authority.ledger import Book, Ledger
from agent.authority.limits import RateLimit
from agent.authority.refusal import Code, Refusal
from agent.authority.service import AuthorityService, Caller
from agent.authority.store import Store
from agent.identity.csr import new_request
from agent.identity.provider import ProviderError
from agent.identity.spiffe import SpiffeId
from tests.authority.running import TD, WEB, Authority, newer, refused


def stranger(authority: Authority) -> ssl.SSLSocket:
    """A TLS connection without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.said["bundle_pem"])
    raw = socket.create_connection(("127.0.0.1", authority.config.listen.port), timeout=20)
    return context.wrap_socket(raw)


def ask(sock: ssl.SSLSocket, request: bytes) -> bytes:
    """Sends bytes; everything until the other side hangs up."""
    answer = b""
    try:
        sock.sendall(request)
        while chunk := sock.recv(65536):
            answer += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return answer


async def test_strangers_that_hold_connections_open_are_bounded_and_hinder_nobody(authority: Authority) -> None:
    def hold() -> list[ssl.SSLSocket]:
        return [stranger(authority) for _ in range(server.MAX_STRANGERS + 20)]

    def ended(held: list[ssl.SSLSocket]) -> list[ssl.SSLSocket]:
        """Those that the authority has hung up on; only an end makes them readable."""
        deadline, found = time.monotonic() + 10, set[ssl.SSLSocket]()
        while len(found) < 20 and time.monotonic() < deadline:
            readable, _, _ = select.select([sock for sock in held if sock not in found], [], [], 1)
            for sock in readable:
                sock.settimeout(0)
                try:
                    gone = sock.recv(1) == b""
                except ssl.SSLWantReadError:
                    gone = False
                except (ConnectionError, ssl.SSLEOFError):
                    gone = True
                if gone:
                    found.add(sock)
        return list(found)

    held = await asyncio.to_thread(hold)
    assert len(await asyncio.to_thread(ended, held)) == 20
    bundle = authority.said["bundle_pem"].encode()
    for sock in held[:5]:
        sock.close()
    assert (await authority.client(bundle=bundle).issue(WEB)).spiffe_id == WEB
    for sock in held:
        sock.close()


async def test_a_request_that_does_not_come_is_ended(authority: Authority) -> None:
    async def begin(beginning: bytes) -> bytes:
        with await asyncio.to_thread(stranger, authority) as sock:
            sock.settimeout(server.HEADER_SECONDS + 10)
            return await asyncio.to_thread(ask, sock, beginning)

    answers = await asyncio.gather(begin(b""), begin(b"GET /v1/bundle HTTP/1.1\r\nHost:"))
    assert set(answers) == {b""}


async def test_bodies_are_bounded_in_size(authority: Authority) -> None:
    head = b"POST /v1/join HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10000000\r\n\r\n"
    with await asyncio.to_thread(stranger, authority) as sock:
        answer = await asyncio.to_thread(ask, sock, head + b"x" * 100_000)
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b"too_large" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"DELETE /v1/bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /v1/bundle?wait=soon HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /v1/bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\nQuietwire-Trusts: -1\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /v1/join HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd",
        b"\x16\x03\x01\x00\x00 this is no HTTP\r\n\r\n",
    ],
)
async def test_nonsense_is_an_error_and_never_a_fault(authority: Authority, request_bytes: bytes) -> None:
    with await asyncio.to_thread(stranger, authority) as sock:
        answer = await asyncio.to_thread(ask, sock, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405")), answer[:200]
    authority.stop()
    assert "Traceback" not in authority._said


class Everywhere:
    """Workloads of every node."""

    def has_workload(self, node: str, namespace: str, service_account: str) -> bool:
        return True


async def test_who_asks_too_often_is_told_so_and_others_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare(TD)
    ledger = Ledger(store.ledger)
    moment = time.time()
    asked = AuthorityService(store, ledger, Everywhere(), trust_domain=TD, svid_seconds=60, clock=lambda: moment)
    await asked.start()
    callers = []
    for node in ("node-a", "node-b"):
        token = await ledger.do(Book.create_token, node, moment + 60)
        agent = SpiffeId.for_agent(TD, node)
        await asked.join(token, node, new_request(agent).csr_pem.decode(), "192.0.2.1")
        callers.append(Caller(agent, "serial"))
    csr = new_request(WEB).csr_pem.decode()
    for _ in range(service.REQUESTS_AT_ONCE):
        await asked.issue(callers[0], csr)
    with pytest.raises(Refusal, match="asks too often") as caught:
        await asked.issue(callers[0], csr)
    assert (caught.value.code, caught.value.status) == (Code.RATE_LIMITED, 429)
    assert await asked.issue(callers[1], csr)
    moment += 1.5 / service.REQUESTS_PER_SECOND
    assert await asked.issue(callers[0], csr)
    ledger.close()


async def test_joining_again_and_again_with_wrong_tokens_is_limited(authority: Authority) -> None:
    codes = set()
    for _ in range(5):
        attempts = (authority.client("wrong").issue(WEB) for _ in range(20))
        errors = await asyncio.gather(*attempts, return_exceptions=True)
        codes |= {error.code for error in errors if isinstance(error, ProviderError)}
    assert codes == {"bad_token", "rate_limited"}


async def test_a_bundle_is_anybodys_to_read_and_says_nothing_secret(authority: Authority) -> None:
    request = b"GET /v1/bundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with await asyncio.to_thread(stranger, authority) as sock:
        answer = await asyncio.to_thread(ask, sock, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b'etag: "' in head.lower()
    assert b"PRIVATE" not in body
    assert json.loads(body)["spiffe_sequence"] == (await newer(authority.client(), 0)).sequence


async def test_a_poll_of_an_unknown_caller_is_not_believed(authority: Authority) -> None:
    client = authority.client()
    svid = await client.issue(WEB)
    thief = authority.client("none")
    thief._agent = svid
    headers = {"Quietwire-Trusts": "99", "Quietwire-Issuers": "aa"}
    await thief._request("GET", "/v1/bundle", None, headers, 10)
    book = authority.book()
    assert [agent.trusts for agent in book.agents()] == [0]
    book.close()
    await refused(thief._request("POST", "/v1/renew", {"csr": "x"}, {}, 10), "unknown_caller")


@given(st.lists(st.floats(0, 5), max_size=200))
def test_a_rate_is_never_exceeded_in_the_long_run(pauses: list[float]) -> None:
    limit = RateLimit(2.0, 10)
    now, admitted = time.time(), 0
    began = now
    for pause in pauses:
        now += pause
        admitted += limit.admits("one", now)
        assert admitted <= 10 + 2.0 * (now - began) + 1e-3
        assert limit.admits("another", now) or pause < 0.5


def test_callers_that_are_quiet_are_forgotten() -> None:
    limit = RateLimit(1.0, 10)
    for number in range(10_001):
        limit.admits(f"caller {number}", 0.0)
    limit.admits("late", 100.0)
    assert len(limit._used) == 1
