"""The verbs, put together: each is imported when it is called."""

import sys

from cyclopts import App


def installed() -> str:
    """The version of the package that is installed."""
    from importlib.metadata import version

    return version("quietwire")


app = App(
    name="quietwire",
    help="Transparent mTLS between pods: one agent per node, no change to any application.",
    version=installed,
    help_format="plaintext",
)
app.command("agent.cli.up:up")
app.command("agent.cli.agent:agent")
app.command("agent.cli.authority:app", name="authority")
app.command("agent.cli.authz:app", name="authz")
app.command("agent.cli.check:check")
app.command("agent.cli.cni:app", name="cni")
app.command("agent.cli.install:install")
app.command("agent.cli.webhook:app", name="webhook")
app.command("agent.cli.demo:demo")


@app.command
def init() -> None:
    """Install, verify or remove the capture rules of one pod: see `quietwire init --help`."""


def run(words: list[str] | None = None) -> None:
    """Parses the command line, or `words` in its place, and runs the verb."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0].startswith("-"):
        for name in app:
            app[name]  # imports it: who names no verb is shown the first line of what each says of itself
    app(words)
