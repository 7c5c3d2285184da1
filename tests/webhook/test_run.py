"""What the server shows, and whom the API server believes, go together through the years."""

from collections.abc import Sequence

import pytest
from cryptography import x509

from agent.kubernetes.errors import Unreachable
from agent.webhook.certificates import (
    CA_SECONDS,
    SERVING_SECONDS,
    SETTLE_SECONDS,
    Authority,
    Serving,
    living,
    new_authority,
    wants_another,
)
from agent.webhook.run import Certificate

START = 1_900_000_000.0
DAY = 86400.0


class Cluster:
    """What replicas keep in common: CAs, and whom the API server believes."""

    def __init__(self) -> None:
        self.cas: tuple[Authority, ...] = ()
        self.believed: list[x509.Certificate] = []
        self.is_away = False

    async def authorities(self, now: float) -> tuple[Authority, ...]:
        if self.is_away:
            raise Unreachable("it is away")
        if wants_another(self.cas, now):
            self.cas = (*living(self.cas, now), new_authority(now))
        return living(self.cas, now)

    async def publish(self, cas: Sequence[Authority], now: float) -> None:
        self.believed = [each.certificate for each in living(cas, now)]


class Server:
    """Of one replica."""

    def __init__(self) -> None:
        self.shown: list[Serving] = []

    def show(self, shown: Serving) -> None:
        self.shown.append(shown)

    def is_believed(self, cluster: Cluster, now: float) -> bool:
        """Whether the API server takes what is shown now."""
        (leaf,) = x509.load_pem_x509_certificates(self.shown[-1].chain_pem)
        valid = leaf.not_valid_before_utc.timestamp() <= now < leaf.not_valid_after_utc.timestamp()
        issuers = [each for each in cluster.believed if each.serial_number == self.shown[-1].issuer]
        for each in issuers:
            leaf.verify_directly_issued_by(each)
        return valid and bool(issuers)


class Replica:
    def __init__(self, cluster: Cluster) -> None:
        self.now = START
        self.server = Server()
        self._certificate = Certificate(cluster, ("localhost",), self.server, lambda: self.now)  # type: ignore[arg-type] # doubles

    async def look(self, now: float) -> None:
        self.now = now
        await self._certificate.look()


async def test_for_three_years_two_replicas_are_believed_at_every_look_whoever_looks_first() -> None:
    cluster = Cluster()
    one, other = Replica(cluster), Replica(cluster)
    made = set()
    for day in range(3 * 365):
        for replica in (one, other) if day % 2 else (other, one):
            await replica.look(START + day * DAY)
            for each in (one, other):
                if each.server.shown:
                    assert each.server.is_believed(cluster, START + day * DAY)
        made |= {each.certificate.serial_number for each in cluster.cas}
        assert len(cluster.believed) <= 3
    assert len(made) == 6, "one in each half of a CA's life"
    assert {each.issuer for each in one.server.shown} == {each.issuer for each in other.server.shown}
    assert len(one.server.shown) >= 3 * 365 * DAY / SERVING_SECONDS


async def test_a_new_ca_is_believed_by_everybody_before_anybody_shows_what_it_signed() -> None:
    cluster = Cluster()
    one, other = Replica(cluster), Replica(cluster)
    await one.look(START)
    await other.look(START)
    turn = START + CA_SECONDS / 2
    await one.look(turn)
    assert len(cluster.believed) == 2
    assert one.server.shown[-1].issuer == cluster.believed[0].serial_number
    await one.look(turn + SETTLE_SECONDS)
    assert one.server.shown[-1].issuer == cluster.believed[1].serial_number
    assert other.server.shown[-1].issuer == cluster.believed[0].serial_number
    await other.look(turn + SETTLE_SECONDS)
    assert other.server.shown[-1].issuer == cluster.believed[1].serial_number


async def test_nothing_is_shown_anew_that_is_still_good() -> None:
    cluster = Cluster()
    one = Replica(cluster)
    for hour in range(24):
        await one.look(START + hour * 3600)
    assert len(one.server.shown) == 1


async def test_while_the_api_server_is_away_what_is_shown_stays() -> None:
    cluster = Cluster()
    one = Replica(cluster)
    await one.look(START)
    cluster.is_away = True
    with pytest.raises(Unreachable):
        await one.look(START + SERVING_SECONDS / 2)
    assert len(one.server.shown) == 1
    assert one.server.is_believed(cluster, START + SERVING_SECONDS / 2)
    cluster.is_away = False
    await one.look(START + SERVING_SECONDS / 2)
    assert len(one.server.shown) == 2
