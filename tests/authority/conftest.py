"""A running authority for whoever asks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.authority.running import Authority


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Authority]:
    """One, with roots of its own."""
    made = Authority(tmp_path)
    yield made
    if made.process.poll() is None:
        made.stop()
