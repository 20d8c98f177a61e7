"""Many cells in one process: memory and file descriptors must stay as they are.

    python benches/soak.py 1000000

Cells of many kinds, also those that fail, end at a limit, grow the memory or break the interpreter; States that live on
and States that are dropped. A line for each twentieth of them; exit code 1 when the second half has grown.
"""

import os
import random
import sys
import time

from agentdistill import Limits, Sandbox, State

CELLS = (
    "n = globals().get('n', 0) + 1",
    "print('x' * 100)",
    "rows = [{'i': i, 's': str(i)} for i in range(100)]",
    "1 / 0",
    "import json\njson.dumps(globals().get('rows', []))",
    "look(1)",
    "final_answer([1, 2])",
)
RARE = ("'a' * 10**9", "big = bytearray(20 << 20)", "f = lambda: f()\nf()", "while True: pass")
CANDIDATES = 8


def main(cells: int) -> int:
    sandbox = Sandbox({"look": lambda n: n}, Limits(seconds=0.05, hard_seconds=0.05))
    rng = random.Random(0)
    states = [sandbox.initial] * 64
    measured: list[tuple[int, int]] = []
    start = time.perf_counter()
    for step in range(cells // CANDIDATES):
        state = sandbox.initial if rng.random() < 0.2 else rng.choice(states)
        codes = [rng.choice(RARE if rng.random() < 0.001 else CELLS) for _ in range(CANDIDATES)]
        results: list[State] = [after for _, after in sandbox.run_many([(state, code) for code in codes])]
        states[rng.randrange(len(states))] = rng.choice(results)
        if (step + 1) % max(1, cells // CANDIDATES // 20) == 0:
            rate = (step + 1) * CANDIDATES / (time.perf_counter() - start)
            measured.append((resident_mb(), len(os.listdir("/proc/self/fd"))))
            print(f"{(step + 1) * CANDIDATES:>9} cells  {rate:6.0f}/s  {measured[-1][0]} MB  {measured[-1][1]} files")
    (half_mb, half_files), (end_mb, end_files) = measured[len(measured) // 2], measured[-1]
    return int(end_files > half_files or end_mb > 1.1 * half_mb + 20)


def resident_mb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
