"""What serves no more is deleted: records of certificates that expired long ago, and keys that no state names."""

import calendar
import logging
import time

from agent.authority.kubernetes.mirror import Mirror
from agent.authority.kubernetes.objects import Secret, is_key
from agent.authority.kubernetes.secrets import ConflictError, Secrets
from agent.kubernetes.errors import ApiError

log = logging.getLogger("quietwire.authority")

KEPT_SECONDS = 86400.0
"""How long the record of a certificate is kept after it has expired; the log has it for as long as logs are kept."""
ORPHAN_SECONDS = 3600.0
"""Whoever makes a key names it in the state within seconds, or never."""


async def tidy(secrets: Secrets, mirror: Mirror, own: str, now: float) -> None:
    """Deletes it; `own` is the record that this replica writes to. What cannot be deleted now is so the next time."""
    try:
        for name in expired(mirror, own, now):
            await secrets.delete(name, mirror.known.get(name))
            mirror.take(name, None)
        for each in await secrets.all():
            if is_orphan(each, mirror, now):
                await secrets.delete(each.metadata.name, each.metadata.version)
                mirror.take(each.metadata.name, None)
    except (ApiError, ConflictError) as error:
        log.info("the authority's Secrets could not be tidied, and will be later: %s", error)


def expired(mirror: Mirror, own: str, now: float) -> list[str]:
    """Objects of issued certificates of which none is of use: they expired, and are not kept any longer."""
    return [
        name
        for name, serials in mirror.issued.items()
        if name != own and all(row.expires < now - KEPT_SECONDS for row in mirror.book.issuances(serials))
    ]


def is_orphan(found: Secret, mirror: Mirror, now: float) -> bool:
    """Whether it is a key that somebody made and did not come to name."""
    name = found.metadata.name
    return is_key(found) and name not in mirror.named.values() and _made(found, now) < now - ORPHAN_SECONDS


def _made(found: Secret, now: float) -> float:
    try:
        return float(calendar.timegm(time.strptime(found.metadata.created, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return now  # it stays: nobody can tell how old it is
