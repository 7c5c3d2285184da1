"""Types of the native part; what each does is said in _store.pyx."""

import mmap

def size_for(workers: int) -> int: ...

class SessionStore:
    def __init__(self, memory: mmap.mmap | bytearray, workers: int = 1, own: int = 0) -> None: ...
