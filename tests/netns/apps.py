"""Debian's applications, unmodified, each with a directory and a configuration of its own, inside a pod."""

import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from agent.lab.stage import Player
from tests.netns.world import World

NGINX, REDIS, POSTGRES, MARIADB, SSHD, NATS = 8080, 6379, 5432, 3306, 22, 4222


class Apps:
    """Starts applications in one pod; `close` removes their directories (the world ends their processes)."""

    def __init__(self, world: World, player: Player) -> None:
        self._world = world
        self._player = player
        # Not below pytest's own directory, which other users may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix="quietwire-apps-", dir="/var/tmp"))
        self.directory.chmod(0o755)

    def close(self) -> None:
        """Removes what the applications wrote."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _home(self, name: str, user: str | None = None) -> Path:
        home = self.directory / name
        home.mkdir()
        if user is not None:
            entry = pwd.getpwnam(user)
            shutil.chown(home, entry.pw_uid, entry.pw_gid)
        return home

    def _start(self, name: str, port: int, *words: str) -> None:
        log = (self.directory / f"{name}.log").open("wb")
        with log:
            process = self._world.spawn(self._player, *words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._world.wait_until_listening(self._player, port, process)

    def nginx(self) -> Path:
        """Serves `/` (a greeting), `/large` (8 MiB); returns its access log."""
        home = self._home("nginx", "www-data")
        (home / "large").write_bytes(b"x" * (8 << 20))
        (home / "index.html").write_text("hello from nginx\n")
        (home / "nginx.conf").write_text(
            f"""daemon off; user www-data; pid {home}/pid; error_log stderr; worker_processes 1;
            events {{ worker_connections 2048; }}
            http {{
              log_format who '$remote_addr "$request" $status'; access_log {home}/access.log who;
              client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
              uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
              keepalive_requests 100000;
              server {{ listen 0.0.0.0:{NGINX} backlog=1024; listen [::]:{NGINX} backlog=1024; root {home}; }}
            }}"""
        )
        self._start("nginx", NGINX, "nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr")
        return home / "access.log"

    def redis(self) -> None:
        """An empty redis-server without persistence."""
        home = self._home("redis")
        self._start(
            "redis",
            REDIS,
            *("redis-server", "--port", str(REDIS), "--bind", "0.0.0.0", "::", "--protected-mode", "no"),
            *("--save", "", "--dir", str(home)),
        )

    def postgres(self) -> None:
        """PostgreSQL that takes user `app` from everywhere, by its own TLS only."""
        home = self._home("postgres", "postgres")
        bin_directory = max(Path("/usr/lib/postgresql").glob("*/bin"))
        as_postgres = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "LC_ALL=C")
        data = home / "data"
        _run(*as_postgres, str(bin_directory / "initdb"), "-A", "trust", "-U", "app", "-N", "-D", str(data))
        _run(
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=postgres", "-keyout", str(data / "server.key"), "-out", str(data / "server.crt")),
        )
        for name in ("server.key", "server.crt"):
            shutil.chown(data / name, "postgres", "postgres")
            (data / name).chmod(0o600)
        (data / "pg_hba.conf").write_text("hostssl all app all trust\n")
        self._start(
            "postgres",
            POSTGRES,
            *as_postgres,
            *(str(bin_directory / "postgres"), "-D", str(data), "-p", str(POSTGRES), "-k", str(home)),
            *("-c", "listen_addresses=*", "-c", "ssl=on", "-c", "fsync=off"),
        )

    def mariadb(self) -> None:
        """MariaDB with user `app`, password `secret`."""
        home = self._home("mariadb", "mysql")
        data = home / "data"
        _run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db")
        (home / "init.sql").write_text(
            "CREATE USER app@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON *.* TO app@'%';\nCREATE DATABASE shop;\n"
        )
        self._start(
            "mariadb",
            MARIADB,
            *("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--port={MARIADB}"),
            *("--bind-address=*", f"--socket={home}/socket", f"--init-file={home}/init.sql", "--skip-name-resolve"),
            f"--pid-file={home}/pid",
        )

    def nats(self) -> None:
        """nats-server, which says who it is before its client says a word."""
        self._start("nats", NATS, "nats-server", "--addr", "::", "--port", str(NATS))

    def sshd(self) -> Path:
        """sshd; returns the private key that logs root in."""
        home = self._home("sshd")
        for name in ("host", "user"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name))
        Path("/run/sshd").mkdir(exist_ok=True)
        (home / "config").write_text(
            f"Port {SSHD}\nListenAddress 0.0.0.0\nListenAddress ::\n"
            f"HostKey {home}/host\nPidFile {home}/pid\nUsePAM no\n"
            f"AuthorizedKeysFile {home}/user.pub\nStrictModes no\nPermitRootLogin prohibit-password\n"
            f"UseDNS no\n{_penalties()}"
        )
        self._start("sshd", SSHD, "/usr/sbin/sshd", "-D", "-e", "-f", str(home / "config"))
        return home / "user"


def _penalties() -> str:
    """OpenSSH 9.8 and later punish clients that connect and say nothing; earlier ones do not know the word."""
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    number = float(version.removeprefix("OpenSSH_").split("p")[0])
    return "PerSourcePenalties no\n" if number >= 9.8 else ""


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, f"{words!r}: {done.stderr}"
