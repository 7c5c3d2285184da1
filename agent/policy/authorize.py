"""The one decision: pure, over frozen values, made at accept and again at every change."""

from agent.outcome import Outcome
from agent.policy.model import Address, Client, Considered, Denial, Permit, Permits, Requirement, ServerPort


def authorize(server: ServerPort, client: Client, permits: Permits) -> Permit | Denial:
    """Whether this client may speak to this port. A Permit is needed to forward; a Denial says why not."""
    considered = []
    for authorization in permits.authorizations:
        lacked = authorization.lacks(client)
        if lacked is None:
            return Permit(permits.server, authorization.name)
        considered.append(Considered(authorization.name, lacked))
    if permits.audit:
        return Permit(permits.server, "audit", audit=True)
    outcome = _outcome(client, permits)
    return Denial(permits.server, outcome, tuple(considered), _message(server, client, permits, outcome))


def could_permit_unauthenticated(permits: Permits, address: Address) -> bool:
    """Whether a plaintext client from this address could be let in: detection asks before anything was read."""
    return permits.audit or any(
        authorization.requirement is Requirement.NOTHING and authorization.covers(address)
        for authorization in permits.authorizations
    )


def _outcome(client: Client, permits: Permits) -> Outcome:
    if not permits.authorizations:
        return Outcome.DENIED_BY_DEFAULT
    if any(authorization.covers(client.address) for authorization in permits.authorizations):
        return Outcome.UNAUTHENTICATED if client.identity is None else Outcome.IDENTITY_NOT_PERMITTED
    return Outcome.NETWORK_NOT_PERMITTED


def _message(server: ServerPort, client: Client, permits: Permits, outcome: Outcome) -> str:
    who = f"{client.address}" if client.identity is None else f"{client.identity} at {client.address}"
    match outcome:
        case Outcome.UNAUTHENTICATED:
            advice = (
                "policy demands mTLS. Enrol the client's pod, or allow it by "
                "config.linkerd.io/default-inbound-policy on the pod or its namespace"
            )
        case Outcome.NETWORK_NOT_PERMITTED:
            advice = "its address is in no network that policy allows. Is --cluster-networks right?"
        case Outcome.DENIED_BY_DEFAULT:
            advice = "the default policy is deny, and nothing allows anybody"
        case _:
            advice = "no authorization names this identity"
    return f"{server}: {who} is not permitted by {permits.server}: {advice}"
