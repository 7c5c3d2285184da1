"""The command line: one module per verb."""

import sys


def main() -> None:
    """The `quietwire` command. `init` runs once per pod, so it goes straight to its own small parser."""
    if sys.argv[1:2] == ["init"]:
        from init.cli import main as init_main

        sys.exit(init_main(sys.argv[2:]))
    from agent.cli.app import run

    run()
