"""Reading trajectories beside the obvious Python, json and re, on 100,000 of them.

    python benches/compare/parse.py                  # --trajectories N for fewer

Trajectories of real shape are recorded (a scripted model, the real sandbox: a search-like text, a cell that raises,
one that computes, the answer) and written over and over with other words, in three formats. Each side reads a file
from the disk's cache in a process of its own, and for each trajectory gets the question, and for each step the thought,
the code and what was observed, and the answer:

1. our own file, read into a list and one after the other. Ours gives whole objects, Python the same fields by
   `json.loads`. What the core parsed when it recorded is in the file, and neither side parses it again.
2. the logs of the paper's code, read one after the other (`iter_trajectories`), where Python parses Thought, Code and
   answer by `re`; and converted to ours, line by line, where Python writes a line of the same fields.
3. the same from OpenAI's messages as text.

Python has one core; ours has one (RAYON_NUM_THREADS=1) and then all. Sides take turns; a figure is the median over the
rounds: seconds on the clock, seconds of the processor (which others on the machine change less), and the process's peak
of memory above what it was before. Ours waits until its output is on the disk, which Python does not.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agentdistill import Task, convert, iter_trajectories, read_trajectories, rollout
from agentdistill.model import Message, ScriptedModel

ROUNDS = 3
WORDS = ("river", "town", "bridge", "mayor", "album", "singer", "station", "island", "castle", "painter", "valley")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=100_000)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure(SIDES[arguments.side], arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(arguments.trajectories, Path(folder))
        for name, what, *sides in (
            ("agentdistill", "into a list", "python-list", "core-list"),
            ("agentdistill", "one after the other", "python-ours", "core-iter"),
            ("reference", "one after the other", "python-logs", "core-iter"),
            ("reference", "converted", "python-convert-logs", "core-convert"),
            ("messages", "one after the other", "python-messages", "core-iter"),
            ("messages", "converted", "python-convert-messages", "core-convert"),
        ):
            compare(f"{name}, {what}", files[name], *sides)


# ---- files ---------------------------------------------------------------------------------------


def make_files(count: int, folder: Path) -> dict[str, Path]:
    """A file of each format."""
    recorded = folder / "recorded.jsonl"
    tasks = [Task(f"t{i}", text(i, 12) + "?", text(i, 2), "facts", "fact") for i in range(50)]
    rollout(tasks, ScriptedModel("scripted", policy), output=recorded, progress=False)
    files = {}
    for name in ("agentdistill", "reference", "messages"):
        some = folder / f"some.{name}.jsonl"
        convert(recorded, some, target=name, progress=False)
        lines = [line for line in some.read_text().splitlines() if '"agentdistill":"trajectories"' not in line]
        files[name] = folder / f"{name}.jsonl"
        with files[name].open("w") as file:
            for i in range(count):
                # Another id and other words: no two lines are the same.
                line = re.sub(r'("task_id":")t\d+', rf"\g<1>t{i}", lines[i % len(lines)])
                file.write(line.replace("river", f"{WORDS[i % len(WORDS)]}{i}") + "\n")
    return files


def text(seed: int, words: int) -> str:
    return " ".join(WORDS[(seed * 7 + i * i) % len(WORDS)] for i in range(words))


def policy(messages: Sequence[Message], _prefix: str, _index: int) -> str:
    seed, turn = len(messages[1].content), len(messages) // 2 - 1
    thought = f"Thought: I have to find the {text(seed + turn, 25)}.\nCode:\n```py\n"
    passages = "\n\n".join(f"[{i}] {text(seed + i, 3)}\n{text(seed + i, 90)}." for i in range(3))
    cells = (
        f"passages = {passages!r}\nprint(passages)",
        "found = [line for line in passages.split('\\n') if 'castle' in line]\nprint(found[99])",
        "for line in found:\n    print(len(line), line[:60])",
        f"final_answer({text(seed, 2)!r})",
    )
    return f"{thought}{cells[turn]}\n```<end_code>"


# ---- sides: each reads the file ----------------------------------------------------------------------

THOUGHT = re.compile(r"Thought:\s*(.*?)\s*(?=Code:|```)", re.DOTALL)
CODE = re.compile(r"```(?:py|python)\n(.*?)```", re.DOTALL)
ANSWER = re.compile(r"final_answer\((.*)\)", re.DOTALL)


Fields = dict[str, Any]
"""What is wanted of a trajectory."""


def ours_in(file: Path) -> Iterator[Fields]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            steps = []
            for step in record["steps"]:
                chosen = step["candidates"][step["winner"]]
                action = chosen["action"]
                steps.append((action["thought"], action.get("code"), chosen["observation"], step["message"]))
            yield {"question": record["question"], "steps": steps, "answer": record["answer"]}


def logs_in(file: Path) -> Iterator[Fields]:
    return parsed_in(file, lambda record: record["log_data"]["messages"])


def messages_in(file: Path) -> Iterator[Fields]:
    return parsed_in(file, lambda record: record["messages"])


def parsed_in(file: Path, messages_of: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Iterator[Fields]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            read: Fields = {"question": None, "steps": [], "answer": None}
            for role, said in said_in(messages_of(record)):
                if role == "assistant":
                    thought, code = THOUGHT.search(said), CODE.search(said)
                    step = {"text": said, "thought": thought and thought[1], "code": code and code[1], "told": ""}
                    read["steps"].append(step)
                    if code and (answer := ANSWER.search(code[1])):
                        read["answer"] = answer[1].strip("'\"")
                elif read["steps"]:
                    read["steps"][-1]["told"] = said
                elif role == "user":
                    read["question"] = said
            yield read


def said_in(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        yield message["role"], content


def core_convert(file: Path) -> None:
    output = file.with_suffix(".core.jsonl")
    convert(file, output, progress=False)
    output.unlink()


def python_convert(file: Path, read: Iterator[Fields]) -> None:
    output = file.with_suffix(".python")
    with output.open("w", encoding="utf-8") as out:
        for fields in read:
            out.write(json.dumps(fields, ensure_ascii=False) + "\n")
    output.unlink()


def each(read: Iterator[Any]) -> None:
    for _ in read:
        pass


SIDES: dict[str, Callable[[Path], Any]] = {
    "python-list": lambda file: list(ours_in(file)),
    "python-ours": lambda file: each(ours_in(file)),
    "python-logs": lambda file: each(logs_in(file)),
    "python-messages": lambda file: each(messages_in(file)),
    "python-convert-logs": lambda file: python_convert(file, logs_in(file)),
    "python-convert-messages": lambda file: python_convert(file, messages_in(file)),
    "core-list": read_trajectories,
    "core-iter": lambda file: each(iter_trajectories(file)),
    "core-convert": core_convert,
}


# ---- measuring -----------------------------------------------------------------------------------


def measure(side: Callable[[Path], Any], file: Path) -> None:
    before = peak()
    start, begun = time.perf_counter(), time.process_time()
    read = side(file)
    seconds, cpu = time.perf_counter() - start, time.process_time() - begun
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": peak() - before}))
    del read


def peak() -> float:
    """The most memory that this process has had, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run(side: str, file: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--file", str(file)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    return dict(json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout))


def compare(name: str, file: Path, python: str, core: str) -> None:
    cores = len(os.sched_getaffinity(0))
    sides = {"python": (python, 1), "core, 1 thread": (core, 1), f"core, {cores} threads": (core, cores)}
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, (function, threads) in sides.items():
            taken[side].append(run(function, file, threads))
    size = file.stat().st_size / 1e6
    print(f"{name}: {size:,.0f} MB")
    medians = {
        side: {what: statistics.median(one[what] for one in runs) for what in runs[0]} for side, runs in taken.items()
    }
    for side, median in medians.items():
        faster, thriftier = (medians["python"][what] / median[what] for what in ("seconds", "cpu"))
        print(
            f"  {side:16} {median['seconds']:7.2f} s ({faster:5.2f} times as fast) {median['cpu']:7.2f} s of processor "
            f"({thriftier:5.2f} times as thrifty) {median['mb']:7.0f} MB"
        )


if __name__ == "__main__":
    main()
