"""What really crosses a stage's bridge: a recording of packets.

Frames are read off an AF_PACKET socket (packet(7)) that was made inside the hub's namespace, so that a recording
begins and ends exactly when it is told to, and says how many frames it lost.
"""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

from agent.lab.frames import SNAP, Frames, WireError
from init.netns import NetnsError, open_netns, setns

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
RECEIVE_BUFFER = 64 * 1024 * 1024


class Wire(Frames):
    """A recording of every interface in one namespace. Use it as a context manager; ask after it has ended."""

    def __init__(self, netns: str) -> None:
        super().__init__()
        self._netns = netns
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._record, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        if self._failed is not None:
            raise WireError(f"no recording in {self._netns}: {self._failed}") from self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ends the recording, with everything that had arrived."""
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        try:
            # This thread is the recording's own and ends in the hub's namespace: it never needs to come home.
            setns(open_netns(self._netns))
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)  # SO_RCVBUFFORCE
        except (OSError, NetnsError) as error:
            self._failed = error
            self._begun.set()
            return
        with sock:
            sock.settimeout(0.05)
            self._begun.set()
            while True:
                try:
                    self.frames.append(sock.recv(SNAP))
                except TimeoutError:
                    if self._stop.is_set():
                        break
            _, self.lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
