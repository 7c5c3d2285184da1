"""The one decision: pure, over frozen values, made at accept and again at every change."""

from agent.outcome import Outcome
from agent.policy.model import Client, Denial, Judged, Permit, Permits, PodPort
from agent.policy.networks import Address

AUDIT = "audit"


def authorize(port: PodPort, client: Client, permits: Permits) -> Permit | Denial:
    """Whether this client may speak to this port. A Permit is needed to forward; a Denial says why not."""
    name = permits.matcher.first(client)
    if name is not None:
        return permits.permit(name)
    denial = Denial(permits.decided_by, _outcome(client, permits), judged=Judged(port, client, permits))
    return Permit(permits.decided_by, AUDIT, audited=denial) if permits.audits(client) else denial


def could_permit_unauthenticated(permits: Permits, address: Address) -> bool:
    """Whether a plaintext client from this address could be let in: detection asks before anything was read."""
    return permits.audits(Client(address, None, tls=False)) or permits.matcher.lets_plaintext_in(address)


def _outcome(client: Client, permits: Permits) -> Outcome:
    if permits.audit and not permits.audits(client):
        return Outcome.UNAUTHENTICATED if client.identity is None else Outcome.IDENTITY_NOT_PERMITTED
    if not permits.authorizations:
        return Outcome.ROUTE_LEVEL_ONLY if permits.only_routes else Outcome.DENIED_BY_DEFAULT
    if not permits.matcher.is_usable:
        return Outcome.POLICY_INCOMPLETE
    if client.address is None:
        usable = (each for each in permits.authorizations if not each.nobody)
        by_identity = all(each.lacks_identity(client) for each in usable)
    else:
        by_identity = permits.matcher.lets_somebody_in(client.address)
    if by_identity:
        return Outcome.UNAUTHENTICATED if client.identity is None else Outcome.IDENTITY_NOT_PERMITTED
    return Outcome.NETWORK_NOT_PERMITTED
