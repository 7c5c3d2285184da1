"""What ties a child process to its parent: when the parent is gone, the child must not serve on."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when process `parent` ends (prctl(2)); ends at once if it already has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        os._exit(1)
