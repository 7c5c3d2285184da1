"""Hands the namespace over to the node's agent, and waits until it is captured."""

import array
import json
import socket
import time
from collections.abc import Callable


class EnrolError(Exception):
    """The agent did not capture the pod; `str` says why and what to do."""


def enrol(path: str, netns_fd: int, pod: str | None, seconds: float, say: Callable[[str], None]) -> str:
    """Returns the pod's name (`namespace/name`) once it is captured; `say` gets each reason for waiting.

    Raises EnrolError.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise EnrolError(
                f"no agent listens on {path}: start quietwire on this node. The rules stay in place, so the pod's "
                f"connections are refused until then"
            ) from None
        except OSError as error:
            raise EnrolError(f"{path} cannot be reached: {error.strerror}") from error
        request = json.dumps({"version": 1, "op": "enrol", "pod": pod}).encode() + b"\n"
        sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [netns_fd]))])
        received = b""
        last = "the agent did not say why"
        while True:
            line, newline, rest = received.partition(b"\n")
            if newline:
                received = rest
                answer = json.loads(line)
                match answer.get("state"):
                    case "captured":
                        return str(answer["pod"])
                    case "refused":
                        raise EnrolError(f"the agent refused: {answer['reason']}")
                    case _:
                        last = str(answer.get("reason", last))
                        say(last)
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise EnrolError(f"not captured in {seconds:g} s: {last}")
            sock.settimeout(left)
            try:
                chunk = sock.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                raise EnrolError("the agent ended before the pod was captured; see its log")
            received += chunk
