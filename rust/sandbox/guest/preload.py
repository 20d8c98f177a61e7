"""Imports, while the guest is built, all that a cell may import: there are no files to import from afterwards.

Left out: what needs a window, a terminal, a process, a thread or a socket, and what only serves Python's own tests.
"""

import importlib
import pkgutil
import sys
import types

LEFT_OUT = {
    "antigravity", "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "multiprocessing", "pip", "pty", "pydoc_data",
    "readline", "rlcompleter", "sqlite3", "ssl", "test", "this", "tkinter", "tty", "turtle", "turtledemo", "venv",
    "webbrowser", "_pyrepl", "__phello__", "_aix_support", "_android_support", "_apple_support", "_ios_support",
    "_osx_support", "_sysconfig", "wsgiref", "xmlrpc", "socketserver", "smtplib", "poplib", "imaplib", "ftplib",
    "_pydecimal", "_pyio", "_pylong", "cProfile", "profile", "pstats", "trace", "pdb", "bdb", "doctest", "pydoc",
    "compileall", "py_compile", "zipapp", "pyclbr", "mailbox", "netrc", "nturl2path", "ntpath", "annotationlib",
}  # fmt: skip
KEPT = {"annotationlib", "doctest", "_pylong", "ntpath"}  # used by typing and dataclasses, sympy, int(), pathlib
PACKAGES = ("collections", "concurrent", "email", "encodings", "html", "importlib", "json", "logging", "string",
            "unittest", "urllib", "xml", "zoneinfo", "asyncio", "http", "re", "compression", "pathlib")  # fmt: skip
OTHERS = ("sympy", "mpmath")


def preload() -> None:
    """Imports the standard library as far as it loads here, then the other packages, which must."""
    stub_ctypes()
    for name in sorted(sys.stdlib_module_names - (LEFT_OUT - KEPT)):
        attempt(name)
    for package in PACKAGES:
        for module in pkgutil.walk_packages(sys.modules[package].__path__, package + ".", onerror=lambda name: None):
            if not module.name.endswith(("__main__", ".test", ".tests")):
                attempt(module.name)
    for name in OTHERS:
        importlib.import_module(name)


def attempt(name: str) -> None:
    try:
        importlib.import_module(name)
    except (ImportError, OSError, AttributeError, NotImplementedError):  # not on this platform
        pass


def stub_ctypes() -> None:
    """sympy asks ctypes for the size of a C long, and for nothing else."""
    ctypes = types.ModuleType("ctypes")
    ctypes.c_long = type("c_long", (), {})
    ctypes.sizeof = lambda kind: 4
    sys.modules["ctypes"] = ctypes
