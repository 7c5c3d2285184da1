"""Types of the native part; what each does is said in _conntrack.pyx."""

def source_port(netlink: int, client: str, client_port: int, own: str, own_port: int) -> int: ...  # OSError
