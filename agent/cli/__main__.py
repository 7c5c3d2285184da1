"""`python -m agent.cli`: the same as `quietwire`."""

from agent.cli import main

main()
