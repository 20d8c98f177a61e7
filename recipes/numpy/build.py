"""Builds numpy for the guest, into target/guest-numpy, where rust/build.rs finds it.

numpy's sources and the tools come from PyPI, each by its hash; CPython's headers and the part of the compiler's runtime
that zig lacks for WebAssembly come from Debian, signed, and are unpacked without being installed. What differs from
numpy elsewhere, and why, is in README.md. Nothing is done when this very recipe has been built already.

Usage: python3 recipes/numpy/build.py. It ends with status 75 when what it needs cannot be fetched here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
from pathlib import Path

RECIPE = Path(__file__).resolve().parent
TARGET = RECIPE.parents[1] / "target"
RESULT = TARGET / "guest-numpy"
WORK = TARGET / "guest-numpy-build"

SOURCE = (
    "https://files.pythonhosted.org/packages/d0/ad/fed0499ce6a338d2a03ebae59cd15093910c8875328855781952abf6c2fe/"
    "numpy-2.4.6.tar.gz"
)
SOURCE_SHA256 = "f3a3570c4a2a16746ac2c31a7c7c7b0c186b95ce902e33db6f28094ed7387dda"
DEBIAN = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian forky main\n"
DEBIAN_PACKAGES = ("libpython3.14-dev", "libclang-rt-21-dev-wasm32")
NOT_INPUTS = {"README.md", "check.py", "check_guest.py"}
CANNOT_FETCH = 75


class CannotFetch(Exception):
    """Something that the recipe needs is not to be had on this machine."""


def main() -> None:
    fingerprint = hash_of_inputs()
    stamp = RESULT / "fingerprint"
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return
    started = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "log").unlink(missing_ok=True)
    print(f"building numpy for the sandbox, some minutes (log: {WORK / 'log'})", flush=True)
    try:
        tools = install_tools()
        unpack_debian()
        source = unpack_source()
    except CannotFetch as error:
        print(f"numpy for the sandbox cannot be built here, so the guest goes without it: {error}", file=sys.stderr)
        sys.exit(CANNOT_FETCH)
    installed = build(source, tools)
    (installed / "fingerprint").write_text(fingerprint)
    shutil.rmtree(RESULT, ignore_errors=True)
    installed.rename(RESULT)
    print(f"built numpy for the sandbox in {time.monotonic() - started:.0f} s: {RESULT}")


def hash_of_inputs() -> str:
    digest = hashlib.sha256()
    for path in sorted(RECIPE.rglob("*")):
        if path.is_file() and path.name not in NOT_INPUTS and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(RECIPE)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest() + "\n"


def install_tools() -> Path:
    """A virtual environment with zig, ninja and Cython; gives its folder of commands."""
    tools = WORK / "tools"
    venv.create(tools, clear=True, with_pip=True)
    pip = [tools / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--require-hashes"]
    fetch("the tools, from the package index", *pip, "-r", RECIPE / "requirements.txt")
    return tools / "bin"


def unpack_debian() -> None:
    """Into WORK/debian, by apt with a state of its own."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise CannotFetch(f"there is no {tool} to get CPython's headers from Debian with")
    root = WORK / "debian"
    shutil.rmtree(root, ignore_errors=True)
    state = root / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(DEBIAN)
    apt = ["apt-get", "--quiet"]
    for option in (
        f"Dir::State={state}",
        f"Dir::State::lists={state}/lists",
        f"Dir::State::status={state}/status",
        f"Dir::Cache={state}/cache",
        f"Dir::Etc::SourceList={state}/sources.list",
        "Dir::Etc::SourceParts=/dev/null",
        "APT::Architecture=amd64",  # only headers and WebAssembly are taken
        "APT::Architectures=amd64",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
    ):
        apt += ["-o", option]
    fetch("Debian's list of packages", *apt, "update", "-o", "APT::Update::Error-Mode=any")
    fetch(f"{' and '.join(DEBIAN_PACKAGES)} of Debian", *apt, "download", *DEBIAN_PACKAGES, cwd=state / "packages")
    for package in (state / "packages").iterdir():
        run("dpkg-deb", "-x", package, root)
    shutil.copy(RECIPE / "include/pyconfig.h", root / "usr/include/python3.14")  # instead of that of the machine


def unpack_source() -> Path:
    """numpy's sources, patched."""
    archive = WORK / SOURCE.rpartition("/")[2]
    if not archive.is_file():
        try:
            with urllib.request.urlopen(SOURCE, timeout=60) as response:
                archive.write_bytes(response.read())
        except OSError as error:
            raise CannotFetch(f"{SOURCE}: {error}") from error
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SOURCE_SHA256:
        archive.unlink()
        raise CannotFetch(f"{SOURCE} is not what it was")
    source = WORK / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as members:
        members.extractall(WORK, filter="data")
    for patch in sorted((RECIPE / "patches").iterdir()):
        run("patch", "--strip=1", "--batch", "--fuzz=0", f"--input={patch}", cwd=source)
    return source


def build(source: Path, tools: Path) -> Path:
    """Gives a folder with the package numpy as the guest needs it: no tests, no headers."""
    zig = next(tools.parent.glob("lib/python*/site-packages/ziglang/zig"))
    os.environ.update(
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
        ZIG_GLOBAL_CACHE_DIR=str(WORK / "zig"),
        # What sysconfig says to meson: the guest's Python, not that which runs here.
        _PYTHON_SYSCONFIGDATA_NAME="guest_sysconfig",
        PYTHONPATH=str(RECIPE / "sysconfig"),
        GUEST_SYSROOT=str(WORK / "debian/usr"),
    )
    run(zig, "cc", "-target", "wasm32-wasi", "-fPIC", "-c", RECIPE / "exceptions.c", "-o", WORK / "exceptions.o")
    places = {"python": tools / "python", "recipe": RECIPE, "zig": zig, "work": WORK}
    constants = WORK / "places.ini"
    constants.write_text("[constants]\n" + "".join(f"{name} = '{path}'\n" for name, path in places.items()))

    folder = WORK / "build"
    shutil.rmtree(folder, ignore_errors=True)
    meson = [tools / "python", source / "vendored-meson/meson/meson.py"]
    options = ["blas=none", "lapack=none", "allow-noblas=true", "disable-optimization=true"]
    options += ["python.purelibdir=/guest", "python.platlibdir=/guest", "python.bytecompile=-1"]
    options = [argument for option in options for argument in ("-D", option)]
    crosses = ["--cross-file", constants, "--cross-file", RECIPE / "cross.ini"]
    run(*meson, "setup", folder, source, *crosses, *options)

    plan = json.loads((folder / "meson-info/intro-install_plan.json").read_text())
    wanted = [file for file, entry in plan["targets"].items() if entry["tag"] == "runtime"]
    run(tools / "ninja", "-C", folder, *(str(Path(file).relative_to(folder)) for file in wanted))
    root = WORK / "root"
    shutil.rmtree(root, ignore_errors=True)
    run(*meson, "install", "-C", folder, "--no-rebuild", "--tags", "runtime,python-runtime", "--destdir", root)
    config = root / "guest/numpy/__config__.py"  # show_config() names the compiler's command
    config.write_text(config.read_text().replace(str(TARGET.parent), "."))
    return root / "guest"


def fetch(what: str, *command: object, cwd: Path | None = None) -> None:
    try:
        run(*command, cwd=cwd)
    except subprocess.CalledProcessError as error:
        raise CannotFetch(f"{what} could not be fetched (see {WORK / 'log'})") from error


def run(*command: object, cwd: Path | None = None) -> None:
    with (WORK / "log").open("a") as log:
        print("$", *command, file=log, flush=True)
        subprocess.run([str(part) for part in command], cwd=cwd, stdout=log, stderr=log, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        tail = (WORK / "log").read_text(errors="replace").splitlines()[-30:]
        print(*tail, f"{error}; the whole log: {WORK / 'log'}", sep="\n", file=sys.stderr)
        sys.exit(1)
