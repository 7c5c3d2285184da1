"""The node's own addresses are followed by what the kernel says, on the loop that the agent runs on."""

import json
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import asyncio, json, subprocess, sys, uvloop
    from agent.capture.node_addresses import follow, node_addresses
    from agent.tasks import spawn

    async def main():
        heard = asyncio.Queue()
        task = spawn(follow(("198.51.100.1",), heard.put_nowait), name="follow")
        said = []
        async with asyncio.timeout(20):
            said.append(await heard.get())  # nothing was heard yet: what was known is looked at once
            for verb, address in (("add", "192.0.2.1/32"), ("add", "2001:db8::1/128"), ("del", "192.0.2.1/32")):
                subprocess.run(["ip", "address", verb, address, "dev", "lo"], check=True)
                before = asyncio.get_running_loop().time()
                said.append(await heard.get())
                assert asyncio.get_running_loop().time() - before < 5
        assert heard.empty()
        task.cancel()
        json.dump(said, sys.stdout)

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    uvloop.run(main())
    """
)


@pytest.mark.netns
def test_an_address_that_comes_or_goes_is_heard_of_at_once() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT], check=True, timeout=60, stdout=subprocess.PIPE
    )
    assert json.loads(done.stdout) == [[], ["192.0.2.1"], ["192.0.2.1", "2001:db8::1"], ["2001:db8::1"]]
