"""What a denial says to an operator: the cause, and the next step. Pure."""

from typing import TYPE_CHECKING

from agent.objects.annotations import REQUIRE_IDENTITY
from agent.outcome import Outcome
from agent.policy.identities import whose_own

if TYPE_CHECKING:
    from agent.policy.model import Client, Permits, PodPort


def message(port: "PodPort", client: "Client", permits: "Permits", outcome: Outcome) -> str:
    """Why this client may not speak to this port, and what to do about it."""
    return f"{port}: {client} is not permitted by {permits.decided_by}: {_advice(client, permits, outcome)}"


def _advice(client: "Client", permits: "Permits", outcome: Outcome) -> str:
    default = permits.decided_by.startswith("default:")
    match outcome:
        case Outcome.UNAUTHENTICATED if permits.demanded:
            return (
                f"{REQUIRE_IDENTITY}, of the pod or of its namespace, demands an identity on this port. "
                f"Enrol the client's pod, take the port out of the annotation, or write a Server for it, which decides "
                f"for itself"
            )
        case Outcome.UNAUTHENTICATED:
            return (
                "policy demands mTLS. Enrol the client's pod, or allow it by an AuthorizationPolicy without a mesh "
                "reference, or by config.linkerd.io/default-inbound-policy where no Server selects the port"
            )
        case Outcome.NETWORK_NOT_PERMITTED:
            if client.address is None:
                return "its address is not known, and decides"
            return "its address is in no network that policy allows. Is --cluster-networks right?"
        case Outcome.DENIED_BY_DEFAULT:
            if permits.broken:
                return (
                    "until that is mended, every port that it may be about is closed. quietwire authz check, with the "
                    "manifests, says what is wrong with it and where"
                )
            if not default:
                return "it selects this port, and no authorization lets anybody in. Write an AuthorizationPolicy for it"
            return f"the default policy is {permits.decided_by.partition(':')[2]}, and nothing allows anybody"
        case Outcome.ROUTE_LEVEL_ONLY:
            return (
                f"only its routes have authorizations ({', '.join(permits.only_routes)}), and this version does not "
                f"enforce those: attach an AuthorizationPolicy to the Server itself"
            )
        case Outcome.POLICY_INCOMPLETE:
            return "each of its authorizations lets nobody in: something that they refer to does not exist, or is empty"
        case _:
            owner = "" if client.identity is None else whose_own(client.identity)
            if owner:
                return (
                    f"that is {owner}'s own identity, no workload's, and nothing names it by its SPIFFE ID. If no one "
                    f"is trying it out: quietwire authority revoke"
                )
            return "no authorization names this identity"
