"""Hands the namespace over to the node's agent, and waits until it is captured."""

import array
import json
import socket
import time
from collections.abc import Callable

LOOK_SECONDS = 0.5
"""How often it is looked whether an agent listens by now."""


class EnrolError(Exception):
    """The agent did not capture the pod; `str` says why and what to do."""


class _AwayError(Exception):
    """There is no agent at the moment: it may be about to start, or another one to take its place."""


def enrol(path: str, netns_fd: int, pod: str | None, seconds: float, say: Callable[[str], None]) -> str:
    """Returns the pod's name (`namespace/name`) once it is captured; `say` gets each reason for waiting.

    An agent that is not there, or ends meanwhile, is waited for too: one that is replaced by another version is away
    for a moment, and who fails for that is started again after ever longer pauses. Raises EnrolError.
    """
    deadline = time.monotonic() + seconds
    said = ""
    while True:
        try:
            return _ask(path, netns_fd, pod, deadline, say)
        except _AwayError as away:
            reason = str(away)
        except TimeoutError as late:
            raise EnrolError(f"not captured in {seconds:g} s: {late}") from None
        if time.monotonic() >= deadline:
            raise EnrolError(f"not captured in {seconds:g} s: {reason}")
        if reason != said:
            said = reason
            say(reason)
        time.sleep(LOOK_SECONDS)


def _ask(path: str, netns_fd: int, pod: str | None, deadline: float, say: Callable[[str], None]) -> str:
    """Asks one agent. Raises EnrolError, _AwayError; and TimeoutError with the last reason."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise _AwayError(
                f"no agent listens on {path}: start quietwire on this node. The rules stay in place, so the pod's "
                f"connections are refused until then"
            ) from None
        except OSError as error:
            raise EnrolError(f"{path} cannot be reached: {error.strerror}") from error
        request = json.dumps({"version": 1, "op": "enrol", "pod": pod}).encode() + b"\n"
        try:
            sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [netns_fd]))])
            return _answer(sock, deadline, say)
        except ConnectionError:  # it ended with what we had sent unread
            raise _ended() from None


def _answer(sock: socket.socket, deadline: float, say: Callable[[str], None]) -> str:
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
            raise TimeoutError(last)
        sock.settimeout(left)
        try:
            chunk = sock.recv(65536)
        except TimeoutError:
            continue
        if not chunk:
            raise _ended()
        received += chunk


def _ended() -> _AwayError:
    return _AwayError("the agent ended before the pod was captured; see its log")
