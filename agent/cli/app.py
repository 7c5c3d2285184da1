"""The verbs, put together."""

from importlib.metadata import version

from cyclopts import App

from agent.cli.agent import agent
from agent.cli.authority import app as authority
from agent.cli.authz import app as authz
from agent.cli.demo import demo
from agent.cli.up import up

app = App(
    name="quietwire",
    help="Transparent mTLS between pods: one agent per node, no change to any application.",
    version=version("quietwire"),
)
app.command(up)
app.command(agent)
app.command(authority)
app.command(authz)
app.command(demo)


@app.command
def init() -> None:
    """Install, verify or remove the capture rules of one pod: see `quietwire init --help`."""


def run() -> None:
    """Parses the command line and runs the verb."""
    app()
