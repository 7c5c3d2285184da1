"""What the admin server answers: alive, ready (and who holds it back), metrics."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.catalog.source import SourceState
from agent.identity.svid import Bundle
from agent.node.facts import Facts
from agent.objects.key import PodKey
from agent.policy.explain import Explainer, Question, QuestionError
from agent.telemetry.admin import Handler, Response
from agent.telemetry.counters import CounterTotals
from agent.telemetry.metrics import Metrics


class Waiting(msgspec.Struct, frozen=True):
    """A pod that holds readiness back."""

    pod: PodKey
    reason: str


class Catalog(msgspec.Struct, frozen=True):
    """How fresh the catalog is: whether it is remembered from before the start, and of which kinds nothing is heard."""

    version: int
    remembered: bool
    unheard: dict[str, str]


class Ready(msgspec.Struct, frozen=True):
    """The body of /ready. A catalog that is not fresh holds nothing back: what it says is in force."""

    ready: bool
    pods: int
    catalog: Catalog
    waiting: tuple[Waiting, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


class Scraped(NamedTuple):
    """What all processes of an agent have counted, and connections that live, by direction."""

    totals: CounterTotals
    live: Mapping[str, int]


class Status:
    """Answers from what it is given when it is asked: `facts`, what was `scraped` from the workers, an `explainer`."""

    def __init__(
        self, facts: Callable[[], Facts], scraped: Callable[[], Awaitable[Scraped]], explainer: Callable[[], Explainer]
    ) -> None:
        self._facts = facts
        self._scraped = scraped
        self._explainer = explainer

    def handlers(self) -> Mapping[str, Handler]:
        """One handler per path."""
        return {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics, "/authz": self._authz}

    async def _live(self, _query: Mapping[str, str]) -> Response:
        return Response.text("alive\n")

    async def _ready(self, _query: Mapping[str, str]) -> Response:
        facts = self._facts()
        body = Ready(
            ready=facts.ready,
            pods=facts.captured,
            catalog=Catalog(facts.catalog_version, facts.catalog.remembered, dict(facts.catalog.unheard)),
            waiting=tuple(Waiting(pod, reason) for pod, reason in sorted(facts.waiting.items())),
            faults=(*(str(fault) for fault in facts.faults), *facts.identity_faults),
            warnings=tuple(str(finding) for finding in facts.findings),
        )
        return Response.json(msgspec.json.encode(body) + b"\n", status=200 if body.ready else 503)

    async def _metrics(self, _query: Mapping[str, str]) -> Response:
        scraped = await self._scraped()
        facts, now = self._facts(), time.time()
        return Response.metrics(
            Metrics(scraped.totals).render(
                live=scraped.live,
                expiries=facts.expiries,
                worker_restarts=facts.worker_restarts,
                pods={"captured": facts.captured, "waiting": len(facts.waiting), "left": facts.left},
                catalog_version=facts.catalog_version,
                catalog_remembered=facts.catalog.remembered,
                catalog_unheard=_unheard(facts.catalog, now),
                catalog_faults=len(facts.faults),
                identity_faults=len(facts.identity_faults),
                policy_warnings=len(facts.findings),
                rule_repairs=facts.rule_repairs,
                ports_occupied=facts.ports_occupied,
                conntrack_used=facts.conntrack_used,
                foreign_nat=facts.foreign_nat,
                capabilities=facts.capabilities,
                above=above(facts.bundle),
                bundle_sequence=0 if facts.bundle is None else facts.bundle.sequence,
                clock_skew=facts.clock_skew,
                authority_restarts=facts.authority_restarts,
                now=now,
            )
        )

    async def _authz(self, query: Mapping[str, str]) -> Response:
        """Explains: `?from=NS/POD` or `?from-ip=IP[&from-id=ID]`, and `&to=NS/POD&port=N`."""
        try:
            question = msgspec.convert(dict(query), Question, strict=False)
            answer = self._explainer().explain(question)
        except msgspec.ValidationError as error:
            return Response.text(f"{error}\n", 400)
        except QuestionError as error:
            return Response.text(f"{error}\n", 400)
        return Response.json(msgspec.json.encode(answer) + b"\n")


def _unheard(catalog: SourceState, now: float) -> dict[str, float]:
    """For how many seconds, by kind."""
    return {kind: max(0.0, now - (catalog.since or now)) for kind, _ in catalog.unheard}


def above(bundle: Bundle | None) -> dict[str, float]:
    """When what is above all SVIDs expires, POSIX seconds: `issuer`, and each `root <digest>`."""
    if bundle is None:
        return {}
    found = {"issuer": bundle.issuer_expires} if bundle.issuer_expires else {}
    for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem):
        digest = certificate.fingerprint(hashes.SHA256()).hex()[:16]
        found[f"root {digest}"] = certificate.not_valid_after_utc.timestamp()
    return found
