"""The demo's teacher: a script in the place of a large model, the only part of the demo that is not real.

It works from the messages it is given and nothing else: it takes the question apart by the world's wordings, plans, searches,
reads the passages of the observations, codes. As a chain of thought, where a large model would draw on what it has
memorized, it looks the facts up in the world. In a given share of the episodes it errs, in ways that large models err, so that
selection has work: it follows the wrong link, takes the wrong operation, writes code that does not parse or calls what is not
there (and recovers), or gives up.

Not here: any way to see the reference answer of a task.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentdistill.demo.world import PROBLEMS, RELATIONS, TEXTS, Entity, Relation
from agentdistill.model import Message, ScriptedModel

ERRORS = ("wrong", "wrong", "syntax", "no_such_function", "gives_up")
"""What can go wrong; half of the time the teacher is simply wrong."""


def teacher(world: Iterable[Entity], error_rate: float, seed: int) -> ScriptedModel:
    """A teacher that knows ``world`` by heart in a chain of thought, and errs in ``error_rate`` of its episodes."""
    knowledge = {entity.name: entity for entity in world}

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        question = next(message.content for message in messages if message.role == "user")
        rng = random.Random(f"{seed} {question}")
        agent = "final_answer(" in messages[0].content
        rng.random() if agent else None  # the two ways of working fail on different questions
        error = rng.choice(ERRORS) if rng.random() < error_rate else None
        plan = read_question(question)
        if not agent:
            return plan.chain_of_thought(knowledge, error)
        turns = [message.content for message in messages[1:]]
        text = plan.act(turns[2::2], error)
        return text.removeprefix(prefix) if text.startswith(prefix) else text[text.index("\nCode:") :]

    return ScriptedModel("scripted-teacher", policy)


def read_question(question: str) -> "Lookup | Sum":
    """Take a question apart. Raises ValueError for one that the world does not ask."""
    for problem, expression in PROBLEMS:
        if found := _invert(problem, question):
            return Sum(expression.format(**found), _WRONG_SUM[expression].format(**found))
    for relation, template in _ASKED:
        if found := _invert(template.replace("{}", "{x}"), question):
            entity, chain = _unfold(found["x"])
            return Lookup(entity, (*chain, relation))
    raise ValueError(f"the teacher cannot read {question!r}")


@dataclass(frozen=True)
class Lookup:
    """A chain of links from an entity."""

    entity: str
    chain: tuple[Relation, ...]

    @property
    def plan(self) -> str:
        first, *rest = (relation.noun for relation in self.chain)
        return f"First the {first} of {self.entity}" + "".join(f", then the {noun}" for noun in rest) + "."

    def chain_of_thought(self, knowledge: dict[str, Entity], error: str | None) -> str:
        sentences, at = [], self.entity
        for i, relation in enumerate(self.chain):
            wrong = error == "wrong" and i == len(self.chain) - 1
            link = _other(relation, knowledge[at]) if wrong else relation.name
            found = knowledge[at].facts[link]
            sentences.append(f"The {relation.noun} of {at} is {found}.")
            at = found
        if error == "gives_up":
            return f"{self.plan}\n\nI do not know."
        return f"{self.plan}\n\n{' '.join(sentences)}\n<answer>{at}</answer>"

    def act(self, observations: Sequence[str], error: str | None) -> str:
        """The next step, from what has been observed."""
        at, thought, done = self.entity, self.plan, 0
        for observation in observations:
            if (passage := _read(at, observation)) is None:
                continue  # an error, or nothing found: the same is tried again
            relation = self.chain[done]
            link = _other(relation, passage) if error == "wrong" and done == len(self.chain) - 1 else relation.name
            thought = f"The {relation.noun} of {at} is {passage.facts[link]}."
            at, done = passage.facts[link], done + 1
            if done < len(self.chain):
                thought += f" Now the {self.chain[done].noun} of {at}."
        if done == len(self.chain):
            return _action(thought, f'final_answer("{at}")')
        if error == "gives_up" and done:
            return _action("I cannot find it.", 'final_answer("unknown")')
        if error == "syntax" and not observations:
            return _action(thought, f'print(web_search("{at})')
        if error == "no_such_function" and not observations:
            return _action(thought, f'print(search("{at}"))')
        return _action(thought, f'print(web_search("{at}"))')


@dataclass(frozen=True)
class Sum:
    """A word problem, as an expression of Python."""

    right: str
    wrong: str

    def chain_of_thought(self, knowledge: dict[str, Entity], error: str | None) -> str:
        expression = self.wrong if error == "wrong" else self.right
        if error == "gives_up":
            return f"It comes to {expression}.\n\nI cannot work that out."
        steps, rest = [], expression
        while found := re.search(r"\((\d+ [-+] \d+)\)|(\d+ \* \d+)|^(-?\d+ [-+] \d+)", rest):
            part = next(filter(None, found.groups()))
            steps.append(f"{part} = {eval(part)}.")
            rest = rest.replace(found.group(), str(eval(part)), 1)
        return f"It comes to {expression}.\n\n{' '.join(steps)}\n<answer>{rest}</answer>"

    def act(self, observations: Sequence[str], error: str | None) -> str:
        expression = self.wrong if error == "wrong" else self.right
        printed = next((o for o in observations if re.fullmatch(r"Observation:\n-?\d+", o)), None)
        if printed:
            return _action(f"The result is {printed.split()[1]}.", "final_answer(result)")
        if error == "gives_up":
            return _action("I cannot work that out.", 'final_answer("unknown")')
        end = {"syntax": "print(result", "no_such_function": "show(result)"}.get(error or "", "print(result)")
        end = "print(result)" if observations else end
        return _action(f"It comes to {expression}.", f"result = {expression}\n{end}")


def _action(thought: str, code: str) -> str:
    return f"Thought: {thought}\nCode:\n```py\n{code}\n```<end_code>"


def _invert(template: str, text: str) -> dict[str, str] | None:
    """What stands in ``text`` for the fields of ``template``."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template))
    found = re.fullmatch(pattern, text)
    return found.groupdict() if found else None


def _unfold(phrase: str) -> tuple[str, tuple[Relation, ...]]:
    """ "the birthplace of the director of Velka" -> Velka, (director, birthplace)."""
    for relation, template in _PHRASES:
        if found := _invert(template.replace("{}", "{x}"), phrase):
            entity, chain = _unfold(found["x"])
            return entity, (*chain, relation)
    return phrase, ()


def _read(name: str, observation: str) -> Entity | None:
    """The entity that a passage of the observation is about."""
    for line in observation.splitlines():
        for kind, template in TEXTS.items():
            if (found := _invert(template, line)) and found.pop("name") == name:
                return Entity(name, kind, found)
    return None


def _other(relation: Relation, entity: Entity) -> str:
    """A link that is not this one."""
    return next(link for link in entity.facts if link != relation.name)


_ASKED = [(r, q) for relations in RELATIONS.values() for r in relations for q in r.questions]
_PHRASES = [(r, p) for relations in RELATIONS.values() for r in relations for p in r.phrases]
_WRONG_SUM = {
    "{a} * {b} - {c}": "{a} * {b} + {c}",
    "{a} + {b} * {c}": "({a} + {b}) * {c}",
    "{a} * {b} + {c}": "{a} * {b} - {c}",
    "({a} + {b}) * {c}": "{a} + {b} * {c}",
    "({a} - {b}) * {c}": "({a} + {b}) * {c}",
    "{a} - {b} + {c}": "{a} + {b} + {c}",
}
"""The slip that is easiest to make with each of the world's problems."""
