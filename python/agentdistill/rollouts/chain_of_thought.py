"""The chain-of-thought baseline: completions that reason in text and end with the answer. No tools, no code.

With several candidates, the most frequent answer wins (self-consistency, arXiv 2203.11171), as in the paper's code. The
first thoughts of a teacher's chains also begin its agent episodes (``first_thought_prefix.py``).
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentdistill._core import Candidate, Step
from agentdistill.answers import extract_answer
from agentdistill.grading.squad import normalize
from agentdistill.models.model import Model, Sampling
from agentdistill.rollouts.agent import AgentConfig, Episode

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome

CHAIN_TOKENS = 4096
"""Default limit of new tokens of a chain of thought (paper's code: 4,096 for teacher and student)."""


async def run_chain_of_thought(question: str, model: Model, config: AgentConfig, seed: int = 0) -> Episode:
    """Sample one chain of thought per candidate from ``model``; the most frequent answer becomes the episode's.

    Answers are extracted by ``extract_answer``. ``seed`` is the episode's. Raises ModelError.
    """
    start = time.perf_counter()
    messages = config.wording.opening(question, config.system_prompt, kind="cot")
    sampling = chain_sampling(config, config.candidates).seeded(seed, 0, 0)
    generation = await model.generate(messages, sampling, n=config.candidates)
    answers = [extract_answer(completion.text) for completion in generation.completions]
    winner, votes = _majority(answers)
    outcome: Outcome = "final_answer"
    if answers[winner] is None:
        is_cut = generation.completions[winner].finish_reason == "length"
        outcome = "cut_completion" if is_cut else "parse_failure"
    candidates = [
        Candidate(
            completion.text,
            reasoning=completion.reasoning,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
        )
        for completion in generation.completions
    ]
    seconds = time.perf_counter() - start
    step = Step(
        candidates,
        winner=winner,
        votes=votes,
        prompt_token_ids=generation.prompt_token_ids,
        seconds=seconds,
        model_seconds=seconds,
        cached_tokens=generation.cached_tokens,
    )
    usage = generation.prompt_tokens, generation.completion_tokens
    return Episode(messages, [step], outcome, answers[winner], *usage)


def chain_sampling(config: AgentConfig, n: int = 1) -> Sampling:
    """Sampling settings for ``n`` chains. A single chain is greedy unless a temperature is given; several chains are
    sampled like an agent's candidates.

    A chain has no stop strings.
    """
    temperature = config.sampling.temperature if n > 1 else config.temperature or 0.0
    limit = CHAIN_TOKENS if config.max_tokens is None else config.max_tokens
    top_p = config.top_p if temperature else 1.0
    return Sampling(temperature, top_p, max_tokens=limit, thinking_tokens=config.thinking_tokens)


def _majority(answers: Sequence[str | None]) -> tuple[int, list[tuple[str, int]]]:
    """The index of the first chain with the most frequent answer, and the votes for each answer, in descending order.

    Answers are equal if they are equal after SQuAD's normalization. Chains without an answer do not vote.
    """
    keys = [None if answer is None else normalize(answer) or answer for answer in answers]
    votes = Counter(key for key in keys if key is not None).most_common()  # ties: first seen first
    return (keys.index(votes[0][0]) if votes else 0), votes
