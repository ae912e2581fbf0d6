"""Builds the wheels that are published: manylinux_2_28 for x86_64 and aarch64, in one go on any Linux machine.

    pip install '.[wheels]' && python tools/wheels.py [-o dist] [--architecture x86_64 ...]

The C++ compiler is Zig's clang, which brings the headers and symbols of every glibc and links its own libc++ into the
library; `pip install .` takes the system's compiler instead, and its result runs on systems as new as the one it was
built on. auditwheel looks at every symbol of each wheel before it is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GLIBC = (2, 28)
ARCHITECTURES = ("x86_64", "aarch64")


def build(architecture: str, folder: Path) -> Path:
    """Build the wheel for one architecture and put it into ``folder``.

    Returns:
        Its path.

    Raises:
        SystemExit: a tool failed, or the wheel asks for more than the policy grants.
    """
    with tempfile.TemporaryDirectory() as scratch:
        toolchain = _toolchain(architecture, Path(scratch))
        _run(
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", scratch,
            "-C", f"cmake.args=-DCMAKE_TOOLCHAIN_FILE={toolchain}",
            "-C", "install.strip=false",  # the linker does, for any architecture
            str(ROOT),
            # what sysconfig, and so the wheel's tag, says of the machine
            environment={"_PYTHON_HOST_PLATFORM": f"linux-{architecture}"},
        )  # fmt: skip
        built = next(Path(scratch).glob("*.whl"))
        check(built)
        tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{architecture}"
        _run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, str(built))
        tagged = next(Path(scratch).glob("*.whl"))
        folder.mkdir(parents=True, exist_ok=True)
        return tagged.replace(folder / tagged.name)


def check(wheel: Path) -> None:
    """Have auditwheel say which glibc a wheel needs.

    Raises:
        SystemExit: a newer one than ``GLIBC``, or libraries that not every system has.
    """
    told = " ".join(_run(sys.executable, "-m", "auditwheel", "show", str(wheel)).split())
    found = re.search(r'following platform tag: "manylinux_(\d+)_(\d+)_', told)
    if found is None or (int(found[1]), int(found[2])) > GLIBC:
        raise SystemExit(f"{wheel.name} needs more than glibc {GLIBC[0]}.{GLIBC[1]}; auditwheel says: {told}")


def _toolchain(architecture: str, scratch: Path) -> Path:
    """A CMake toolchain file, and the compiler that it names."""
    compiler = scratch / "c++"
    target = f"{architecture}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    compiler.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ziglang c++ -target {target} "$@"\n')
    compiler.chmod(0o755)
    toolchain = scratch / "toolchain.cmake"
    toolchain.write_text(
        f"set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR {architecture})\n"
        f'set(CMAKE_CXX_COMPILER "{compiler}")\nset(CMAKE_SHARED_LINKER_FLAGS_INIT -s)\n'
    )
    return toolchain


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Standard output of a command; its errors are shown."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {}))
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{shlex.join(command)} failed")
    return done.stdout


def main() -> None:
    """Build the wheels that are asked for and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("dist"), help="folder of the wheels (default dist)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="default: all of them")
    options = parser.parse_args()
    for architecture in options.architecture or ARCHITECTURES:
        print(build(architecture, options.output), flush=True)


if __name__ == "__main__":
    main()
