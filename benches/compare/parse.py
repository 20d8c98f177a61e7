"""Reading trajectories beside the obvious Python, json and re, on 100,000 of them.

    python benches/compare/parse.py                  # --trajectories N for fewer

Trajectories of real shape are recorded (a scripted model, the real sandbox: a search-like text, a cell that raises,
one that computes, the answer) and written over and over with other words, in three formats; those of others without
what ours adds for itself. Each side has a process of its own, and files are in the disk's cache:

1. the completions alone, which are in memory: `parse_action` beside `re`, and each side takes thought, code and answer.
2. the logs of the paper's code, one after the other (`iter_trajectories`), where Python has json, and `re` for Thought,
   Code and answer: the question, for each step the thought, the code and what was observed, and the answer. Ours gives
   whole objects; once more, with these fields taken from them, which makes strings of Python's. Then converted to our
   own format, line by line, where Python writes a line of the same fields.
3. the same from messages as text.
4. our own file, into a list and one after the other, where Python takes the same fields. What the core parsed when it
   recorded is in the file, and neither side parses it again.

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

from agentdistill import Action, Task, convert, iter_trajectories, parse_action, read_trajectories, rollout
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel

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
            ("messages", "their completions", "python-completions", "core-completions"),
            ("reference", "one after the other", "python-logs", "core-objects", "core-fields"),
            ("reference", "converted", "python-convert-logs", "core-convert"),
            ("messages", "one after the other", "python-messages", "core-objects", "core-fields"),
            ("messages", "converted", "python-convert-messages", "core-convert"),
            ("agentdistill", "into a list", "python-list", "core-list"),
            ("agentdistill", "one after the other", "python-ours", "core-objects", "core-fields"),
        ):
            compare(f"{name}, {what}", files[name], *sides)


# ---- files ---------------------------------------------------------------------------------------


def make_files(count: int, folder: Path) -> dict[str, Path]:
    """A file of each format."""
    recorded = folder / "recorded.jsonl"
    tasks = [Task(f"t{i}", f"river {text(i, 12)}?", text(i, 2), "facts", "fact") for i in range(50)]
    rollout(tasks, ScriptedModel("scripted", policy), output=recorded, progress=False)
    files = {}
    for name in ("agentdistill", "reference", "messages"):
        some = folder / f"some.{name}.jsonl"
        convert(recorded, some, target=name, progress=False)
        records = [json.loads(line) for line in some.read_text().splitlines()]
        records = [record for record in records if record.pop("agentdistill", None) != "trajectories"]
        lines = [json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records]
        files[name] = folder / f"{name}.jsonl"
        with files[name].open("w") as file:
            for i in range(count):
                # Another id and other words: no two lines, and no two questions, are the same.
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
                    thought, code, answer = parsed(said)
                    read["steps"].append({"text": said, "thought": thought, "code": code, "told": ""})
                    read["answer"] = answer
                elif read["steps"]:
                    read["steps"][-1]["told"] = said
                elif role == "user":
                    read["question"] = said
            yield read


def parsed(completion: str) -> tuple[str | None, str | None, str | None]:
    """Thought, code and answer."""
    thought, code = THOUGHT.search(completion), CODE.search(completion)
    answer = code and ANSWER.search(code[1])
    return thought and thought[1], code and code[1], answer and answer[1].strip("'\"")


def said_in(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        yield message["role"], content


def completions_in(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        messages = [message for line in lines for message in json.loads(line)["messages"]]
    return [message["content"] for message in messages if message["role"] == "assistant"]


def core_parsed(completion: str) -> tuple[str | None, str | None, str | None] | None:
    action = parse_action(completion)
    return (action.thought, action.code, action.final_answer) if isinstance(action, Action) else None


def core_fields_in(file: Path) -> Iterator[Fields]:
    for trajectory in iter_trajectories(file):
        steps = []
        for step in trajectory.steps:
            chosen = step.candidates[step.winner]
            if isinstance(action := chosen.action, Action):
                steps.append((chosen.text, action.thought, action.code, step.message))
        yield {"question": trajectory.question, "steps": steps, "answer": trajectory.answer}


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


Side = Callable[[Path], Callable[[], Any]]
"""Given the file, what is measured."""


def on(function: Callable[[Any], Any], items: Callable[[Path], Any] = lambda file: file) -> Side:
    """The side that applies the function to what it has, which is not measured."""

    def prepared(file: Path) -> Callable[[], Any]:
        given = items(file)
        return lambda: function(given)

    return prepared


SIDES: dict[str, Side] = {
    "python-completions": on(lambda texts: each(map(parsed, texts)), completions_in),
    "python-logs": on(lambda file: each(logs_in(file))),
    "python-messages": on(lambda file: each(messages_in(file))),
    "python-convert-logs": on(lambda file: python_convert(file, logs_in(file))),
    "python-convert-messages": on(lambda file: python_convert(file, messages_in(file))),
    "python-list": on(lambda file: list(ours_in(file))),
    "python-ours": on(lambda file: each(ours_in(file))),
    "core-completions": on(lambda texts: each(map(core_parsed, texts)), completions_in),
    "core-objects": on(lambda file: each(iter_trajectories(file))),
    "core-fields": on(lambda file: each(core_fields_in(file))),
    "core-convert": on(core_convert),
    "core-list": on(read_trajectories),
}


# ---- measuring -----------------------------------------------------------------------------------


def measure(side: Side, file: Path) -> None:
    measured, before = side(file), peak()
    start, begun = time.perf_counter(), time.process_time()
    read = measured()
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


def compare(name: str, file: Path, python: str, *core: str) -> None:
    cores = len(os.sched_getaffinity(0))
    sides = {python: (python, 1)}
    for side in core:
        sides |= {f"{side}, 1 thread": (side, 1), f"{side}, {cores} threads": (side, cores)}
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
        faster, thriftier = (medians[python][what] / median[what] for what in ("seconds", "cpu"))
        print(
            f"  {side:27} {median['seconds']:7.2f} s ({faster:5.2f} times as fast) {median['cpu']:7.2f} s of processor "
            f"({thriftier:5.2f} times as thrifty) {median['mb']:7.0f} MB"
        )


if __name__ == "__main__":
    main()
