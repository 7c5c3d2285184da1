"""A process that has given up its capabilities has none, and cannot have them back."""

import subprocess
import sys

import pytest

SAID = """
import os
from init.capabilities import drop_all
drop_all()
sets = [line.split() for line in open("/proc/self/status") if line.startswith(("CapPrm", "CapEff", "CapInh"))]
print(os.geteuid(), [words for words in sets if int(words[1], 16)])
try:
    os.chroot("/")
except PermissionError:
    print("refused")
"""


@pytest.mark.netns
def test_root_without_capabilities_is_still_root_and_may_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0 []", "refused"]
