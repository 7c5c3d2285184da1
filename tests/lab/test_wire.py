"""A capture that cannot be made is an error at once."""

import pytest

from agent.lab.frames import WireError
from agent.lab.wire import Wire


def test_a_capture_in_a_namespace_that_there_is_not_is_refused_and_waits_for_nothing() -> None:
    with pytest.raises(WireError, match=r"^no recording in nowhere: .* does not exist"), Wire("nowhere"):
        pytest.fail("nothing is recorded")
