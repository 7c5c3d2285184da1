"""The outbound path: route, dial from the pod's namespace, mTLS towards meshed pods, relay."""

import asyncio
from collections.abc import Callable

from agent.capture.address import OriginalDst
from agent.identity import peer
from agent.outcome import Outcome
from agent.policy.model import Denial, Rule, egress_rule
from agent.proxy import detect
from agent.proxy.connection import Connection, Security
from agent.proxy.handshake import shake_hands
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.proxy.report import destination
from agent.proxy.route import Mesh, Plain, Refused, route
from agent.proxy.stage import SetUp
from agent.proxy.view import Touched
from agent.tls.contexts import Contexts
from agent.tls.machine import TlsMachine


async def serve(connection: Connection, setup: SetUp) -> None:
    """Serves one connection up to its relay. Raises Refusal."""
    runtime, original, app_leg = connection.runtime, connection.original_destination, setup.accepted
    begun_in = runtime.view.generation
    pod = runtime.pod_of(connection.enrolled)
    passage = route(pod, original, runtime.view, runtime.pick)
    if isinstance(passage, Refused):
        if passage.outcome is Outcome.EGRESS_NOT_MESHED:
            rule = egress_rule(runtime.view.egress_mode(pod))
            connection.decision = Denial(rule, passage.outcome, passage.message)
        raise Refusal(passage.outcome, passage.message)
    connection.route = passage
    runtime.weigh(passage.address, passage.port)
    connection.client_id = runtime.view.identity_of(pod)

    place = (passage.address, passage.port)
    sources = connection.enrolled.sources(connection.client, original, place, own=passage.address in pod.ips)
    machine: TlsMachine | None = None
    remember: Callable[[TlsMachine], bool] | None = None
    first = b""
    if isinstance(passage, Plain):
        peer_leg = setup.dialled = await runtime.dial(connection.enrolled, app_leg.bell, *place, sources)
    else:
        contexts = runtime.view.contexts_of(pod, runtime.now())
        if contexts is None:
            raise Refusal(Outcome.NO_IDENTITY, f"{pod.key} has no valid SVID now; see the agent's /ready")
        connection.server_id = passage.server_id
        peer_leg = setup.dialled = await runtime.dial(connection.enrolled, app_leg.bell, *place, sources)
        machine, first = await _mutual_tls(connection, peer_leg, passage, contexts)
        # A ticket is used again and again, and the server gives none on resumption: that saves both ends its making.
        # Tracking by tickets (RFC 8446, appendix C.4) tells nobody more here than the pods' own addresses do.
        remember = None if machine.resumed else _rememberer(passage, contexts)

    if app_leg.lost:
        raise Refusal(Outcome.RESET_BY_APPLICATION, "the application left while its connection was set up")
    if runtime.view.generation != begun_in:  # something has changed while we dialled
        connection.check_identity()
        gone = still_permitted(connection)
        if gone is not None:
            connection.decision = gone
            raise Refusal(gone.outcome, gone.message)

    connection.start_relay(passage, app_leg, peer_leg, machine, remember, first)


async def _mutual_tls(
    connection: Connection, peer_leg: Opening, passage: Mesh, contexts: Contexts
) -> tuple[TlsMachine, bytes]:
    runtime = connection.runtime
    session = contexts.sessions.get(passage.server_id, passage.address)
    machine = TlsMachine.client(contexts.client, passage.server_id.dns_name or "", session)
    deadline = asyncio.get_running_loop().time() + detect.HANDSHAKE_SECONDS
    first = await shake_hands(peer_leg, machine, deadline)
    certificate = machine.peer_certificate
    if certificate is None:
        raise Refusal(Outcome.CERTIFICATE_MISSING, f"{passage.pod} at {destination(connection)} showed no certificate")
    try:
        identity = peer.identify(certificate, trust_domain=runtime.view.settings.trust_domain, now=runtime.now())
        peer.expect(identity, passage.server_id)
        certificates = contexts.certificates(machine, certificate, identity)
    except peer.PeerRefused as refused:
        raise Refusal(refused.outcome, refused.detail) from refused
    connection.stands_on(certificates)
    connection.security = Security.MTLS
    connection.resumed = machine.resumed
    return machine, first


def _rememberer(passage: Mesh, contexts: Contexts) -> Callable[[TlsMachine], bool]:
    def remember(machine: TlsMachine) -> bool:
        session = machine.session
        if session is None:
            return False
        contexts.sessions.put(passage.server_id, passage.address, session)
        return True

    return remember


def still_permitted(connection: Connection, touched: Touched | None = None) -> Denial | None:
    """None while an outbound connection may stay, else why not. `touched` is what a change was about, if not all.

    It may not when its destination has become another pod's or another identity's, when it is plain and the
    destination is meshed now, or when the egress mode forbids it now. A pod that merely left the catalog may
    still be finishing what it does: its connections end with it.
    """
    passage, runtime = connection.route, connection.runtime
    if passage is None:
        return None
    if touched is not None and connection.pod not in touched.pods and passage.address not in touched.addresses:
        return None
    pod = runtime.view.catalog.pod(connection.pod)
    if pod is None:
        return None  # un-enrolment ends it
    if isinstance(passage, Mesh) and runtime.view.identity_of(pod) != connection.client_id:
        message = f"{pod.key} is {runtime.view.identity_of(pod)} now, and no longer {connection.client_id}"
        return Denial(Rule.IDENTITY, Outcome.TERMINATED, message)
    place = OriginalDst(passage.address, passage.port)
    now = route(pod, place, runtime.view, lambda front, _client: front.endpoints[0])
    if isinstance(passage, Mesh):
        if runtime.view.catalog.pod_at(passage.address) is None:
            return None
        if isinstance(now, Mesh) and now.server_id == passage.server_id and now.pod == passage.pod:
            return None
        message = f"{destination(connection)} is no longer {passage.pod} as {passage.server_id}"
        rule = Rule.MESH if not isinstance(now, Mesh) else Rule.ADDRESS if now.pod != passage.pod else Rule.IDENTITY
        return Denial(rule, Outcome.TERMINATED, message)
    match now:
        case Plain():
            return None
        case Refused(outcome, message):
            mode = egress_rule(runtime.view.egress_mode(pod))
            return Denial(mode if outcome is Outcome.EGRESS_NOT_MESHED else Rule.ADDRESS, Outcome.TERMINATED, message)
        case Mesh():
            message = f"{destination(connection)} is meshed now: plaintext must end"
            return Denial(Rule.MESH, Outcome.TERMINATED, message)
