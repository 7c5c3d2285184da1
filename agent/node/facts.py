"""What everything that reports reads: one frozen value, of one moment."""

from collections.abc import Mapping

from msgspec import Struct

from agent.catalog.source import SourceState
from agent.identity.svid import Bundle
from agent.manifests.fault import Fault
from agent.objects.key import PodKey
from agent.policy.check import Finding


class Facts(Struct, frozen=True):
    """An agent as it is. Times are POSIX seconds."""

    ready: bool
    waiting: Mapping[PodKey, str]
    """Local pods that are not captured and certified, with what each waits for."""
    captured: int
    left: int
    ports_occupied: Mapping[PodKey, list[str]]
    foreign_nat: int
    capabilities: Mapping[str, int]
    """In how many pods some process has NET_ADMIN, or NET_RAW."""
    conntrack_used: float
    rule_repairs: int
    catalog_version: int
    catalog: SourceState
    faults: tuple[Fault, ...]
    findings: tuple[Finding, ...]
    identity_faults: tuple[str, ...]
    expiries: Mapping[str, float]
    """Of SVIDs, by SPIFFE ID."""
    bundle: Bundle | None
    clock_skew: float | None
    """By how many seconds the authority's clock is ahead; None where there is none, or it was not heard."""
    authority_restarts: int
    worker_restarts: Mapping[str, int]
    """By why a worker had to be replaced."""
