"""What is deleted: records that nobody needs, and keys that nobody named. Never what is in use."""

import pytest

from agent.authority.kubernetes.mirror import Mirror
from agent.authority.kubernetes.objects import Meta, Secret
from agent.authority.kubernetes.tidy import KEPT_SECONDS, ORPHAN_SECONDS, expired, is_orphan
from agent.authority.ledger import Issuance

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.fixture
def mirror() -> Mirror:
    return Mirror("q", "example.test", "authority quietwire/q")


def record(mirror: Mirror, name: str, *expires: float) -> None:
    rows = [Issuance(f"{name}{number}", "spiffe://x/a", "node-a", 1.0, each) for number, each in enumerate(expires)]
    mirror.book.take_issued((), rows)
    mirror.issued[name] = tuple(each.serial for each in rows)


def test_a_record_goes_when_all_of_it_has_been_expired_for_a_day(mirror: Mirror) -> None:
    long_ago, just_now = NOW - KEPT_SECONDS - 1, NOW - KEPT_SECONDS
    record(mirror, "old", long_ago, long_ago)
    record(mirror, "mixed", long_ago, just_now)
    record(mirror, "live", NOW + 60)
    record(mirror, "own", long_ago)
    assert expired(mirror, "own", NOW) == ["old"]


def a_key(name: str, created: str, kind: str = "ca") -> Secret:
    return Secret(Meta(name, "7", created), f"quietwire.io/authority-{kind}", {})


@pytest.mark.parametrize(
    ("found", "orphan"),
    [
        (a_key("q-ca-root-1-00", "2027-01-15T06:59:59Z"), True),
        (a_key("q-ca-root-1-00", "2027-01-15T07:00:00Z"), False),
        (a_key("q-ca-root-1-in-force", "2020-01-01T00:00:00Z"), False),
        (a_key("q-state", "2020-01-01T00:00:00Z", "state"), False),
        (a_key("q-ca-root-1-00", ""), False),
    ],
    ids=["made an hour ago", "made a moment later", "in force", "no key", "nobody knows when"],
)
def test_a_key_that_nobody_named_for_an_hour_is_an_orphan(mirror: Mirror, found: Secret, orphan: bool) -> None:
    assert ORPHAN_SECONDS == 3600.0
    mirror.named = {"root-1.pem": "q-ca-root-1-in-force"}
    assert is_orphan(found, mirror, NOW) is orphan
