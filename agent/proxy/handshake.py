"""Drives a TLS machine's handshake over a leg that is being set up."""

from agent.outcome import Outcome
from agent.proxy.opening import Opening
from agent.proxy.refusal import Refusal
from agent.tls.machine import TlsFailure, TlsMachine


async def shake_hands(leg: Opening, machine: TlsMachine, deadline: float) -> bytes:
    """Completes the handshake; returns application data that came with its last flight, decrypted.

    What our own last flight is (a client's Finished, a server's ticket) stays in the machine: the relay sends it with
    the first application data, in one segment and not in two. Raises Refusal: HANDSHAKE_TIMEOUT, or what the machine or
    the peer had against it.
    """
    plaintext = b""
    if not leg.held:  # a server has the ClientHello by now
        machine.start()
        _flush(leg, machine)
    while not machine.handshake_complete:
        if leg.held:
            given = leg.take()
            try:
                plaintext += machine.receive(given)
            except TlsFailure as failure:
                # OpenSSL's alert goes out, so that the peer knows why.
                raise Refusal(failure.outcome, failure.detail, machine.outgoing()) from failure
            if machine.pending:
                leg.give_back(given[-machine.pending :])
            if not machine.handshake_complete:
                _flush(leg, machine)
        elif leg.lost:
            raise Refusal(Outcome.HANDSHAKE_FAILED, "the peer reset the connection in the handshake") from leg.error
        elif leg.eof:
            raise Refusal(Outcome.HANDSHAKE_FAILED, "the peer ended the connection in the handshake")
        elif not await leg.bell.wait(deadline):
            raise Refusal(Outcome.HANDSHAKE_TIMEOUT, "the handshake was not finished in time")
    return plaintext


def _flush(leg: Opening, machine: TlsMachine) -> None:
    out = machine.outgoing()
    if out and not leg.lost:
        leg.transport.write(out)
