"""`quietwire authority …`: running an authority, and what an operator does to one.

All but `run` act on the state directory, whether or not the authority runs; a running one notices within a moment.
"""

from cyclopts import App

from agent.cli.authority import looking, revocation, rotation
from agent.cli.authority.mint import mint
from agent.cli.authority.run import run
from agent.cli.authority.token import create

app = App(
    name="authority",
    help="Run the authority that signs identities, and operate one: tokens, rotation, revocation.",
)
token = App(name="token", help="One-time join tokens for agents.")
rotate = App(name="rotate-root", help="Replace the root in stages, with no restart and no failed connection.")
app.command(token)
app.command(rotate)
app.command(run)
app.command(looking.status)
app.command(looking.issued)
app.command(looking.agents)
app.command(revocation.revoke)
app.command(revocation.unrevoke)
app.command(mint)
app.command(looking.bundle)

token.command(create)

rotate.command(rotation.start)
rotate.command(rotation.status)
rotate.command(rotation.advance)
rotate.command(rotation.abort)
