"""Types of the native part; what each does is said in _sockets.pyx. Each raises OSError, where nothing else is said."""

_End = tuple[str, int]

def prepare(fd: int) -> int: ...  # always 0, as of the next three
def finish_on_close(fd: int) -> int: ...
def reset_on_close(fd: int) -> int: ...
def cork(fd: int) -> int: ...
def at_end(fd: int) -> bool: ...
def has_died(fd: int) -> bool: ...
def dial(
    netns: int,
    home: int,
    mark: int,
    address: str,
    port: int,
    source: str | None = None,
    source_port: int = 0,
    shared: bool = False,
    alone: bool = False,
) -> tuple[int, bool]: ...
def table_shapes(fd4: int, fd6: int) -> bytes: ...  # raises nothing
def accept(fd: int) -> int: ...  # -1: none waits
def ends(fd: int) -> tuple[_End, _End, _End]: ...
