"""Stand-ins: the address that a leg of the agent's has inside its pod, in place of one of the pod's own. Pure.

An application's socket and the leg that the agent dials for it cannot have the same four numbers: the kernel keeps all
sockets of a namespace in one table. So where both go to the same place, the leg is bound to another address, with the
application's own port, and the rules put the pod's address back before the packet leaves (`init.model`). On the wire
it is what the application chose.

The addresses are of networks that no packet of the pod's comes from. Which one stands for which is told by the network
alone, so that the rules need not know the pod's addresses.
"""

import ipaddress
from functools import lru_cache

STAND_INS = {
    4: (
        ("250.0.0.0/8", "10.0.0.0/8"),
        ("251.168.0.0/16", "192.168.0.0/16"),
        ("252.16.0.0/12", "172.16.0.0/12"),
        ("253.64.0.0/10", "100.64.0.0/10"),
    ),
    6: (("4000::/3", "2000::/3"), ("ee00::/7", "fc00::/7")),
}
"""By IP version: the stand-ins' network, and the one that it stands for (RFC 1918, 4193, 4291, 6598). Those of IPv4 are
reserved (240.0.0.0/4, RFC 1112), those of IPv6 are not assigned. A pod that has such an address all the same has it on
an interface: by that the rules tell a leg that is there from one that is at a stand-in's."""

OF_THE_ONLY_ADDRESS = "254.0.0.1"
"""Of a pod's only IPv4 address, where that is of none of these networks (a public one): where a pod has no other, the
rules need not be told which one to put in its place."""

_NETWORKS = {
    version: [(ipaddress.ip_network(stand_in), ipaddress.ip_network(own)) for stand_in, own in pairs]
    for version, pairs in STAND_INS.items()
}


@lru_cache(maxsize=4096)
def stand_in(address: str, *, only: bool = False) -> str | None:
    """What stands for an address of a pod's; None: nothing does. `only`: the pod has no other IPv4 address."""
    parsed = ipaddress.ip_address(address)
    for network, own in _NETWORKS[parsed.version]:
        if parsed in own:
            offset = int(parsed) - int(own.network_address)
            return str(network[offset])
    return OF_THE_ONLY_ADDRESS if only and parsed.version == 4 else None
