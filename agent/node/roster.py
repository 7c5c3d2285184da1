"""Whose namespaces are the agent's: pods that are enrolled, and namespaces that are no pod's any more."""

from agent.capture.netns import NetnsId
from agent.node.enrolled import Enrolled
from agent.objects.key import PodKey


class Roster:
    """Both, as they are now. What enrols pods writes it; what keeps their rules goes by it."""

    def __init__(self) -> None:
        self.pods: dict[PodKey, Enrolled] = {}
        self.left: dict[NetnsId, Enrolled] = {}
        """Namespaces that are no pod's any more, and in which somebody lives: their rules stay, and refuse."""

    def __contains__(self, enrolled: Enrolled) -> bool:
        """Whether it is this one that is enrolled under its name."""
        return self.pods.get(enrolled.key) is enrolled

    def is_left(self, enrolled: Enrolled) -> bool:
        """Whether its namespace is no pod's any more."""
        return enrolled.identity in self.left

    def holder(self, identity: NetnsId) -> PodKey | None:
        """The pod that is enrolled in a namespace."""
        return next((each.key for each in self.pods.values() if each.identity == identity), None)

    @property
    def all(self) -> list[Enrolled]:
        """Everybody whose rules are kept."""
        return [*self.pods.values(), *self.left.values()]

    def close(self) -> None:
        """Closes every listener and namespace; the rules stay."""
        for enrolled in self.all:
            enrolled.close()
        self.pods.clear()
        self.left.clear()
