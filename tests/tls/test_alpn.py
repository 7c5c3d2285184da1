"""Which protocol is served."""

import pytest

from agent.tls import alpn


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        ((b"quietwire/1",), b"quietwire/1"),
        ((b"h2", b"http/1.1"), b"http/1.1"),
        ((b"h2",), b"h2"),
        ((b"foreign", b"h2"), b"h2"),
        ((b"h2", b"quietwire/1"), b"quietwire/1"),
        ((b"foreign",), alpn.REFUSED),
        ((b"quietwire/10", b"QUIETWIRE/1"), alpn.REFUSED),
    ],
)
def test_the_servers_preference_decides_and_foreign_lists_are_refused(
    offered: tuple[bytes, ...], chosen: object
) -> None:
    assert alpn.choose(offered) == chosen
