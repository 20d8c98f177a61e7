"""The grader of mathematics beside others, on the same pairs: how many wrong answers are accepted, how many right ones
refused?

    python benches/compare/grading.py                                             # ours alone
    python benches/compare/grading.py --python /venv/bin/python --qwen Qwen2.5-Math/evaluation

Pairs: those judged by hand (tests/golden/math_answers.tsv), those generated from typed values and from gold answers of
MATH and GSM8K (tests/grading/math_pairs.py, a seed). Peers run in an interpreter of their own (``--python``), since
they pin versions of sympy's parsers that differ from ours:

- math-verify, as its README has it: both texts parsed as LaTeX or expressions, an answer without dollars in a box.
- the grader of Qwen2.5-Math's evaluation (a checkout's folder ``evaluation``, with ``latex2sympy`` in it), which the
  paper's code has as well: its own extraction of a boxed answer, ``strip_string``, ``math_equal``.

A peer that cannot be imported is said to be absent. A comparison of more than 5 s of processor time, or one that
raises, is a refusal.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--qwen", help="the folder evaluation of Qwen2.5-Math")
    parser.add_argument("--count", type=int, default=1000, help="of generated pairs of each source")
    parser.add_argument("--every", type=int, default=1, help="take one pair of so many")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        serve(given.peer)
        return
    sets = {source: made[:: given.every] for source, made in pairs(given.count).items()}
    rows = {"agentdistill": ours(sets), "agentdistill, math-reference": ours(sets, is_loose=True)}
    peers = {"math-verify": "math-verify", "Qwen2.5-Math's grader": given.qwen and f"qwen:{given.qwen}"}
    for name, peer in peers.items():
        verdicts = peer and asked(given.python, peer, sets)
        if verdicts:
            rows[name] = verdicts
        else:
            print(f"{name}: not there")
    report(sets, rows)


Pairs = dict[str, list[tuple[str, str, bool]]]


def pairs(count: int) -> Pairs:
    """By source: reference, answer, whether it is right."""
    sys.path.insert(0, str(ROOT / "tests" / "grading"))
    from math_pairs import gold_pairs
    from math_pairs import pairs as typed_pairs

    lines = (ROOT / "tests" / "golden" / "math_answers.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    found: Pairs = {"judged by hand": [(row[0], row[2], row[1] == "=") for row in rows]}
    found["typed values"] = [pair[1:] for pair in typed_pairs(count)]
    data = ROOT.parent / "shared" / "data"
    if data.is_dir():
        found["gold answers"] = [pair[1:] for pair in gold_pairs(data, count)]
    return found


def ours(sets: Pairs, *, is_loose: bool = False) -> list[bool | None]:
    """Our verdicts."""
    from agentdistill.grading.math_equality import UndecidedError, math_equal
    from agentdistill.grading.reference_math import reference_equal

    def verdict(reference: str, answer: str) -> bool | None:
        try:
            return (reference_equal if is_loose else math_equal)(reference, answer, seconds=SECONDS)
        except UndecidedError:
            return None

    return [verdict(reference, answer) for made in sets.values() for reference, answer, _ in made]


def asked(python: str, peer: str, sets: Pairs) -> list[bool | None]:
    """A peer's verdicts; none when it is not there."""
    text = "".join(json.dumps(pair[:2]) + "\n" for made in sets.values() for pair in made)
    run = subprocess.run(
        [python, __file__, "--peer", peer], input=text, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    lines = [line for line in run.stdout.splitlines() if line in ("true", "false", "null")]
    if run.returncode or len(lines) != text.count("\n"):
        print(run.stderr[-300:], file=sys.stderr)
        return []
    return [json.loads(line) for line in lines]


def serve(peer: str) -> None:
    """Verdicts of a peer for the pairs of the standard input, a line each."""
    equal = qwen(peer.partition(":")[2]) if peer.startswith("qwen:") else math_verify()

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, stop)
    for line in sys.stdin:
        reference, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdict: bool | None = bool(equal(reference, answer))
        except TimeoutError:
            verdict = None
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)


def math_verify() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    def equal(reference: str, answer: str) -> bool:
        is_dressed = "$" in answer or r"\boxed" in answer or r"\(" in answer or r"\[" in answer
        given = answer if is_dressed else rf"$\boxed{{{answer}}}$"
        gold = reference if "$" in reference.replace(r"\$", "") else f"${reference}$"
        return verify(parse(gold, parsing_timeout=None), parse(given, parsing_timeout=None), timeout_seconds=None)

    return equal


def qwen(folder: str) -> Callable[[str, str], bool]:
    sys.path[:0] = [folder, f"{folder}/latex2sympy"]
    from grader import math_equal
    from parser import extract_answer, strip_string

    def equal(reference: str, answer: str) -> bool:
        given = extract_answer(answer, "math") if "boxed" in answer else answer
        return math_equal(strip_string(given), strip_string(reference))

    return equal


def report(sets: Pairs, rows: dict[str, list[bool | None]]) -> None:
    for source, made in sets.items():
        print(f"{source}: {sum(right for *_, right in made)} right, {sum(not right for *_, right in made)} wrong")
    print("| grader | " + " | ".join(f"{source}: wrong accepted | right refused" for source in sets) + " |")
    for name, verdicts in rows.items():
        cells, start = [], 0
        for made in sets.values():
            both = list(zip(made, verdicts[start : start + len(made)], strict=True))
            start += len(made)
            accepted = sum(verdict is True and not pair[2] for pair, verdict in both)
            refused = sum(verdict is not True and pair[2] for pair, verdict in both)
            rights = sum(pair[2] for pair in made)
            cells += [f"{accepted} ({accepted / (len(made) - rights):.1%})", f"{refused} ({refused / rights:.1%})"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
