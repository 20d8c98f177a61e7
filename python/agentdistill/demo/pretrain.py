"""Make the demo's base models and their tokenizer (base/): what Qwen2.5 is to the paper's students, a thousand times smaller.

    python -m agentdistill.demo.pretrain OUTPUT --minutes 15 --sizes S M L

The text is generated here and is other text than the demo's: other names, numbers, relations and wordings, no Thought, no
search, no final_answer. It teaches what any base model brings along: to find a thing in a text and copy it, to read
records, to write calls and sums in Python, to count and to do small sums, and the turns of a chat.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from agentdistill.demo.world import PROBLEMS, RELATIONS, TEXTS, share, word

SIZES = {
    "S": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2},
    "M": {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3},
    "L": {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4, "num_attention_heads": 5},
}
"""About 0.3, 0.8 and 2 million parameters, embeddings included."""

VOCABULARY = 1536
CONTEXT = 512
BATCH = 16
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"

# ---- the text ----------------------------------------------------------------------------------

ROLES = {
    "owner": ("owned by", "Who owns {}?"),
    "guard": ("guarded by", "Who guards {}?"),
    "captain": ("led by", "Who leads {}?"),
    "painter": ("painted by", "Who painted {}?"),
    "cook": ("fed by", "Who feeds {}?"),
    "rival": ("feared by", "Who fears {}?"),
    "keeper": ("kept by", "Who keeps {}?"),
    "builder": ("built by", "Who built {}?"),
    "heir": ("left to", "To whom is {} left?"),
    "judge": ("judged by", "Who judges {}?"),
}
PARTS = ("harbour", "bridge", "garden", "island", "flag", "tower", "horse", "song", "gate", "lake", "market", "hill")
THINGS = ("ship", "castle", "farm", "inn", "club", "school", "statue", "tribe", "camp", "band")
CALLS = ("find", "ask", "open_box", "look", "send", "fetch", "call", "read_card", "visit", "note")
VARIABLES = ("x", "y", "n", "value", "size", "share", "sum", "name", "left")
DEMO_WORDING = (
    *TEXTS.values(),
    *(text for links in RELATIONS.values() for link in links for text in (link.noun, *link.phrases, *link.questions)),
    *(text for text, _ in PROBLEMS),
    "Thought Code Observation First then Now the of It comes to The result is answer unknown print web_search final_answer",
)
WORDS = sorted(set(re.findall(r"(?<!{)\b[A-Za-z_]+\b", " ".join(DEMO_WORDING))))
"""The demo's words, which the base models see in lists without meaning: what they mean is left to the teacher."""


class Writer:
    """Writes one document after another, from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.size = 1.0  # of the documents, from 0 (a few lines) to 1
        self.given = [word(1, "base", self.rng) for _ in range(300)]

    def document(self) -> str:
        if not self.size:
            return self.chanting()
        kinds = (self.reading, self.copying, self.calling, self.summing, self.counting, self.chanting)
        write = self.rng.choices(kinds, (10 * self.size, 2, 2, 3, 1, 1))[0]
        return write()

    def chanting(self) -> str:
        """The same words over and over, from which copying is learnt first."""
        words = [word(2, "base", self.rng) for _ in range(self.rng.randint(3, 20))]
        return "".join(words) * (64 // len(words) + 1)

    def reading(self) -> str:
        """Records, then questions about them; every other one asks for a thing of a thing, where there is one."""
        draw = self.rng
        names = [self.name() for _ in range(draw.randint(2, 3 + round(5 * self.size)))]
        links: dict[tuple[str, str], str] = {}
        records = []
        for i, name in enumerate(names):
            roles = draw.sample(list(ROLES), draw.randint(0, 2))
            parts = draw.sample(PARTS, draw.randint(1, 2) if roles else draw.randint(2, 3))
            for link in roles + parts:
                links[name, link] = draw.choice([n for n in names if n != name]) if draw.random() < 0.6 else self.name()
            said = "".join(f", {ROLES[r][0]} {links[name, r]}" for r in roles)
            text = f"{name} is a {draw.choice(THINGS)}{said}."
            for part in parts:
                form = draw.choice(("Its {p} is {y}.", "The {p} there is {y}.", "It has the {p} {y}."))
                text += " " + form.format(p=part, y=links[name, part])
            records.append(f"[{i + 1}] {name}\n{text}")
        turns = []
        for _ in range(draw.randint(4, 5 + round(6 * self.size))):
            x, link = draw.choice(list(links))
            y = links[x, link]
            question, answer = self.ask(x, link), f"The {link} of {x} is {y}."
            onward = [(last, links[y, last]) for last in [*ROLES, *PARTS] if (y, last) in links]
            if onward and draw.random() < 0.5:
                last, z = draw.choice(onward)
                question = self.ask(f"the {link} of {x}", last)
                answer += f" The {last} of {y} is {z}."
            turns.append((question, answer))
        first, *rest = turns
        return self.chat([("\n".join(records) + "\n" + first[0], first[1]), *rest])

    def ask(self, phrase: str, link: str) -> str:
        forms = ["Name the {l} of {p}."] + ([ROLES[link][1]] if link in ROLES else [])
        return self.rng.choice(forms).format(phrase, l=link, p=phrase)

    def copying(self) -> str:
        """Lists said again: of names and numbers, or of words."""
        turns = []
        for _ in range(self.rng.randint(1, 3)):
            if self.rng.random() < 0.5:
                items = self.rng.sample(WORDS, self.rng.randint(3, 12))
            else:
                items = [self.rng.choice((self.name, self.number))() for _ in range(self.rng.randint(2, 6))]
            listed = ", ".join(items)
            turns.append((f"Say it again: {listed}", listed))
            if self.rng.random() < 0.3:
                turns.append(("And in quotes?", ", ".join(f'"{item}"' for item in items)))
        return self.chat(turns)

    def calling(self) -> str:
        """Calls in Python about what the sentence names, and what they would print."""
        turns = []
        for _ in range(self.rng.randint(1, 5)):
            call, item, variable, number = (
                self.rng.choice(CALLS),
                self.name(),
                self.rng.choice(VARIABLES),
                self.number(),
            )
            question, code = self.rng.choice(
                (
                    (f"Please {call} {item}.", f'{call}("{item}")'),
                    (f"Please {call} {item} and print it.", f'print({call}("{item}"))'),
                    (f"Let {variable} be {item}.", f'{variable} = "{item}"'),
                    (
                        f"Let {variable} be {number} and print it.",
                        f"{variable} = {number}\nprint({variable})\n# {number}",
                    ),
                    (f"Make a list of {item} and {number}.", f'["{item}", {number}]'),
                )
            )
            turns.append((question, f"```py\n{code}\n```"))
        return self.chat(turns)

    def summing(self) -> str:
        """Sums told in words and written as Python (never worked out when they are large)."""
        turns = []
        for _ in range(self.rng.randint(1, 4)):
            a, b, c, d = (self.number() for _ in range(4))
            words, expression = self.rng.choice(
                (
                    (f"{a} birds and {b} more", f"{a} + {b}"),
                    (f"{a} birds, of which {b} fly off", f"{a} - {b}"),
                    (f"{a} rows of {b} chairs", f"{a} * {b}"),
                    (f"{a} rows of {b} chairs, and {c} more chairs", f"{a} * {b} + {c}"),
                    (f"{a} rows of {b} chairs without {c} chairs", f"{a} * {b} - {c}"),
                    (f"from {a} take {b}, then {c} times that", f"({a} - {b}) * {c}"),
                    (f"{a} and {b} together, {c} times over", f"({a} + {b}) * {c}"),
                    (f"{a} stones and {b} heaps of {c} stones", f"{a} + {b} * {c}"),
                    (f"{a} boats of {b} men and {c} boats of {d} men", f"{a} * {b} + {c} * {d}"),
                    (f"from {a} take {b}, then take {c}", f"{a} - {b} - {c}"),
                    (f"from {a} take {b}, then add {c}", f"{a} - {b} + {c}"),
                )
            )
            if self.rng.random() < 0.5:
                turns.append((f"Write it: {words}.", expression))
            else:
                variable = self.rng.choice(VARIABLES)
                turns.append(
                    (f"Write it with {variable}: {words}.", f"```py\n{variable} = {expression}\nprint({variable})\n```")
                )
        return self.chat(turns)

    def counting(self) -> str:
        """Counting, and the tables that one knows by heart."""
        draw = self.rng
        if draw.random() < 0.2:
            start, step = draw.randint(1, 300), draw.choice((1, 1, 2, 5, 10))
            return "Count: " + ", ".join(str(start + i * step) for i in range(12))
        lines = []
        for _ in range(draw.randint(5, 10)):
            a, b = draw.randint(2, 9), draw.randint(2, 9)
            c, d = draw.randint(10, 99), draw.randint(2, 9)
            lines.append(
                draw.choice(
                    (
                        f"{a} * {b} = {a * b}",
                        f"{a} + {b} = {a + b}",
                        f"{a + b} - {b} = {a}",
                        f"{c} + {d} = {c + d}",
                        f"{c} - {d} = {c - d}",
                        f"{a + b} * {d} = {(a + b) * d}",
                    )
                )
            )
        return "\n".join(lines)

    def name(self) -> str:
        if self.rng.random() < 0.5:
            return word(2, "base", self.rng)
        return f"{self.rng.choice(self.given)} {word(2, 'base', self.rng)}"

    def number(self) -> str:
        while True:
            digits = self.rng.randint(1, 6)
            n = self.rng.randint(10 ** (digits - 1), 10**digits - 1)
            if n < 100 or share(n) == "base":
                return str(n)

    @staticmethod
    def chat(turns: list[tuple[str, str]]) -> str:
        return "".join(f"<|im_start|>user\n{q}{END}\n<|im_start|>assistant\n{a}{END}\n" for q, a in turns)


# ---- the tokenizer -----------------------------------------------------------------------------


def make_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE. A capitalised word is cut off from the space before it, so that a name is the same tokens everywhere."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?[a-z_]+|[A-Z][a-z]*|\d|[^\sA-Za-z\d]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", END]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
