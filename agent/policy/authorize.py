"""The one decision: pure, over frozen values, made at accept and again at every change."""

from agent.outcome import Outcome
from agent.policy.model import Address, Client, Considered, Denial, Permit, Permits, Requirement, ServerPort

AUDIT = "audit"


def authorize(server: ServerPort, client: Client, permits: Permits) -> Permit | Denial:
    """Whether this client may speak to this port. A Permit is needed to forward; a Denial says why not."""
    considered: tuple[Considered, ...] = ()
    for authorization in permits.authorizations:
        lacked = authorization.lacks(client)
        if lacked is None:
            return Permit(permits.server, authorization.name, considered=considered)
        considered = (*considered, Considered(authorization.name, lacked))
    if permits.probe is not None:
        lacked = permits.probe.lacks(client)
        if lacked is None:
            return Permit(permits.server, permits.probe.name, considered=considered)
        considered = (*considered, Considered(permits.probe.name, lacked))
    if permits.audit:
        return Permit(permits.server, AUDIT, audit=True, considered=considered)
    outcome = _outcome(client, permits)
    return Denial(permits.server, outcome, considered, _message(server, client, permits, outcome))


def could_permit_unauthenticated(permits: Permits, address: Address) -> bool:
    """Whether a plaintext client from this address could be let in: detection asks before anything was read."""
    if permits.probe is not None and permits.probe.covers(address):
        return True
    return permits.audit or any(
        authorization.requirement is Requirement.NOTHING and not authorization.nobody and authorization.covers(address)
        for authorization in permits.authorizations
    )


def _outcome(client: Client, permits: Permits) -> Outcome:
    if not permits.authorizations:
        return Outcome.ROUTE_LEVEL_ONLY if permits.only_routes else Outcome.DENIED_BY_DEFAULT
    usable = [authorization for authorization in permits.authorizations if not authorization.nobody]
    if not usable:
        return Outcome.POLICY_INCOMPLETE
    if client.address is None:
        by_identity = all(authorization.lacks_identity(client) for authorization in usable)
    else:
        by_identity = any(authorization.covers(client.address) for authorization in usable)
    if by_identity:
        return Outcome.UNAUTHENTICATED if client.identity is None else Outcome.IDENTITY_NOT_PERMITTED
    return Outcome.NETWORK_NOT_PERMITTED


def _message(server: ServerPort, client: Client, permits: Permits, outcome: Outcome) -> str:
    match outcome:
        case Outcome.UNAUTHENTICATED:
            advice = (
                "policy demands mTLS. Enrol the client's pod, or allow it by an AuthorizationPolicy without a mesh "
                "reference, or by config.linkerd.io/default-inbound-policy where no Server selects the port"
            )
        case Outcome.NETWORK_NOT_PERMITTED:
            advice = (
                "its address is not known, and decides"
                if client.address is None
                else "its address is in no network that policy allows. Is --cluster-networks right?"
            )
        case Outcome.DENIED_BY_DEFAULT:
            advice = (
                "the default policy is deny, and nothing allows anybody"
                if permits.server.startswith("default:")
                else "it selects this port, and no authorization lets anybody in. Write an AuthorizationPolicy for it"
            )
        case Outcome.ROUTE_LEVEL_ONLY:
            advice = (
                f"only its routes have authorizations ({', '.join(permits.only_routes)}), and this version does not "
                f"enforce those: attach an AuthorizationPolicy to the Server itself"
            )
        case Outcome.POLICY_INCOMPLETE:
            advice = (
                "each of its authorizations lets nobody in: something that they refer to does not exist, or is empty"
            )
        case _:
            advice = "no authorization names this identity"
    return f"{server}: {client} is not permitted by {permits.server}: {advice}"
