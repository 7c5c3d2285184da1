"""What the figures were measured on, and with."""

import os
import platform
import re
import ssl
import subprocess
from pathlib import Path

VERSIONS = {
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "stunnel": ["stunnel", "-version"],
    "wrk": ["wrk", "-v"],
    "iperf3": ["iperf3", "--version"],
}
_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")


def describe() -> dict[str, str | int | dict[str, str]]:
    """Processor, cores, memory, kernel, distribution, and the versions of everything."""
    return {
        "processor": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_first(r"MemTotal:\s+(\d+)", "/proc/meminfo") or 0) * 1024 / 1e9),
        "kernel": platform.release(),
        "system": _first(r'PRETTY_NAME="(.+)"', "/etc/os-release"),
        "versions": {
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION.split()[1],
            **{name: _version(command) for name, command in VERSIONS.items()},
        },
    }


def _first(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"))
    return found[1].strip() if found else ""


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "not installed"
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "unknown"
