"""Questions as a container runtime asks them."""

import json
from typing import Any

from agent.cni.request import GREETING

POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=api;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1"


def result(*addresses: str, version: str = "1.1.0") -> dict[str, Any]:
    """What the plugins before gave."""
    return {"cniVersion": version, "interfaces": [{"name": "eth0"}], "ips": [{"address": each} for each in addresses]}


def configuration(*addresses: str, version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    """What comes on standard input, with the result of the plugins before."""
    previous = {"prevResult": result(*addresses, version=version)} if addresses else {}
    return {"cniVersion": version, "name": "cluster", "type": "quietwire-cni", **previous, **more}


def environment(command: str, *, args: str = POD, netns: str = "/run/netns/c1", **more: str) -> dict[str, str]:
    """What the runtime sets."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
        "CNI_PATH": "/opt/cni/bin",
        **more,
    }


def frame(variables: dict[str, str], given: Any) -> bytes:
    """As it comes over the socket."""
    named = "".join(f"{name}={value}\0" for name, value in variables.items())
    return GREETING + named.encode() + b"\0" + (given if isinstance(given, bytes) else json.dumps(given).encode())
