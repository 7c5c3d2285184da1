"""What must be there before anything runs: what is said where it is not."""

import asyncio
import sys

import pytest

from agent.node import start as module


@pytest.mark.parametrize("wanted", [module.DESCRIPTORS, 4096])
async def test_a_start_that_may_not_open_what_it_wants_says_so(wanted: int) -> None:
    """A real process, which may not raise its own hard limit."""
    code = (
        "import logging, resource; logging.basicConfig()\n"
        "from agent.node import start\n"
        f"start.DESCRIPTORS = {wanted}\n"
        "start.raise_descriptor_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    process = await asyncio.create_subprocess_exec(
        *("prlimit", "--nofile=1024:4096", "setpriv", "--bounding-set=-sys_resource"),
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    limits, said = await process.communicate()
    assert limits == b"4096 4096\n"
    if wanted == 4096:
        assert said == b""
    else:
        assert b"may open 4096 descriptors (hard limit 4096) and not 1048576" in said
        assert b"more than about 2048 at once" in said
        assert b"LimitNOFILE=1048576" in said
