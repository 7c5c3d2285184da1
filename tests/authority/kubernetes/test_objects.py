"""What Secrets hold: the same comes out that was put in, none is too large, and what cannot be read says so."""

import gzip
import os
from typing import Any

import msgspec
import pytest

from agent.authority.kubernetes import objects
from agent.authority.kubernetes.objects import (
    BUCKETS,
    LIMIT,
    ROWS,
    AgentRow,
    Agents,
    CaKey,
    Content,
    Issued,
    Meta,
    Secret,
    State,
    Token,
    TooLargeError,
    UnreadableObjectError,
    bucket_of,
    decode,
    encode,
)
from agent.authority.ledger import Issuance

KUBERNETES_LIMIT = 1024 * 1024
"""Of a Secret's data (API reference, Secret)."""


def stored(content: Content, name: str = "a-state") -> Secret:
    """As the API server gives it back."""
    given = msgspec.json.decode(msgspec.json.encode(encode("a", name, content)))
    return msgspec.convert({**given, "metadata": {**given["metadata"], "resourceVersion": "7"}}, Secret)


CONTENTS: list[Content] = [
    State("example.test", {"rotation": b"\x00\xff"}, [("agent", "node-a", "sold", 1.5)], {"root-1.pem": "a-ca-1"}),
    Token(b"\x01" * 32, "node-a", 10.0, None),
    Token(b"\x01" * 32, "node-a", 10.0, 5.0),
    Agents([AgentRow("node-a", 1.0, 2.0, 3, "aa,bb")]),
    Issued([Issuance("ff", "spiffe://example.test/ns/demo/sa/web", "node-a", 1.0, 2.0, "aa")]),
    CaKey(b"-----BEGIN CERTIFICATE-----\n...\n-----BEGIN PRIVATE KEY-----\n..."),
    CaKey(b"-----BEGIN CERTIFICATE-----\n..."),
]


@pytest.mark.parametrize("content", CONTENTS, ids=[type(each).__name__ for each in CONTENTS])
def test_what_is_put_into_a_secret_comes_out(content: Content) -> None:
    assert decode(stored(content)) == content


def test_a_secret_is_written_in_the_version_that_was_read_or_not_at_all() -> None:
    assert encode("a", "a-state", CONTENTS[0], "41")["metadata"]["resourceVersion"] == "41"
    assert "resourceVersion" not in encode("a", "a-state", CONTENTS[0])["metadata"]


def test_people_find_certificate_and_key_where_secrets_have_them() -> None:
    data = encode("a", "a-ca-root-1", CaKey(b"CERT\n-----BEGIN PRIVATE KEY-----\nKEY"))["data"]
    assert data == {"tls.crt": b"CERT\n", "tls.key": b"-----BEGIN PRIVATE KEY-----\nKEY"}


def size(content: Content) -> int:
    return sum(map(len, encode("a", "a-x", content)["data"].values()))


def hex_of(count: int) -> str:
    return os.urandom(count).hex()


def an_issuance() -> Issuance:
    """As long as one can be: names of 63 and 253 letters, which do not pack."""
    spiffe_id = f"spiffe://{hex_of(120)}/ns/{hex_of(31)}/sa/{hex_of(126)}"
    return Issuance(hex_of(20), spiffe_id, hex_of(126), 1.0, 2.0, hex_of(20))


def test_a_full_record_of_the_longest_names_fits_into_a_secret() -> None:
    assert size(Issued([an_issuance() for _ in range(ROWS)])) < LIMIT < KUBERNETES_LIMIT


def test_the_agents_of_five_thousand_nodes_fit_into_their_secrets() -> None:
    nodes = [f"ip-10-{number // 256}-{number % 256}.{hex_of(8)}.internal" for number in range(5000)]
    buckets = {bucket: [node for node in nodes if bucket_of(node) == bucket] for bucket in range(BUCKETS)}
    assert max(map(len, buckets.values())) < 5000 / BUCKETS * 1.2, "they are spread"
    largest = max(buckets.values(), key=len)
    assert size(Agents([AgentRow(node, 1e9, 2e9, 40, hex_of(20)) for node in largest])) < LIMIT / 8


def state(revocations: int) -> State:
    """With a serial each, and as many in the publication."""
    serials = [hex_of(20) for _ in range(revocations)]
    publication = msgspec.msgpack.encode(serials)
    return State(
        "example.test", {"publication": publication}, [("serial", each, "leaked", 1e9) for each in serials], {}
    )


def test_ten_thousand_revocations_fit_into_the_state() -> None:
    assert size(state(10_000)) < LIMIT


def test_what_does_not_fit_is_not_written_and_says_what_helps() -> None:
    with pytest.raises(TooLargeError, match=r"Secret a-x would have \d+ bytes, over the limit of 900000: take back"):
        size(state(30_000))


def a_secret(kind: str, data: dict[str, bytes] | None) -> Secret:
    return Secret(Meta("a-state", "7"), kind, data)


def packed(value: Any) -> dict[str, bytes]:
    return {"content.json.gz": gzip.compress(msgspec.json.encode(value))}


WHOLE = packed(CONTENTS[0])["content.json.gz"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (a_secret("Opaque", None), "is of type 'Opaque', which is none"),
        (a_secret("quietwire.io/authority-other", {}), "which is none"),
        (a_secret("state", packed(CONTENTS[0])), "which is none"),
        (a_secret("quietwire.io/authority-state", None), "Secret a-state cannot be read .KeyError"),
        (a_secret("quietwire.io/authority-state", {}), "cannot be read .KeyError"),
        (a_secret("quietwire.io/authority-state", packed([])), "cannot be read .ValidationError"),
        (a_secret("quietwire.io/authority-token", packed({"hash": "AA=="})), "cannot be read .ValidationError"),
        (a_secret("quietwire.io/authority-state", {"content.json.gz": b"plain"}), "cannot be read .error"),
        (a_secret("quietwire.io/authority-state", {"content.json.gz": WHOLE[:-9]}), "it ends in its middle"),
        (a_secret("quietwire.io/authority-ca", {"tls.key": b""}), "cannot be read .KeyError"),
    ],
)
def test_a_secret_that_holds_nothing_known_stops_whoever_needs_it(found: Secret, words: str) -> None:
    with pytest.raises(UnreadableObjectError, match=words):
        decode(found)


def test_what_unpacks_without_end_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_UNPACKED", 100_000)
    bomb = a_secret("quietwire.io/authority-agents", packed("0" * 1_000_000))
    with pytest.raises(UnreadableObjectError, match="too large"):
        decode(bomb)


def test_an_agents_bucket_is_the_same_for_every_replica_and_version() -> None:
    assert [bucket_of(node) for node in ("node-a", "node-b", "n1", "n2")] == [2, 6, 7, 6]


def test_names_are_those_of_kubernetes_and_each_object_has_its_own() -> None:
    names = {
        objects.state_name("q"),
        objects.ca_name("q", "root-1.pem", "ab12"),
        objects.token_name("q", b"\xab" * 32),
        objects.agents_name("q", 3),
        objects.issued_name("q", "0f0f", 12),
    }
    assert names == {
        "q-state",
        "q-ca-root-1-ab12",
        f"q-token-{'ab' * 16}",
        "q-agents-3",
        "q-issued-0f0f-12",
    }
