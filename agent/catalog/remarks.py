"""What is legal in a source's objects and does not do what it seems to: each said once, as long as it stands."""

import logging
from collections.abc import Collection

from agent.manifests.fault import Remark

log = logging.getLogger("quietwire.catalog")

MAX_SAID = 100
"""Lines at once, of faults or of remarks: a wish that has no meaning may stand on every pod."""


class Remarks:
    """What has been said of a source. `of` begins each line, and `where` ends that about those that are too many."""

    def __init__(self, of: str = "", where: str = "") -> None:
        self._of = of
        self._where = where
        self._said: frozenset[Remark] = frozenset()

    @property
    def standing(self) -> frozenset[Remark]:
        """Those of now."""
        return self._said

    def say(self, remarks: Collection[Remark]) -> None:
        """Warns of those that are new, up to a bound."""
        new = [each for each in remarks if each not in self._said]
        for each in new[:MAX_SAID]:
            log.warning("%s%s", self._of, each, extra={"fields": {"event": "remark", **each.origin.fields}})
        if len(new) > MAX_SAID:
            log.warning("%s%d more such things%s", self._of, len(new) - MAX_SAID, self._where)
        self._said = frozenset(remarks)
