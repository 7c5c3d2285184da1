"""What a peer reads whose ClientHello is refused."""

import pytest

from agent.tls import alerts


@pytest.mark.parametrize(
    ("alert", "description"), [(alerts.PROTOCOL_VERSION, 70), (alerts.NO_APPLICATION_PROTOCOL, 120)]
)
def test_a_fatal_alert_is_one_plaintext_record(alert: bytes, description: int) -> None:
    """RFC 8446, sections 5.1 and 6: type 21, the legacy version, two bytes: fatal, and why."""
    assert alert.hex() == f"15030300020 2{description:02x}".replace(" ", "")


def test_the_alert_is_the_one_of_rfc_7301() -> None:
    assert bytes.fromhex("15030300020278") == alerts.NO_APPLICATION_PROTOCOL
    assert bytes.fromhex("15030300020246") == alerts.PROTOCOL_VERSION
