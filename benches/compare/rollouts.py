"""Rollouts beside smolagents' CodeAgent, and beside the model's own speed, all in one run of this script.

    python benches/compare/rollouts.py               # needs smolagents: see BENCHMARKS.md
    python benches/compare/rollouts.py runs/demo     # and a demo's folder (make demo): also with its students in vLLM

1. What an engine costs: a scripted model that answers at once, episodes of three steps (a cell, another, the answer).
   smolagents runs as its users run it, in a pool of threads, each agent with its LocalPythonExecutor.
2. What is left of a model's speed: a student of the demo in vLLM, in this process, works on tasks like the demo's with
   search and code. Then vLLM alone gets the same requests, as many at once: prompts, sampling, stop strings. (For
   N = 1 it writes the same tokens, for N = 8 others of the same kind.) The ratio is of tokens a second; vLLM's cache of
   prefixes is emptied before each. There are many tasks for each place in flight, so that the end, where few are left
   and vLLM computes less at once, weighs little; N = 8 has an eighth of them, and so about as many tokens.
3. Trajectories a second on one server (`vllm serve`), ours and smolagents', which asks with its own, longer prompts and
   has threads as many as ours has episodes under way. The student does not know those prompts, so only the pace of
   steps may be compared, not what they say.

Sides take turns; a figure is the median over the rounds.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import smolagents
from smolagents.models import ChatMessage, MessageRole
from smolagents.monitoring import LogLevel

from agentdistill import Bm25Index, Task, Trajectory
from agentdistill.demo.run import DemoConfig, make_world
from agentdistill.event_loop import run_blocking
from agentdistill.models.loading import load_model
from agentdistill.models.model import Generation, Message, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.engine import rollout
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import web_search

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from vllm_server import vllm_serve

ROUNDS = 3
CELLS = ("x = 20", "print(x + 22)", "final_answer(x + 22)")
IN_FLIGHT = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="?", type=Path, help="folder of a demo")
    parser.add_argument("--size", default="M", help="which of its students")
    arguments = parser.parse_args()
    engine()
    if arguments.demo:
        student = arguments.demo / "students" / f"{arguments.size}-agent"
        world = make_world(DemoConfig(test_tasks=4 * IN_FLIGHT))  # of each of four sets
        with tempfile.TemporaryDirectory() as folder:
            Bm25Index.build([entity.passage for entity in world.entities], Path(folder) / "index")
            index = Bm25Index.open(Path(folder) / "index")
            vllm(student, index, world.test)
            server(student, index, world.test[:128])


# ---- 1. an engine's own cost ---------------------------------------------------------------------


def engine() -> None:
    print("a model that answers at once: steps/s, and ms of a step from its request to its observation (p50, p99)")
    ours: dict[int, list[float]] = {}
    theirs: dict[int, list[float]] = {}
    latencies: dict[int, list[float]] = {}
    rollout([Task("", "What is 20 + 22?")], INSTANT, progress=False)  # loads the guest
    for _ in range(ROUNDS):
        for in_flight, episodes in ((1, 1000), (64, 2000), (1024, 4000)):
            tasks = [Task(f"t{i}", f"What is 20 + 22? ({i})", "42", "sums", "math") for i in range(episodes)]
            start = time.perf_counter()
            done = rollout(tasks, INSTANT, config=RolloutConfig(concurrency=in_flight), progress=False)
            ours.setdefault(in_flight, []).append(_steps(done) / (time.perf_counter() - start))
            assert all(trajectory.score == 1 and len(trajectory.steps) == len(CELLS) for trajectory in done)
            latencies.setdefault(in_flight, []).extend(step.seconds for t in done for step in t.steps)
        for threads, episodes in ((1, 50), (16, 100), (64, 100)):
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                steps = sum(pool.map(_smolagents_episode, range(episodes)))
            theirs.setdefault(threads, []).append(steps / (time.perf_counter() - start))
    best = max(map(statistics.median, theirs.values()))
    for in_flight, rates in ours.items():
        p50, p99 = (statistics.quantiles(latencies[in_flight], n=100)[i] * 1e3 for i in (49, 98))
        rate = statistics.median(rates)
        print(
            f"    ours, {in_flight:4} in flight {rate:9.0f} steps/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms"
            f"   {rate / best:6.1f} x smolagents' best"
        )
    for threads, rates in theirs.items():
        print(f"    smolagents, {threads:3} threads {statistics.median(rates):8.0f} steps/s")


def _answer_at_once(messages: Sequence[Message], prefix: str, index: int) -> str:
    code = CELLS[sum(message.role == "assistant" for message in messages)]
    return f"Thought: I go on.\nCode:\n```py\n{code}\n```<end_code>"


INSTANT = ScriptedModel("instant", _answer_at_once)


class InstantSmolagents(smolagents.Model):
    """The same model as smolagents knows models."""

    def generate(self, messages: list[ChatMessage], *_: Any, **__: Any) -> ChatMessage:
        code = CELLS[sum(message.role == MessageRole.ASSISTANT for message in messages)]
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: I go on.\n<code>\n{code}\n</code>")


def _smolagents_episode(number: int) -> int:
    agent = smolagents.CodeAgent([], InstantSmolagents(), verbosity_level=LogLevel.OFF, max_steps=5)
    result = agent.run(f"What is 20 + 22? ({number})", return_full_result=True)
    assert result.output == 42
    return len(CELLS)


def _steps(trajectories: Sequence[Trajectory]) -> int:
    return sum(len(trajectory.steps) for trajectory in trajectories)


# ---- 2. beside the model's own speed -------------------------------------------------------------


Request = tuple[list[int], Sampling, int]
"""What a model was asked: the prompt's ids, how to sample, how many completions."""


class Recording:
    """A model that keeps what it was asked, and counts the tokens it gave."""

    def __init__(self, model: Any) -> None:
        self.name = model.name
        self.requests: list[Request] = []
        self.tokens = 0
        self._model = model

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        generation: Generation = await self._model.generate(messages, sampling, n=n, prefix=prefix)
        self.tokens += sum(len(completion.token_ids or ()) for completion in generation.completions)
        self.requests.append((generation.prompt_token_ids or [], sampling, n))
        return generation

    async def close(self) -> None:
        await self._model.close()


def vllm(student: Path, index: Bm25Index, every: list[Task]) -> None:
    print(f"{student} in vLLM, {IN_FLIGHT} episodes in flight: tokens/s in rollouts, and of vLLM alone")
    model: Any = load_model(f"vllm:{student}")
    ratios = []
    for candidates in (1, 8):
        tasks = every[: len(every) // candidates]
        config = RolloutConfig(prompt="", max_tokens=120, candidates=candidates, concurrency=IN_FLIGHT)
        rollout(tasks[:IN_FLIGHT], model, [web_search(index)], config, progress=False)  # warms up
        rates: dict[str, list[float]] = {"rollouts": [], "vLLM alone": []}
        for _ in range(ROUNDS):
            recording = Recording(model)
            run_blocking(_forget_prefixes(model))
            start = time.perf_counter()
            rollout(tasks, recording, [web_search(index)], config, progress=False)
            rates["rollouts"].append(recording.tokens / (time.perf_counter() - start))
            run_blocking(_forget_prefixes(model))
            start = time.perf_counter()
            tokens = run_blocking(_alone(model, recording.requests))
            rates["vLLM alone"].append(tokens / (time.perf_counter() - start))
        ratios.append(statistics.median(a / b for a, b in zip(*rates.values(), strict=True)))
        shown = ", ".join(f"{name} {statistics.median(each):,.0f}" for name, each in rates.items())
        work = f"{len(tasks)} episodes, {len(recording.requests)} steps, {recording.tokens:,} tokens ({tokens:,} alone)"
        print(f"    N = {candidates}: {work}: {shown}; ratio {ratios[-1]:.2f}")
    print(f"    ratio on average {statistics.mean(ratios):.2f}")
    run_blocking(model.close())


async def _forget_prefixes(model: Any) -> None:
    await model._engine.reset_prefix_cache()


async def _alone(model: Any, requests: Sequence[Request]) -> int:
    """Ask vLLM alone for the same; give how many tokens it wrote."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    waiting = iter(enumerate(requests))
    written = 0

    async def work() -> None:
        nonlocal written
        for number, (prompt, sampling, n) in waiting:
            parameters = SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop=list(sampling.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            async for part in model._engine.generate({"prompt_token_ids": prompt}, parameters, f"alone-{number}"):
                written += sum(len(output.token_ids) for output in part.outputs)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return written


# ---- 3. on one server ----------------------------------------------------------------------------


def server(student: Path, index: Bm25Index, tasks: list[Task]) -> None:
    in_flight = 64
    print(f"{student} behind `vllm serve`, {in_flight} in flight: trajectories/s and steps/s")
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"  # smolagents' prompts are longer than the student's context
    with (
        tempfile.TemporaryDirectory() as folder,
        vllm_serve(student, Path(folder), "student", "--max-model-len", "16384") as url,
    ):

        def ours() -> tuple[int, int]:
            model = load_model(f"openai:{url}:student")
            config = RolloutConfig(prompt="", max_tokens=120, concurrency=in_flight)
            done = rollout(tasks, model, [web_search(index)], config, progress=False)
            run_blocking(model.close())
            return len(done), _steps(done)

        def theirs() -> tuple[int, int]:
            asked = smolagents.OpenAIModel("student", api_base=url, api_key="none", max_tokens=120, temperature=0)

            @smolagents.tool
            def search(query: str) -> str:
                """Searches the encyclopaedia.

                Args:
                    query: what to look for
                """
                return "\n".join(f"{hit.title}\n{hit.text}" for hit in index.search(query, 3))

            def episode(task: Task) -> int:
                agent = smolagents.CodeAgent([search], asked, verbosity_level=LogLevel.OFF, max_steps=5)
                return len(agent.run(task.question, return_full_result=True).steps) - 1  # the first is the task

            with ThreadPoolExecutor(in_flight) as pool:
                return len(tasks), sum(pool.map(episode, tasks))

        sides: dict[str, Callable[[], tuple[int, int]]] = {"ours": ours, "smolagents": theirs}
        rates: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, run in sides.items():
                start = time.perf_counter()
                episodes, steps = run()
                seconds = time.perf_counter() - start
                rates[side].append((episodes / seconds, steps / seconds))
    first = [statistics.median(each) for each in zip(*rates["ours"], strict=True)]
    for side, measured in rates.items():
        mine = [statistics.median(each) for each in zip(*measured, strict=True)]
        ratios = ", ".join(f"{a / b:.1f}" for a, b in zip(first, mine, strict=True))
        print(f"    {side:12} {mine[0]:8.2f} trajectories/s {mine[1]:8.2f} steps/s   ours to it: {ratios}")


if __name__ == "__main__":
    main()
