"""Opens COUNT connections to HOST:PORT, does one request on each, and keeps them open until its standard input ends.

Runs in the client pod: `python idle.py HOST PORT COUNT`. Says `open COUNT`, or why not.
"""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 16
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
EXCHANGE_SECONDS = 20.0


def exchange(host: str, port: int) -> socket.socket:
    """One connection after one whole exchange. Raises OSError."""
    sock = socket.create_connection((host, port), EXCHANGE_SECONDS)
    sock.sendall(REQUEST)
    got = b""
    while True:
        head, end, body = got.partition(b"\r\n\r\n")
        if end:
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            if len(body) >= int(length.split(b":")[1]):
                return sock
        more = sock.recv(65536)
        if not more:
            raise OSError(f"{host}:{port} closed the connection before its answer was whole: {got!r}")
        got += more


def main(host: str, port: int, count: int) -> None:
    """Holds them open."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        held = list(pool.map(lambda _: exchange(host, port), range(count)))
    sys.stdout.write(f"open {len(held)}\n")
    sys.stdout.flush()
    sys.stdin.read()
    for sock in held:
        sock.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
