"""What is changed in a webhook's configuration: whom the API server believes, and nothing else."""

import base64

from agent.webhook.keeping import changes

WANTED = b"-----BEGIN CERTIFICATE-----\n"


def test_only_webhooks_that_believe_somebody_else_are_changed_in_the_version_that_was_read() -> None:
    assert changes("7", [b"", WANTED, b"another"], WANTED) == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        *(
            {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": base64.b64encode(WANTED).decode()}
            for at in (0, 2)
        ),
    ]


def test_what_is_so_already_is_not_written() -> None:
    assert changes("7", [WANTED, WANTED], WANTED) == []
    assert changes("7", [], WANTED) == []
