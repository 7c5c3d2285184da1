"""What objects are called."""

from agent.objects.key import ObjectKey, pod_key


def test_a_pod_of_another_cluster_is_another_one() -> None:
    assert pod_key("demo", "api") == "demo/api"
    assert pod_key("demo", "api", "west") == "west/demo/api"


def test_what_has_no_namespace_is_called_without() -> None:
    assert str(ObjectKey("Server", "demo", "api")) == "Server demo/api"
    assert str(ObjectKey("Node", "", "node-a")) == "Node node-a"


def test_keys_are_in_order_by_kind_then_namespace_then_name() -> None:
    node, first, second = ObjectKey("Node", "", "b"), ObjectKey("Pod", "a", "z"), ObjectKey("Pod", "b", "a")
    assert sorted([second, first, node]) == [node, first, second]
