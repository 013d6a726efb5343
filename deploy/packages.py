"""What the image is made of, out of the lock files: a CycloneDX list, and whether arm64 has a wheel of each package.

    python deploy/packages.py sbom build/sbom.cdx.json      # no network
    python deploy/packages.py arm64 deploy/arm64_wheels.txt  # asks the package index; fails if a wheel is missing

`make image` and `make requirements` run them. The lists of arm64 are committed, so that a test can compare them with the lock
files without a network.
"""  # noqa: INP001 - a program, not a package

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements/serve.txt", "requirements/stores.txt")  # as deploy/Dockerfile installs them
PYTHON = "3.12"  # as deploy/Dockerfile has it
GLIBC = "manylinux_2_28"  # older than that of the image's base
CYCLONEDX = ROOT / ".bench/release/bin/cyclonedx-py"
UV = ROOT / ".venv/bin/uv"
HEAD = "# Written by deploy/packages.py (make requirements): a wheel for arm64 of each package in the image, and its hash.\n"


def pinned(machine: str) -> dict[str, str]:
    """Returns the lines of the lock files that hold on Linux on this machine, hashes included, by name and version."""
    found = {}
    for lock in LOCKS:
        text = (ROOT / lock).read_text(encoding="utf-8")
        for block in re.split(r"\n(?=\S)", text):
            first = block.partition("\n")[0].rstrip(" \\")
            if first.startswith("#") or not first:
                continue
            needed = Requirement(first)
            here = {"platform_machine": machine, "sys_platform": "linux", "python_version": PYTHON}
            if needed.marker is None or needed.marker.evaluate(here | {"python_full_version": f"{PYTHON}.0"}):
                found[f"{needed.name}{needed.specifier}"] = block.partition("\n    #")[0]
    return found


def write_sbom(target: Path) -> None:
    """Writes the packages of the image for x86-64 as CycloneDX 1.6, with hashes; the same file for the same lock files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "--pyproject=pyproject.toml",
        "--output-reproducible",
        "--of=JSON",
        f"--output-file={target.absolute()}",
        "-",
    ]
    lines = "\n".join(pinned("x86_64").values())
    subprocess.run([CYCLONEDX, "requirements", *flags], input=lines, text=True, cwd=ROOT, check=True)  # noqa: S603 - our own


def write_arm64(target: Path) -> None:
    """Writes a wheel for arm64 of each package; ends with an error of uv if there is none.

    Raises:
        CalledProcessError: uv found no set of wheels; it has said of which package.
    """
    lock = target.with_name("pylock.arm64.toml")
    platform = ["--python-platform", f"aarch64-{GLIBC}", "--python-version", PYTHON, "--only-binary", ":all:"]
    try:
        command = [UV, "pip", "compile", "--quiet", *LOCKS, *platform, "--format=pylock.toml", "--output-file", lock]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    finally:
        lock.unlink(missing_ok=True)
    rows = []
    for package in packages:
        wheel = min(package["wheels"], key=lambda each: each["url"])
        name = wheel["url"].rpartition("/")[2]
        rows.append(f"{package['name']}=={package['version']} {name} sha256:{wheel['hashes']['sha256']}\n")
    target.write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    {"sbom": write_sbom, "arm64": write_arm64}[sys.argv[1]](Path(sys.argv[2]))
