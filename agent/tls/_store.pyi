"""Types of the native part; what each does is said in _store.pyx."""

import mmap

def size_for(workers: int) -> int: ...  # of one worker at least

class SessionStore:
    # ValueError: too small, or no such worker. BufferError: it cannot be written to.
    def __init__(self, memory: mmap.mmap | bytearray, workers: int = 1, own: int = 0) -> None: ...
