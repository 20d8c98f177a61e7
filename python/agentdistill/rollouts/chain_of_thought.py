"""The baseline: one completion that reasons in words and ends with the answer. No tools, no code.

Its first thoughts also begin the agent's (first_thought_prefix.py). Not here: self-consistency over whole chains.
"""

import time
from typing import TYPE_CHECKING

from agentdistill._core import Candidate, Step
from agentdistill.answers import extract_answer
from agentdistill.models.model import Model, Sampling
from agentdistill.rollouts.agent import AgentConfig, Episode
from agentdistill.rollouts.prompt import opening

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome


async def run_chain_of_thought(question: str, model: Model, config: AgentConfig) -> Episode:
    """Ask ``model`` for one chain of thought. Its answer is what ``extract_answer`` finds. Raises ModelError."""
    start = time.perf_counter()
    messages = opening(question, config.system_prompt)
    generation = await model.generate(messages, chain_sampling(config))
    completion = generation.completions[0]
    candidate = Candidate(
        completion.text,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finish_reason=completion.finish_reason,
    )
    answer = extract_answer(completion.text)
    outcome: Outcome = "final_answer"
    if answer is None:
        outcome = "cut_completion" if completion.finish_reason == "length" else "parse_failure"
    seconds = time.perf_counter() - start
    step = Step(
        [candidate],
        prompt_token_ids=generation.prompt_token_ids,
        seconds=seconds,
        model_seconds=seconds,
        cached_tokens=generation.cached_tokens,
    )
    return Episode(messages, [step], outcome, answer, generation.prompt_tokens, generation.completion_tokens)


def chain_sampling(config: AgentConfig) -> Sampling:
    """One chain, greedy unless a temperature is given; it ends where the model ends it."""
    temperature = config.temperature or 0.0
    return Sampling(temperature=temperature, top_p=config.top_p if temperature else 1.0, max_tokens=config.max_tokens)
