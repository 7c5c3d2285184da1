"""A process that has given up capabilities does not have them, and keeps all others."""

import subprocess
import sys

import pytest

SAID = """
import os, socket
from init.capabilities import drop
def has():
    return {line[:6]: int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("Cap")}
before = has()
drop([12, 13, 40])
after = has()
for name in ("CapPrm", "CapEff", "CapInh"):
    assert after[name] == before[name] & ~(1 << 12 | 1 << 13 | 1 << 40), name
assert before["CapEff"] >> 12 & 1
print(os.geteuid())
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
except PermissionError:
    print("refused")
"""


@pytest.mark.netns
def test_what_was_given_up_is_gone_for_good_and_nothing_else_is() -> None:
    words = ["unshare", "-n", sys.executable, "-c", SAID]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0", "refused"]
