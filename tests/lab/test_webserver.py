"""A web server that cannot be started is an error with its reason."""

from pathlib import Path

import pytest

from agent.lab.stage import Player
from agent.lab.webserver import WebServer, WebServerError

PLAYER = Player("api", "api", "192.0.2.2", "2001:db8::2", "port2")


def test_where_nginx_is_not_installed_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WebServerError, match="nginx is not installed: apt-get install nginx"):
        WebServer(PLAYER, tmp_path / "web", 8080).start()


def test_what_ended_at_once_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("ip", "#!/bin/sh\necho of ip: $4 >&2\nexit 1\n"), ("nginx", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WebServerError, match="nginx did not start: of ip: nginx"):
        WebServer(PLAYER, tmp_path / "web", 8080).start()


def test_a_server_that_has_logged_nothing_yet_has_an_empty_log(tmp_path: Path) -> None:
    server = WebServer(PLAYER, tmp_path / "web", 8080)
    assert server.access_log() == []
    server.stop()
