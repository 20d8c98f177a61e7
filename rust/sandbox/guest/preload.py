"""Imports everything that cells can import.

This happens while the guest is built, because there are no files to import from afterwards. Modules that need a window,
a terminal, a process, a thread or a socket are left out, as are those that serve only Python's own tests.
"""

import contextlib
import importlib
import importlib.resources
import importlib.util
import io
import pkgutil
import sys
import types
import zoneinfo

LEFT_OUT = {
    "antigravity", "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "multiprocessing", "pip", "pty", "pydoc_data",
    "readline", "rlcompleter", "ssl", "test", "this", "tkinter", "tty", "turtle", "turtledemo", "venv",
    "webbrowser", "_pyrepl", "__phello__", "_aix_support", "_android_support", "_apple_support", "_ios_support",
    "_osx_support", "_sysconfig", "wsgiref", "xmlrpc", "socketserver", "smtplib", "poplib", "imaplib", "ftplib",
    "_pydecimal", "_pyio", "compileall", "py_compile", "zipapp", "mailbox", "netrc", "nturl2path",
}  # fmt: skip
PACKAGES = ("collections", "concurrent", "email", "encodings", "html", "importlib", "json", "logging", "string",
            "unittest", "urllib", "xml", "zoneinfo", "asyncio", "http", "re", "compression", "pathlib",
            "sqlite3")  # fmt: skip
# numpy is imported before the stub of ctypes is installed for sympy, because numpy would use the stub and fail.
OTHERS = tuple(name for name in ("numpy", "mpmath", "sympy") if importlib.util.find_spec(name))
LEFT_OUT_OF_NUMPY = {"tests", "conftest", "_pyinstaller", "distutils", "f2py"}
# Modules of sympy that need other packages, translate to other languages, or are about physics other than units.
LEFT_OUT_OF_SYMPY = {
    "tests", "testing", "benchmarks", "conftest", "this", "galgebra", "interactive", "codegen", "plotting", "latex",
    "autolev", "c", "fortran", "mathematica", "maxima", "control", "mechanics", "quantum", "continuum_mechanics",
    "optics", "biomechanics", "hep", "wigner", "matrices_old", "runtests",
}  # fmt: skip


def preload() -> None:
    """Imports the standard library, except modules that fail to load here, and the other packages, which must load."""
    for name in sorted(sys.stdlib_module_names - LEFT_OUT):
        attempt(name)
    for package in PACKAGES:
        attempt_all(package, {"__main__", "test", "tests"})
    preload_time_zones()
    if "numpy" in OTHERS:
        preload_numpy()
    stub_ctypes()
    for name in OTHERS:
        importlib.import_module(name)
    attempt_all("sympy", LEFT_OUT_OF_SYMPY)


def attempt_all(package: str, left_out: set[str]) -> None:
    """Imports the modules of a package and of its subpackages."""
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        name = f"{package}.{module.name}"
        if module.name not in left_out:
            attempt(name)
            if module.ispkg and name in sys.modules:
                attempt_all(name, left_out)


def attempt(name: str) -> None:
    with contextlib.suppress(ImportError, OSError, AttributeError, NotImplementedError):  # not on this platform
        importlib.import_module(name)


def preload_time_zones() -> None:
    """Keeps the data of the package tzdata in memory, where zoneinfo would read files."""
    files = importlib.resources.files("tzdata.zoneinfo")
    names = importlib.resources.files("tzdata").joinpath("zones").read_text().split()
    contents: dict[bytes, bytes] = {}  # many zones are the same
    zones = {}
    for name in names:
        content = files.joinpath(name).read_bytes()
        zones[name] = contents.setdefault(content, content)

    def load_tzdata(key):
        if key not in zones:
            raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}")
        return io.BytesIO(zones[key])

    def available_timezones():
        """The names of all time zones."""
        return set(zones)

    zoneinfo._common.load_tzdata = load_tzdata
    zoneinfo.available_timezones = zoneinfo._tzpath.available_timezones = available_timezones


def preload_numpy() -> None:
    numpy = importlib.import_module("numpy")
    # `from numpy import *` imports it, although it cannot work without a compiler.
    numpy.f2py = sys.modules["numpy.f2py"] = types.ModuleType("numpy.f2py")
    attempt_all("numpy", LEFT_OUT_OF_NUMPY)


def stub_ctypes() -> None:
    """Installs a stub of ctypes, of which sympy uses only the size of a C long."""
    ctypes = types.ModuleType("ctypes")
    ctypes.c_long = type("c_long", (), {})
    ctypes.sizeof = lambda kind: 4
    sys.modules["ctypes"] = ctypes
