"""Attacks on the sandbox, as data: the cells in tests/golden/attacks are hostile, and must affect nothing outside their
State.

After each attack, three States must behave as before, to the last byte of memory: the State before the attack, a
sibling of it, and a fresh State. The process must have the same descriptors and threads, and not much more memory.
"""

import contextlib
import os
import resource
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentdistill._core import Limits, Observation, Sandbox, State

FOLDER = Path(__file__).parents[1] / "golden" / "attacks"
KINDS = {"value", "final_answer", "exception", "timeout", "out_of_memory", "tool_error", "killed"}

CANARY = """
import builtins, decimal, gc, hashlib, json, math, os, random, re, sys, time, uuid, warnings
print(mine if "mine" in globals() else "nothing", sorted(globals()), len(gc.get_objects()), gc.isenabled())
print(sorted((name, id(value)) for name, value in vars(builtins).items()) == sorted(
    (name, id(getattr(builtins, name))) for name in dir(builtins)), len(vars(builtins)), len(sys.modules))
print(random.random(), os.urandom(4), uuid.uuid4(), time.time(), time.monotonic(), hash("x"), id(object()))
print(json.dumps({"a": [1.5, None]}), math.sqrt(2), re.sub("a+", "b", "caaat"), decimal.Decimal(1) / 7)
print(sys.getrecursionlimit(), type(sys.stdout), sys.path, len(sys.meta_path), warnings.filters, sys.gettrace())
print(adds(1, b=2), bytearray(10**6).count(0), hashlib.sha256(bytes(1000)).hexdigest()[:8])
class Probe:
    def __repr__(self): return object.__repr__(self)
try:
    fails("x")
except ToolError as error:
    print(error)
Probe()
"""


@dataclass(frozen=True)
class Attack:
    name: str
    cells: list[str]
    kinds: set[str]
    """Allowed outcomes of the last cell."""
    shows: str
    """Texts that its output, value, answer or error must contain."""
    hides: str | None
    """Texts that these must not contain."""
    endless: bool
    """Whether it runs, or may run, into the time limits, which are short then. Other attacks have a minute, since the
    machine may be busy."""


def attacks() -> list[Attack]:
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        group = tomllib.loads(path.read_text())
        first = [group["first"]] if "first" in group else []
        for row in group.pop("attack"):
            endless = row.pop("endless", False)
            # What a broken interpreter does depends on the addresses of its objects, and so on the build of the guest.
            anyhow = KINDS if row.pop("breaks", False) else ["timeout", "killed"] if endless else None
            kinds = row.pop("kind", anyhow)
            found.append(
                Attack(
                    name=f"{path.stem}: {row.pop('name')}",
                    cells=first + row.pop("cells"),
                    kinds={kinds} if isinstance(kinds, str) else set(kinds),
                    shows=row.pop("shows", ""),
                    hides=row.pop("hides", None),
                    endless=endless,
                )
            )
            assert not row and found[-1].kinds <= KINDS, f"{found[-1]}: {row}"
    return found


ATTACKS = attacks()


def adds(a: int, b: int = 1) -> dict[str, int]:
    return {"sum": a + b}


def echo(value: object) -> object:
    return value


def fails(message: str) -> None:
    raise ValueError(message)


def nests(depth: int) -> object:
    value: list[object] = []
    for _ in range(min(depth, 900)):
        value = [value]
    return value


TOOLS = {"adds": adds, "echo": echo, "fails": fails, "nests": nests}


def limits(seconds: float) -> Limits:
    return Limits(seconds=seconds, hard_seconds=seconds, memory_mb=32, stdout_chars=2000, tool_calls=8)


def seen(observation: Observation) -> tuple[object, ...]:
    calls = [(call.name, call.arguments, call.result, call.error) for call in observation.tool_calls]
    kind, stdout, value, error = observation.kind, observation.stdout, observation.value, observation.error
    return kind, stdout, value, error, calls


def descriptors() -> list[str]:
    """The open descriptors of the process, without the /proc pagemap that each thread running cells has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return sorted(name for name in found if not name.endswith("/pagemap"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Bystanders:
    """The States around an attack, and their behavior before it."""

    def __init__(self) -> None:
        self.patient = Sandbox(TOOLS, limits(60))
        self.hasty = Sandbox(TOOLS, limits(0.05))
        _, self.before = self.patient.run(self.patient.initial, 'mine = "the parent\'s secret"\nitems = [1, 2]')
        _, sibling = self.patient.run(self.patient.initial, 'mine = "the sibling\'s secret"\nitems = [3]')
        self.states = [self.before, sibling, self.patient.initial]
        self.expected = self.canaries()
        self.memory = [state.to_bytes() for state in self.states]
        # As many idle threads as any test here needs. While a thread is not yet idle again, a new one may start.
        meet = Sandbox({"meet": threading.Barrier(8).wait}, threads=8)
        meet.run_many([(meet.initial, "meet()")] * 8)
        self.descriptors, self.most_threads = descriptors(), threads() + 8

    def canaries(self) -> list[tuple[tuple[object, ...], bytes]]:
        fresh = Sandbox(TOOLS, limits(60)).initial
        results = self.patient.run_many([(state, CANARY) for state in (*self.states, fresh)])
        return [(seen(observation), state.to_bytes()) for observation, state in results]


@pytest.fixture(scope="module")
def bystanders() -> Iterator[Bystanders]:
    bystanders = Bystanders()
    assert bystanders.expected[2] == bystanders.expected[3], "two fresh States are the same"
    assert bystanders.canaries() == bystanders.expected, "before any attack"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield bystanders
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1 << 20, f"{grown >> 10} MiB more than before the attacks"
    assert [state.to_bytes() for state in bystanders.states] == bystanders.memory


def test_there_are_enough_attacks() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors and threads in /proc")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_harms_nobody_else(bystanders: Bystanders, attack: Attack) -> None:
    sandbox, state = bystanders.hasty if attack.endless else bystanders.patient, bystanders.before
    for cell in attack.cells[:-1]:
        _, state = bystanders.patient.run(state, cell)
    observation, after = sandbox.run(state, attack.cells[-1])

    assert bystanders.canaries() == bystanders.expected
    assert descriptors() == bystanders.descriptors and threads() <= bystanders.most_threads
    assert observation.kind in attack.kinds, f"{observation.kind}: {observation.error or observation.value}"
    texts = (observation.stdout, observation.value, observation.error, observation.final_answer)
    said = "\n".join(text for text in texts if text is not None)
    assert attack.shows in said, said[:2000]
    assert attack.hides is None or attack.hides not in said, said[:2000]
    assert len(said) < 16 * 2000 + (128 << 10) and len(observation.tool_calls) <= 8
    # The State after it may be broken, but it can still be inspected, stored and used.
    bystanders.hasty.run(State.from_bytes(after.to_bytes(), limits(60)), "1")
