"""A pod whose namespace is ours: which ports the agent has there, and what its rules are made from."""

import os
import socket
from pathlib import Path

import pytest

from agent.node.enrolled import AgentPorts, Enrolled
from init.model import Options
from tests.node.places import Places, pod


@pytest.fixture
def api(tmp_path: Path) -> Enrolled:
    return Places(tmp_path).enrolled("api", uid="uid-1")


def test_rules_lead_to_the_ports_that_it_has_and_to_the_wanted_ones_until_then(api: Enrolled) -> None:
    wanted = Options()
    assert (api.options.outbound_port, api.options.inbound_port) == (wanted.outbound_port, wanted.inbound_port)
    api.ports, api.mark = AgentPorts(4150, 4153), 7
    assert (api.options.outbound_port, api.options.inbound_port, api.options.mark) == (4150, 4153, 7)
    assert api.wanted == wanted, "what is wanted stays: the first ports are tried first again"
    assert (AgentPorts(wanted.outbound_port, wanted.inbound_port), AgentPorts(4150, 4153)) == api.agent_ports[:2]
    api.close()


def test_the_ports_that_are_tried_are_all_different(api: Enrolled) -> None:
    every = [port for ports in api.agent_ports for port in (ports.outbound, ports.inbound)]
    assert len(set(every)) == len(every)
    api.close()


@pytest.mark.parametrize(("uid", "another"), [("uid-1", False), ("uid-2", True), ("", False)])
def test_a_pod_of_the_same_name_is_another_one_by_its_uid(api: Enrolled, uid: str, another: bool) -> None:
    assert api.is_another(pod("api", uid=uid)) is another
    api.close()


def test_one_that_is_refused_listens_nowhere_and_may_be_served_again(api: Enrolled) -> None:
    with socket.socket() as listener:
        api.listeners.append({"inbound": listener})
        api.ports, api.offered = AgentPorts(4150, 4153), True
        api.refuse()
        assert listener.fileno() == -1
    assert api.listeners == []
    assert not api.offered
    assert api.options == api.wanted, "and the first ports are tried again"
    os.fstat(api.fd)
    api.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(api.fd)
