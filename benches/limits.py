"""How exactly the sandbox keeps its time limits: by how much cells overshoot them, in milliseconds.

    python benches/limits.py

Each row is 40 runs of a cell that never ends. Soft: TimeoutError ends it. Hard: it goes on regardless and is killed.
"Busy" has two Python threads that never wait beside it, as a training loop or a tokeniser may be: the thread that keeps
the limits must not need the interpreter's lock for it.
"""

import statistics
import threading

from agentdistill import Sandbox
from agentdistill._core import Limits

RUNS = 40
SOFT, HARD = 0.05, 0.05
CELLS = {
    "soft: a loop": ("while True: pass", "timeout", SOFT),
    "soft: after a tool": ("nothing()\nwhile True: pass", "timeout", SOFT),
    "hard: a loop that swallows": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "killed",
        SOFT + HARD,
    ),
    "hard: C code": ("sum(range(10**12))", "killed", SOFT + HARD),
    "hard: a regular expression": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "killed", SOFT + HARD),
}


def main() -> None:
    print(f"{'':40}{'median':>8}{'p90':>8}{'most':>8}")
    measure("")
    stop = threading.Event()
    busy = [threading.Thread(target=spin, args=(stop,)) for _ in range(2)]
    for thread in busy:
        thread.start()
    measure(", busy")
    stop.set()
    for thread in busy:
        thread.join()


def measure(suffix: str) -> None:
    sandbox = Sandbox({"nothing": lambda: None}, Limits(seconds=SOFT, hard_seconds=HARD))
    for name, (code, kind, limit) in CELLS.items():
        over = []
        for _ in range(RUNS):
            observation, _ = sandbox.run(sandbox.initial, code)
            assert observation.kind == kind, observation
            in_tools = sum(call.seconds for call in observation.tool_calls)
            over.append((observation.seconds - in_tools - limit) * 1000)
        over.sort()
        print(
            f"{name + suffix:40}{statistics.median(over):8.2f}{over[int(RUNS * 0.9)]:8.2f}{over[-1]:8.2f}", flush=True
        )


def spin(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(i * i for i in range(1000))


if __name__ == "__main__":
    main()
