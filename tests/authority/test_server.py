"""Hostile clients of the authority: bounded, and no hindrance to honest ones."""

import asyncio
import contextlib
import json
import resource
import select
import socket
import ssl
import time
from pathlib import Path

import pytest

from agent.authority import api, server
from agent.authority.places import MAX_OF_ONE_ADDRESS, MAX_STRANGERS
from agent.authority.refusal import Code
from agent.identity.provider import ProviderError, Report
from agent.identity.svid import Svid
from agent.tasks import spawn
from tests.authority.running import ELSEWHERE, WEB, Authority, newer, refused
from tests.tls.pki import Pki
from tests.tls.records import FFDHE8192, P256, client_hello
from tests.tls.wrong import RIGHT, WRONG

GENERATOR = (
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""A point of P-256: whoever has one has a key share."""


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


@pytest.mark.parametrize(
    ("group", "share", "served"),
    [(FFDHE8192, b"\x02" + bytes(1023), False), (P256, bytes.fromhex(GENERATOR), True)],
    ids=["a dear group", "one that is served"],
)
def test_a_stranger_chooses_no_group_that_is_dear_to_compute_in(
    authority: Authority, group: int, share: bytes, served: bool
) -> None:
    """Its connection ends, or a ServerHello comes."""
    with socket.create_connection(("127.0.0.1", authority.config.listen.port), timeout=20) as sock:
        sock.sendall(client_hello(group, share))
        assert (sock.recv(1) == b"\x16") is served


async def test_strangers_that_hold_connections_open_are_bounded_and_hinder_nobody(authority: Authority) -> None:
    def hold() -> list[ssl.SSLSocket]:
        return [stranger(authority) for _ in range(MAX_OF_ONE_ADDRESS + 20)]

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
    assert (await authority.client().issue(WEB)).spiffe_id == WEB, "from the same address, and as a stranger at first"
    for sock in held:
        sock.close()


async def test_the_api_speaks_tls_1_3_only_and_resumes_no_session(authority: Authority) -> None:
    """A resumed session would not verify its caller again."""

    def session() -> ssl.SSLSession | None:
        with stranger(authority) as sock:
            ask(sock, b"GET /v1/bundle HTTP/1.1\r\nHost: a\r\n\r\n")  # a ticket would come before the answer
            return sock.session

    found = await asyncio.to_thread(session)
    assert found is None or not found.has_ticket
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.load_verify_locations(cadata=authority.said["bundle_pem"])
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", authority.config.listen.port), timeout=20) as raw:
        raw.settimeout(20)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(old.wrap_socket, raw)


POLL = b"GET /v1/bundle?wait=60 HTTP/1.1\r\nHost: a\r\n"


async def test_strangers_wait_for_no_news_and_hold_nobody_back(authority: Authority) -> None:
    """More of them than one address may have connections, and each would like to wait for a minute."""
    known = (await newer(authority.client(), 0)).sequence
    request = POLL + f'If-None-Match: "{known}"\r\n\r\n'.encode()
    workload = authority.client("none")
    workload._agent = await authority.client().issue(WEB)

    def poll() -> bytes:
        with stranger(authority) as sock:
            return ask(sock, request)

    answers = [await asyncio.to_thread(poll) for _ in range(MAX_OF_ONE_ADDRESS + 5)]
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 304 Not Modified"}
    assert all(b"connection: close" in answer.lower() for answer in answers), "a connection is for one request"
    answer = await workload._request("GET", "/v1/bundle?wait=60", None, {"If-None-Match": f'"{known}"'}, 10)
    assert answer.status == 304, "who shows a workload's certificate may not wait either"
    agent = authority.client()
    await agent.issue(WEB)
    waiting = spawn(agent.bundle(known, Report(known)), name="poll")
    assert (await authority.client(node="node-b").issue(ELSEWHERE)).spiffe_id == ELSEWHERE
    assert not waiting.done(), "an agent's poll waits"
    waiting.cancel()


async def test_a_second_request_on_a_connection_is_not_served(authority: Authority) -> None:
    request = b"GET /v1/bundle HTTP/1.1\r\nHost: a\r\n\r\n"
    with await asyncio.to_thread(stranger, authority) as sock:
        answer = await asyncio.to_thread(ask, sock, request + request)
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_whoever_has_a_good_token_is_kept_out_by_nobody_elses_attempts(authority: Authority) -> None:
    codes = set()
    while "rate_limited" not in codes:
        attempts = (authority.client("wrong").issue(WEB) for _ in range(20))
        for error in await asyncio.gather(*attempts, return_exceptions=True):
            assert isinstance(error, ProviderError)
            codes.add(error.code)
        assert codes <= {"bad_token", "rate_limited"}, "and the authority answers"
    assert (await authority.client().issue(WEB)).spiffe_id == WEB


async def test_of_an_agents_polls_the_newest_waits(authority: Authority) -> None:
    client = authority.client()
    await client.issue(WEB)
    known = (await newer(client, 0)).sequence
    former = spawn(client.bundle(known, Report(known)), name="former")
    await confirmed(authority, known)
    newest = spawn(client.bundle(known, Report(known, frozenset({"aa"}))), name="newest")
    assert await former is None
    assert not newest.done()
    newest.cancel()


async def test_agents_behind_one_address_are_no_strangers_to_each_other(authority: Authority) -> None:
    """Each waits in a poll, more of them than one address may have strangers."""
    agents = [authority.client(node=f"node-{number}") for number in range(MAX_OF_ONE_ADDRESS + 4)]
    for agent in agents:
        await agent._ensure_joined()
    known = (await newer(agents[0], 0)).sequence
    polls = []
    for count, agent in enumerate(agents, 1):  # all at once, they would be strangers in their handshakes
        polls.append(spawn(agent.bundle(known, Report(known)), name="poll"))
        await confirmed(authority, known, count)
    assert (await authority.client(node="node-b").issue(ELSEWHERE)).spiffe_id == ELSEWHERE
    assert not any(poll.done() for poll in polls)
    for poll in polls:
        poll.cancel()


async def confirmed(authority: Authority, sequence: int, count: int = 1) -> None:
    """Returns once the polls of so many agents have said what they trust."""
    async with asyncio.timeout(10):
        while True:
            book = authority.book()
            trusts = [agent.trusts for agent in book.agents()]
            book.close()
            if trusts.count(sequence) >= count:
                return
            await asyncio.sleep(0.01)


def hold_from(authority: Authority, address: str) -> socket.socket:
    """A connection that says nothing, not even of TLS."""
    return socket.create_connection(
        ("127.0.0.1", authority.config.listen.port), timeout=20, source_address=(address, 0)
    )


async def test_strangers_from_many_addresses_leave_agents_their_share_and_newcomers_a_place(
    authority: Authority,
) -> None:
    agent = authority.client()
    await agent.issue(WEB)
    known = (await newer(agent, 0)).sequence
    waiting = spawn(agent.bundle(known, Report(known)), name="poll")
    await confirmed(authority, known)
    held: list[socket.socket] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        for number in range(MAX_STRANGERS // 16 + 8):
            held += [hold_from(authority, f"127.0.1.{number}") for _ in range(16)]
        assert len(held) > MAX_STRANGERS
        assert (await agent.issue(WEB)).spiffe_id == WEB, "an agent that has joined"
        assert (await authority.client(node="node-b").issue(ELSEWHERE)).spiffe_id == ELSEWHERE, "one that joins"
        assert not waiting.done(), "the poll that waited still does"
        ended = await asyncio.to_thread(gone, held, len(held) - MAX_STRANGERS)
        assert len(ended) >= len(held) - MAX_STRANGERS
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.cancel()


def gone(held: list[socket.socket], count: int) -> set[socket.socket]:
    """Waits until so many were ended by the authority, which says nothing to who says nothing."""
    poll, found = select.poll(), set[socket.socket]()
    by_fd = {sock.fileno(): sock for sock in held}
    for fd in by_fd:
        poll.register(fd, select.POLLIN | select.POLLRDHUP)
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        for fd, _ in poll.poll(1000):
            found.add(by_fd[fd])
            poll.unregister(fd)
    return found


def starve(pid: int) -> None:
    """Leaves a process four descriptors more than it has open."""
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, hard))


async def test_without_descriptors_it_says_so_and_those_who_hold_them_yield(authority: Authority) -> None:
    starve(authority.process.pid)
    with contextlib.ExitStack() as held:
        for _ in range(24):
            held.enter_context(hold_from(authority, "127.0.0.9"))
        await authority.heard("the authority: nobody is accepted for 0.5 s")
        assert (await until_issued(authority)).spiffe_id == WEB


async def until_issued(authority: Authority) -> Svid:
    """Places are given back one after the other."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await authority.client().issue(WEB)
            except ProviderError:
                await asyncio.sleep(0.05)


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


def post(path: str, body: bytes, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    return b"POST /v1/join HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def get(target: str = "/v1/bundle", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode("latin-1")


JOIN = {"token": "x", "node": "a", "csr": "x"}
NONSENSE: dict[str, tuple[bytes, int]] = {
    "an unknown path": (get("/v1/nothing"), 404),
    "a known path with a slash": (get("/v1/bundle/"), 404),
    "a path that is no UTF-8": (get("/%ff%fe"), 404),
    "an absolute target": (get("http://x/v1/bundle"), 404),
    "another method": (b"DELETE /v1/bundle HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a join by GET": (get("/v1/join"), 405),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "a wait that is no number": (get("/v1/bundle?wait=soon"), 400),
    "a wait that is no UTF-8": (get("/v1/bundle?wait=%ff"), 400),
    "a negative sequence": (get(more="Quietwire-Trusts: -1\r\n"), 400),
    "a sequence of other bytes": (get(more="Quietwire-Trusts: \xff\r\n"), 400),
    "an array": (post("/v1/join", b"[]"), 400),
    "deep arrays": (post("/v1/join", b"[" * 16000), 400),
    "no UTF-8": (post("/v1/join", b"\xff\xfe\xfd"), 400),
    "UTF-16": (post("/v1/join", '{"token":"x"}'.encode("utf-16")), 400),
    "half a surrogate pair": (post("/v1/join", json.dumps(JOIN | {"token": "\ud800"}).encode()), 400),
    "an infinite number": (post("/v1/join", b'{"token":1e999,"node":"a","csr":"b"}'), 400),
    "a node with a NUL": (post("/v1/join", json.dumps(JOIN | {"node": "a\0b"}).encode()), 401),
    "a node that is a command": (post("/v1/join", json.dumps(JOIN | {"node": "a; reboot"}).encode()), 401),
    "two lengths": (post("/v1/join", b"{}", "Content-Length: 3\r\n"), 400),
    "a negative length": (b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\n{}", 400),
    "chunks and a length": (
        (
            b"POST /v1/join HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
            b"2\r\n{}\r\n0\r\n\r\n"
        ),
        400,
    ),
    "chunks": (chunked(b"2\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk's size that is none": (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk without an end": (chunked(b"ffffffffffffffff\r\n" + b"x" * 100_000), 413),
    "an upgrade": (get(more="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"), 200),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    "HTTP/0.9": (b"GET /v1/bundle\r\n\r\n", 400),
    "TLS within TLS": (b"\x16\x03\x01\x00\x00 this is no HTTP\r\n\r\n", 400),
}


async def test_nonsense_is_an_error_and_never_a_fault(authority: Authority) -> None:
    statuses = {}
    for name, (request, _) in NONSENSE.items():
        with await asyncio.to_thread(stranger, authority) as sock:
            answer = await asyncio.to_thread(ask, sock, request)
        statuses[name] = answer.partition(b"\r\n")[0].split()[1:2]
    assert statuses == {name: [str(status).encode()] for name, (_, status) in NONSENSE.items()}
    assert (await authority.client().issue(WEB)).spiffe_id == WEB
    said = authority.stop()
    assert "Traceback" not in said
    assert "--node 'a; reboot'" in said, "what an operator copies is no command of a stranger's"


async def test_who_leaves_in_the_middle_of_a_request_is_no_fault(authority: Authority) -> None:
    for _ in range(3):
        with await asyncio.to_thread(stranger, authority) as sock:
            sock.sendall(b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert (await authority.client().issue(WEB)).spiffe_id == WEB
    assert "Traceback" not in authority.stop()


async def test_refusals_are_logged_at_a_rate_that_strangers_cannot_raise(authority: Authority) -> None:
    request, began = get("/v1/bundle?wait=soon"), time.monotonic()
    for _ in range(api.REFUSALS_AT_ONCE * 2):
        with await asyncio.to_thread(stranger, authority) as sock:
            assert b" 400 " in await asyncio.to_thread(ask, sock, request)
    lines = authority.stop().count("refused /v1/bundle")
    may_be = api.REFUSALS_AT_ONCE + api.REFUSALS_PER_SECOND * (time.monotonic() - began)  # a machine may be slow
    assert api.REFUSALS_AT_ONCE <= lines <= may_be


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


@pytest.mark.parametrize("name", ["an issuer of another trust domain", "an issuer whose SPIFFE ID has a path"])
async def test_a_caller_is_judged_with_whoever_signed_for_it(authority: Authority, name: str) -> None:
    """OpenSSL takes them, for the root is trusted; the bundle is anybody's who is what he says."""
    pki, client = Pki.from_state(authority.state), authority.client()
    client._agent = WRONG[name].make(pki)
    await refused(client._request("GET", "/v1/bundle?wait=0", None, {}, 10), Code.UNKNOWN_CALLER)
    client._agent = RIGHT["under an issuer that is an SVID"](pki)
    assert (await client._request("GET", "/v1/bundle?wait=0", None, {}, 10)).status == 200


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
