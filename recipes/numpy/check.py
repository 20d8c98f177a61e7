"""Runs numpy's own tests of core, linalg, fft and random in the sandbox.

The tests are those of the sources that build.py has unpacked. The guest asks for their text, and for pytest's, by a
tool; it has no hypothesis and none of numpy's C modules for tests, so what needs them is skipped. Prints a line for
each module, and what failed in it.

Usage: .venv/bin/python recipes/numpy/check.py [PART_OF_A_MODULE'S_NAME ...]
"""

import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import build

from agentdistill import Limits, Sandbox
from agentdistill._core import Observation, State

PACKAGES = ("_core", "linalg", "fft", "random")
HELPERS = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
LACKING = (
    "hypothesis", "hypothesis.strategies", "hypothesis.extra", "hypothesis.extra.numpy",
    "numpy._core._multiarray_tests", "numpy._core._umath_tests", "numpy._core._rational_tests",
    "numpy._core._struct_ufunc_tests", "numpy._core._operand_flag_tests", "numpy._core._simd",
)  # fmt: skip
CHUNK = 64
"""Cases that are run in one cell, as long as none kills it or takes too long."""


def main(wanted: list[str]) -> None:
    root = next(build.WORK.glob("numpy-*/numpy"), None)
    if root is None:
        sys.exit("run `make numpy` first: there are no sources of numpy here")
    tests = {name: file for package in PACKAGES for name, file in modules(root.parent, root / package / "tests")}
    helpers = {name: file for package in HELPERS for name, file in modules(*place(package))}
    files = tests | helpers

    def module(name: str) -> tuple[str, str] | None:
        if name in files:
            return str(files[name]), files[name].read_text()
        # A folder without an __init__.py is a package too.
        return ("__init__.py", "") if any(known.startswith(f"{name}.") for known in files) else None

    def data(file: str) -> str | None:
        path = Path(file).resolve()
        return path.read_text() if path.is_relative_to(root) and path.suffix == ".csv" and path.is_file() else None

    limits = Limits(seconds=120, memory_mb=1024, tool_calls=10_000, stdout_chars=100_000)
    sandbox = Sandbox({"module": module, "data": data}, limits)
    guest = Path(__file__).with_name("check_guest.py").read_text()
    observation, ready = sandbox.run(sandbox.initial, f"LACKING = {LACKING!r}\n{guest}\nimport pytest")
    if observation.kind != "value":
        sys.exit(f"the tests cannot be run in the guest:\n{observation.error}")
    total: Counter[str] = Counter()
    for name in sorted(tests):
        if name.rpartition(".")[2].startswith("test_") and all(part in name for part in wanted):
            total += check(sandbox, ready, name)
    print("in all:", summary(total))


def modules(root: Path, folder: Path) -> list[tuple[str, Path]]:
    """The modules below a folder, or the one that it is, with their names as seen from the root."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    return [(".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), file) for file in files]


def place(package: str) -> tuple[Path, Path]:
    """Where a package of this environment is: the folder that it is imported from, and it."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, package
    file = Path(spec.origin)
    return (file.parents[1], file.parent) if file.name == "__init__.py" else (file.parent, file)


def check(sandbox: Sandbox, ready: State, name: str) -> Counter[str]:
    loaded, state = sandbox.run(ready, f"load({name!r})")
    if loaded.kind != "value" or loaded.value is None:
        print(f"{name}: not run: {last_line(loaded)}", flush=True)
        return Counter({"modules not run": 1})
    starts = range(0, int(loaded.value), CHUNK)
    outcomes = [line for start in starts for line in run(sandbox, state, start, min(start + CHUNK, int(loaded.value)))]
    counts = Counter(line.partition("\t")[2].partition(" ")[0] for line in outcomes)
    print(f"{name}: {summary(counts)}", flush=True)
    failures = [line.replace("\tfailed", "", 1) for line in outcomes if "\tfailed" in line]
    for line in failures:
        print(f"    {line}", flush=True)
    return counts


def run(sandbox: Sandbox, state: State, start: int, end: int) -> list[str]:
    observation, _ = sandbox.run(state, f"print(*run({start}, {end}), sep='\\n')")
    if observation.kind == "value":
        return [line for line in observation.stdout.splitlines() if "\t" in line]  # not what the tests print
    if end - start == 1:
        return [f"case {start}\tfailed {last_line(observation)}"]
    middle = (start + end) // 2
    return run(sandbox, state, start, middle) + run(sandbox, state, middle, end)


def last_line(observation: Observation) -> str:
    lines = re.split("\n(?! )", observation.error or observation.kind)
    return f"{observation.kind}: {' | '.join(lines[-2:])[-300:]}"


def summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


if __name__ == "__main__":
    main(sys.argv[1:])
