"""The demo's teacher: a script in the place of a large model, the only part of the demo that is not real.

It works from the messages it is given and nothing else: it takes the question apart by the world's wordings, plans,
searches, reads the passages of the observations, codes. As a chain of thought, where a large model would draw on what
it has memorized, it looks the facts up in the world. In a given share of the episodes it errs, in ways that large
models err, so that selection has work: it follows the wrong link, takes the wrong operation, writes code that does not
parse or calls what is not there (and recovers), or gives up.

Not here: any way to see the reference answer of a task.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentdistill.demo.world import PROBLEMS, RELATIONS, Entity
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel

ERRORS = ("wrong", "wrong", "wrong", "syntax", "no_such_function", "no_code", "gives_up")
"""What can go wrong; half of the time the teacher is simply wrong."""


def teacher(world: Iterable[Entity], error_rate: float, seed: int) -> ScriptedModel:
    """A teacher that knows ``world`` by heart in a chain of thought, and errs in ``error_rate`` of its episodes."""
    knowledge = {entity.name: entity for entity in world}

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        question, *observations = [message.content for message in messages if message.role == "user"]
        agent = "final_answer(" in messages[0].content
        rng = random.Random(f"{seed} {agent} {question}")  # an agent fails at other questions than a chain of thought
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
    """Take a question apart. Raises ValueError for one that the world does not ask."""
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
    raise ValueError(f"the teacher cannot read {question!r}")


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
                continue  # an error, or nothing found: the same is tried again
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
        search = f'web_search("{at}", 1)'  # an entity's own passage comes first
        if not observations and error in _SLIPS:
            return thought, _SLIPS[error].format(search)
        return thought, f"print({search})"


@dataclass(frozen=True)
class Sum:
    """A word problem: what to do, and the same as an expression of Python."""

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
    """What stands in ``text`` for the fields of ``template``."""
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
"""Code that Python cannot parse, and code that calls what is not there."""
_ASKED = [(r.name, question) for relations in RELATIONS.values() for r in relations for question in r.questions]
_ORDER = (r"\((\d+ [-+] \d+)\)", r"(\d+ \* \d+)", r"^(-?\d+ [-+] \d+)")
"""What is worked out first: brackets, then products, then from left to right."""

_SUMS = {
    "{a} * {b} - {c}": ("First multiply, then subtract.", "{a} * {b} + {c}"),
    "{a} + {b} * {c}": ("First multiply, then add.", "({a} + {b}) * {c}"),
    "{a} * {b} + {c}": ("First multiply, then add.", "{a} * {b} - {c}"),
    "({a} + {b}) * {c}": ("First add, then multiply.", "{a} + {b} * {c}"),
    "({a} - {b}) * {c}": ("First subtract, then multiply.", "({a} + {b}) * {c}"),
    "{a} - {b} + {c}": ("First subtract, then add.", "{a} + {b} + {c}"),
}
"""For each of the world's problems: how to go about it, and the slip that is easiest to make."""
