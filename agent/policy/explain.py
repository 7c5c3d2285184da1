"""Who reaches what, and why: the answer of `authz`, made by the same functions that decide about connections."""

import ipaddress
from enum import StrEnum

from msgspec import Struct

from agent.catalog.index import CatalogIndex
from agent.catalog.mesh import accepts_mesh, sends_mesh
from agent.identity.spiffe import SpiffeId, SpiffeIdError
from agent.objects.annotations import MESHED_ONLY
from agent.objects.key import PodKey
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.authorize import authorize
from agent.policy.identities import LINKERD_NAMESPACE
from agent.policy.index import PolicyIndex
from agent.policy.model import Client, Considered, Denial, Permit, Permits, PodPort, egress_rule
from agent.policy.networks import Address


class Verdict(StrEnum):
    """What happens to a connection."""

    ALLOW = "allow"
    DENY = "deny"
    AUDIT = "audit"


class Question(Struct, frozen=True, rename="kebab"):
    """One of `from_` (namespace/pod) and `from_ip` with or without `from_id`; a port is a number or a name."""

    to: str
    port: int | str
    from_: str | None = None
    from_ip: str | None = None
    from_id: str | None = None

    def __str__(self) -> str:
        who = self.from_ or self.from_ip or "?"
        return f"{who}{f' as {self.from_id}' if self.from_id else ''} -> {self.to}:{self.port}"


class Explanation(Struct, frozen=True, rename={"decided_by": "server"}):
    """The answer. `decided_by` (in JSON: `server`) and `authorization` are empty where nothing of that sort decided."""

    verdict: Verdict
    decided_by: str
    authorization: str
    reason: str
    considered: tuple[Considered, ...] = ()


class QuestionError(Exception):
    """A question that cannot be answered, and why."""


class Explainer:
    """Answers questions about one catalog and the policy in it."""

    def __init__(self, catalog: CatalogIndex, policy: PolicyIndex, *, egress_mode: str) -> None:
        self._catalog = catalog
        self._policy = policy
        self._egress_mode = egress_mode

    def explain(self, question: Question) -> Explanation:
        """The verdict, what decided, and what was considered. Raises QuestionError."""
        target = self._pod(question.to, "to")
        port = _port(target, question.port)
        if question.from_ is None:
            if question.from_ip is None:
                raise QuestionError("who asks? Give from (NAMESPACE/POD), or from-ip")
            address = _address(question.from_ip)
            identity = None if question.from_id is None else self._identity(question.from_id)
            return self._inbound(target, port, Client(address, identity, tls=identity is not None))
        if question.from_ip is not None or question.from_id is not None:
            raise QuestionError("from says who asks already: leave from-ip and from-id out")
        return self._from_pod(self._pod(question.from_, "from"), target, port)

    def _from_pod(self, source: Pod, target: Pod, port: int) -> Explanation:
        if source.key == target.key:
            return Explanation(Verdict.ALLOW, "", "", "a pod always reaches itself")
        pairs: list[tuple[str | None, str | None]]
        pairs = [(mine, theirs) for mine in source.ips for theirs in target.ips if _same_family(mine, theirs)]
        if not pairs:  # which address it would come from is unknown, where it is one of the same family
            mine = source.ips[0] if source.ips and not target.ips else None
            pairs = [(mine, target.ips[0] if target.ips else None)]
        answers = [self._between(source, target, port, mine, theirs) for mine, theirs in pairs[:_MAX_PAIRS]]
        # Where address families differ, what an operator must know is the one that does not work.
        return min(answers, key=lambda answer: _STRICTEST.index(answer.verdict))

    def _between(self, source: Pod, target: Pod, port: int, mine: str | None, theirs: str | None) -> Explanation:
        captured = source.settings.injected and (theirs is None or sends_mesh(source.settings, port, theirs))
        awaited = target.meshed and not _keeps_out(target, port, source, theirs, mine)
        mode = source.settings.egress_mode or self._egress_mode
        if captured and not awaited and mode == MESHED_ONLY:
            reason = (
                f"{source.key} may only dial meshed pods (egress mode {MESHED_ONLY}), and {target.key}:{port} is none "
                f"of the mesh"
            )
            return Explanation(Verdict.DENY, egress_rule(mode), "", f"{Outcome.EGRESS_NOT_MESHED}: {reason}")
        meshed = captured and awaited
        identity = None
        if meshed:
            domain = self._policy.settings.trust_domain
            identity = SpiffeId.for_service_account(domain, source.namespace, source.service_account)
        address = None if mine is None else ipaddress.ip_address(mine)
        return self._inbound(target, port, Client(address, identity, tls=meshed))

    def _inbound(self, target: Pod, port: int, client: Client) -> Explanation:
        if not target.meshed:
            return Explanation(Verdict.ALLOW, "", "", f"{target.key} is not meshed: no policy is enforced for it")
        peer = None if client.address is None else str(client.address)
        skipped = any(port in ports for ports in target.settings.skip_inbound_ports)
        if skipped or (peer is not None and not accepts_mesh(target.settings, port, peer)):
            reason = f"the annotations of {target.key} keep this traffic out of the mesh: no policy is enforced for it"
            return Explanation(Verdict.ALLOW, "", "", reason)
        permits = self._policy.permits(target, port)
        return explanation(authorize(PodPort(target.key, port), client, permits), client, permits)

    def _pod(self, name: str, what: str) -> Pod:
        pod = self._catalog.pod(PodKey(name))
        if pod is not None:
            return pod
        if "/" not in name:
            raise QuestionError(f"{what} {name!r} is no NAMESPACE/POD")
        namespace = name.partition("/")[0]
        near = sorted(each.key for each in self._catalog.pods() if each.namespace == namespace)
        there = f"; {namespace} has {', '.join(near[:8])}{', …' if len(near) > 8 else ''}" if near else ""
        raise QuestionError(f"{what}: there is no pod {name}{there}")

    def _identity(self, text: str) -> SpiffeId:
        domain = self._policy.settings.trust_domain
        try:
            if text.lower().startswith("spiffe://"):
                found = SpiffeId.parse(text)
            else:
                stem, middle, rest = text.lower().partition(".serviceaccount.identity.")
                account, dot, namespace = stem.rpartition(".")
                if not middle or not dot or not account or rest not in {domain, f"{LINKERD_NAMESPACE}.{domain}"}:
                    raise QuestionError(
                        f"from-id {text!r} is neither a spiffe:// ID nor SERVICEACCOUNT.NAMESPACE.serviceaccount."
                        f"identity.{domain}"
                    )
                found = SpiffeId.for_service_account(domain, namespace, account)
        except SpiffeIdError as error:
            raise QuestionError(f"from-id: {error}") from None
        if found.trust_domain != domain:
            raise QuestionError(f"from-id {text} is of another trust domain than {domain}: its handshake would fail")
        return found


_STRICTEST = (Verdict.DENY, Verdict.AUDIT, Verdict.ALLOW)
_MAX_PAIRS = 64


def explanation(answer: Permit | Denial, client: Client, permits: Permits) -> Explanation:
    """A decision as the answer to a question; where it allows, with those that were asked before."""
    if isinstance(answer, Denial):
        return Explanation(
            Verdict.DENY, answer.decided_by, "", f"{answer.outcome}: {answer.message}", answer.considered
        )
    verdict = Verdict.AUDIT if answer.audit else Verdict.ALLOW
    if answer.audited is None:
        considered = permits.considered(client, until=answer.authorization)
        reason = f"{answer.authorization} lets it in"
    else:
        considered = answer.considered
        reason = (
            f"{answer.decided_by} audits: what would be denied is let through, logged and counted. "
            f"{answer.audited.outcome}: {answer.audited.message}"
        )
    return Explanation(verdict, answer.decided_by, answer.authorization, reason, considered)


def _same_family(one: str, other: str) -> bool:
    return (":" in one) == (":" in other)


def _keeps_out(target: Pod, port: int, source: Pod, theirs: str | None, mine: str | None) -> bool:
    """Whether the target's rules do not capture what this source sends to this port: what `route` goes by.

    It takes any of the source's addresses of the family for one that it may come from; where there is none, or none is
    known, only the port can keep it out.
    """
    if theirs is None:
        sources = [] if mine is None else [mine]
    else:
        sources = [ip for ip in source.ips if _same_family(ip, theirs)]
    if not sources:
        return any(port in ports for ports in target.settings.skip_inbound_ports)
    return not any(accepts_mesh(target.settings, port, ip) for ip in sources)


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise QuestionError(f"from-ip: {error}") from None


def _port(target: Pod, port: int | str) -> int:
    if isinstance(port, str):
        if port.isascii() and port.isdigit():
            port = int(port)
        else:
            named = [each.port for each in target.container_ports if each.name == port]
            if not named:
                known = ", ".join(each.name for each in target.container_ports if each.name)
                raise QuestionError(f"{target.key} has no port called {port!r}; it has {known or 'none with a name'}")
            return named[0]
    if not 1 <= port <= 65535:
        raise QuestionError(f"port {port} must be 1 to 65535")
    return port
