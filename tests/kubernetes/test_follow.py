"""One kind of objects, followed: what the sink is told, whatever the server says, and what it is asked next."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.client import Query
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.kubernetes.follow import ABSENT_SECONDS, END_OF_LIST, SETTLED_SECONDS, Follower
from agent.kubernetes.kind import Kind
from agent.tasks import spawn

PODS = Kind("", "v1", "pods", "Pod")
GONE = Refused(410, "Expired", "too old resource version")
NOT_FOUND = Refused(404, "NotFound", "the server could not find the requested resource")


class TheEndError(Exception):
    """The script is over."""


class Server:
    """Answers by a script: one entry for each request. Time passes only while it is waited, or a watch lasts."""

    def __init__(self, *script: "Watch | Page | ApiError") -> None:
        self._script = list(script)
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.pauses.append(seconds)
        self.now += seconds

    def _next(self, path: str, query: Query) -> "Watch | Page":
        self.paths.append(path)
        self.asked.append(dict(query.items))
        if not self._script:
            raise TheEndError
        answer = self._script.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def get(self, path: str, query: Query, *, accept: str) -> bytes:
        answer = self._next(path, query)
        assert isinstance(answer, Page), "the script has a watch here"
        return answer.body

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, query: Query, *, accept: str, silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        answer = self._next(path, query)
        assert isinstance(answer, Watch), "the script has a page here"

        async def lines() -> AsyncIterator[bytes]:
            for line in answer.lines:
                yield line
            self.now += answer.seconds
            if answer.failure is not None:
                raise answer.failure

        yield lines()


class Watch:
    """A watch: its lines, how it ends, and after how long."""

    def __init__(self, *lines: bytes, failure: ApiError | None = None, seconds: float = SETTLED_SECONDS + 1) -> None:
        self.lines = lines
        self.failure = failure
        self.seconds = seconds


class Page:
    """One page of a list."""

    def __init__(self, *items: str, version: str = "", more: str = "") -> None:
        self.body = json.dumps(
            {"metadata": {"resourceVersion": version, "continue": more}, "items": [pod(item, "1") for item in items]}
        ).encode()


def pod(name: str, version: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def event(kind: str, name: str, version: str) -> bytes:
    return json.dumps({"type": kind, "object": pod(name, version)}).encode()


def bookmark(version: str, *, end: bool = False) -> bytes:
    annotations = {"annotations": {END_OF_LIST: "true"}} if end else {}
    return json.dumps(
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version, **annotations}}}
    ).encode()


def error(code: int, reason: str = "Expired") -> bytes:
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": reason}}).encode()


LISTED = (event("ADDED", "a", "3"), event("ADDED", "b", "2"), bookmark("5", end=True))


class Held:
    """What a sink makes of it: the names that are there, and all that it was told."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.told: list[str] = []
        self._listed: set[str] | None = None

    @staticmethod
    def _name(raw: bytes) -> str:
        return str(json.loads(raw)["metadata"]["name"])

    def begin(self) -> None:
        self.told.append("begin")
        self._listed = set()

    def put(self, raw: bytes) -> None:
        self.told.append(f"put {self._name(raw)}")
        self.names.add(self._name(raw))
        if self._listed is not None:
            self._listed.add(self._name(raw))

    def remove(self, raw: bytes) -> None:
        self.told.append(f"remove {self._name(raw)}")
        self.names.discard(self._name(raw))

    def complete(self) -> None:
        assert self._listed is not None, "complete without begin"
        self.told.append("complete")
        self.names = self._listed
        self._listed = None


class Play:
    """A follower that has played a script to its end."""

    def __init__(self, server: Server, held: Held, follower: Follower) -> None:
        self.server = server
        self.held = held
        self.follower = follower


async def play(
    *script: Watch | Page | ApiError,
    streaming: bool = True,
    optional: bool = False,
    versions: tuple[Kind, ...] = (PODS,),
    namespace: str = "",
    labels: str = "",
) -> Play:
    server, held = Server(*script), Held()
    follower = Follower(
        server,
        versions,
        held,
        streaming=streaming,
        optional=optional,
        chance=lambda: 0.5,
        clock=server.clock,
        sleep=server.sleep,
        namespace=namespace,
        labels=labels,
    )
    with pytest.raises(TheEndError):
        await follower.run()
    return Play(server, held, follower)


async def test_a_list_comes_by_the_watch_and_goes_on_as_one() -> None:
    done = await play(Watch(*LISTED, event("ADDED", "c", "7"), event("DELETED", "a", "8")))
    assert done.held.told == ["begin", "put a", "put b", "complete", "put c", "remove a"]
    first, second = done.server.asked
    assert first["sendInitialEvents"] == "true"
    assert first["resourceVersionMatch"] == "NotOlderThan"
    assert "sendInitialEvents" not in second
    assert second["resourceVersion"] == "8"
    assert done.server.pauses == []


@pytest.mark.parametrize("streaming", [True, False], ids=["by a watch", "by pages"])
async def test_those_of_one_namespace_with_a_label_are_asked_for_each_time(streaming: bool) -> None:
    first = Watch(*LISTED) if streaming else Page("a", version="5")
    labels, then = "quietwire.io/authority=q", Watch(event("ADDED", "c", "7"))
    done = await play(first, then, streaming=streaming, namespace="mesh", labels=labels)
    assert set(done.server.paths) == {"/api/v1/namespaces/mesh/pods"}
    assert {each["labelSelector"] for each in done.server.asked} == {labels}


async def test_objects_of_a_list_do_not_say_where_the_watch_goes_on() -> None:
    done = await play(Watch(event("ADDED", "a", "99"), bookmark("5", end=True)))
    assert done.server.asked[1]["resourceVersion"] == "5"


async def test_a_bookmark_says_where_it_goes_on() -> None:
    done = await play(Watch(*LISTED, bookmark("50")))
    assert done.server.asked[1]["resourceVersion"] == "50"


async def test_every_watch_is_kept_for_another_time() -> None:
    done = await play(Watch(*LISTED), Watch())
    assert {each["timeoutSeconds"] for each in done.server.asked} == {"450"}  # with a chance of a half, from 300 to 600


async def test_a_list_that_is_cut_off_is_begun_anew_and_takes_nothing_away() -> None:
    done = await play(Watch(*LISTED), Watch(error(410)), Watch(event("ADDED", "a", "11")), Watch(*LISTED))
    assert done.held.told[4:] == ["begin", "put a", "begin", "put a", "put b", "complete"]
    assert done.held.names == {"a", "b"}


async def test_what_went_while_nobody_watched_is_gone_with_the_new_list() -> None:
    done = await play(Watch(*LISTED), GONE, Watch(event("ADDED", "b", "20"), bookmark("21", end=True)))
    assert done.held.names == {"b"}
    assert [each.get("resourceVersion") for each in done.server.asked] == ["", "5", "", "21"]


async def test_gone_in_the_middle_of_a_watch_is_the_same() -> None:
    done = await play(Watch(*LISTED, event("ADDED", "c", "7"), error(410)), Watch(bookmark("21", end=True)))
    assert done.held.names == set()


async def test_a_server_that_forgets_again_and_again_is_asked_ever_later() -> None:
    done = await play(*[GONE] * 8)
    assert done.server.pauses == sorted(done.server.pauses)
    assert done.server.pauses[-1] > 20


async def test_an_outage_takes_nothing_away_and_is_said() -> None:
    away = Unreachable("the API server at 192.0.2.1:443 cannot be reached: Connection refused")
    done = await play(Watch(*LISTED), away, away, away)
    assert done.held.names == {"a", "b"}
    assert done.follower.failure is away
    assert done.follower.complete
    assert {each["resourceVersion"] for each in done.server.asked[1:]} == {"5"}
    assert done.server.pauses == [0.375, 0.75, 1.5]


async def test_after_an_outage_it_goes_on_where_it_was() -> None:
    done = await play(Watch(*LISTED), Unreachable("away"), Watch(event("MODIFIED", "a", "6")))
    assert done.follower.failure is None
    assert done.held.told[4:] == ["put a"]


async def test_a_watch_that_breaks_goes_on_from_the_last_event() -> None:
    done = await play(Watch(*LISTED, event("ADDED", "c", "7"), failure=Unreachable("broke")), Watch())
    assert done.server.asked[1]["resourceVersion"] == "7"


async def test_a_watch_that_ends_at_once_is_not_begun_at_once_for_ever() -> None:
    done = await play(Watch(*LISTED), *[Watch(seconds=0.1)] * 5)
    assert len(done.server.pauses) == 5
    assert done.server.pauses == sorted(done.server.pauses)


async def test_after_a_watch_that_held_the_next_failure_is_the_first() -> None:
    done = await play(Watch(*LISTED), *[Unreachable("away")] * 4, Watch(), Unreachable("away"))
    assert done.server.pauses[-1] == done.server.pauses[0]


async def test_a_server_that_asks_to_wait_is_waited_for() -> None:
    done = await play(Watch(*LISTED), Refused(429, "TooManyRequests", "later", retry_after=17.0))
    assert done.server.pauses == [17.0]


async def test_a_server_that_cannot_list_by_a_watch_lists_by_pages() -> None:
    done = await play(
        Refused(422, "Invalid", "sendInitialEvents: Forbidden"),
        Page("a", "b", version="5", more="token"),
        Page("c", version="5"),
        Watch(event("ADDED", "d", "6")),
    )
    assert done.held.told == ["begin", "put a", "put b", "put c", "complete", "put d"]
    assert done.server.asked[2]["continue"] == "token"
    assert done.server.asked[3]["resourceVersion"] == "5"


async def test_a_page_that_is_forgotten_begins_the_list_anew() -> None:
    done = await play(Page("a", version="5", more="token"), GONE, Page("b", version="9"), streaming=False)
    assert done.held.told == ["begin", "put a", "begin", "put b", "complete"]
    assert done.held.names == {"b"}


async def test_a_kind_that_is_not_served_is_none_and_is_asked_for_again() -> None:
    done = await play(NOT_FOUND, NOT_FOUND, Watch(*LISTED), optional=True)
    assert done.held.told[:3] == ["begin", "complete", "begin"]
    assert done.held.names == {"a", "b"}
    assert done.follower.complete
    assert not done.follower.absent


async def test_the_first_version_that_is_served_is_followed() -> None:
    versions = tuple(Kind("example", version, "widgets", "Widget") for version in ("v3", "v2", "v1"))
    done = await play(NOT_FOUND, Watch(*LISTED), optional=True, versions=versions)
    assert done.server.paths == [each.path for each in (versions[0], versions[1], versions[1])]
    assert done.server.pauses == []
    assert done.follower.kind == versions[1]


async def test_a_version_that_is_served_no_more_is_followed_in_another_without_a_gap() -> None:
    versions = tuple(Kind("example", version, "widgets", "Widget") for version in ("v2", "v1"))
    done = await play(Watch(*LISTED), NOT_FOUND, Watch(*LISTED), optional=True, versions=versions)
    assert done.held.names == {"a", "b"}
    assert done.server.pauses == []
    assert done.held.told.count("begin") == 2


async def test_a_kind_that_must_be_served_is_a_failure_without_it() -> None:
    done = await play(NOT_FOUND, NOT_FOUND)
    assert done.follower.failure is NOT_FOUND
    assert not done.follower.complete


async def test_a_kind_that_was_served_is_not_believed_to_have_gone_at_once() -> None:
    done = await play(Watch(*LISTED), NOT_FOUND, optional=True)
    assert done.held.names == {"a", "b"}
    assert done.follower.failure is NOT_FOUND


async def test_a_kind_that_is_served_no_more_for_a_while_is_gone() -> None:
    done = await play(Watch(*LISTED), *[NOT_FOUND] * 3, optional=True)
    assert sum(done.server.pauses) >= ABSENT_SECONDS
    assert done.held.names == set()
    assert done.follower.absent
    assert done.follower.failure is None


async def test_a_kind_that_came_back_in_between_has_all_its_objects() -> None:
    done = await play(Watch(*LISTED), NOT_FOUND, Watch(*LISTED), NOT_FOUND, optional=True)
    assert done.held.names == {"a", "b"}
    assert not done.follower.absent


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"\xff",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":5}',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":5}}}',
        b'{"type":"MOVED","object":{}}',
        b'{"type":"ERROR","object":"what"}',
        b"<html>504 Gateway Time-out</html>",
    ],
)
async def test_what_is_no_event_ends_the_watch_and_takes_nothing_away(line: bytes) -> None:
    done = await play(Watch(*LISTED, line))
    assert isinstance(done.follower.failure, Unreachable)
    assert done.held.names == {"a", "b"}


async def test_an_answer_that_is_no_list_is_a_failure() -> None:
    page = Page()
    page.body = b"<html>"
    done = await play(page, streaming=False)
    assert isinstance(done.follower.failure, Unreachable)


names = st.sampled_from("abcde")
happenings = st.lists(st.tuples(st.sampled_from(["ADDED", "DELETED"]), names), max_size=12)
ends = st.sampled_from([None, Unreachable("broke"), GONE, "stop listing"])


@given(st.lists(st.tuples(happenings, ends, st.booleans()), max_size=6))
async def test_whatever_happens_what_is_held_is_what_is_there(rounds: list[tuple[Any, Any, bool]]) -> None:
    """A server with a history: whatever breaks in between, after one more watch the sink has what the server has."""
    there: set[str] = set()
    script: list[Watch | Page | ApiError] = []
    version, listing = 1, True

    def listed() -> Iterable[bytes]:
        return [*(event("ADDED", name, "1") for name in sorted(there)), bookmark(str(version), end=True)]

    for happened, end, unseen in rounds:
        lines = list(listed()) if listing else []
        if end == "stop listing" and listing:
            script.append(Watch(*lines[:-1]))
            continue
        listing = False
        for kind, name in happened:
            version += 1
            there = there | {name} if kind == "ADDED" else there - {name}
            lines.append(event(kind, name, str(version)))
        script.append(Watch(*lines, failure=end if isinstance(end, ApiError) else None))
        if end is GONE:
            listing = True
            if unseen:
                there ^= {"e"}  # while nobody watched
    script.append(Watch(*(listed() if listing else [])))
    done = await play(*script)
    assert done.held.names == there


async def test_it_ends_when_it_is_cancelled() -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    follower = Follower(Server(Unreachable("away")), [PODS], Held(), streaming=True, sleep=sleep)
    task = spawn(follower.run(), name="follower")
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
