"""Publish a run of math.toml: its results, trajectories, report and tables, small enough to commit.

Usage: python recipes/laptop/publish.py RUN FOLDER, where RUN is the recipe's output. FOLDER gets results.json, every
trajectory (compressed), report.html, accuracy.svg and tables.md, whose tables stand in README.md and in FOLDER's own
README.md. Models are named by their folders instead of their paths, so that nothing tells of the machine.
"""

import gzip
import itertools
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentdistill.results.arms import Arm, load_arm, result_of
from agentdistill.results.comparison import Difference, compare
from agentdistill.results.report import write_report

SETS = {"test": "GSM8K", "gsm_hard": "GSM-Hard", "svamp": "SVAMP"}
ARMS = {
    "untrained-cot": "untrained, by chain of thought",
    "untrained-agent": "untrained, as an agent",
    "cot": "chain-of-thought distillation",
    "agent": "agent distillation",
    "agent-sag": "agent distillation, self-consistent actions (N = 8)",
    "ftp": "agent distillation, first-thought prefix",
    "ftp-sag": "agent distillation, first-thought prefix, self-consistent actions (N = 8)",
}
"""The end of an arm's name -> what it is, in the order of the tables."""


TRAINED = ("agent", "cot", "ftp")
"""The trajectories of the teacher, and the students that learn from them."""

PAIRS = [
    ("agent", "cot"),
    ("agent", "untrained-agent"),
    ("cot", "untrained-cot"),
    ("agent-sag", "agent"),
    ("ftp", "agent"),
    ("ftp", "cot"),
    ("ftp-sag", "ftp"),
    ("ftp-sag", "agent"),
    ("ftp-sag", "cot"),
]
"""Arms of one size to compare: the first minus the second."""

LARGER = [("agent", "untrained-cot"), ("ftp", "untrained-cot")]
"""An arm, and the arm of each larger size that it is compared with."""


def publish(run: Path, folder: Path) -> None:
    """Write ``folder`` from the recipe's output ``run``."""
    (folder / "trajectories").mkdir(parents=True, exist_ok=True)
    (folder / "teacher").mkdir(exist_ok=True)
    for name in TRAINED:
        if (made := run / "teacher" / f"{name}.jsonl").exists():
            compress(nameless_lines(made), folder / "teacher" / f"{name}.jsonl.gz")
    arms = sorted(path for path in (run / "results").iterdir() if (path / "results.json").exists())
    trained = sorted(path.parent for path in run.glob("*/*/train.json"))
    said: dict[str, Any] = {"arms": {}, "training": {}}
    with TemporaryDirectory() as name:
        copies = []
        for arm in arms:
            copy = Path(name, arm.name)
            copy.mkdir()
            (copy / "trajectories.jsonl").write_text(text := nameless_lines(arm / "trajectories.jsonl"))
            compress(text, folder / "trajectories" / f"{arm.name}.jsonl.gz")
            said["arms"][arm.name] = nameless(json.loads((arm / "results.json").read_text()))
            copies.append(copy)
        for student in trained:
            copy = Path(name, f"{student.parent.name}-{student.name}-training")
            copy.mkdir()
            training = nameless(json.loads((student / "train.json").read_text()))
            (copy / "train.json").write_text(json.dumps(training))
            said["training"][f"{student.parent.name}-{student.name}"] = training
            copies.append(copy)
        write_report(copies, folder / "report.html")
    (folder / "report_files" / "accuracy.svg").replace(folder / "accuracy.svg")
    shutil.rmtree(folder / "report_files")
    (folder / "results.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    (folder / "tables.md").write_text(tables(folder))


def tables(folder: Path) -> str:
    """The tables of the trajectories in ``folder``: accuracy, cost, differences between arms, and the teacher."""
    files = {path.name.removesuffix(".jsonl.gz"): path for path in (folder / "trajectories").glob("*.jsonl.gz")}
    arms = {name: load_arm(path, name) for name, path in files.items()}
    ordered = sorted(arms, key=lambda name: (parameters(name), size(name), list(ARMS).index(kind(name))))
    accuracy = [
        [
            size(name),
            ARMS[kind(name)],
            str(arms[name].evaluation.sets[0].n),
            *(percent(arms[name], of) for of in SETS),
            f"{100 * arms[name].evaluation.accuracy:.1f}",
        ]
        for name in ordered
    ]
    cost = [
        [size(name), ARMS[kind(name)], *spent(arms[name]), *(failures(arms[name], of) for of in SETS)]
        for name in ordered
    ]
    pairs = []
    for of in dict.fromkeys(map(size, ordered)):
        own = {kind(name): name for name in ordered if size(name) == of}
        pairs += [(own[one], own[other], ARMS[other]) for one, other in PAIRS if one in own and other in own]
    for one, other in itertools.product(ordered, repeat=2):
        if (kind(one), kind(other)) in LARGER and parameters(one) < parameters(other):
            pairs.append((one, other, f"{size(other)} {ARMS[kind(other)]}"))
    differences = []
    for one, other, name_of_other in pairs:
        first, second = arms[one].right, arms[other].right
        mean = compare(first, second)
        if mean:
            cells = [points(compare(on(first, name), on(second, name))) for name in SETS]
            arm = f"{ARMS[kind(one)]}, over {name_of_other}"
            differences.append([size(one), arm, str(mean.n), *cells, points(mean), chance(mean.p)])
    teachers = [folder / "teacher" / f"{name}.jsonl.gz" for name in TRAINED]
    made = {path.name.removesuffix(".jsonl.gz"): path for path in teachers if path.exists()}
    taught = {name: load_arm(path, name) for name, path in made.items()}
    teacher = []
    for name, arm in taught.items():
        [found] = arm.evaluation.sets
        over = points(compare(arm.right, taught["agent"].right)) if name != "agent" else ""
        cells = [str(found.n), str(found.correct), f"{100 * found.accuracy:.1f}", over, f"{found.completion_tokens:,}"]
        teacher.append([name, *cells])
    return "\n".join(
        [
            table(["student", "arm", "n", *SETS.values(), "mean"], accuracy),
            table(["student", "arm", "tokens", "steps", *(f"{name}, no answer" for name in SETS.values())], cost),
            table(["student", "arms", "n", *SETS.values(), "mean", "p of the mean"], differences),
            table(["teacher", "tasks", "correct", "%", "over agent", "tokens"], teacher),
        ]
    )


def on(right: Mapping[tuple[str, str], bool], task_set: str) -> dict[tuple[str, str], bool]:
    return {key: value for key, value in right.items() if key[0] == task_set}


def points(found: Difference | None) -> str:
    """A difference in percentage points, with its 95 % interval."""
    return f"{100 * found.difference:+.1f} ({100 * found.low:+.0f} to {100 * found.high:+.0f})" if found else ""


def chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def table(head: list[str], rows: list[list[str]]) -> str:
    words = 2 if head[0] == "student" else 1
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def size(name: str) -> str:
    """The student's size, and its seed unless that is 0."""
    of, seed = name.split("-")[:2]
    return of.upper() + (f", seed {seed}" if seed.isdigit() and seed != "0" else "")


def parameters(name: str) -> float:
    """The student's number of parameters."""
    of = name.partition("-")[0]
    return float(of[:-1]) * {"m": 1e6, "b": 1e9}[of[-1]]


def kind(name: str) -> str:
    """The arm without its size and its seed."""
    return re.sub(r"^[^-]+-(\d+-)?", "", name)


def percent(arm: Arm, task_set: str) -> str:
    found = result_of(arm, task_set)
    return f"{100 * found.accuracy:.1f} ({100 * found.low:.0f}-{100 * found.high:.0f})" if found else ""


def spent(arm: Arm) -> tuple[str, str]:
    """Sampled tokens and steps, per episode."""
    sets = arm.evaluation.sets
    total = sum(one.n for one in sets)
    tokens, steps = sum(one.completion_tokens for one in sets), sum(one.steps * one.n for one in sets)
    return f"{tokens / total:.0f}", f"{steps / total:.2f}"


def failures(arm: Arm, task_set: str) -> str:
    found = result_of(arm, task_set)
    return str(found.n - found.outcomes.get("final_answer", 0)) if found else ""


def nameless_lines(source: Path) -> str:
    lines = [nameless(json.loads(line)) for line in source.read_text(encoding="utf-8").splitlines()]
    return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)


def compress(text: str, target: Path) -> None:
    """The same text gives the same bytes."""
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


def nameless(value: Any, key: str = "") -> Any:
    """JSON in which models and files are named without the folders that they are in."""
    if isinstance(value, dict):
        return {name: nameless(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [nameless(inner, key) for inner in value]
    if isinstance(value, str) and key in ("model", "trajectories", "chains", "student", "teacher"):
        parts = Path(value.removesuffix("/merged")).parts
        return "/".join(parts[-2:] if parts[-1:] and parts[-1] in TRAINED else parts[-1:])
    return value


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
