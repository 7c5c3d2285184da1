"""Why a connection that is being set up cannot be served."""

from agent.outcome import Outcome


class Refusal(Exception):
    """The connection cannot be served. `alert` is what the peer still gets to read."""

    def __init__(self, outcome: Outcome, message: str, alert: bytes = b"") -> None:
        super().__init__(outcome, message)
        self.outcome = outcome
        self.message = message
        self.alert = alert

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}"
