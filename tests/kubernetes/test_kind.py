"""Where a kind is served."""

from agent.kubernetes.kind import Kind

PODS = Kind("", "v1", "pods", "Pod")
SERVERS = Kind("policy.linkerd.io", "v1beta3", "servers", "Server")


def test_the_core_group_has_a_path_of_its_own() -> None:
    assert PODS.path == "/api/v1/pods"
    assert PODS.path_of("demo", "api-0", "status") == "/api/v1/namespaces/demo/pods/api-0/status"
    assert PODS.api_version == "v1"
    assert str(PODS) == "pods"


def test_other_groups_are_below_apis() -> None:
    assert SERVERS.path == "/apis/policy.linkerd.io/v1beta3/servers"
    assert SERVERS.path_of("demo") == "/apis/policy.linkerd.io/v1beta3/namespaces/demo/servers"
    assert SERVERS.api_version == "policy.linkerd.io/v1beta3"
    assert str(SERVERS) == "servers.policy.linkerd.io"


def test_kinds_without_a_namespace() -> None:
    nodes = Kind("", "v1", "nodes", "Node")
    assert nodes.path_of("", "n1") == "/api/v1/nodes/n1"
