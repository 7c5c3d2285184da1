"""The addresses of the node itself: from there its kubelet probes the pods."""

import ipaddress

from pyroute2 import IPRoute


def node_addresses() -> tuple[str, ...]:
    """Every address on an interface of the calling thread's namespace, but for loopback and link-local ones."""
    found = set()
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            if text is None:
                continue
            address = ipaddress.ip_address(text)
            if not address.is_loopback and not address.is_link_local:
                found.add(str(address))
    return tuple(sorted(found))
