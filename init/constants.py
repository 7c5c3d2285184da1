"""Names on the outside: ports, marks, tables. The agent imports these; nothing is written twice."""

OUTBOUND_PORT = 4140
INBOUND_PORT = 4143
REPLY_MARK = 0x111
"""On connections that the agent opened from a client's own address: replies come back over lo."""
STAND_IN_MARK = 0x112
"""On connections of the agent's that have a stand-in's address (init.stand_in): the pod's own is put back."""
MARK_MASK = 0xFFF
"""What of a connection's mark, and of the mark by which replies are routed, is ours."""
AGENT_MARK = "AGENT_MARK"
"""What people read in place of the mark that the agent's own sockets have (init.agent_mark)."""
CONNTRACK_ZONE = 0x539
"""Where conntrack keeps what the agent dials: apart from what others dial with the same four numbers."""
ROUTE_TABLE = 100
RULE_PRIORITY = 100
ENROL_SOCKET = "enrol/enrol.sock"
"""Below the agent's run directory. In a directory of its own, which is what a pod has mounted: a mount of the socket
itself would lead to the one of an agent that is gone."""
CNI_SOCKET = "cni/cni.sock"
"""Below the agent's run directory, for the container runtime's plugin; no pod has its directory."""
AGENT_SOCKET = f"/run/quietwire/{ENROL_SOCKET}"
MEMORY_DIRECTORY = "/run/quietwire/init"
"""What `remove` must know later: sysctls as they were, by namespace."""
BACKENDS = ("auto", "legacy", "nft")
FOREIGN_NAT_HINT = (
    "what they divert is refused. Remove them, or take what they are for out of capture: "
    "skip-inbound-ports, skip-outbound-ports (--backend nft comes before those of iptables)"
)
"""What follows of nat rules that come before ours, and what to do."""
