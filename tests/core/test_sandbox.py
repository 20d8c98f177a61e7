"""The sandbox from Python: States, outcomes of cells, tools. See also test_numpy.py, test_fidelity.py and
test_attacks.py."""

import importlib.resources
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from agentdistill._core import Limits, Sandbox, SandboxError, State


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


def value(sandbox: Sandbox, state: State, code: str) -> str | None:
    observation, _ = sandbox.run(state, code)
    assert observation.kind == "value", f"{code}: {observation.kind} {observation.error}"
    return observation.value


def test_forks_do_not_see_one_another(sandbox: Sandbox) -> None:
    _, parent = sandbox.run(sandbox.initial, "x = 1\nitems = []")
    children = sandbox.run_many([(parent, f"x += {i}\nitems.append(x)\nx") for i in range(8)])
    assert [observation.value for observation, _ in children] == [str(1 + i) for i in range(8)]
    assert [value(sandbox, state, "items") for _, state in children] == [f"[{1 + i}]" for i in range(8)]
    assert value(sandbox, parent, "x, items") == "(1, [])"


POISON = [
    "import builtins\nbuiltins.len = lambda x: 42\nbuiltins.print = None",
    "import sys\nsys.modules['math'] = None\nsys.modules['json'] = 7\nsys.modules.pop('random')",
    "import math\nmath.sqrt = lambda x: 'poisoned'",
    "import sys\nsys.stdout = None\nsys.setrecursionlimit(100)\nsys.path.clear()\nsys.meta_path.clear()",
    "import app\napp.run_cell = None\napp.WitWorld.run = None\napp.namespace.clear()",
    "__builtins__ = {}\nfinal_answer = ToolError = None",
    "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict): o.pop('__builtins__', None)",
    "class C:\n    def __del__(self): print('late')\nc = C()",
    "import ast\nast.parse = None\nimport linecache\nlinecache.cache = None",
]


@pytest.mark.parametrize("poison", POISON)
def test_what_one_state_poisons_no_other_sees(sandbox: Sandbox, poison: str) -> None:
    _, parent = sandbox.run(sandbox.initial, "x = [1, 2]")
    check = "import math, json, random\nprint(len(x))\nmath.sqrt(9), json.dumps(x)"
    _, poisoned = sandbox.run(parent, poison)
    runs = sandbox.run_many([(poisoned, check), (parent, check), (poisoned, check), (parent, check)] * 3)
    for observation, _ in runs[1::2]:
        assert (observation.stdout, observation.value) == ("2\n", "(3.0, '[1, 2]')")
    assert value(sandbox, sandbox.initial, "len('abc')") == "3"


@pytest.mark.parametrize(
    ("code", "kind", "part"),
    [
        ("1 / 0", "exception", "ZeroDivisionError: division by zero"),
        ("x = = 1", "exception", "SyntaxError: invalid syntax"),
        ("while True: pass", "timeout", "TimeoutError"),
        ("sum(range(10**12))", "killed", "killed"),
        ("a = 3 ** 2048\nb = 5 ** a", "killed", "killed"),
        ("[0] * 10**9", "out_of_memory", "MemoryError"),
        ("fails()", "tool_error", "ToolError: KeyError: 'why'"),
        ("exits()", "tool_error", "ToolError: SystemExit: 3"),
        ("unsayable()", "tool_error", "not JSON serializable"),
        ("while True: adds(1)", "tool_error", "3 times"),
        ("adds(object())", "exception", "TypeError: adds() takes only values that JSON can represent"),
        ("import os; os._exit(1)", "killed", "killed"),
        ("raise SystemExit(2)", "exception", "SystemExit: the cell exited with status 2"),
        ("raise KeyboardInterrupt", "exception", "KeyboardInterrupt"),
        ("input('? ')", "exception", "EOFError: input() is not available"),
        ("import requests", "exception", "ModuleNotFoundError: No module named 'requests'\nCells can import Python's"),
        ("open('/etc/passwd')", "exception", "FileNotFoundError"),
        ("import socket; socket.create_connection(('10.0.0.1', 80))", "exception", "OSError: there is no network"),
        ("import subprocess; subprocess.run(['ls'])", "exception", "OSError"),
        (
            "import threading; threading.Thread(target=print).start()",
            "exception",
            "RuntimeError: can't start new thread",
        ),
    ],
)
def test_each_end_has_its_kind_and_spares_the_state(code: str, kind: str, part: str) -> None:
    sandbox = small()
    _, state = sandbox.run(sandbox.initial, "x = 7")
    observation, after = sandbox.run(state, code)
    assert observation.kind == kind, observation.error
    assert observation.error is not None and part in observation.error, observation.error
    assert value(sandbox, after, "x") == "7"


FULL = [
    "held = []\nwhile True: held.append(bytearray({n}))",
    "held = []\ntry:\n    while True: held.append('x' * {n})\nexcept MemoryError: held.pop()",
    "held = {{}}\nwhile True: held[len(held)] = [len(held)] * {n}",
]
IN_FULL = [
    "x = [0] * 1000",
    "print('a' * 100_000)",
    "def f(n):\n    return f(n + 1)\nf(0)",
    "import re, json\njson.dumps([m.group() for m in re.finditer('a', 'a' * 99)])",
    "import sympy\nsympy.expand('(a + b)**5')",
    "y = 1\n" * 2_000,
    "final_answer('a' * 1000)",
    "1 / 0",
]


@pytest.mark.parametrize("fill", FULL)
@pytest.mark.parametrize("n", [100, 10_000, 700_000])
def test_a_state_full_of_memory_can_be_freed(fill: str, n: int) -> None:
    sandbox = Sandbox(limits=Limits(memory_mb=16))
    _, state = sandbox.run(sandbox.initial, fill.format(n=n))
    for code, (observation, after) in zip(IN_FULL, sandbox.run_many([(state, code) for code in IN_FULL]), strict=True):
        assert observation.kind in ("value", "out_of_memory", "exception", "final_answer"), (code, observation)
        assert observation.error_type not in ("SystemError",) or observation.kind == "out_of_memory", (
            code,
            observation,
        )
        assert value(sandbox, after, "del held\n[len(str(n)) for n in range(3)]") == "[1, 1, 1]"


SMALL: list[Sandbox] = []


def small() -> Sandbox:
    """A sandbox with tools and tight limits."""

    def adds(a: int, b: int = 1) -> dict[str, int]:
        return {"sum": a + b}

    def fails() -> None:
        raise KeyError("why")

    def exits() -> None:
        sys.exit(3)

    def unsayable() -> object:
        return object()

    if not SMALL:
        limits = Limits(seconds=0.3, hard_seconds=0.3, memory_mb=64, tool_calls=3)
        SMALL.append(Sandbox({"adds": adds, "fails": fails, "exits": exits, "unsayable": unsayable}, limits))
    return SMALL[0]


def test_tools_are_plain_functions() -> None:
    sandbox = small()
    observation, _ = sandbox.run(sandbox.initial, "print(adds(1, b=2), adds.__name__)\nadds(a=4)['sum']")
    assert (observation.stdout, observation.value) == ("{'sum': 3} adds\n", "5")
    assert [(call.name, call.arguments, call.result) for call in observation.tool_calls] == [
        ("adds", '[[1], {"b": 2}]', '{"sum": 3}'),
        ("adds", '[[], {"a": 4}]', '{"sum": 5}'),
    ]
    code = "try:\n    fails()\nexcept ToolError as error:\n    said = str(error)\nsaid"
    assert value(sandbox, sandbox.initial, code) == repr("KeyError: 'why'")


@pytest.mark.parametrize(
    ("code", "answer", "as_json"),
    [
        ("final_answer(42)\nprint('never')", "42", "42"),
        ("try: final_answer({'a': [1.5]})\nexcept Exception: print('never')", "{'a': [1.5]}", '{"a": [1.5]}'),
        ("final_answer('é')", "é", '"é"'),
        ("import sympy\nfinal_answer(sympy.Rational(1, 3))", "1/3", None),
        ("final_answer(float('nan'))", "nan", None),
        ("def f():\n    final_answer(answer=1)\nfor i in range(9): f()", "1", "1"),
        ("import sys\ntry: final_answer(1)\nfinally: sys.exit(1)", "1", "1"),
        ("x = []\nx.append(x)\nfinal_answer(x)", "[[...]]", None),
        ("final_answer({1: (2, True, None)})", "{1: (2, True, None)}", '{"1": [2, true, null]}'),
    ],
)  # fmt: skip
def test_final_answer_ends_the_cell(sandbox: Sandbox, code: str, answer: str, as_json: str | None) -> None:
    observation, _ = sandbox.run(sandbox.initial, code)
    assert (observation.kind, observation.stdout) == ("final_answer", "")
    assert (observation.final_answer, observation.final_answer_json) == (answer, as_json)
    assert (observation.error, observation.value) == (None, None)


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("str", "'42'"),
        ("int", "42"),
        ("float", "1.5"),
        ("list", "[1, 2]"),
        ("tuple", "[1, 2]"),
        ("dict", "{'a': 1}"),
    ],
)
@pytest.mark.parametrize("inside", ["{}", "[{}]", "{{'key': ({},)}}"])
def test_an_answer_says_the_same_as_text_and_as_json(sandbox: Sandbox, kind: str, held: str, inside: str) -> None:
    """Whatever the methods of its class return."""
    code = f"""
class Liar({kind}):
    def lie(self, *ignored): return "hacked"
    __str__ = __repr__ = __format__ = lie
    __int__ = __index__ = lambda self: 7
    __float__ = lambda self: 7.0
    __iter__ = items = keys = values = lambda self: iter([("hacked", "hacked")])
    __getitem__ = get = lie
    __len__ = lambda self: 1
    __eq__ = lambda self, other: True
    __hash__ = lambda self: 1
    __class__ = property(lambda self: bytes)
final_answer({inside.format(f"Liar({held})")})
"""
    observation, _ = sandbox.run(sandbox.initial, code)
    honest = eval(inside.format(f"{kind}({held})"))
    assert observation.final_answer == str(honest), observation.error
    assert observation.final_answer_json == json.dumps(honest)


@pytest.mark.parametrize(
    ("code", "stdout", "error"),
    [
        ("print(1)\nimport sys\nsys.exit()\nprint(2)", "1\n", None),
        ("print(1)\nimport sys\nsys.exit(0)", "1\n", None),
        ("exit()", "", None),
        ("quit(0)", "", None),
        ("raise SystemExit", "", None),
        ("def f():\n    try: exit(False)\n    finally: print('cleaned up')\nf()", "cleaned up\n", None),
        ("print(1)\nimport sys\nsys.exit(3)", "1\n", "SystemExit: the cell exited with status 3"),
        ("exit('no data')", "no data\n", "SystemExit: the cell exited with status 1"),
        ("raise SystemExit([])", "[]\n", "SystemExit: the cell exited with status 1"),
        ("import asyncio\nasync def f(): exit(2)\nasyncio.run(f())", "", "SystemExit: the cell exited with status 2"),
    ],
)
def test_an_exit_ends_the_cell_as_it_ends_a_script(sandbox: Sandbox, code: str, stdout: str, error: str | None) -> None:
    _, state = sandbox.run(sandbox.initial, "x = 7")
    observation, after = sandbox.run(state, f"x += 1\n{code}")
    assert (observation.kind, observation.error_type) == (("exception", "SystemExit") if error else ("value", None))
    assert (observation.stdout, observation.value, observation.error) == (stdout, None, error)
    assert value(sandbox, after, "x") == "8"


def test_time_zones_are_those_of_tzdata(sandbox: Sandbox) -> None:
    tzdata = importlib.resources.files("tzdata")
    names = tzdata.joinpath("zones").read_text().split()
    times = [datetime(year, month, 1, tzinfo=UTC) for year in (1900, 1970, 2026, 2100) for month in (1, 7)]
    expected = {}
    for name in names:
        with tzdata.joinpath("zoneinfo", name).open("rb") as file:
            zone = ZoneInfo.from_file(file, name)
        expected[name] = [time.astimezone(zone).isoformat() for time in times]
    code = f"""
import datetime, json, zoneinfo
times = [datetime.datetime.fromtimestamp(t, datetime.timezone.utc) for t in {[time.timestamp() for time in times]}]
zones = zoneinfo.available_timezones()
final_answer({{name: [t.astimezone(zoneinfo.ZoneInfo(name)).isoformat() for t in times] for name in zones}})
"""
    observation, _ = Sandbox(limits=Limits(seconds=60, stdout_chars=10**6)).run(sandbox.initial, code)
    assert json.loads(observation.final_answer_json or "null") == expected


def test_a_traceback_names_the_lines_of_its_cells(sandbox: Sandbox) -> None:
    _, state = sandbox.run(sandbox.initial, "def half(n):\n    return 1 / n")
    observation, _ = sandbox.run(state, "x = 1\nhalf(0)")
    assert observation.error_type == "ZeroDivisionError"
    assert observation.error == (
        "Traceback (most recent call last):\n"
        '  File "<cell 2>", line 2, in <module>\n    half(0)\n    ~~~~^^^\n'
        '  File "<cell 1>", line 2, in half\n    return 1 / n\n           ~~^~~\n'
        "ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int = 1\nP()", "P(x=1)"),
        ("import pickle\nclass Q: pass\npickle.loads(pickle.dumps(Q())).__class__ is Q", "True"),
        ("import asyncio as a\nasync def f():\n    await a.sleep(60)\n    return 5\na.run(a.wait_for(f(), 99))", "5"),
        ("import time\nt = time.time()\ntime.sleep(3600)\nround(time.time() - t)", "3600"),
        ("from sympy import symbols, solve\nx = symbols('x')\nsolve(x**2 - 2)", "[-sqrt(2), sqrt(2)]"),
        ("import mpmath\nmpmath.mp.dps = 30\nstr(mpmath.pi)", "'3.14159265358979323846264338328'"),
        ("import xml.etree.ElementTree as e\ne.fromstring('<a>b</a>').text", "'b'"),
        ("import sys\n[sys.stdin.read(), sys.stdin.buffer.read(), sys.stdin.readline()]", "['', b'', '']"),
        ("import sys\nsys.stdout.reconfigure(encoding='utf-8')\nsys.stdout.buffer.write('é'.encode())", "2"),
        ("import sqlite3\nsqlite3.connect(':memory:').execute('select 6 * 7').fetchall()", "[(42,)]"),
        ("import zlib, base64\nzlib.decompress(zlib.compress(b'x' * 9))", "b'xxxxxxxxx'"),
        ("__name__ == '__main__'", "True"),
        ("None", None),
        ("x = 1", None),
        ("", None),
        ("# nothing", None),
    ],
)  # fmt: skip
def test_a_cell_is_python(sandbox: Sandbox, code: str, shown: str | None) -> None:
    assert value(sandbox, sandbox.initial, code) == shown


def test_a_cell_may_print_bytes_and_ask_for_help(sandbox: Sandbox) -> None:
    code = "import sys\nfor byte in 'é\\n'.encode():\n    sys.stdout.buffer.write(bytes([byte]))\nhelp(len)"
    observation, _ = sandbox.run(sandbox.initial, code)
    assert observation.stdout.startswith("é\nHelp on built-in function len in module builtins:"), observation.error


def test_a_module_that_is_not_there_names_those_that_are(sandbox: Sandbox) -> None:
    assert {"mpmath", "sympy"} <= set(Sandbox.packages) <= {"mpmath", "numpy", "sympy"}
    assert value(sandbox, sandbox.initial, f"import {', '.join(Sandbox.packages)}\n1") == "1"
    observation, _ = sandbox.run(sandbox.initial, "import requests")
    assert observation.error is not None
    assert observation.error.splitlines()[-2:] == [
        "ModuleNotFoundError: No module named 'requests'",
        f"Cells can import Python's standard library and {', '.join(Sandbox.packages)}; nothing can be installed.",
    ]


def test_states_survive_as_bytes(sandbox: Sandbox) -> None:
    _, state = sandbox.run(sandbox.initial, "class A:\n    n = 1\na = A()\nit = iter([1, 2, 3])\nnext(it)")
    data = state.to_bytes()
    assert value(sandbox, State.from_bytes(data), "a.n + next(it)") == "3"
    assert len(data) < 32_768
    script = "import sys; from agentdistill._core import *; s = Sandbox(); "
    script += "print(s.run(State.from_bytes(sys.stdin.buffer.read()), 'a.n + next(it)')[0].value)"
    run = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert run.stdout == b"3\n"
    for damaged in (b"", data[:-1], data + b"\0", b"x" + data[1:], data[:200] + b"\0" + data[201:]):
        with pytest.raises(SandboxError, match="State"):
            State.from_bytes(damaged)


REPEATABLE = [
    "import os, random, secrets, time, uuid\nprint(random.random(), random.sample(range(99), 5), os.urandom(4))",
    "print(uuid.uuid4(), uuid.uuid1(), secrets.token_hex(4), time.time(), time.perf_counter_ns(), time.ctime())",
    "print({str(i) for i in range(50)}, frozenset('abcdef'), hash('x'), hash(b'x'), hash((1.5, None)))",
    "class C: pass\nkept = [C(), object(), lambda: 1, (i for i in ''), id(C)]\nkept",
    "import gc, tempfile\nprint(gc.collect(), len(gc.get_objects()), tempfile._RandomNameSequence().__next__())",
    "from sympy import symbols, expand\nx, y = symbols('x y')\nexpand((x + y) ** 9), hash(x + y), {x, y}",
    "import asyncio\nasync def f(n):\n    await asyncio.sleep(random.random())\n    print(n)\n"
    "async def g():\n    await asyncio.gather(*map(f, range(9)))\nasyncio.run(g())",
    "raise ValueError(kept[0])",
]
NOISE = [
    f"x = [bytes([{i}]) * {i}000 for _ in range(99)]\nimport random; random.seed({i})\n1 / {i % 3}" for i in range(24)
]


def test_the_same_cells_from_the_same_seed_observe_the_same() -> None:
    """On any number of threads, alone or beside others, in new or reused slots: everything is equal except the times,
    including every byte of the States."""

    def observed(sandbox: Sandbox, beside: list[str]) -> list[object]:
        state, seen = sandbox.initial, []
        for cell in REPEATABLE:
            cells = [(sandbox.initial, noise) for noise in beside]
            cells.insert(len(cells) // 2, (state, cell))
            observation, state = sandbox.run_many(cells)[len(beside) // 2]
            seen.append((observation.stdout, observation.value, observation.error, state.to_bytes()))
        return seen

    first = observed(Sandbox(seed=3, threads=1), [])
    assert observed(Sandbox(seed=3, threads=1), NOISE) == first
    assert observed(Sandbox(seed=3, threads=4), NOISE) == first
    assert observed(Sandbox(seed=3, threads=4), []) == first
    other = observed(Sandbox(seed=4, threads=1), [])
    assert other[0] != first[0]


def test_python_threads_run_at_once(sandbox: Sandbox) -> None:
    seen: dict[int, str | None] = {}

    def work(number: int) -> None:
        state = sandbox.initial
        for step in range(20):
            observation, state = sandbox.run(state, f"x = {number} * 100 + {step}\nx")
            seen[number] = observation.value

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: "19", 1: "119"}


def test_ctrl_c_ends_a_cell_and_a_stuck_tool() -> None:
    for code in ("while True: pass", "stuck()"):
        script = (
            "import time, threading, os, signal\nfrom agentdistill._core import *\n"
            "s = Sandbox({'stuck': lambda: time.sleep(60)}, Limits(seconds=60))\n"
            "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            f"try: s.run(s.initial, {code!r})\nexcept KeyboardInterrupt: print('interrupted', flush=True)\n"
            "print(s.run(s.initial, '1 + 1')[0].value, flush=True)\nos._exit(0)"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
        assert run.stdout == "interrupted\n2\n", run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_runs_cells(sandbox: Sandbox) -> None:
    _, state = sandbox.run(sandbox.initial, "x = 20")
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(int(sandbox.run(state, "x + 1")[0].value or 0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "seconds"),
        ({"memory_mb": 8}, "memory_mb"),
        ({"hard_seconds": float("inf")}, "hard_seconds"),
    ],
)
def test_impossible_limits_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("tools", [{"a b": print}, {"final_answer": print}, {"x": 3}])
def test_impossible_tools_are_refused(tools: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Sandbox(tools)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "answer"),
    [
        (["final_answer = 6 * 7\nfinal_answer(final_answer)"], "42"),
        (["final_answer = 41", "final_answer(42)"], "42"),
        (["x = final_answer = 42", "final_answer(final_answer_variable)"], "42"),
        (["for final_answer in (41, 42): pass\nfinal_answer(str(final_answer))"], "42"),
        (["answer = final_answer\nanswer(42)"], "42"),
    ],
)
def test_a_variable_called_final_answer_does_not_hide_the_function(cells: list[str], answer: str) -> None:
    sandbox = Sandbox()
    state = sandbox.initial
    for cell in cells:
        observation, state = sandbox.run(state, cell)
    assert (observation.kind, observation.final_answer) == ("final_answer", answer)


def test_where_address_space_is_bounded_the_error_says_so() -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (7 << 29,) * 2)\n"
    program = f"{limited}from agentdistill import Sandbox\nSandbox()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "reserves 4 GiB of address space" in done.stderr and "ulimit -v unlimited" in done.stderr
