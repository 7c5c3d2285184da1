"""Names on the outside: ports, marks, tables. The agent imports these; nothing is written twice."""

OUTBOUND_PORT = 4140
INBOUND_PORT = 4143
MARK = 0x539
"""On every socket that the agent dials with: its traffic is never captured."""
REPLY_MARK = 0x111
"""On connections that the agent opened from a client's own address: replies come back over lo."""
MARK_MASK = 0xFFF
CONNTRACK_ZONE = 0x539
"""Where conntrack keeps what the agent dials: apart from what others dial with the same four numbers."""
ROUTE_TABLE = 100
RULE_PRIORITY = 100
AGENT_SOCKET = "/run/quietwire/agent.sock"
MEMORY_DIRECTORY = "/run/quietwire/init"
"""What `remove` must know later: sysctls as they were, by namespace."""
BACKENDS = ("auto", "legacy", "nft")
