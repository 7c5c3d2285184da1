"""A pod whose namespace is ours: descriptors, the ports and listeners of the agent in it, and what its rules say."""

import os
import socket
from dataclasses import replace

from msgspec import Struct

from agent.capture import netns, sockets
from agent.capture.netns import NetnsId
from agent.objects.model import Pod
from init import kernel
from init.model import Options


class AgentPorts(Struct, frozen=True):
    """The ports that the agent listens on in a pod: for what goes out of it, and for what comes in."""

    outbound: int
    inbound: int


PORT_STEPS = range(0, 100, 10)
"""By how much the ports that are tried in turn are above those that are wanted."""


class Enrolled:
    """A local pod whose namespace is ours: descriptors, listeners, and what its rules were made from."""

    def __init__(self, pod: Pod, fd: int, number: int, options: Options) -> None:
        self.key = pod.key
        self.uid = pod.uid
        self.fd = fd
        self.identity: NetnsId = netns.identify(fd)
        self.number = number
        """By which who lives in it is told (`inhabitants.number_here`)."""
        self.wanted = options
        self.ports: AgentPorts | None = None
        """Which the agent listens on in there, once they are its own: what is captured is redirected to them."""
        self.mark: int | None = None
        """Of what the agent dials in there, once it was asked for."""
        self.occupied: list[str] = []
        """Where somebody else was found listening."""
        self.stand_ins = False
        """What the agent dials may come from a stand-in's address: its rules say so."""
        self.tries = 0
        self.ruled = False
        """The rules for `wanted`, with these ports and this mark, are in force."""
        self.unruly = ""
        """Why its rules could not be written when that was tried last."""
        self.retry_at = 0.0
        """When it is tried again; the loop's time."""
        self.listeners: list[dict[str, socket.socket]] = []
        """One set per worker."""
        self.offered = False
        """The workers have been told to serve it."""
        self.capabilities: tuple[str, ...] = ()
        """Of NET_ADMIN and NET_RAW what some process in there has, as it was found last: it gets past capture."""
        self.restless = False
        """Its rules are broken again and again: its listeners are closed until they hold still."""
        self.crowded = False
        """It was said that its conntrack table is nearly full."""
        self.foreign: tuple[str, ...] = ()
        """Nat rules of others that come before ours, as they were said last."""

    @property
    def agent_ports(self) -> tuple[AgentPorts, ...]:
        """Those that are wanted, and in this order those that follow where an application listens on them."""
        return tuple(
            AgentPorts(self.wanted.outbound_port + step, self.wanted.inbound_port + step) for step in PORT_STEPS
        )

    @property
    def options(self) -> Options:
        """Of its rules."""
        ports = self.ports or self.agent_ports[0]
        return replace(self.wanted, mark=self.mark, outbound_port=ports.outbound, inbound_port=ports.inbound)

    def is_another(self, pod: Pod) -> bool:
        """Whether the pod of this name is not the one that was enrolled. Where one of them has no UID, it is."""
        return bool(self.uid and pod.uid) and self.uid != pod.uid

    def refuse(self) -> None:
        """Closes the listeners: once the workers have closed theirs, the kernel refuses."""
        for each in self.listeners:
            for sock in each.values():
                sock.close()
        self.listeners.clear()
        self.ports = None
        self.offered = False

    def close(self) -> None:
        """Closes the listeners and the namespace."""
        self.refuse()
        os.close(self.fd)

    def make_listeners(self, ports: AgentPorts) -> dict[str, socket.socket]:
        """One worker's, in the calling thread's namespace: call it in a visit. Raises OSError."""
        return sockets.listeners(
            ipv6=self.wanted.ipv6 and kernel.has_ipv6(), inbound_port=ports.inbound, outbound_port=ports.outbound
        )
