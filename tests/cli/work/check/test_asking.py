"""Why there is no answer is told by the status, or by what broke underneath. tests/kubernetes/test_check.py asks."""

import errno
import socket
import ssl

import pytest

from agent.cli.work.check.asking import Cause, cause
from agent.kubernetes.errors import Refused, Unreachable


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, Cause.UNAUTHENTICATED), (403, Cause.FORBIDDEN), (404, Cause.NOT_SERVED), (500, Cause.OTHER)],
)
def test_an_answer_is_told_by_its_status(status: int, why: Cause) -> None:
    assert cause(Refused(status, "", "no")) is why


@pytest.mark.parametrize(
    ("below", "why"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Cause.REFUSED_CONNECTION),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect"),
            Cause.REFUSED_CONNECTION,
        ),
        (OSError(errno.EHOSTUNREACH, "no route"), Cause.OTHER),
        (socket.gaierror(-2, "Name or service not known"), Cause.NO_SUCH_NAME),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), Cause.NOT_TRUSTED),
        (ssl.SSLError(1, "wrong version number"), Cause.NO_TLS),
        (TimeoutError(), Cause.TOO_LATE),
        (None, Cause.OTHER),
    ],
)
def test_no_answer_is_told_by_what_broke_underneath(below: BaseException | None, why: Cause) -> None:
    error = Unreachable("it cannot be reached")
    error.__cause__ = below
    assert cause(error) is why
