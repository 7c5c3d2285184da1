"""How near an end is: thirty days, seven, none."""

import pytest

from agent.identity.expiry import Nearness, nearness

DAY = 86400.0


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (31 * DAY, Nearness.FAR),
        (30 * DAY + 1, Nearness.FAR),
        (30 * DAY, Nearness.NEAR),
        (7 * DAY + 1, Nearness.NEAR),
        (7 * DAY, Nearness.URGENT),
        (3600.0, Nearness.URGENT),
        (1.0, Nearness.URGENT),
        (0.0, Nearness.EXPIRED),
        (-DAY, Nearness.EXPIRED),
    ],
)
def test_the_thresholds(left: float, wanted: Nearness) -> None:
    assert nearness(1e9 + left, 1e9) is wanted
