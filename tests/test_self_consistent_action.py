"""IDEA 3 from Python: candidates vote by their outcomes and are isolated from each other, and steps of many episodes
run concurrently."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import AgentDistillError, Limits, Sandbox, State
from agentdistill._core import StepResult
from agentdistill.models.model import Completion, Generation
from agentdistill.self_consistent_action import SelfConsistentAction


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


def take(sandbox: Sandbox, episodes: Sequence[tuple[State, Sequence[str]]], **options: object) -> list[StepResult]:
    async def all_steps() -> list[StepResult]:
        with SelfConsistentAction(sandbox, **options) as action:  # type: ignore[arg-type]
            return list(await asyncio.gather(*(action.step(state, texts) for state, texts in episodes)))

    return asyncio.run(all_steps())


VOTES = [
    (["final_answer(41)", "final_answer(42)", "final_answer('42')"], 1),  # equal in the paper's code
    (["print(7)", "1/0", "print(8)", "print(8)"], 2),
    (["1/0", "undefined", "print(3)"], 2),
    (["5", "2 + 3", "6"], 0),
]


@pytest.mark.parametrize(("codes", "winner"), VOTES)
def test_the_majority_wins(codes: list[str], winner: int) -> None:
    sandbox = Sandbox()
    [result] = take(sandbox, [(sandbox.initial, [code(text) for text in codes])])
    assert result.winner == winner


def test_candidates_start_from_the_same_state_and_run_once() -> None:
    sandbox = Sandbox()
    _, state = sandbox.run(sandbox.initial, "x = 0")
    [result] = take(sandbox, [(state, [code("x += 1\nx")] * 7 + [code("x += 1 \nx")])])
    assert [observation.value for observation in result.observations if observation] == ["1"] * 8
    observation, _ = sandbox.run(result.state, "x")
    assert observation.value == "1"


def test_the_paper_s_code_votes_on_output_alone() -> None:
    sandbox = Sandbox()
    candidates = [code(text) for text in ("final_answer(41)", "final_answer(42)", "final_answer(42)")]
    assert [take(sandbox, [(sandbox.initial, candidates)], compat=c)[0].winner for c in (None, "reference")] == [1, 0]


def test_many_steps_at_once_are_what_they_are_alone() -> None:
    sandbox = Sandbox()
    episodes = [(sandbox.initial, [code(f"print({i} + {j % 2})") for j in range(3)]) for i in range(200)]
    together = take(sandbox, episodes)
    for episode, result in zip(episodes, together, strict=True):
        [alone] = take(sandbox, [episode])
        assert (result.winner, result.vote.counts) == (alone.winner, alone.vote.counts)


SANDBOX = Sandbox()


@given(st.lists(st.sampled_from(["1", "2", "3", "1/0", "no code"]), min_size=1, max_size=9), st.booleans())
def test_adaptive_sampling_decides_as_all_candidates_would(values: list[str], reference: bool) -> None:
    texts = [value if value == "no code" else code(f"print({value})") for value in values]
    asked: list[int] = []

    async def sample(n: int) -> Generation:
        begin = sum(asked)
        asked.append(n)
        return Generation([Completion(text) for text in texts[begin : begin + n]], [1], 1, n)

    async def act(adaptive: bool) -> tuple[Generation, StepResult]:
        with SelfConsistentAction(SANDBOX, compat="reference" if reference else None) as action:
            return await action.act(SANDBOX.initial, sample, len(texts), adaptive=adaptive)

    _, whole = asyncio.run(act(False))
    assert asked == [len(texts)]
    asked.clear()
    generation, adaptive = asyncio.run(act(True))
    assert adaptive.winner == whole.winner
    assert sum(asked) == len(generation.completions) == generation.completion_tokens <= len(texts)
    assert len(asked) == generation.prompt_tokens
    if len(set(values)) == 1 and values[0].isdecimal():
        assert asked == [len(texts) // 2 + 1]  # unanimous: the fewest candidates that give a majority


def test_a_slow_cell_does_not_hold_up_all_others() -> None:
    sandbox = Sandbox(limits=Limits(seconds=2.5))

    async def run() -> None:
        with SelfConsistentAction(sandbox) as action:
            slow = asyncio.create_task(action.step(sandbox.initial, [code("while True: pass")]))
            await asyncio.sleep(0.1)
            await action.step(sandbox.initial, [code("1")])
            assert not slow.done()
            result = await slow
            assert result.observations[0] is not None and result.observations[0].kind == "timeout"

    asyncio.run(run())


def test_what_the_core_raises_reaches_each_step_that_waits() -> None:
    sandbox = Sandbox()
    with pytest.raises((ValueError, AgentDistillError), match="no completions"):
        take(sandbox, [(sandbox.initial, [])])


LEFT = """
import asyncio, time
from agentdistill import Sandbox
from agentdistill.event_loop import event_loop
from agentdistill.self_consistent_action import SelfConsistentAction

called = asyncio.Event()
def slow():
    event_loop().call_soon_threadsafe(called.set)
    time.sleep(0.5)
sandbox = Sandbox({"slow": slow})
action = SelfConsistentAction(sandbox)
step = action.step(sandbox.initial, ["Thought: so\\nCode:\\n```py\\nslow()\\nslow()\\n```<end_code>"])
asyncio.run_coroutine_threadsafe(step, event_loop())
asyncio.run_coroutine_threadsafe(called.wait(), event_loop()).result()
"""


def test_python_can_end_while_a_cell_is_in_a_tool() -> None:
    subprocess.run([sys.executable, "-c", LEFT], check=True, timeout=60)
