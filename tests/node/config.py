"""One configuration of an agent, for tests."""

from pathlib import Path

from agent.flags import HostPort
from agent.node.config import Config, Directory, SvidFiles
from agent.objects.policy import DefaultPolicy


def config(directory: Path) -> Config:
    """With all its directories in this one."""
    return Config(
        node="node-a",
        trust_domain="example.test",
        source=Directory(directory / "manifests"),
        state=directory / "state",
        run_dir=directory / "run",
        admin=HostPort("127.0.0.1", 0),
        identity=SvidFiles(directory / "svids"),
        workers=1,
        default_inbound_policy=DefaultPolicy.ALL_AUTHENTICATED,
        cluster_networks=(),
        egress_mode="allow",
        backend="auto",
        outbound_port=4140,
        inbound_port=4143,
        drain_seconds=1,
        verify_seconds=1,
        access_log=False,
        log_format="text",
        log_level="info",
    )
