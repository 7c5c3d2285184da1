"""What a replica takes of what it hears: nothing old, keys before the state that names them, and never half of it."""

import msgspec
import pytest

from agent.authority.kubernetes.mirror import Mirror
from agent.authority.kubernetes.objects import (
    Agents,
    CaKey,
    Content,
    Issued,
    Secret,
    State,
    Token,
    UnreadableObjectError,
    encode,
)
from agent.authority.ledger import Issuance
from agent.authority.store import StoreError

PEM = CaKey(b"-----BEGIN CERTIFICATE-----\n")
KEYS = {"root-1.pem": "q-ca-root-1-00"}


def a_secret(name: str, content: Content, version: int) -> Secret:
    given = msgspec.json.decode(msgspec.json.encode(encode("q", name, content)))
    given["metadata"]["resourceVersion"] = str(version)
    return msgspec.convert(given, Secret)


def a_state(version: int, *revoked: str, keys: dict[str, str] | None = None, domain: str = "example.test") -> Secret:
    rows = [("agent", node, "sold", 1.0) for node in revoked]
    return a_secret("q-state", State(domain, {}, rows, keys or {}), version)


def issued(version: int, *serials: str, node: str = "node-a") -> Secret:
    rows = [Issuance(each, "spiffe://example.test/ns/demo/sa/web", node, 1.0, 1e10, "aa") for each in serials]
    return a_secret("q-issued-0f-0", Issued(rows), version)


@pytest.fixture
def mirror() -> Mirror:
    return Mirror("q", "example.test", "authority quietwire/q")


def revoked(mirror: Mirror) -> list[str]:
    return [each.value for each in mirror.book.revocations()]


def test_what_is_heard_is_taken_between_rounds_and_not_before(mirror: Mirror) -> None:
    mirror.hear(a_state(5, "node-a"))
    assert (mirror.has_heard, revoked(mirror)) == (True, [])
    mirror.take_in()
    assert (revoked(mirror), mirror.known, mirror.news) == (["node-a"], {"q-state": "5"}, 1)


@pytest.mark.parametrize("version", [9, 10])
def test_what_is_older_than_what_is_known_is_no_news(mirror: Mirror, version: int) -> None:
    mirror.take("q-state", a_state(10, "node-a"))
    news = mirror.news
    mirror.hear(a_state(version))
    mirror.take_in()
    assert (revoked(mirror), mirror.news) == (["node-a"], news)


def test_versions_are_numbers(mirror: Mirror) -> None:
    mirror.take("q-state", a_state(9))
    mirror.hear(a_state(10, "node-a"))
    mirror.take_in()
    assert revoked(mirror) == ["node-a"]


def test_keys_are_taken_before_the_state_that_names_them_however_they_come(mirror: Mirror) -> None:
    mirror.hear(a_state(6, keys=KEYS))
    mirror.hear(a_secret("q-ca-root-1-00", PEM, 5))
    mirror.take_in()
    assert mirror.keys.read("root-1.pem") == PEM.pem
    assert mirror.named == KEYS


def test_a_state_whose_key_is_missing_is_not_taken_and_closes(mirror: Mirror) -> None:
    mirror.take("q-state", a_state(5, "node-a"))
    mirror.hear(a_state(6, keys=KEYS))
    with pytest.raises(UnreadableObjectError, match="names Secret q-ca-root-1-00, which is not there"):
        mirror.take_in()
    assert "q-state" in mirror.stale, "it is read anew before anything is decided"
    assert mirror.known["q-state"] == "5"
    assert mirror.missing_keys(a_state(6, keys=KEYS)) == ["q-ca-root-1-00"]


def test_one_that_cannot_be_read_closes_and_the_others_are_taken_all_the_same(mirror: Mirror) -> None:
    broken = a_state(6)
    mirror.hear(msgspec.structs.replace(broken, data={"content.json.gz": b"?"}))
    mirror.hear(issued(5, "1"))
    with pytest.raises(UnreadableObjectError, match="Secret q-state cannot be read"):
        mirror.take_in()
    assert [each.serial for each in mirror.book.issued()] == ["1"]
    assert mirror.stale == {"q-state"}


def test_the_state_of_another_trust_domain_is_nobodys(mirror: Mirror) -> None:
    with pytest.raises(StoreError, match=r"is of trust domain other\.test, not example\.test"):
        mirror.take("q-state", a_state(5, domain="other.test"))


def test_whoever_asks_for_no_trust_domain_is_told_which_it_is() -> None:
    mirror = Mirror("q", "", "authority quietwire/q")
    mirror.take("q-state", a_state(5))
    assert mirror.keys.trust_domain() == "example.test"


def test_a_state_that_is_deleted_is_missed_until_it_is_restored(mirror: Mirror) -> None:
    mirror.take("q-state", a_state(5, "node-a"))
    mirror.hear_gone("q-state", "8")
    mirror.take_in()
    assert mirror.gone
    assert revoked(mirror) == ["node-a"], "what was revoked is so"
    mirror.hear(a_state(9, "node-a"))
    mirror.take_in()
    assert (mirror.gone, revoked(mirror)) == (False, ["node-a"])


def test_one_that_never_was_is_not_missed(mirror: Mirror) -> None:
    mirror.take("q-state", None)
    assert not mirror.gone


def test_what_a_list_no_longer_has_is_gone_unless_it_was_written_since(mirror: Mirror) -> None:
    for name, version in (("q-token-aa", 3), ("q-token-bb", 4)):
        mirror.take(name, a_secret(name, Token(name.encode(), "node-a", 1e10, None), version))
    before = dict(mirror.known)
    mirror.take("q-token-bb", a_secret("q-token-bb", Token(b"q-token-bb", "node-a", 1e10, 5.0), 7))
    mirror.take("q-token-cc", a_secret("q-token-cc", Token(b"q-token-cc", "node-a", 1e10, None), 8))
    mirror.hear_missing(before, set())
    mirror.take_in()
    assert set(mirror.known) == {"q-token-bb", "q-token-cc"}
    assert mirror.book.token(b"q-token-aa") is None
    assert mirror.book.token(b"q-token-bb") is not None


def test_a_record_that_is_deleted_is_forgotten(mirror: Mirror) -> None:
    mirror.take("q-issued-0f-0", issued(5, "1", "2"))
    assert mirror.keys.records
    mirror.hear_gone("q-issued-0f-0", "6")
    mirror.take_in()
    assert mirror.book.issued() == []
    assert not mirror.keys.records


def test_what_is_given_to_a_revoked_agent_is_news_and_what_is_given_to_others_is_none(mirror: Mirror) -> None:
    mirror.take("q-state", a_state(5))
    news = mirror.news
    mirror.take("q-issued-0f-0", issued(6, "1"))
    assert mirror.news == news
    mirror.take("q-state", a_state(7, "node-a"))
    news = mirror.news
    mirror.take("q-issued-0f-0", issued(8, "1", "2"))
    assert mirror.news == news + 1


def test_agents_are_no_news_for_what_is_in_force(mirror: Mirror) -> None:
    mirror.take("q-agents-0", a_secret("q-agents-0", Agents([]), 5))
    assert mirror.news == 0
