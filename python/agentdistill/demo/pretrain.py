"""Pretrain the demo's base models and their tokenizer (base/), which replace Qwen2.5 and are a thousand times smaller.

    python -m agentdistill.demo.pretrain OUTPUT [--sizes S M]

The generated text differs from the demo's: other names, numbers, relations and wordings, and no Thought, search or
final_answer. It teaches what any base model can do: find and copy text, read records, write calls and sums in Python,
count, do small sums, and take turns in a chat. Words of the demo occur only in random lists, and in the tokenizer.

Both take less than an hour on two cores. Not here: fine-tuning (training/).
"""

import argparse
import copy
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from agentdistill.demo.world import PROBLEMS, RELATIONS, share, word

SIZES = {
    "S": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2},
    "M": {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3},
}
"""0.26 and 0.63 million parameters, embeddings included."""

STEPS = {"S": (3200, 4e-3), "M": (2100, 4e-3)}
"""Steps, and the highest learning rate."""

STEP_TOKENS = 4096
ROPE_THETA = 1000.0
VOCABULARY = 1536
END, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    writer = Writer(0)
    tokenizer = make_tokenizer([writer.document() for _ in range(5000)] + ["\n".join(DEMO_WORDING)] * 1000)
    for size in arguments.sizes:
        tokenizer.save_pretrained(arguments.output / size)
        pretrain(size, tokenizer, arguments.output / size)


# ---- the model -----------------------------------------------------------------------------------


def pretrain(size: str, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Train one base from scratch, deterministically on the same machine; ``output`` has the current state."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        num_key_value_heads=SIZES[size]["num_attention_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES[size],
    )
    model = Qwen2ForCausalLM(config)
    look_back(model)
    print(f"{size}: {model.num_parameters():,} parameters", flush=True)
    steps, rate = STEPS[size]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    start = time.perf_counter()
    for step, (ids, taught) in zip(range(steps), batches(tokenizer, steps), strict=False):
        falling = 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * falling
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][taught[:, 1:]]
            # Round the number of rows, because memory is kept for each new shape.
            hidden = hidden[: len(hidden) // 128 * 128]
            logits = model.lm_head(hidden).float()
        targets = ids[:, 1:][taught[:, 1:]][: len(hidden)]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps - 1:
            right = (logits.argmax(-1) == targets).float().mean().item()
            seconds = time.perf_counter() - start
            print(f"{size} step {step}, {seconds:.0f} s: loss {loss.item():.3f}, accuracy {right:.3f}", flush=True)
            copy.deepcopy(model).half().save_pretrained(output)


def look_back(model: Qwen2ForCausalLM) -> None:
    """Initialize two heads of the first layer to look one and two tokens back.

    Copying needs a head that sees the previous token (Olsson et al. 2022, induction heads). A model this small takes
    millions of tokens to learn that; with this initialization it copies after 200 steps. The biases of queries and keys
    are the same vector, rotated by RoPE's angle for the distance. Training may change them.
    """
    attention = model.model.layers[0].self_attn
    size = attention.head_dim
    angles = ROPE_THETA ** (-torch.arange(0, size, 2) / size)
    for head, distance in enumerate((1, 2)):
        part = slice(head * size, (head + 1) * size)
        key = torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
        query = torch.cat([torch.cos(-angles * distance), torch.sin(-angles * distance)])
        attention.k_proj.bias.data[part] = 2.5 * key
        attention.q_proj.bias.data[part] = 2.5 * query


def batches(tokenizer: PreTrainedTokenizerFast, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Packed token ids and loss mask, both ``(rows, context)``: first chants, then longer and longer documents."""
    writer = Writer(1)
    for first, last, context, writer.size in (
        (0, 250, 128, 0.0),
        (250, round(0.3 * steps), 128, 0.1),
        (round(0.3 * steps), round(0.75 * steps), 256, 0.5),
        (round(0.75 * steps), steps, 512, 1.0),
    ):
        ids: list[int] = []
        taught: list[bool] = []
        for _ in range(first, last):
            while len(ids) < STEP_TOKENS:
                for document in tokenizer([writer.document() + END_OF_TEXT for _ in range(40)])["input_ids"]:
                    ids += document
                    taught += taught_tokens(document, tokenizer)
            yield (
                torch.tensor(ids[:STEP_TOKENS]).view(-1, context),
                torch.tensor(taught[:STEP_TOKENS]).view(-1, context),
            )
            ids, taught = ids[STEP_TOKENS:], taught[STEP_TOKENS:]


def taught_tokens(document: list[int], tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """The loss mask: all tokens of a plain text, and the assistant's in a chat, since a user's are unpredictable."""
    begin, assistant = tokenizer.convert_tokens_to_ids(["<|im_start|>", "assistant"])
    taught, on = [], True
    for before, token in zip([None, *document], document, strict=False):
        on = on and token != begin
        taught.append(on)
        on = on or (token == assistant and before == begin)
    return taught


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
THINGS = ("ship", "castle", "farm", "inn", "club", "school", "statue", "tribe", "camp", "band")
MORE_WORDS = re.findall(
    r"\w+",
    """
harbour bridge garden island flag tower horse song gate lake market hill apple arm bag ball bell bird boat bone book
bowl box bread cake card cat chair cloud coat coin corn cup dog door drum ear egg eye field fire fish flower foot fork
fruit glass goat gold hair hand hat head hook house ice iron jar key kite knife lamp leaf leg letter lid line lock milk
mirror moon mouth nail name neck nest nose nut oven paper path pen pipe plate pot rain ring road roof room root rope
salt sand shell ship shoe silk skin sky snow soap spoon star stone sugar table tail tooth wall watch wheel wind window
wing wire wood wool
""",
)
CALLS = ("find", "ask", "open_box", "look", "send", "fetch", "call", "read_card", "visit", "note")
VARIABLES = ("x", "y", "n", "value", "size", "share", "sum", "name", "left")
DEMO_WORDING = (
    *(f"the {link.name} of {link.target}" for links in RELATIONS.values() for link in links),
    *(question for links in RELATIONS.values() for link in links for question in link.questions),
    *(text for text, _ in PROBLEMS),
    "Thought Code Observation First the director of it, then Now That is a film. The result is unknown I do not know",
    "First multiply, add, subtract, then multiply, then subtract, then add. <answer></answer>",
    'print(result)\n```<end_code> print(web_search("Velka")) final_answer("Velka") final_answer(result)',
)
WORDS = sorted(set(re.findall(r"(?<!{)\b[A-Za-z_]+\b", " ".join(DEMO_WORDING))))
"""The demo's words, which the base models see only in random lists."""
RELATION_NAMES = {link.name for links in RELATIONS.values() for link in links}
PARTS = sorted({w for w in WORDS if w.islower() and len(w) > 3 and w not in RELATION_NAMES} | set(MORE_WORDS))


class Writer:
    """Generates documents from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.size = 1.0  # of the documents: from 0, chants, to 1, eight records
        self.given = [word(1, "base", self.rng) for _ in range(300)]

    def document(self) -> str:
        if not self.size:
            return self.chanting()
        kinds = (self.reading, self.copying, self.calling, self.summing, self.counting, self.chanting)
        write = self.rng.choices(kinds, (5 + 5 * self.size, 2, 2, 3, 3, 1))[0]
        return write()

    def chanting(self) -> str:
        """The same words repeated, from which copying is learnt first."""
        words = [word(2, "base", self.rng) for _ in range(self.rng.randint(3, 20))]
        return "".join(words) * (64 // len(words) + 1)

    def reading(self) -> str:
        """Some records and questions about them, some of which take two look-ups."""
        draw = self.rng
        names = [self.name() for _ in range(draw.randint(1, 1 + round(5 * self.size)))]
        kinds = list(dict.fromkeys(self.link() for _ in range(draw.randint(5, 8))))
        links: dict[tuple[str, str], str] = {}
        turns: list[tuple[str, str]] = []
        waiting = [*names]
        while waiting or len(turns) < 3 + round(5 * self.size):
            told, new = "", []
            if waiting and (not turns or draw.random() < 0.6):
                some = draw.randint(1, min(1 + round(2 * self.size), len(waiting)))
                new, waiting = waiting[:some], waiting[some:]
                records = [self.record(name, kinds, names, links) for name in new]
                told = "".join(f"[{i + 1}] {n}\n{text}\n" for i, (n, text) in enumerate(zip(new, records, strict=True)))
            x, link = draw.choice([at for at in links if at[0] in new] or list(links))
            y = links[x, link]
            question, answer = self.ask(x, link), f"Its {link} is {y}."
            onward = [(last, z) for (of, last), z in links.items() if of == y]
            if onward and draw.random() < 0.5:
                last, z = draw.choice(onward)
                question = self.ask(f"the {link} of {x}", last)
                answer += f" Its {last} is {z}."
            turns.append((told + question, answer))
        return self.chat(turns)

    def record(self, name: str, kinds: list[str], others: list[str], links: dict[tuple[str, str], str]) -> str:
        """Some links of one thing in words; they are added to ``links``."""
        draw = self.rng
        some = draw.sample(kinds, min(len(kinds), draw.randint(2, 4)))
        if draw.random() < 0.3:
            some[0] = draw.choice(list(ROLES))
        text = f"{name} is a {draw.choice(THINGS)}"
        for i, link in enumerate(some):
            strangers = [n for n in others if n != name]
            y = links[name, link] = draw.choice(strangers) if strangers and draw.random() < 0.5 else self.name()
            text += f", {ROLES[link][0]} {y}." if link in ROLES else f"{'' if i else '.'} Its {link} is {y}."
        return text

    def link(self) -> str:
        """A value: a common or an invented word, so that words have to be compared and not known."""
        if self.rng.random() < 0.3:
            return word(2, "base", self.rng).lower()
        return str(self.rng.choice(PARTS))

    def ask(self, phrase: str, link: str) -> str:
        forms = ["Name the {l} of {p}."] + ([ROLES[link][1]] if link in ROLES else [])
        return self.rng.choice(forms).format(phrase, l=link, p=phrase)

    def copying(self) -> str:
        """Repeated lists of names and numbers, or of words."""
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
        """Python calls about the subject of a sentence, and what they would print."""
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
        """Sums in words and as Python (without the result if they are large)."""
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
        """Counting, and small tables."""
        draw = self.rng
        if draw.random() < 0.2:
            start, step = draw.randint(1, 300), draw.choice((1, 1, 2, 5, 10))
            return "Count: " + ", ".join(str(start + i * step) for i in range(12))
        lines = []
        for _ in range(draw.randint(10, 30)):
            a, b, c = draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9)
            d = draw.choice((draw.randint(10, 99), a * b))
            lines.append(
                draw.choice(
                    (
                        f"{a} * {b} = {a * b}.",
                        f"{a} + {b} = {a + b}.",
                        f"{max(a, b)} - {min(a, b)} = {abs(a - b)}.",
                        f"{d} + {c} = {d + c}.",
                        f"{d} - {c} = {d - c}.",
                        f"{a + b} * {c} = {(a + b) * c}.",
                    )
                )
            )
        return draw.choice((" ", "\n")).join(lines)

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


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE. A capitalised word is split from the preceding space, so that a name has the same tokens
    everywhere. Each digit is a token."""
    pieces = Regex(r" ?[a-z_]+|[A-Z][a-z]*|\d|[^\sA-Za-z\d]+|\s")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    main()
