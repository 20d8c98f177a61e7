"""Traps in a cell and other libraries' signal handlers leave one another alone, in any order and while cells run."""

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
