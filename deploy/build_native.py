"""Build hook: compiles the native parts of the package in place. Needs libssl-dev and gcc."""

import os
import subprocess
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULES = {
    "agent.tls._openssl": ["ssl", "crypto"],
    "agent.tls._store": [],
    "agent.capture._sockets": [],
    "agent.capture._conntrack": [],
    "agent.proxy._flow": [],
}
"""The native modules, and the libraries that each is linked with."""

CNI_CLIENT = Path("agent/cni/quietwire-cni")


class NativeBuildHook(BuildHookInterface[Any]):
    """Makes their shared objects before the wheel, or the editable install, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles; the wheel is then one for this Python and this machine."""
        del version
        extensions = [
            Extension(
                name,
                [str(Path(*name.split(".")).with_suffix(".pyx"))],
                libraries=libraries,
                extra_compile_args=["-O2", "-fstack-protector-strong", "-Wformat", "-Werror=format-security"],
                extra_link_args=["-Wl,-z,relro,-z,now"],
            )
            for name, libraries in MODULES.items()
        ]
        build = Path(".cache/native")
        command = build_ext(Distribution({"ext_modules": cythonize(extensions, build_dir=str(build))}))
        command.inplace = True
        command.build_temp = command.build_lib = str(build)
        command.ensure_finalized()
        command.run()
        build_cni_client()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [f"{name.replace('.', '/')}.*.so" for name in MODULES]
        build_data["artifacts"].append(str(CNI_CLIENT))


def build_cni_client() -> None:
    """Compiles what a container runtime runs: hosts have no Python, and perhaps not our C library."""
    words = ["-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
    command = [os.environ.get("CC", "gcc"), *words, "-o", str(CNI_CLIENT), str(CNI_CLIENT.with_name("client.c"))]
    subprocess.run(command, check=True)
