"""A manifest by hand means what the same one means when the API gives it back, with its defaults filled in."""

from typing import Any

import pytest

from agent.catalog.join import Assembly
from agent.catalog.snapshot import CatalogChange
from tests.catalog.services import Manifest
from tests.policy.world import read, text_of

HTTP: dict[str, Any] = {"httpGet": {"port": 8080}}
HTTP_FILLED = {
    "httpGet": {"port": 8080, "path": "/", "scheme": "HTTP"},
    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
}  # fmt: skip
FILLED_CONTAINER = {
    "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    "imagePullPolicy": "Always",
}  # fmt: skip
FILLED_POD = {
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default", "serviceAccount": "default", "securityContext": {},
    "schedulerName": "default-scheduler", "enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority",
    "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
}  # fmt: skip


def filled(bare: Manifest, **more: Any) -> Manifest:
    """What the API adds to every object."""
    metadata = bare["metadata"] | {
        "namespace": "default", "uid": "", "resourceVersion": "7", "generation": 1, "managedFields": [],
    }  # fmt: skip
    return bare | {"metadata": metadata} | more


POD: Manifest = {
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "nodeName": "node-a",
        "containers": [{"name": "c", "ports": [{"containerPort": 8080}], "livenessProbe": HTTP}],
    },
    "status": {"podIP": "192.0.2.1", "hostIP": "203.0.113.1"},
}  # fmt: skip
POD_FILLED = filled(
    POD,
    apiVersion="v1",
    spec=FILLED_POD
    | {
        "nodeName": "node-a",
        "containers": [
            FILLED_CONTAINER
            | {
                "name": "c",
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "livenessProbe": HTTP_FILLED,
            }
        ],
    },
    status={
        "phase": "Running",
        "podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}],
        "hostIP": "203.0.113.1", "hostIPs": [{"ip": "203.0.113.1"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
    },
)  # fmt: skip
SERVICE: Manifest = {
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 8080}]},
}
SERVICE_FILLED = filled(
    SERVICE,
    apiVersion="v1",
    spec={
        "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"app": "web"},
        "ports": [{"port": 8080, "protocol": "TCP", "targetPort": 8080}], "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    },
    status={"loadBalancer": {}},
)  # fmt: skip
BALANCED = SERVICE | {
    "spec": SERVICE["spec"] | {"type": "LoadBalancer", "sessionAffinity": "ClientIP"},
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
}
BALANCED_FILLED = SERVICE_FILLED | {
    "spec": SERVICE_FILLED["spec"]
    | {
        "type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": True,
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "VIP"}]}},
}  # fmt: skip
SLICE: Manifest = {
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "endpoints": [{"addresses": ["192.0.2.1"]}],
    "ports": [{"port": 8080}],
}
SLICE_FILLED = filled(
    SLICE,
    apiVersion="discovery.k8s.io/v1",
    addressType="IPv4",
    endpoints=[{"addresses": ["192.0.2.1"], "conditions": {"ready": True, "serving": True, "terminating": False}}],
    ports=[{"port": 8080, "name": "", "protocol": "TCP"}],
)
SERVER: Manifest = {
    "apiVersion": "policy.linkerd.io/v1beta3",
    "kind": "Server",
    "metadata": {"name": "web"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "port": 8080},
}
SERVER_FILLED = filled(SERVER, spec=SERVER["spec"] | {"proxyProtocol": "unknown", "accessPolicy": "deny"})


def catalog(*manifests: Manifest) -> CatalogChange | None:
    loaded = read(text_of(manifests))
    assert (loaded.faults, loaded.remarks) == ((), ())
    return Assembly().apply(loaded.objects)


@pytest.mark.parametrize(
    ("bare", "given_back", "others"),
    [
        (POD, POD_FILLED, [SERVICE]),
        (SERVICE, SERVICE_FILLED, [POD]),
        (BALANCED, BALANCED_FILLED, [POD]),
        (SLICE, SLICE_FILLED, [SERVICE]),
        (SERVER, SERVER_FILLED, [POD]),
    ],
    ids=["Pod", "Service", "LoadBalancer", "EndpointSlice", "Server"],
)
def test_a_manifest_by_hand_means_what_the_api_makes_of_it(
    bare: Manifest, given_back: Manifest, others: list[Manifest]
) -> None:
    assert catalog(bare, *others) == catalog(given_back, *others)


@pytest.mark.parametrize(
    ("spec", "account"),
    [
        ({}, "default"),
        ({"serviceAccount": "old"}, "old"),
        ({"serviceAccount": "old", "serviceAccountName": ""}, "old"),
        ({"serviceAccount": "old", "serviceAccountName": "new"}, "new"),
        ({"serviceAccount": None, "serviceAccountName": None}, "default"),
    ],
)
def test_the_service_account_by_its_name_by_its_former_name_or_the_default_one(
    spec: dict[str, Any], account: str
) -> None:
    change = catalog(POD | {"spec": spec})
    assert change is not None
    assert [pod.service_account for pod in change.pods] == [account]
