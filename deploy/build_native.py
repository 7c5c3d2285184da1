"""Build hook: compiles the native part of the package, agent/tls/_openssl.pyx, in place. Needs libssl-dev and gcc."""

from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext


class NativeBuildHook(BuildHookInterface[Any]):
    """Makes `agent/tls/_openssl.*.so` before the wheel, or the editable install, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles; the wheel is then one for this Python and this machine."""
        del version
        extension = Extension(
            "agent.tls._openssl",
            [str(Path("agent/tls/_openssl.pyx"))],
            libraries=["ssl", "crypto"],
            extra_compile_args=["-O2", "-fstack-protector-strong", "-Wformat", "-Werror=format-security"],
            extra_link_args=["-Wl,-z,relro,-z,now"],
        )
        build = Path(".cache/native")
        command = build_ext(Distribution({"ext_modules": cythonize([extension], build_dir=str(build))}))
        command.inplace = True
        command.build_temp = command.build_lib = str(build)
        command.ensure_finalized()
        command.run()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append("agent/tls/_openssl.*.so")
