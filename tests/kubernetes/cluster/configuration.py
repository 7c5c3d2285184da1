"""How the cluster's programs are called and configured: words and documents. Pure."""

import json
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster.layout import (
    API_PORT,
    DNS_SERVICE,
    ETCD,
    PODS,
    PODS_V6,
    SERVICES,
    SERVICES_V6,
    Layout,
    Node,
)

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
"""Inside a node."""
PAUSE_IMAGE = "localhost/pause:1"


def etcd(layout: Layout, program: Path) -> list[str]:
    """One member, without waiting for the disk: who loses power loses a test."""
    return [
        str(program),
        f"--data-dir={layout.directory / 'etcd'}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]


def api_server(layout: Layout, program: Path) -> list[str]:
    """As kubeadm would have it: RBAC, NodeRestriction, aggregation, projected tokens."""
    pki = layout.pki
    return [
        str(program),
        f"--etcd-servers={ETCD}",
        f"--advertise-address={layout.address}",
        f"--secure-port={API_PORT}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={Path(__file__).with_name('audit.yaml')}",
        f"--audit-log-path={layout.audit}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-cluster-ip-range={SERVICES},{SERVICES_V6}",
    ]


def controller_manager(layout: Layout, program: Path) -> list[str]:
    """With a CIDR of each family for each node's pods."""
    pki = layout.pki
    return [
        str(program),
        *_as("controller-manager", pki),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={PODS},{PODS_V6}",
        f"--service-cluster-ip-range={SERVICES},{SERVICES_V6}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
    ]


def scheduler(layout: Layout, program: Path) -> list[str]:
    """As it is."""
    return [str(program), *_as("scheduler", layout.pki)]


def _as(name: str, pki: Path) -> list[str]:
    kubeconfig = pki / f"{name}.conf"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",  # there is one: with a lease it would end when the API server is away for longer
    ]


def kubelet(node: Node) -> dict[str, Any]:
    """Its KubeletConfiguration, v1beta1."""
    pki = node.cluster.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.cluster.directory / "resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "oomScoreAdj": 0,  # less needs CAP_SYS_RESOURCE
        "imageMinimumGCAge": "24h",  # there is no registry to fetch them from again
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": 250,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "nodeStatusUpdateFrequency": "5s",
        "registerWithTaints": [],
    }


def kube_proxy(node: Node, mode: str) -> dict[str, Any]:
    """Its KubeProxyConfiguration, v1alpha1; `mode` is iptables or nftables. Conntrack's limits are the machine's."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(node.cluster.pki / "kube-proxy.conf")},
        "mode": mode,
        "clusterCIDR": f"{PODS},{PODS_V6}",
        "hostnameOverride": node.name,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def containerd(node: Node) -> str:
    """Its config.toml: images and layers on the node's disk, CRI alone."""
    root = node.directory / "containerd"
    return f"""version = 2
root = "{root / "root"}"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "{CONTAINERD_SOCKET}"
[ttrpc]
address = "{CONTAINERD_SOCKET}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{root / "opt"}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def cni(cidrs: list[str]) -> str:
    """The node's network: a bridge, and addresses of each family from its own CIDRs."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "cluster",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "isDefaultGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/var/lib/cni/networks",
                        "ranges": [[{"subnet": cidr}] for cidr in cidrs],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
        indent=1,
    )
