"""The demo's world: a generated encyclopaedia of linked entities, and tasks about it and about large numbers.

Nothing in it is real. Names are random syllables. Each cluster of ten entities (two works, two companies, four people,
two towns) is linked only to itself, so that a task about one cluster reveals nothing about another. A model that has
seen other clusters has to read, and cannot remember. One rule, :func:`share`, decides which names and large numbers may
occur where: the base models' text, the training tasks and the test tasks never share any. The "in domain" sets are a
deliberate exception, with facts and small numbers from training.

Not here: answers to the questions (teacher.py), and the base models' text (pretrain.py).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from zlib import crc32

Share = Literal["base", "train", "test"]

LARGE = (1_000, 99_999)
"""Numbers too large to multiply by heart."""
SMALL = (2, 6)
"""Numbers whose sums and products a small model can memorize."""

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
CODAS = "lnrs"


def share(word: str | int) -> Share:
    """Where a name or a large number may occur: half of them in the base's text, a quarter each in training and
    test."""
    return ("base", "base", "train", "test")[crc32(str(word).encode()) % 4]


@dataclass(frozen=True)
class Relation:
    """One kind of link, e.g. from a film to its director."""

    name: str
    """Its name in passages and questions: "director"."""
    target: str
    """The kind of entity that it leads to; years and rivers have no further links."""
    questions: tuple[str, ...]
    """The wording of its question; inside a longer question it is always "the director of ..."."""


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "film": (
        Relation("director", "person", ("Who directed {}?", "Who is the director of {}?")),
        Relation("composer", "person", ("Who wrote the music of {}?", "Who is the composer of {}?")),
        Relation("studio", "company", ("Which studio made {}?", "What is the studio of {}?")),
    ),
    "novel": (
        Relation("author", "person", ("Who wrote {}?", "Who is the author of {}?")),
        Relation("publisher", "company", ("Who published {}?", "What is the publisher of {}?")),
    ),
    "company": (
        Relation("founder", "person", ("Who founded {}?", "Who is the founder of {}?")),
        Relation("seat", "town", ("Where does {} have its seat?", "What is the seat of {}?")),
    ),
    "person": (
        Relation("birthplace", "town", ("Where was {} born?", "What is the birthplace of {}?")),
        Relation("spouse", "person", ("Who is married to {}?", "Who is the spouse of {}?")),
        Relation("birthyear", "year", ("When was {} born?", "What is the birthyear of {}?")),
    ),
    "town": (
        Relation("mayor", "person", ("Who governs {}?", "Who is the mayor of {}?")),
        Relation("river", "river", ("Which river flows through {}?", "What is the river of {}?")),
    ),
}


@dataclass(frozen=True)
class Entity:
    name: str
    kind: str
    facts: dict[str, str] = field(hash=False)

    @property
    def passage(self) -> tuple[str, str, str]:
        """``(id, title, text)`` for an index."""
        its = "Their" if self.kind == "person" else "Its"
        links = " ".join(f"{its} {link} is {value}." for link, value in self.facts.items())
        return self.name.replace(" ", "_"), self.name, f"{self.name} is a {self.kind}. {links}"


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the relations from the named entity to the answer (none for arithmetic)."""

    text: str
    answer: str
    entity: str = ""
    chain: tuple[str, ...] = ()


class Names:
    """Generates unique names of one share."""

    def __init__(self, rng: random.Random, owner: Share) -> None:
        self._rng, self._owner = rng, owner
        self._used: set[str] = set()
        self._given = [self._word(1) for _ in range(60)]

    def thing(self) -> str:
        return self._fresh(lambda: self._word(2))

    def person(self) -> str:
        """A given name, which several people may have, and a family name."""
        return self._fresh(lambda: f"{self._rng.choice(self._given)} {self._word(2)}")

    def _fresh(self, draw: Callable[[], str]) -> str:
        while (name := draw()) in self._used:
            pass
        self._used.add(name)
        return name

    def _word(self, syllables: int) -> str:
        return word(syllables, self._owner, self._rng)


def word(syllables: int, owner: Share, rng: random.Random) -> str:
    """An invented name."""
    while True:
        name = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
        if share(name.capitalize()) == owner:
            return name.capitalize()


def cluster(names: Names, rng: random.Random) -> list[Entity]:
    """Ten entities linked to one another."""
    film, novel = names.thing(), names.thing()
    companies = [names.thing(), names.thing()]
    towns = [names.thing(), names.thing()]
    people = [names.person() for _ in range(4)]
    other = dict(zip(people, people[::-1], strict=True))
    pick = rng.choice
    director, composer = rng.sample(people, 2)
    entities = [
        Entity(film, "film", {"director": director, "composer": composer, "studio": pick(companies)}),
        Entity(novel, "novel", {"author": pick(people), "publisher": pick(companies)}),
    ]
    entities += [Entity(name, "company", {"founder": pick(people), "seat": pick(towns)}) for name in companies]
    entities += [
        Entity(
            name,
            "person",
            {"birthplace": pick(towns), "spouse": other[name], "birthyear": str(rng.randint(1850, 1999))},
        )
        for name in people
    ]
    entities += [Entity(name, "town", {"mayor": pick(people), "river": names.thing()}) for name in towns]
    return entities


def chains(kind: str, hops: int) -> Iterator[tuple[Relation, ...]]:
    """All chains of ``hops`` relations that start at an entity of this kind."""
    for relation in RELATIONS.get(kind, ()):
        if hops == 1:
            yield (relation,)
        else:
            for rest in chains(relation.target, hops - 1):
                yield (relation, *rest)


CHAINS = {hops: [(kind, chain) for kind in RELATIONS for chain in chains(kind, hops)] for hops in (1, 2, 3)}


def fact_question(entities: Sequence[Entity], hops: int, rng: random.Random) -> Question:
    """A question about one cluster that takes ``hops`` look-ups."""
    by_name = {e.name: e for e in entities}
    while True:
        kind, chain = rng.choice(CHAINS[hops])
        start = rng.choice([e for e in entities if e.kind == kind])
        phrase, seen = start.name, [start.name]
        for relation in chain:
            seen.append(by_name[seen[-1]].facts[relation.name])
            text = rng.choice(relation.questions).format(phrase)
            phrase = f"the {relation.name} of {phrase}"
        if len(set(seen)) == len(seen):  # skip chains that return to an earlier entity
            return Question(text, seen[-1], start.name, tuple(relation.name for relation in chain))


PROBLEMS: tuple[tuple[str, str], ...] = (
    ("A depot holds {a} crates with {b} tins each. Then {c} tins are sold. How many tins are left?", "{a} * {b} - {c}"),
    ("A mill has {a} sacks and grinds {b} more a day for {c} days. How many sacks are there then?", "{a} + {b} * {c}"),
    ("A printer makes {a} books of {b} pages and {c} maps of one page. How many pages is that?", "{a} * {b} + {c}"),
    (
        "One farm has {a} trees and another has {b}. Each tree bears {c} pears. How many pears are there?",
        "({a} + {b}) * {c}",
    ),
    (
        "Of {a} bricks {b} break. Each whole brick weighs {c} grams. What do the whole bricks weigh?",
        "({a} - {b}) * {c}",
    ),
    (
        "A train carries {a} people. At a stop {b} people leave and {c} people join. How many are on it now?",
        "{a} - {b} + {c}",
    ),
)
"""Word problems and their results."""


def problem(numbers: tuple[int, int], owner: Share | None, rng: random.Random) -> Question:
    """A word problem with numbers from a range and, if given, a share."""
    text, expression = rng.choice(PROBLEMS)
    while True:
        a, b, c = (_number(numbers, owner, rng) for _ in range(3))
        if "{a} - {b}" in expression:
            a, b = max(a, b), min(a, b)  # the result must not be negative
        value = eval(expression.format(a=a, b=b, c=c))
        if value > 0:
            return Question(text.format(a=a, b=b, c=c), str(value))


def _number(numbers: tuple[int, int], owner: Share | None, rng: random.Random) -> int:
    while True:
        digits = rng.randint(len(str(numbers[0])), len(str(numbers[1])))
        n = rng.randint(max(numbers[0], 10 ** (digits - 1)), min(numbers[1], 10**digits - 1))
        if owner is None or share(n) == owner:
            return n
