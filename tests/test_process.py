"""A child that is tied to its parent: it ends when the parent does, and does not begin where that is gone already."""

import os
import select
import subprocess
import sys

CHILD = """
import os, sys, time
from agent.process import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
time.sleep(600)
"""


def test_a_child_is_killed_with_its_parent_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert select.select([child], [], [], 0)[0] == [], "it lives"
            parent.kill()
            assert select.select([child], [], [], 30)[0] == [child], "it has ended"
        finally:
            os.close(child)
        assert parent.stdout.read() == b"", "and nobody holds its output open"


def test_a_child_whose_parent_is_gone_already_does_not_begin() -> None:
    """As where the parent ends before the child has said whose it is."""
    grandparent = str(os.getppid())
    done = subprocess.run([sys.executable, "-c", CHILD, grandparent], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
