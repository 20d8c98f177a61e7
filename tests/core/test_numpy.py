"""numpy in the sandbox, where the build of the guest has it: results are those of numpy elsewhere, and limits hold."""

import json
from pathlib import Path

import pytest

from agentdistill._core import Limits, Sandbox, State

EXPRESSIONS = Path(__file__).parents[1] / "golden/numpy_expressions.txt"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    if "numpy" not in Sandbox.packages:
        pytest.skip("this build of the guest has no numpy: `make numpy setup`")
    return Sandbox()


def value(sandbox: Sandbox, state: State, code: str) -> str | None:
    observation, _ = sandbox.run(state, code)
    assert observation.kind == "value", f"{code}: {observation.kind} {observation.error}"
    return observation.value


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("np.arange(10) * 10**10", "array([          0, 10000000000, 20000000000, 30000000000, 40000000000,\n"
         "       50000000000, 60000000000, 70000000000, 80000000000, 90000000000])"),
        ("np.array([1, 2]).dtype, np.dtype(int)", "(dtype('int64'), dtype('int64'))"),
        ("np.argsort([3, 1, 2]), np.nonzero([0, 5])", "(array([1, 2, 0]), (array([1]),))"),
        ("from numpy import *\nlinalg.norm([3, 4])", "np.float64(5.0)"),
        ("import copy\ncopy.copy(np.float64(1.5)), copy.deepcopy(np.arange(2))", "(np.float64(1.5), array([0, 1]))"),
        ("import io\nf = io.BytesIO()\nnp.save(f, np.eye(2))\nf.seek(0)\nnp.load(f).sum()", "np.float64(2.0)"),
        ("import pickle\npickle.loads(pickle.dumps(np.arange(3)))", "array([0, 1, 2])"),
        ("import sympy\nnp.array(sympy.Matrix([[1, 2]])).astype(float)", "array([[1., 2.]])"),
        ("np.testing.assert_allclose([1], [1 + 1e-9])", None),
    ],
)  # fmt: skip
def test_numpy_is_numpy(sandbox: Sandbox, code: str, shown: str | None) -> None:
    assert value(sandbox, sandbox.initial, f"import numpy as np\n{code}") == shown


@pytest.mark.parametrize(
    ("code", "kind", "part"),
    [
        ("np.linalg.inv([[1, 2], [2, 4]])", "exception", "LinAlgError: Singular matrix"),
        ("np.linalg.cholesky([[1, 2], [2, 1]])", "exception", "LinAlgError: Matrix is not positive definite"),
        ("np.arange(3) + np.arange(4)", "exception", "ValueError: operands could not be broadcast together"),
        ("np.ones(10**8)", "out_of_memory", "Unable to allocate 763. MiB"),
        ("np.save('file', np.eye(2))", "exception", "FileNotFoundError"),
        ("while True: np.sort(np.arange(10**5))", "timeout", "TimeoutError"),
        ("np.einsum('i,j,k->', *[np.ones(1200)] * 3)", "killed", "killed"),
    ],
)
def test_numpy_keeps_to_the_limits(sandbox: Sandbox, code: str, kind: str, part: str) -> None:
    tight = Sandbox(limits=Limits(seconds=0.3, hard_seconds=0.3, memory_mb=64))
    _, state = tight.run(tight.initial, "import numpy as np\nx = np.arange(5)")
    observation, after = tight.run(state, code)
    assert (observation.kind, part in str(observation.error)) == (kind, True), observation.error
    assert value(tight, after, "x.sum()") == "np.int64(10)"


DESCRIBE = """
def describe(result):
    array = np.asarray(result)
    numbers = array.astype(complex).view(float) if array.dtype.kind == "c" else array.astype(float)
    return [array.dtype.kind, list(array.shape), numbers.ravel().tolist()]
"""


def test_numpy_computes_what_it_computes_elsewhere(sandbox: Sandbox) -> None:
    np = pytest.importorskip("numpy")
    scope = {"np": np}
    exec(DESCRIBE, scope)
    _, state = sandbox.run(sandbox.initial, f"import json\nimport numpy as np\n{DESCRIBE}")
    expressions = EXPRESSIONS.read_text().splitlines()
    cells = [(state, f"print(json.dumps(describe({expression})))") for expression in expressions]
    for expression, (observation, _) in zip(expressions, sandbox.run_many(cells), strict=True):
        assert observation.kind == "value", f"{expression}: {observation.error}"
        kind, shape, numbers = json.loads(observation.stdout)
        native_kind, native_shape, native_numbers = eval(f"describe({expression})", scope)
        assert (kind, shape) == (native_kind, native_shape), expression
        assert numbers == pytest.approx(native_numbers, rel=1e-6, abs=1e-12, nan_ok=True), expression


def test_a_state_keeps_its_arrays_and_its_random_numbers(sandbox: Sandbox) -> None:
    draw = "np.random.rand(2), np.random.randint(0, 10**6, 2), np.random.default_rng().random(2)"
    _, state = sandbox.run(sandbox.initial, "import numpy as np\na = np.arange(6.0).reshape(2, 3)\nb = a.T")
    data = state.to_bytes()
    assert value(sandbox, State.from_bytes(data), "b.base is a.base, b.sum()") == "(True, np.float64(15.0))"
    drawn = value(sandbox, state, draw)
    assert drawn == value(sandbox, State.from_bytes(data), draw)
    other = Sandbox(seed=5)
    _, state = other.run(other.initial, "import numpy as np")
    assert value(other, state, draw) != drawn
