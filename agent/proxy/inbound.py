"""The inbound path: detect, terminate mesh TLS, authorize, dial the application, relay."""

import asyncio

from agent.capture.address import parsed
from agent.catalog.mesh import sends_mesh
from agent.identity import peer
from agent.objects.annotations import SKIP_SUBNETS
from agent.objects.model import Pod
from agent.outcome import Outcome
from agent.policy.authorize import authorize, could_permit_unauthenticated
from agent.policy.model import Client, Denial, Permit, PodPort, Rule
from agent.proxy import detect, report
from agent.proxy.connection import Connection, Security
from agent.proxy.handshake import shake_hands
from agent.proxy.refusal import Refusal
from agent.proxy.source import of_client
from agent.proxy.stage import SetUp
from agent.proxy.view import Touched
from agent.tls import alerts
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine


async def serve(connection: Connection, setup: SetUp) -> None:
    """Serves one connection up to its relay. Raises Refusal."""
    client_leg = setup.accepted
    runtime, (client, original) = connection.runtime, (connection.client, connection.original_destination)
    begun_in = runtime.view.generation
    loop = asyncio.get_running_loop()
    deadline = loop.time() + detect.HANDSHAKE_SECONDS
    pod = runtime.pod_of(connection.enrolled)
    if original.address not in pod.ips:
        raise Refusal(Outcome.NOT_A_POD_ADDRESS, _not_its_own(connection, pod))
    _contexts(connection, pod)
    server_id = connection.server_id = runtime.view.identity_of(pod)
    server_name = (server_id.dns_name or "").lower()
    address = parsed(client.address)
    place, sources = (original.address, original.port), of_client(client)

    source = runtime.view.catalog.pod_at(client.address)
    if source is not None and sends_mesh(source.settings, original.port, original.address):
        detected = await detect.wait_for_hello(client_leg, server_name, deadline)
    elif could_permit_unauthenticated(runtime.view.policy.permits(pod, original.port), address):
        application = setup.dialled = await runtime.dial(connection.enrolled, client_leg.bell, *place, sources)

        def still_possible() -> bool:
            now = runtime.view.catalog.pod(pod.key)
            return now is not None and could_permit_unauthenticated(
                runtime.view.policy.permits(now, original.port), address
            )

        detected = await detect.first_speaker(client_leg, application, server_name, deadline, still_possible)
    else:
        detected = await detect.wait_for_hello(client_leg, server_name, deadline)

    # That may have taken hours, if nobody spoke: what was known at accept is asked for anew.
    pod = runtime.pod_of(connection.enrolled)
    contexts = _contexts(connection, pod)
    machine: TlsMachine | None = None
    first = b""
    match detected:
        case detect.Rejected(outcome, message):
            alert = alerts.PROTOCOL_VERSION if outcome is Outcome.TLS_VERSION else alerts.NO_APPLICATION_PROTOCOL
            raise Refusal(outcome, message, alert)
        case detect.MeshTls():
            machine = TlsMachine.server(contexts.server)
            first = await shake_hands(client_leg, machine, loop.time() + detect.HANDSHAKE_SECONDS)
            connection.security = Security.TLS
            connection.resumed = machine.resumed
            certificate = machine.peer_certificate
            identity: peer.PeerIdentity | None = None
            try:
                if certificate is not None:
                    identity = peer.identify(
                        certificate, trust_domain=runtime.view.settings.trust_domain, now=runtime.now()
                    )
                certificates = contexts.certificates(machine, certificate, identity)
            except peer.PeerRefused as refused:
                raise Refusal(refused.outcome, refused.detail) from refused
            if identity is not None:
                connection.client_id = identity.spiffe_id
                connection.security = Security.MTLS
            connection.stands_on(certificates)
        case detect.Unauthenticated():
            pass

    connection.source = source
    permit = judge(connection)
    if isinstance(permit, Denial):
        raise _denied(permit, detected, pod, connection)

    dialled = setup.dialled
    if dialled is None:
        try:
            dialled = setup.dialled = await runtime.dial(connection.enrolled, client_leg.bell, *place, sources)
        except Refusal as refused:
            # With the ticket, that the next try need not shake hands: who waits for an application tries again.
            last_flight = b"" if machine is None else machine.outgoing()
            raise Refusal(refused.outcome, refused.message, last_flight) from refused
    if client_leg.lost:
        raise Refusal(Outcome.RESET_BY_PEER, "the client left while its connection was set up")
    # Since accept everything may have changed: whose the addresses are, who is revoked, and what is permitted.
    if runtime.view.generation != begun_in:
        connection.check_identity()
        now = still_permitted(connection)
        if isinstance(now, Denial):
            connection.decision = now
            raise Refusal(now.outcome, now.message)
        permit = now or permit

    connection.start_relay(permit, dialled, client_leg, machine, first=first)


def _not_its_own(connection: Connection, pod: Pod) -> str:
    """Why what was dialled is not served, and what could be done about it."""
    original, known = connection.original_destination, ", ".join(pod.ips)
    if connection.enrolled.holds(original.address):
        what = (
            f"{original} is on an interface of {pod.key}, and none of its podIPs ({known}): of a second network, "
            f"perhaps. Policy and identities are about podIPs"
        )
    else:
        what = (
            f"{original} is no address of {pod.key} ({known}): it came to be forwarded, from containers within the pod "
            f"or through a tunnel, perhaps. The agent does not forward for others"
        )
    return (
        f"{what}. To have what comes from there pass by the mesh, in plaintext and without policy, name the network of "
        f"{connection.client.address} in the pod's annotation {SKIP_SUBNETS}"
    )


def _contexts(connection: Connection, pod: Pod) -> Contexts:
    contexts = connection.runtime.view.contexts_of(pod, connection.runtime.now())
    if contexts is None:
        raise Refusal(Outcome.NO_IDENTITY, f"{pod.key} has no valid SVID now; see the agent's /ready")
    return contexts


def judge(connection: Connection) -> Permit | Denial:
    """What policy says now about a connection whose client is known. The decision is the connection's from then on."""
    view, port = connection.runtime.view, connection.original_destination.port
    pod = view.catalog.pod(connection.pod)
    if pod is None:
        return Denial(Rule.POD, Outcome.UNENROLLED, f"{connection.pod} left the catalog")
    connection.permits = view.policy.permits(pod, port)
    client = Client(
        parsed(connection.client.address), connection.client_id, tls=connection.security is not Security.PLAIN
    )
    connection.decision = authorize(PodPort(pod.key, port), client, connection.permits)
    return connection.decision


def _denied(denial: Denial, detected: detect.Detected, pod: Pod, connection: Connection) -> Refusal:
    if not isinstance(detected, detect.Unauthenticated):
        return Refusal(denial.outcome, denial.message)
    source = connection.runtime.view.catalog.pod_at(connection.client.address)
    whose = f"pod {source.key}" if source is not None else "which is not meshed"
    message = (
        f"{pod.key}:{connection.original_destination.port}: no mesh TLS from {connection.client}, {whose}: "
        f"{detected.why}. {denial.message}"
    )
    return Refusal(detected.outcome or denial.outcome, message)


def still_permitted(connection: Connection, touched: Touched | None = None) -> Permit | Denial | None:
    """None while a relayed inbound connection is permitted as it was; else what it was judged to be anew.

    Besides policy, what must still hold is that both addresses belong to the pods that they belonged to: whoever is
    given a pod's address inherits nothing. `touched` is what a change of the catalog was about, if not all.
    """
    view, client, original = connection.runtime.view, connection.client, connection.original_destination
    identity, source = connection.client_id, connection.source
    pod = view.catalog.pod(connection.pod)
    if pod is None:
        return Denial(Rule.POD, Outcome.UNENROLLED, f"{connection.pod} left the catalog")
    if touched is None or pod.key in touched.pods:
        if original.address not in pod.ips:
            message = f"{original.address} is no address of {pod.key} any more"
            return Denial(Rule.ADDRESS, Outcome.TERMINATED, message)
        server_id = view.identity_of(pod)
        if server_id != connection.server_id:
            return Denial(Rule.IDENTITY, Outcome.TERMINATED, f"{pod.key} is {server_id} now")
    if touched is None or client.address in touched.addresses:
        now = view.catalog.pod_at(client.address)
        if source is None and now is not None:
            # It called before the catalog knew of it here, or it had the address before the pod that has it now.
            if identity is not None and identity != view.identity_of(now):
                message = f"{client.address} is {now.key}'s now, and {identity} is not its identity"
                return Denial(Rule.ADDRESS, Outcome.TERMINATED, message)
            connection.source = now
        elif source is not None and now is not None:
            if not _same_pod(now, source):
                message = f"{client.address} was {source.key}'s, and is {now.key}'s now"
                return Denial(Rule.ADDRESS, Outcome.TERMINATED, message)
            if now.service_account != source.service_account:
                message = f"{now.key} was {view.identity_of(source)}, and is {view.identity_of(now)} now"
                return Denial(Rule.IDENTITY, Outcome.TERMINATED, message)
    permits = view.policy.permits(pod, original.port)
    if permits is connection.permits:
        return None
    if permits == connection.permits:
        connection.permits = permits  # so that the next look is a look at one pointer
        return None
    audited = report.is_audited(connection)
    verdict = judge(connection)
    if isinstance(verdict, Permit) and not audited:
        report.kept_by_audit(connection, verdict)
    return verdict


def _same_pod(one: Pod, other: Pod) -> bool:
    return one.key == other.key and (one.uid == other.uid or not one.uid or not other.uid)
