"""Manifests as the field has them: what helm renders for known charts, and YAML that says something else than it seems.

The charts are written here in their shape: the kinds, versions and fields that they use, and none of their text.
"""

from pathlib import Path

import pytest

from agent.objects.model import ContainerPort
from agent.policy.check import findings
from tests.catalog.sources.files.test_directory import Source

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{a: {label}}}
spec: {{containers: [{{name: c, image: i, ports: [{{name: http, containerPort: {port}}}]}}]}}
status: {{podIP: 192.0.2.9}}
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(("yes", None), ("on", None), ("1.10", None), ("~", None), ("0x10", None)),
        *(("'yes'", "yes"), ("y", "y"), ("0o17", "0o17"), ("1e3", "1e3"), ("2020-01-01", "2020-01-01"), ("=", "=")),
    ],
)
def test_a_label_that_yaml_takes_for_something_else_is_a_fault_as_the_api_server_says(
    source: Source, written: str, read: str | None
) -> None:
    """And never a label that is a little different: a Server would select other pods. The pod itself stays, closed."""
    source.write("pod.yaml", POD.format(name="web", label=written, port=80))
    source.load()
    (pod,) = source.catalog.pods
    assert pod.labels.get("a") == read
    faults = [str(fault) for fault in source.faults]
    assert len(faults) == (read is None)
    assert all("pod.yaml:6: Pod default/web: metadata.labels.a: a string is expected here" in each for each in faults)


@pytest.mark.parametrize(
    ("written", "read"),
    [("8080", 8080), ("0x1f90", 8080), ("010", 8), ("8_080", 8080), ("'8080'", None), ("80.0", None), ("1:20", None)],
)
def test_a_port_is_the_number_that_yaml_1_1_makes_of_it_or_a_fault(
    source: Source, written: str, read: int | None
) -> None:
    source.write("pod.yaml", POD.format(name="web", label="x", port=written))
    source.load()
    (pod,) = source.catalog.pods
    assert pod.container_ports == (() if read is None else (ContainerPort("http", read),))
    assert len(source.faults) == (read is None)


def test_a_pod_whose_name_is_no_is_a_fault_that_says_so(source: Source) -> None:
    source.write("pod.yaml", POD.format(name="no", label="x", port=80))
    source.load()
    assert source.catalog.pods == ()
    assert "pod.yaml:5: metadata.name: a string is expected here, not False" in str(source.faults[0])


def test_a_byte_order_mark_and_crlf_change_nothing(source: Source) -> None:
    text = POD.format(name="web", label="x", port=80)
    source.write("pod.yaml", text)
    source.load()
    plain = source.catalog.pods
    (source.directory / "pod.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    source.load()
    assert (source.catalog.pods, source.faults) == (plain, ())


VIZ = """
kind: Namespace
apiVersion: v1
metadata:
  name: linkerd-viz
  labels: {linkerd.io/extension: viz, pod-security.kubernetes.io/enforce: privileged}
  annotations: {linkerd.io/inject: enabled, config.linkerd.io/proxy-await: "enabled"}
---
kind: ServiceAccount
apiVersion: v1
metadata: {name: metrics-api, namespace: linkerd-viz}
---
kind: Service
apiVersion: v1
metadata: {name: metrics-api, namespace: linkerd-viz, labels: {component: metrics-api}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.7
  selector: {linkerd.io/extension: viz, component: metrics-api}
  ports: [{name: http, port: 8085, targetPort: 8085}]
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: metrics-api, namespace: linkerd-viz}
spec: {replicas: 1}
---
kind: Pod
apiVersion: v1
metadata:
  name: metrics-api-0
  namespace: linkerd-viz
  labels: {linkerd.io/extension: viz, component: metrics-api}
spec:
  serviceAccountName: metrics-api
  containers:
  - name: metrics-api
    image: metrics-api
    ports: [{name: http, containerPort: 8085}, {name: admin-http, containerPort: 9995}]
    livenessProbe: {httpGet: {path: /ping, port: 9995}, initialDelaySeconds: 10}
    readinessProbe: {failureThreshold: 7, httpGet: {path: "/ready?verbose=1", port: 9995}}
status: {podIP: 10.1.0.7}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: metrics-api, namespace: linkerd-viz, labels: {component: metrics-api}}
spec:
  podSelector: {matchLabels: {linkerd.io/extension: viz, component: metrics-api}}
  port: http
  proxyProtocol: HTTP/1
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: proxy-admin, namespace: linkerd-viz}
spec:
  podSelector: {matchExpressions: [{key: linkerd.io/extension, operator: In, values: [viz]}]}
  port: linkerd-admin
  proxyProtocol: HTTP/1
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: metrics-api, namespace: linkerd-viz}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: metrics-api}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: metrics-api-web}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: metrics-api-web, namespace: linkerd-viz}
spec: {identityRefs: [{kind: ServiceAccount, name: web}, {kind: ServiceAccount, name: prometheus}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: kubelet, namespace: linkerd-viz}
spec: {networks: [{cidr: 0.0.0.0/0}, {cidr: "::/0"}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: viz, namespace: linkerd-viz}
spec:
  targetRef: {kind: Namespace, name: linkerd-viz}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: NetworkAuthentication, name: kubelet}]
"""
MULTICLUSTER = """
kind: Namespace
apiVersion: v1
metadata: {name: linkerd-multicluster, labels: {linkerd.io/extension: multicluster}}
---
kind: Pod
apiVersion: v1
metadata:
  name: gateway-0
  namespace: linkerd-multicluster
  labels: {app: linkerd-gateway}
  annotations: {linkerd.io/inject: enabled, config.linkerd.io/proxy-require-identity-inbound-ports: "4143"}
spec:
  containers: [{name: pause, image: pause, ports: [{name: mc-probe, containerPort: 4191}]}]
status: {podIP: 10.1.0.8}
---
kind: Service
apiVersion: v1
metadata:
  name: linkerd-gateway
  namespace: linkerd-multicluster
  annotations: {mirror.linkerd.io/gateway-identity: a.b.serviceaccount.identity.c, mirror.linkerd.io/probe-period: "3"}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.8
  selector: {app: linkerd-gateway}
  ports: [{name: mc-gateway, port: 4143, protocol: TCP}, {name: mc-probe, port: 4191, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.8}]}}
---
apiVersion: multicluster.linkerd.io/v1alpha2
kind: Link
metadata: {name: east, namespace: linkerd-multicluster}
spec: {targetClusterName: east}
---
apiVersion: policy.linkerd.io/v1beta1
kind: Server
metadata: {name: linkerd-gateway, namespace: linkerd-multicluster}
spec: {podSelector: {matchLabels: {app: linkerd-gateway}}, port: mc-probe}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: linkerd-gateway, namespace: linkerd-multicluster}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: linkerd-gateway}
  requiredAuthenticationRefs:
  - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: any-meshed}
  - {group: policy.linkerd.io, kind: NetworkAuthentication, name: source-cluster}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: any-meshed, namespace: linkerd-multicluster}
spec: {identities: ["*"]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: source-cluster, namespace: linkerd-multicluster}
spec: {networks: [{cidr: 0.0.0.0/0}, {cidr: "::/0"}]}
"""
EMOJIVOTO = """
kind: Namespace
apiVersion: v1
metadata: {name: emojivoto, annotations: {linkerd.io/inject: enabled}}
---
kind: Service
apiVersion: v1
metadata: {name: emoji-svc, namespace: emojivoto}
spec:
  clusterIP: 10.96.0.9
  selector: {app: emoji-svc}
  ports: [{name: grpc, port: 8080, targetPort: 8080}, {name: prom, port: 8801, targetPort: 8801}]
---
kind: Pod
apiVersion: v1
metadata: {name: emoji-0, namespace: emojivoto, labels: {app: emoji-svc, version: v11}}
spec:
  serviceAccountName: emoji
  containers:
  - name: emoji-svc
    image: emoji
    env: [{name: GRPC_PORT, value: "8080"}]
    ports: [{name: grpc, containerPort: 8080}, {name: prom, containerPort: 8801}]
    resources: {requests: {cpu: 100m}}
status: {podIP: 10.1.0.9}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: emoji-grpc, namespace: emojivoto, labels: {app: emoji-svc}}
spec: {podSelector: {matchLabels: {app: emoji-svc}}, port: grpc, proxyProtocol: gRPC}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: emoji-grpc, namespace: emojivoto}
spec:
  server: {selector: {matchLabels: {app: emoji-svc}}}
  client: {meshTLS: {serviceAccounts: [{name: web}]}}
"""


SIDECARS = "Server linkerd-viz/proxy-admin: none of the pods that it selects has a port called 'linkerd-admin'"


@pytest.mark.parametrize(
    ("chart", "policies", "probed", "found"),
    [(VIZ, 6, (9995,), [SIDECARS]), (MULTICLUSTER, 4, (), []), (EMOJIVOTO, 2, (), [])],
    ids=["viz", "multicluster", "emojivoto"],
)
def test_a_known_chart_is_read_without_a_fault(
    source: Source, chart: str, policies: int, probed: tuple[int, ...], found: list[str]
) -> None:
    """Each of its kinds, and what is none of ours beside them; a port that only a sidecar has is remarked on.

    A probe's path may have a query.
    """
    source.write("chart.yaml", chart)
    source.load()
    assert [str(fault) for fault in source.faults] == []
    assert len(source.catalog.policies) == policies
    (pod,) = source.catalog.pods
    assert pod.settings.injected
    assert pod.probe_ports == probed
    assert [str(each) for each in findings(source.catalog.pods, source.catalog.policies)] == found
