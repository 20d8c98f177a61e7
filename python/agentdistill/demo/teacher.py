"""The demo's scripted teacher, which replaces a large model. It is the only stand-in of the demo.

It sees only the messages. It parses the question by the world's wordings, plans, searches, reads the observed passages
and writes code. For a chain of thought, where a large model would use memorized facts, it looks them up in the world.
In a given share of episodes it makes mistakes like those of large models, so that selection has something to drop: it
follows the wrong link, uses the wrong operation, writes code that does not parse or calls a function that does not
exist (and recovers), or gives up.

Not here: any access to the reference answer of a task.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentdistill.demo.world import PROBLEMS, RELATIONS, Entity
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel

ERRORS = ("wrong", "wrong", "wrong", "syntax", "no_such_function", "no_code", "gives_up")
"""The kinds of mistakes; "wrong" is repeated because it is the most frequent."""


def teacher(world: Iterable[Entity], error_rate: float, seed: int) -> ScriptedModel:
    """A teacher whose chains of thought know ``world``, and that makes mistakes in ``error_rate`` of its episodes."""
    knowledge = {entity.name: entity for entity in world}

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        question, *observations = [message.content for message in messages if message.role == "user"]
        agent = "final_answer(" in messages[0].content
        rng = random.Random(f"{seed} {agent} {question}")  # agent and chain of thought fail at different questions
        error = rng.choice(ERRORS) if rng.random() < error_rate else None
        plan = read_question(question, error)
        if not agent:
            return plan.chain_of_thought(knowledge, error)
        thought, code = plan.act(observations, error)
        action = f"Code:\n```py\n{code}\n```<end_code>"
        if not observations and error == "no_code":
            action = "I will do that in code."
        return f"\n{action}" if prefix else f"Thought: {thought}\n{action}"

    return ScriptedModel("scripted-teacher", policy)


def read_question(question: str, error: str | None) -> "Lookup | Sum":
    """Parse a question. Raises ValueError for one that is not from the world."""
    for problem, expression in PROBLEMS:
        if found := _invert(problem, question):
            plan, slip = _SUMS[expression]
            return Sum(plan, (slip if error == "wrong" else expression).format(**found))
    for link, template in _ASKED:
        if found := _invert(template.replace("{}", "{x}"), question):
            *links, entity = found["x"].removeprefix("the ").split(" of the ")
            if " of " in entity:
                last, entity = entity.split(" of ")
                links.append(last)
            return Lookup(entity, (*links[::-1], link))
    raise ValueError(f"the teacher cannot parse the question {question!r}")


@dataclass(frozen=True)
class Lookup:
    """A chain of links from an entity."""

    entity: str
    chain: tuple[str, ...]

    @property
    def plan(self) -> str:
        steps = (f"{i}: the {link}" for i, link in enumerate(self.chain, 1))
        return ", ".join(steps).replace(self.chain[0], f"{self.chain[0]} of {self.entity}", 1) + "."

    def chain_of_thought(self, knowledge: dict[str, Entity], error: str | None) -> str:
        sentences, at = [], self.entity
        for i, link in enumerate(self.chain, 1):
            slip = error == "wrong" and i == len(self.chain)
            found = knowledge[at].facts[_other(link, knowledge[at]) if slip else link]
            sentences.append(f"{i}: the {link} of {at} is {found}.")
            at = found
        if error == "gives_up":
            return f"{self.plan}\n\nI do not know."
        return f"{self.plan}\n\n{' '.join(sentences)}\n<answer>{at}</answer>"

    def act(self, observations: Sequence[str], error: str | None) -> tuple[str, str]:
        """The next thought and code, from what has been observed."""
        at, thought, done = self.entity, self.plan, 0
        for observation in observations:
            if (passage := _read(at, observation)) is None:
                continue  # after an error or an empty result, try the same again
            link = self.chain[done]
            slip = error == "wrong" and done == len(self.chain) - 1
            found = passage.facts[_other(link, passage) if slip else link]
            at, done = found, done + 1
            thought = f"{done}: the {link} is {found}."
            if done < len(self.chain):
                thought += f" {done + 1}: the {self.chain[done]}."
        if done == len(self.chain):
            return thought, f'final_answer("{at}")'
        if error == "gives_up" and done:
            return "I do not know.", 'final_answer("unknown")'
        search = f'web_search("{at}", 1)'  # the best passage is the entity's own
        if not observations and error in _SLIPS:
            return thought, _SLIPS[error].format(search)
        return thought, f"print({search})"


@dataclass(frozen=True)
class Sum:
    """A word problem: a description of the solution, and the Python expression."""

    plan: str
    expression: str

    def chain_of_thought(self, knowledge: dict[str, Entity], error: str | None) -> str:
        if error == "gives_up":
            return f"{self.plan}\n\nI do not know."
        sums, rest = [], self.expression
        while found := next(filter(None, (re.search(order, rest) for order in _ORDER)), None):
            value = str(eval(found[1]))
            sums.append(f"{found[1]} = {value}.")
            rest = rest.replace(found[0], value, 1)
        return f"{self.plan}\n\n{' '.join(sums)}\n<answer>{rest}</answer>"

    def act(self, observations: Sequence[str], error: str | None) -> tuple[str, str]:
        """The next thought and code, from what has been observed."""
        if any(re.fullmatch(r"Observation:\n-?\d+", observation) for observation in observations):
            return "That is the result.", "final_answer(result)"
        if error == "gives_up":
            return "I do not know.", 'final_answer("unknown")'
        show = _SLIPS[error].format("result") if not observations and error in _SLIPS else "print(result)"
        return self.plan, f"result = {self.expression}\n{show}"


def _invert(template: str, text: str) -> dict[str, str] | None:
    """The values in ``text`` for the fields of ``template``."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template))
    found = re.fullmatch(pattern, text)
    return found.groupdict() if found else None


def _read(name: str, observation: str) -> Entity | None:
    """The entity that a passage of the observation is about."""
    if found := re.search(rf"^{re.escape(name)} is a (\w+)\.(.+)$", observation, re.MULTILINE):
        return Entity(name, found[1], dict(re.findall(r"(?:Its|Their) (\w+) is ([\w ]+)\.", found[2])))
    return None


def _other(link: str, entity: Entity) -> str:
    """A link that is not this one."""
    return next(other for other in entity.facts if other != link)


_SLIPS = {"syntax": "print({}", "no_such_function": "show({})"}
"""Code that does not parse, and code that calls a function that does not exist."""
_ASKED = [(r.name, question) for relations in RELATIONS.values() for r in relations for question in r.questions]
_ORDER = (r"\((\d+ [-+] \d+)\)", r"(\d+ \* \d+)", r"^(-?\d+ [-+] \d+)")
"""Order of evaluation: brackets, then products, then from left to right."""

_SUMS = {
    "{a} * {b} - {c}": ("First multiply, then subtract.", "{a} * {b} + {c}"),
    "{a} + {b} * {c}": ("First multiply, then add.", "({a} + {b}) * {c}"),
    "{a} * {b} + {c}": ("First multiply, then add.", "{a} * {b} - {c}"),
    "({a} + {b}) * {c}": ("First add, then multiply.", "{a} + {b} * {c}"),
    "({a} - {b}) * {c}": ("First subtract, then multiply.", "({a} + {b}) * {c}"),
    "{a} - {b} + {c}": ("First subtract, then add.", "{a} + {b} + {c}"),
}
"""For each problem of the world: its solution, and the most likely mistake."""
