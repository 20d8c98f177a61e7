"""IDEA 2 of the paper, first-thought prefix: begin the agent's first Thought with a chain of thought.

A model that is prompted to act reasons worse than the same model prompted to reason: its first Thought jumps to code.
So it is first asked for a chain of thought, and the first paragraph of that becomes the beginning of its first agent
Thought. Only the teacher needs this. The result is an ordinary trajectory, from which the student learns to start in
the same way.

Not here: how a model continues a prefix (each model's module).
"""

import re
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import iter_trajectories
from agentdistill.models.model import Message, Model, Sampling
from agentdistill.models.thoughts import split_thinking

# A first thought must not contain the answer or code. Reasoning that starts with one has no first thought.
_ANSWER_OR_CODE = re.compile(
    r"<answer>|\\boxed|```|<code>|^\s*(?:Code|Observation|Final answer)\s*:", re.IGNORECASE | re.MULTILINE
)
_LABEL = re.compile(r"^\s*\**\s*(?:Thought|Reasoning)\s*:?\s*\**\s*:?\s*")


class Prefix(NamedTuple):
    """The beginning of an agent's first completion, and the tokens spent on it."""

    text: str
    """"" if the reply has no first thought."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def first_thought_prefix(chain_of_thought: list[Message], model: Model, sampling: Sampling) -> Prefix:
    """Ask ``model`` for a chain of thought, and make the beginning of the agent's first completion from it.

    ``chain_of_thought`` are the messages that ask for the chain.
    """
    generation = await model.generate(chain_of_thought, sampling)
    return Prefix(_prefix(generation.completions[0].text), generation.prompt_tokens, generation.completion_tokens)


def recorded_prefixes(path: str | Path) -> dict[tuple[str, str], Prefix]:
    """(model, question) -> prefix, from recorded chains of thought (``generate`` with kind "cot").

    Raises TrajectoryError for a file that cannot be read, ValueError if it has no chain.
    """
    recorded = iter_trajectories(path, source="agentdistill")
    chains = [chain for chain in recorded if chain.kind == "cot" and chain.steps]
    if not chains:
        raise ValueError(f'{path} has no chain of thought: generate some with kind "cot"')
    return {(chain.model, chain.question): Prefix(_prefix(chain.steps[0].candidates[0].text)) for chain in chains}


def _prefix(chain: str) -> str:
    thought = first_thought(chain)
    return f"Thought: {thought}" if thought else ""


def first_thought(chain: str) -> str:
    """The first paragraph of a chain of thought, without a heading, and without the answer or code.

    The thinking of a reasoning model is skipped, because Thoughts are not written like that.

    >>> first_thought("### Plan\\n\\nFirst find the film, then its director.\\n\\nThe film is ...")
    'First find the film, then its director.'
    """
    chain = split_thinking(chain)[1].strip()
    leak = _ANSWER_OR_CODE.search(chain)
    before = chain[: leak.start()] if leak else chain
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", before) if p.strip()]
    thoughts = [_LABEL.sub("", p).strip() for p in paragraphs if not _is_heading(p)]
    if not thoughts:
        return ""
    if leak and len(thoughts) == 1:  # a single paragraph that contains the answer: take its first sentence
        sentence = re.match(r".+?[.!?](?=\s|$)", thoughts[0], re.DOTALL)
        return sentence.group() if sentence else ""
    return thoughts[0]


def _is_heading(paragraph: str) -> bool:
    """Whether it is a single line that only names what follows: "### Step 1", "**Plan**", "Reasoning:"."""
    if "\n" in paragraph:
        return False
    return paragraph.startswith("#") or bool(re.fullmatch(r"\*\*[^*]+\*\*:?|[\w ]{1,30}:|-{3,}|={3,}", paragraph))
