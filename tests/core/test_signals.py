"""Traps in cells and other libraries' signal handlers do not interfere, in any order and while cells run."""

import signal
import subprocess
import sys

import pytest

START = """
import ctypes, faulthandler, signal, threading, time
from agentdistill import Limits, Sandbox

TOO_DEEP = "import sys; sys.setrecursionlimit(10**7); f = lambda: f(); f()"
ENDLESS = "while True:\\n  try:\\n    while True: pass\\n  except BaseException: pass"

def killed(code):
    sandbox = Sandbox({"enable": faulthandler.enable}, Limits(seconds=0.2, hard_seconds=0.1))
    kind = sandbox.run(sandbox.initial, code)[0].kind
    assert kind == "killed", kind

def during(act, code):
    cell = threading.Thread(target=killed, args=[code])
    cell.start()
    time.sleep(0.1)
    act()
    cell.join()
"""
ORDERS = {
    "nobody else": "killed(TOO_DEEP); killed(ENDLESS)",
    "enabled before": "faulthandler.enable(); killed(TOO_DEEP); killed(ENDLESS)",
    "enabled after": "killed(TOO_DEEP); faulthandler.enable()",
    "enabled in between": "killed(TOO_DEEP); faulthandler.enable(); killed(TOO_DEEP); killed(ENDLESS)",
    "enabled while a cell runs": "killed(TOO_DEEP); during(faulthandler.enable, ENDLESS); killed(TOO_DEEP)",
    "enabled by a tool": "killed('enable(); ' + TOO_DEEP)",
    "disabled again": "faulthandler.enable(); killed(TOO_DEEP); faulthandler.disable(); killed(TOO_DEEP)",
    "disabled while a cell runs": "killed(TOO_DEEP); faulthandler.enable(); during(faulthandler.disable, ENDLESS)",
    "reset, as ray does": """
killed(TOO_DEEP)
for number in (signal.SIGILL, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS):
    ctypes.CDLL(None).signal(int(number), None)
killed(TOO_DEEP)
""",
}
WITH_FAULTHANDLER = [order for order in ORDERS if order.startswith("enabled")]


def run(script: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", START + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cell_that_traps_ends_alone(order: str) -> None:
    done = run(ORDERS[order] + "\nprint('alive')")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("order", ORDERS)
def test_a_fault_elsewhere_is_as_fatal_as_ever(order: str) -> None:
    done = run(ORDERS[order] + "\nctypes.string_at(8)")
    assert done.returncode == -signal.SIGSEGV
    assert ("Fatal Python error: Segmentation fault" in done.stderr) == (order in WITH_FAULTHANDLER), done.stderr


def test_a_signal_that_somebody_sends_ends_the_process() -> None:
    done = run("killed(TOO_DEEP)\nsignal.raise_signal(signal.SIGSEGV)\nprint('alive')")
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


def test_a_handler_that_repairs_a_fault_still_does() -> None:
    """As in virtual machines: the handler makes the page accessible, or continues elsewhere."""
    done = run("""
import mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
page = libc.mmap(None, 4096, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
faults = []
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def repair(number):
    faults.append(number)
    libc.mprotect(page, 4096, mmap.PROT_READ)
for _ in range(3):
    killed(TOO_DEEP)
    libc.signal(int(signal.SIGSEGV), ctypes.cast(repair, ctypes.c_void_p))
    killed(TOO_DEEP)
    libc.mprotect(page, 4096, 0)
    assert ctypes.string_at(page, 1) == b"\\0"
print(faults)
""")
    assert (done.returncode, done.stdout) == (0, f"{[int(signal.SIGSEGV)] * 3}\n"), done.stderr
