"""IDEA 2 of the paper, first-thought prefix: a chain of thought's first thought begins the agent's first Thought.

An LLM made to act reasons worse than the same LLM made to reason: its first Thought jumps to code. So the question is
put to it as a chain of thought first, and the first paragraph of that is given as the beginning of its first agent
Thought. Only the teacher needs this; what it then writes is an ordinary trajectory, and the student learns to open
like that.

Not here: how a model is made to go on from a prefix (the model's own module does it).
"""

import re
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import iter_trajectories
from agentdistill.models.model import Message, Model, Sampling
from agentdistill.models.thoughts import apart

# What may not leak into a first thought: the answer itself, or code. Reasoning that opens with it has no first thought.
_ANSWER_OR_CODE = re.compile(
    r"<answer>|\\boxed|```|<code>|^\s*(?:Code|Observation|Final answer)\s*:", re.IGNORECASE | re.MULTILINE
)
_LABEL = re.compile(r"^\s*\**\s*(?:Thought|Reasoning)\s*:?\s*\**\s*:?\s*")


class Prefix(NamedTuple):
    """How an agent's first completion begins, and what it cost to ask for that."""

    text: str
    """"" when the reply had no first thought to give."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def first_thought_prefix(chain_of_thought: list[Message], model: Model, sampling: Sampling) -> Prefix:
    """Ask ``model`` for a chain of thought and return the beginning of the agent's first completion made from it.

    ``chain_of_thought`` are the messages that ask for it.
    """
    generation = await model.generate(chain_of_thought, sampling)
    return Prefix(_prefix(generation.completions[0].text), generation.prompt_tokens, generation.completion_tokens)


def recorded_prefixes(path: str | Path) -> dict[tuple[str, str], Prefix]:
    """(model, question) -> prefix, by recorded chains of thought (``generate`` of kind "cot").

    Raises TrajectoryError for a file that cannot be read, ValueError when no chain is in it.
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
    """The first paragraph of a chain of thought, without its heading, and without the answer or code if those follow.

    The thinking of a reasoning model is none of it: that is not how a Thought is written.

    >>> first_thought("### Plan\\n\\nFirst find the film, then its director.\\n\\nThe film is ...")
    'First find the film, then its director.'
    """
    chain = apart(chain)[1].strip()
    leak = _ANSWER_OR_CODE.search(chain)
    before = chain[: leak.start()] if leak else chain
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", before) if p.strip()]
    thoughts = [_LABEL.sub("", p).strip() for p in paragraphs if not _is_heading(p)]
    if not thoughts:
        return ""
    if leak and len(thoughts) == 1:  # one paragraph from the question to the answer: its first sentence
        sentence = re.match(r".+?[.!?](?=\s|$)", thoughts[0], re.DOTALL)
        return sentence.group() if sentence else ""
    return thoughts[0]


def _is_heading(paragraph: str) -> bool:
    """A line of its own that names what follows and says nothing: "### Step 1", "**Plan**", "Reasoning:"."""
    if "\n" in paragraph:
        return False
    return paragraph.startswith("#") or bool(re.fullmatch(r"\*\*[^*]+\*\*:?|[\w ]{1,30}:|-{3,}|={3,}", paragraph))
