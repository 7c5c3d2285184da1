"""Which service accounts have a pod on which node: counted as pods come, move and go."""

from hypothesis import given
from hypothesis import strategies as st

from agent.authority.workloads import CatalogWorkloads
from agent.catalog.snapshot import CatalogChange
from agent.objects.key import ObjectKey
from agent.objects.model import Pod

NODES, ACCOUNTS, NAMES = ("node-a", "node-b"), ("web", "api"), ("one", "two", "three")


def pod(name: str, account: str = "web", node: str = "node-a") -> Pod:
    return Pod("demo", name, account, node, ())


def test_a_workload_is_on_a_node_as_long_as_any_pod_of_it_is() -> None:
    workloads = CatalogWorkloads()
    workloads.update(CatalogChange(1, (pod("one"), pod("two"))), ())
    workloads.update(CatalogChange(2, gone=(ObjectKey("Pod", "demo", "one"),)), ())
    assert workloads.has_workload("node-a", "demo", "web")
    workloads.update(CatalogChange(3, (pod("two", node="node-b"),)), ())
    assert not workloads.has_workload("node-a", "demo", "web"), "its last pod there is elsewhere now"
    assert workloads.has_workload("node-b", "demo", "web")
    assert not workloads.has_workload("node-b", "other", "web")


CHANGES = st.lists(
    st.one_of(st.builds(pod, *map(st.sampled_from, (NAMES, ACCOUNTS, NODES))), st.sampled_from(NAMES)), max_size=20
)


@given(CHANGES)
def test_whatever_comes_and_goes_it_says_what_the_pods_of_now_say(steps: list[Pod | str]) -> None:
    workloads, pods = CatalogWorkloads(), dict[str, Pod]()
    for number, step in enumerate(steps, 1):
        if isinstance(step, Pod):
            pods[step.name] = step
            workloads.update(CatalogChange(number, (step,)), ())
        else:
            pods.pop(step, None)
            workloads.update(CatalogChange(number, gone=(ObjectKey("Pod", "demo", step),)), ())
        there = {(each.node, each.service_account) for each in pods.values()}
        assert {
            (node, account) for node in NODES for account in ACCOUNTS if workloads.has_workload(node, "demo", account)
        } == there
