"""Pods that controllers would make: one for each template, under its controller's name."""

from pathlib import Path

from agent.catalog.sources.files.templates import templates


def test_a_list_of_deployments_gives_the_pods_of_their_templates(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("apiVersion: apps/v1\nkind: DeploymentList\nitems:\n- metadata: {name: web}\n  spec: {}\n")
    assert [str(key) for key in templates([path]).pods] == ["Pod default/web"]
