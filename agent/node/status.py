"""What the admin server answers: alive, ready (and who holds it back), metrics."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.identity.svid import Bundle
from agent.node.workers import Ending
from agent.objects.key import PodKey
from agent.policy.explain import Question, QuestionError
from agent.telemetry.admin import Handler, Response
from agent.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from agent.node.supervisor import Supervisor


ITSELF = -1
"""The supervisor, where its workers are numbered from 0."""


class Waiting(msgspec.Struct, frozen=True):
    """A pod that holds readiness back."""

    pod: PodKey
    reason: str


class Ready(msgspec.Struct, frozen=True):
    """The body of /ready."""

    ready: bool
    pods: int
    waiting: tuple[Waiting, ...]
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


class Status:
    """Reads the supervisor; changes nothing."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor

    def handlers(self) -> Mapping[str, Handler]:
        """One handler per path."""
        return {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics, "/authz": self._authz}

    async def _live(self, _query: Mapping[str, str]) -> Response:
        return Response.text("alive\n")

    async def _ready(self, _query: Mapping[str, str]) -> Response:
        supervisor = self._supervisor
        waiting = supervisor.waiting()
        body = Ready(
            ready=supervisor.ready,
            pods=len(supervisor.enrolment.captured),
            waiting=tuple(Waiting(pod, reason) for pod, reason in sorted(waiting.items())),
            faults=(*(str(fault) for fault in supervisor.faults), *supervisor.identity_faults),
            warnings=tuple(str(finding) for finding in supervisor.findings),
        )
        return Response.json(msgspec.json.encode(body) + b"\n", status=200 if body.ready else 503)

    async def _metrics(self, _query: Mapping[str, str]) -> Response:
        supervisor = self._supervisor
        await supervisor.workers.scrape()
        live: Counter[str] = Counter()
        for handle in supervisor.workers.handles:
            live.update(supervisor.live.get((handle.index, handle.incarnation), {}))
        waiting = supervisor.waiting()
        supervisor.totals.update(ITSELF, 0, supervisor.counters.snapshot())
        metrics = Metrics(supervisor.totals)
        return Response.metrics(
            metrics.render(
                live=live,
                expiries={str(spiffe_id): svid.not_after for spiffe_id, svid in supervisor.svids.items()},
                worker_restarts={ending.value: supervisor.workers.restarts[ending] for ending in Ending},
                pods={
                    "captured": len(supervisor.enrolment.captured),
                    "waiting": len(waiting),
                    "left": supervisor.enrolment.left,
                },
                catalog_version=supervisor.catalog.version,
                catalog_faults=len(supervisor.faults),
                identity_faults=len(supervisor.identity_faults),
                policy_warnings=len(supervisor.findings),
                rule_repairs=supervisor.enrolment.repairs,
                ports_taken=supervisor.enrolment.ports_taken,
                conntrack_used=supervisor.enrolment.conntrack.used,
                foreign_nat=supervisor.enrolment.foreign_nat,
                above=above(supervisor.bundle),
                bundle_sequence=0 if supervisor.bundle is None else supervisor.bundle.sequence,
                clock_skew=supervisor.clock_skew,
                authority_restarts=supervisor.authority_restarts,
                now=time.time(),
            )
        )

    async def _authz(self, query: Mapping[str, str]) -> Response:
        """Explains: `?from=NS/POD` or `?from-ip=IP[&from-id=ID]`, and `&to=NS/POD&port=N`."""
        try:
            question = msgspec.convert(dict(query), Question, strict=False)
            answer = self._supervisor.explainer().explain(question)
        except msgspec.ValidationError as error:
            return Response.text(f"{error}\n", 400)
        except QuestionError as error:
            return Response.text(f"{error}\n", 400)
        return Response.json(msgspec.json.encode(answer) + b"\n")


def above(bundle: Bundle | None) -> dict[str, float]:
    """When what is above all SVIDs expires, POSIX seconds: `issuer`, and each `root <digest>`."""
    if bundle is None:
        return {}
    found = {"issuer": bundle.issuer_expires} if bundle.issuer_expires else {}
    for certificate in x509.load_pem_x509_certificates(bundle.anchors_pem):
        digest = certificate.fingerprint(hashes.SHA256()).hex()[:16]
        found[f"root {digest}"] = certificate.not_valid_after_utc.timestamp()
    return found
