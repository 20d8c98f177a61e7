"""Cells written by models do the same in the sandbox as in CPython 3.11: output, value of the last line, exception.

Each known difference is listed with its reason in tests/golden/cells_differences.jsonl. A new difference fails, and so
does a listed one that no longer exists. Cells that use numpy run only if the guest has it.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentdistill._core import Limits, Observation, Sandbox

Row = dict[str, Any]
STDLIB_CELLS = Path(__file__).parents[1] / "golden" / "stdlib_cells.txt"
DIFFERENCES = Path(__file__).parents[1] / "golden" / "cells_differences.jsonl"
ENOUGH = {"stdlib": 0.995, "third_party": 0.98}
ASKED = {"ans": 'globals().get("ans")', "solution()": "solution()"}
"""What was evaluated after the cells, by the kind of row."""


@pytest.mark.parametrize("numpy", [False, True], ids=["without numpy", "with numpy"])
def test_cells_of_models_do_what_they_did_in_cpython(shared_data: Path, numpy: bool) -> None:
    if numpy and "numpy" not in Sandbox.packages:
        pytest.skip("this build of the guest has no numpy: `make numpy setup`")
    with gzip.open(shared_data / "python_cells.jsonl.gz", "rt") as lines:
        every_row = [json.loads(line) for line in lines]
    rows = [row for row in every_row if numpy == any("numpy" in cell for cell in row["cells"])]
    listed = [json.loads(line) for line in DIFFERENCES.read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in listed}
    assert len(reasons) == len(listed) and all(reasons.values())
    assert reasons.keys() <= {row["uid"] for row in every_row}

    known = reasons.keys() & {row["uid"] for row in rows}
    found = dict(differences(rows))
    new = [f"{uid}: {what}" for uid, what in found.items() if uid not in known]
    assert not new, f"{len(new)} new differences:\n" + "\n".join(new)
    assert not known - found.keys(), "these are listed as different, and are not"
    for lib in {row["lib"] for row in rows}:
        uids = [row["uid"] for row in rows if row["lib"] == lib]
        assert 1 - sum(uid in known for uid in uids) / len(uids) >= ENOUGH[lib], lib


def differences(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """The rows that differ, with their actual and recorded results."""
    ending = [row for row in rows if row["native"]["status"] != "killed"]
    sandbox = Sandbox(limits=Limits(seconds=120, stdout_chars=1_000_000))
    for group in (ending[start : start + 256] for start in range(0, len(ending), 256)):
        for row, observations in zip(group, run(sandbox, group), strict=True):
            seen, recorded = [did(observation) for observation in observations], expected(row)
            if seen != recorded:
                yield row["uid"], f"{seen} where CPython has {recorded}"
    endless = [row for row in rows if row["native"]["status"] == "killed"]
    for row, observations in zip(endless, run(Sandbox(limits=Limits(seconds=0.2)), endless), strict=True):
        if not any(observation.kind in ("timeout", "killed") for observation in observations):
            yield row["uid"], "it ends, and did not in CPython"


def run(sandbox: Sandbox, rows: list[Row]) -> list[list[Observation]]:
    """Run the cells of each row in sequence, all rows concurrently, then evaluate what was recorded."""
    cells = []
    for row in rows:
        native = row["native"]
        asked = row["kind"] in ASKED and (native["value"] is not None or native["status"] == "killed")
        ran = len(native["cells"]) or len(row["cells"])
        cells.append(row["cells"][:ran] + ([ASKED[row["kind"]]] if asked else []))
    states = [sandbox.initial] * len(rows)
    seen: list[list[Observation]] = [[] for _ in rows]
    for step in range(max(map(len, cells))):
        left = [index for index in range(len(rows)) if step < len(cells[index])]
        results = sandbox.run_many([(states[index], cells[index][step]) for index in left])
        for index, (observation, state) in zip(left, results, strict=True):
            states[index] = state
            seen[index].append(observation)
    return seen


def did(observation: Observation) -> tuple[str, str | None, str | None]:
    """A cell's output, value, and exception type or other outcome."""
    end = None if observation.kind == "value" else observation.error_type or observation.kind
    return observation.stdout, observation.value, end


def expected(row: Row) -> list[tuple[str, str | None, str | None]]:
    """The same, as CPython gives it."""
    native = row["native"]
    recorded = [(cell["stdout"], cell["last"], cell["exc"] and cell["exc"].split(":")[0]) for cell in native["cells"]]
    match native["value"]:
        case None:
            return recorded
        case "None":
            return [*recorded, ("", None, None)]
        case value if value.startswith("EXC "):
            return [*recorded, ("", None, value.removeprefix("EXC ").split(":")[0])]
        case value:
            return [*recorded, ("", value, None)]


NATIVELY = """
import contextlib, io, json, sys
sys.argv, sys.stderr = [""], io.StringIO()
for cell in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(cell, "cell", "exec"), {"__name__": "__main__"})
    sys.stdout.write(json.dumps(printed.getvalue()) + "\\n")
"""


def test_the_standard_library_does_what_it_does_in_cpython() -> None:
    """Cells that print the same in every version of CPython from 3.11 on."""
    cells = STDLIB_CELLS.read_text(encoding="utf-8").split("\n----\n")
    done = subprocess.run(
        [sys.executable, "-c", NATIVELY], input=json.dumps(cells), capture_output=True, text=True, check=True
    )
    sandbox = Sandbox(limits=Limits(seconds=20))
    observations = [observation for observation, _ in sandbox.run_many([(sandbox.initial, cell) for cell in cells])]
    natively = list(map(json.loads, done.stdout.splitlines()))
    for cell, observation, printed in zip(cells, observations, natively, strict=True):
        assert (observation.stdout, observation.error) == (printed, None), cell
