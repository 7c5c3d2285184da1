"""An unmodified nginx in a namespace, with a configuration of its own."""

import shutil
import subprocess
import time
from pathlib import Path

from agent.lab.stage import Player

START_SECONDS = 15.0

_CONFIG = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 0.0.0.0:{port};
    listen [::]:{port};
    location / {{ return 200 "hello from the api\\n"; }}
  }}
}}
"""


class WebServerError(Exception):
    """nginx did not start; `str` has its words."""


class WebServer:
    """One nginx."""

    def __init__(self, player: Player, directory: Path, port: int) -> None:
        self._player = player
        self._directory = directory
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it listens. Raises WebServerError."""
        if shutil.which("nginx") is None:
            raise WebServerError("nginx is not installed: apt-get install nginx")
        self._directory.mkdir(parents=True)
        config = self._directory / "nginx.conf"
        config.write_text(_CONFIG.format(directory=self._directory, port=self._port), encoding="ascii")
        self._process = subprocess.Popen(
            self._player.command("nginx", "-p", str(self._directory), "-c", str(config), "-e", "stderr"),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        # Asked on the pod's own loopback, which is never captured.
        probe = self._player.command("curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{self._port}/")
        while subprocess.run(probe, check=False, timeout=START_SECONDS).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                _, said = self._process.communicate()
                raise WebServerError(f"nginx did not start: {said.decode(errors='replace').strip()}")
            time.sleep(0.02)

    def access_log(self) -> list[str]:
        """Its access log."""
        try:
            return (self._directory / "access.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None
