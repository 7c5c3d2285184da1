"""The demo on a cluster is as it should be: the command that the project is about, and what is on the wire."""

import pytest

from agent.cli.demo.story import Step
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.demo.story import OUTSIDE, SHOP, Story
from tests.kubernetes.mesh import Mesh


@pytest.mark.disruptive
def test_every_step_of_the_demo_is_as_it_should_be(cluster: Cluster, mesh: Mesh) -> None:
    told: list[Step] = []
    with cluster.namespace(SHOP), cluster.namespace(OUTSIDE):
        story = Story(mesh, told.append)
        story.set_up()
        steps = story.play()
    assert [(step.key, step.ok, step.evidence) for step in steps if not step.ok] == []
    assert [step.key for step in told] == [
        "reached", "encrypted", "identities", "stranger_refused", "policy_live", "fail_closed",
    ]  # fmt: skip
