"""The client of the authority: several addresses, clocks, what it keeps on disk."""

import asyncio
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.authority import control
from agent.identity import received
from agent.identity.credential import FileCredential
from agent.identity.provider import ProviderError, Report
from agent.identity.renewal import join_pause
from agent.tasks import spawn
from tests.authority.running import TD, WEB, Authority, newer, refused
from tests.tls.pki import Pki

NOBODY = "127.0.0.1:1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_addresses_are_tried_in_turn_and_the_one_that_answers_is_kept(authority: Authority) -> None:
    client = authority.client()
    client._addresses = [("127.0.0.1", 1), *client._addresses]
    await client.issue(WEB)
    assert client._addresses[-1] == ("127.0.0.1", 1)
    client._addresses = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    error = await refused(client.issue(WEB), "unreachable")
    assert NOBODY in error.message, "the first failure is the one that is told"
    authority.stop()


@pytest.mark.parametrize(("ahead", "words"), [(60.0, "s ahead of"), (-45.0, "s behind"), (10.0, None)])
async def test_clocks_that_differ_are_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture, ahead: float, words: str | None
) -> None:
    caplog.set_level(logging.WARNING)
    client = authority.client(clock=lambda: time.time() + ahead)
    await newer(client, 0)
    await newer(client, 0)
    said = [record.getMessage() for record in caplog.records if "the authority's" in record.getMessage()]
    assert client.skew is not None
    assert abs(client.skew + ahead) < 3
    assert len(said) == (0 if words is None else 1), "once, and not at every answer"
    assert words is None or words in said[0]
    authority.stop()


async def test_the_agents_own_certificate_outlives_the_process(authority: Authority, tmp_path: Path) -> None:
    kept = tmp_path / "agent"
    first = authority.client(authority.token(), credential=FileCredential(kept, TD, "node-a"))
    await first.issue(WEB)
    await first.bundle(0, Report())
    assert {path.name: path.stat().st_mode & 0o777 for path in kept.iterdir()} == {
        "svid.pem": 0o600,
        "bundle.pem": 0o600,
    }
    again = authority.client("no token any more", credential=FileCredential(kept, TD, "node-a"))
    assert again.agent == first.agent
    assert (await again.issue(WEB)).spiffe_id == WEB
    assert FileCredential(kept, TD, "node-a").bundle_pem() == authority.said["bundle_pem"].encode()
    authority.stop()


@pytest.mark.parametrize(
    "damage", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
async def test_a_certificate_on_disk_that_is_damaged_is_not_used(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "svid.pem").write_bytes(damage)
    assert FileCredential(tmp_path, TD, "node-a").load() is None


async def test_a_certificate_on_disk_of_another_node_is_not_used(authority: Authority, tmp_path: Path) -> None:
    kept = tmp_path / "agent"
    await authority.client(credential=FileCredential(kept, TD, "node-a")).issue(WEB)
    assert FileCredential(kept, TD, "node-b").load() is None
    assert FileCredential(kept, "other.test", "node-a").load() is None
    authority.stop()


async def test_a_disk_that_cannot_be_written_is_said_and_is_no_reason_to_stop(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    client = authority.client(credential=FileCredential(tmp_path / "file" / "agent", TD, "node-a"))
    assert (await client.issue(WEB)).spiffe_id == WEB
    assert any("needs a new join token" in record.getMessage() for record in caplog.records)
    authority.stop()


async def test_whoever_gives_up_waiting_takes_no_token_down_with_it(authority: Authority) -> None:
    client = authority.client(authority.token())
    impatient = spawn(client.issue(WEB), name="impatient")
    await asyncio.sleep(0.02)
    impatient.cancel()
    assert (await client.issue(WEB)).spiffe_id == WEB
    authority.stop()


async def test_a_certificate_that_is_not_taken_is_a_failure_where_the_bundle_has_no_news_for_it(
    authority: Authority,
) -> None:
    """An answer at once that says nothing would be asked for again at once, for ever."""
    known = (await newer(authority.client(), 0)).sequence
    client = authority.client("none")
    client._agent, client._renew_at = Pki(TD).svid(), 1e12
    with pytest.raises(ProviderError) as caught:
        await client.bundle(known, Report(known))
    assert caught.value.code in {"tls", "unreachable"}
    assert (await newer(client, 0)).sequence == known, "who knows nothing gets it all the same"
    authority.stop()


async def test_a_root_that_leaves_has_the_agent_join_anew_at_once(authority: Authority) -> None:
    client = authority.client()
    await client.issue(WEB)
    stranger = Pki(TD)
    client._agent, client._renew_at = stranger.svid(), 1e12

    def doubted() -> bool:
        return client._doubted

    await newer(client, 0)
    assert doubted()
    assert (await client.issue(WEB)).spiffe_id == WEB
    assert not doubted()
    authority.stop()


async def test_an_agent_that_was_left_behind_by_a_rotation_joins_anew(authority: Authority) -> None:
    client = authority.client()
    await client.issue(WEB)
    known = (await newer(client, 0)).sequence
    book = authority.book()
    control.start(book, authority.store, time.time())
    both = await newer(client, known)
    control.advance(book, authority.store, time.time(), force=True)
    switched = await newer(client, both.sequence)
    assert client.agent is not None
    former = client.agent
    client._renew_at = 1e12
    client._bundle = replace(switched, issuer_key_id=former.issuer_key_id)  # it does not hear of it in time
    control.advance(book, authority.store, time.time(), force=True)
    last = await newer(client, switched.sequence)
    assert last.anchors_pem != switched.anchors_pem
    assert (await client.issue(WEB)).issuer_key_id == last.issuer_key_id
    assert client.agent.issuer_key_id == last.issuer_key_id
    book.close()
    authority.stop()


@pytest.mark.parametrize("by", ["its SPIFFE ID", "its serial"])
async def test_an_authority_whose_own_certificate_is_revoked_is_asked_nothing(authority: Authority, by: str) -> None:
    """Somebody has its key: the bundle says so, and whoever answers there may be the thief."""
    client = authority.client()
    await client.issue(WEB)
    bundle, own = await newer(client, 0), f"spiffe://{TD}/authority"
    book = authority.book()
    serials = frozenset(each.serial for each in book.issued(spiffe_id=own))
    book.close()
    assert serials
    if by == "its serial":
        client._bundle = replace(bundle, revoked_serials=serials)
    else:
        client._bundle = replace(bundle, revoked_ids=frozenset({own}))
    error = await refused(client.issue(WEB), "wrong_authority")
    assert re.search(rf"is not {own}: its certificate [0-9a-f]+ is revoked", error.message)
    client._bundle = replace(bundle, revoked_ids=frozenset({str(WEB)}), revoked_serials=frozenset({"1"}))
    assert (await client.issue(WEB)).spiffe_id == WEB, "what else is revoked is no matter here"
    authority.stop()


@pytest.mark.parametrize("fault", ["its certificate is not taken", "what is signed is nothing that can be used"])
async def test_an_agent_whose_joins_lead_to_nothing_joins_ever_more_rarely_until_something_works(
    authority: Authority, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty seconds in which ten identities are asked for, over and over: it was fifty joins."""
    now, joins = time.time(), 0
    client = authority.client(clock=lambda: now)
    request, accept = client._request, received.accept
    broken = True

    async def answered(method: str, target: str, *rest: Any, anonymous: bool = False) -> Any:
        nonlocal joins
        joins += target == "/v1/join"
        if broken and not anonymous and fault.startswith("its"):
            raise ProviderError("tls", "it ends the connection")
        return await request(method, target, *rest, anonymous=anonymous)

    def accepted(*given: Any, **more: Any) -> Any:
        if broken and fault.startswith("what"):
            raise received.UnexpectedSvidError("it does not verify")
        return accept(*given, **more)

    monkeypatch.setattr(client, "_request", answered)
    monkeypatch.setattr(received, "accept", accepted)
    said = set()
    for _ in range(100):
        now += 0.2
        client._doubted = True  # by what the poll met with
        with pytest.raises(ProviderError) as caught:
            await client.issue(WEB)
        said.add(caught.value.code)
    assert 3 <= joins <= 6
    assert said <= {"join_paused", "tls", "bad_answer"}
    broken, joins = False, 0
    now += 60.0
    for _ in range(3):
        client._doubted = False
        assert (await client.issue(WEB)).spiffe_id == WEB
    assert joins <= 1
    assert (client._join_at, client._joins) == (float("-inf"), 0), "the next join is at once"
    authority.stop()


@given(st.integers(1, 10_000), st.floats(0.0, 1.0, exclude_max=True))
def test_the_pause_before_another_join_grows_to_a_minute_and_differs_between_agents(joins: int, jitter: float) -> None:
    assert 1.0 <= join_pause(joins, jitter) <= 60.0
    assert join_pause(joins + 1, jitter) >= join_pause(joins, jitter)
    assert join_pause(joins, 0.0) <= join_pause(joins, jitter)
