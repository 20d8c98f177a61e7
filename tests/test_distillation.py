"""IDEA 1: what a teacher makes, what is kept of it, and that the training examples are exact to the token."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentdistill import Action, Candidate, ParseFailure, Step, Task, Trajectory, generate, read_trajectories, select
from agentdistill._core import TrajectoryWriter
from agentdistill.distillation import GenerateConfig, to_examples
from agentdistill.engine import rollout
from agentdistill.model import Completion, Generation, Message, Sampling, ScriptedModel
from agentdistill.player import RolloutConfig
from agentdistill.prompt import assistant_turn, load_prompt, opening


def code(text: str, thought: str = "I act.") -> str:
    return f"Thought: {thought}\nCode:\n```py\n{text}\n```<end_code>"


# ---- the teacher ---------------------------------------------------------------------------------


def teacher(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Reasons in words when asked to; else acts, going on from its first thought when it is given one."""
    if "<answer>" in messages[0].content:
        return "First I add the two.\n\nThat is 5.\n\n<answer>\\boxed{5}</answer>"
    if messages[-1].role == "user" and len(messages) == 2:
        return f"{'' if prefix else 'Thought:'} Now in code.\nCode:\n```py\nx = 2 + 3\nprint(x)\n```"
    return code("final_answer(x)")


TASK = Task("q", "What is 2 + 3?", "5", "sums", "math")


@pytest.mark.parametrize(
    ("config", "first_turn"),
    [
        (GenerateConfig(), "Thought: Now in code.\n"),
        (GenerateConfig(first_thought_prefix=True), "Thought: First I add the two. Now in code.\n"),
        (GenerateConfig(kind="cot"), "First I add the two.\n\nThat is 5."),
    ],
)
def test_a_teacher_generates(config: GenerateConfig, first_turn: str, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    [trajectory] = generate([TASK], ScriptedModel("teacher", teacher), config=config, output=output, progress=False)
    assert (trajectory.answer, trajectory.score, trajectory.kind) == ("5", 1.0, config.kind)
    [candidate] = trajectory.steps[0].candidates
    assert candidate.text.startswith(first_turn)
    assert candidate.prefix == ("Thought: First I add the two." if config.first_thought_prefix else "")
    assert trajectory.messages[0][1].startswith(load_prompt(f"teacher_{config.kind}")[:60])
    assert read_trajectories(output) == [trajectory]


def test_a_chain_of_thought_has_no_first_thought_of_an_agent() -> None:
    with pytest.raises(ValueError, match="cot"):
        GenerateConfig(kind="cot", first_thought_prefix=True)


def test_first_thoughts_are_taken_from_recorded_chains(tmp_path: Path) -> None:
    chains, asked = tmp_path / "cot.jsonl", []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.append("<answer>" in messages[0].content)
        return teacher(messages, prefix, index)

    script, thinks = ScriptedModel("teacher", teacher), GenerateConfig(kind="cot")
    generate([TASK], script, config=thinks, output=chains, progress=False)
    config = GenerateConfig(first_thought_prefix=True, chains=str(chains))
    other = Task("r", "What is 1 + 4?", "5", "sums", "math")
    made = generate([TASK, other], ScriptedModel("teacher", policy), config=config, progress=False)
    assert [t.steps[0].candidates[0].prefix for t in made] == ["Thought: First I add the two."] * 2
    assert asked.count(True) == 1  # for the other one
    with pytest.raises(ValueError, match="no chain of thought of another"):
        generate([TASK], ScriptedModel("another", teacher), config=config, progress=False)
    with pytest.raises(ValueError, match="there is to be none"):
        GenerateConfig(chains=str(chains))


# ---- selection -----------------------------------------------------------------------------------

FAILED = ParseFailure("no_action", "Write code.")


def trajectory(task_id: str, actions: Sequence[object] = ("1",), **fields: Any) -> Trajectory:
    steps = [
        Step([Candidate("Hm.", action=action) if isinstance(action, ParseFailure) else Candidate(str(action))])
        for action in actions
    ]
    return Trajectory(task_id, "Q?", steps=steps, **({"answer": "1", "score": 1.0} | fields))


MADE = [
    (trajectory("right"), None),
    (trajectory("wrong", score=0.0), "wrong_answer"),
    (trajectory("not parsed once", ["1", FAILED, "1"]), "parse_failure"),
    (trajectory("never parsed", [FAILED], outcome="parse_failure", score=0.0), "parse_failure"),
    (trajectory("slow", outcome="out_of_steps", score=0.0), "out_of_steps"),
    (trajectory("cut", outcome="cut_completion", score=0.0), "cut_completion"),
    (trajectory("asked only", score=None), "not_graded"),
]


def test_the_paper_s_rule(tmp_path: Path) -> None:
    made, output = [t for t, _ in MADE], tmp_path / "kept.jsonl"
    selection = select(made, output)
    assert [t.task_id for t in selection.kept] == ["right"]
    reasons = [reason for _, reason in MADE if reason]
    assert selection.dropped == {reason: reasons.count(reason) for reason in reasons}
    assert next(iter(selection.dropped)) == "parse_failure"
    assert str(selection).startswith("1 of 7 trajectories kept; dropped: parse_failure 2")
    assert read_trajectories(output) == selection.kept
    with TrajectoryWriter(tmp_path / "made.jsonl", "{}") as writer:
        writer.append(made)
    assert select(tmp_path / "made.jsonl", output) == selection  # replaced, not appended to
    assert read_trajectories(output) == selection.kept
    assert {path.name for path in tmp_path.iterdir()} == {"kept.jsonl", "made.jsonl"}


def test_the_order_of_a_file_does_not_matter() -> None:
    made = [trajectory(name) for name in "bca"]
    assert [t.task_id for t in select(made).kept] == ["a", "b", "c"]


def test_steps_that_raised_are_kept() -> None:
    def recovers(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code("1/0") if len(messages) == 2 else code("final_answer(5)")

    made = rollout([TASK], ScriptedModel("teacher", recovers), progress=False)
    assert len(select(made).kept[0].steps) == 2


# ---- training examples ---------------------------------------------------------------------------

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<|bos|>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(template: str, *, alphabet: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of Qwen2.5's kind: digits one by one, line ends apart, chat marks as special tokens."""
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=initial, special_tokens=SPECIAL, show_progress=False)
    bpe.train_from_iterator([load_prompt("teacher_agent"), load_prompt("student_agent")], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", bos_token="<|bos|>")
    made.chat_template = template
    return made


class Served:
    """A model behind a tokenizer, as a server has it: it reads the rendered conversation and draws the policy's
    tokens."""

    name = "served"

    def __init__(self, tokens: PreTrainedTokenizerFast, end: str) -> None:
        self.tokens, self.end = tokens, end

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        conversation = [message._asdict() for message in messages]
        text = self.tokens.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        reply = [code("x = 2 + 3\nprint('é', x)", "I add, 2 + 3."), code("final_answer(x)")][len(messages) // 2 - 1]
        ids = self.tokens(reply + self.end, add_special_tokens=False)["input_ids"]
        return Generation([Completion(reply, token_ids=ids)], self.tokens(text, add_special_tokens=False)["input_ids"])

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("template", "end"), [(CHATML, "<|im_end|>"), (TRIMMING, "<|eot|>")], ids=["chatml", "trimming"]
)
def test_a_student_is_trained_on_exactly_what_it_sees_in_a_rollout(template: str, end: str) -> None:
    tokens = tokenizer(template)
    [made] = rollout([TASK], Served(tokens, end), config=RolloutConfig(), progress=False)
    assert made.score == 1
    rendered = to_examples([made], tokens)
    assert (rendered.cut, rendered.dropped, len(rendered.examples)) == (0, {}, 1)
    [example] = rendered.examples
    ids, mask = example["input_ids"], example["completion_mask"]
    assert len(ids) == len(mask) and set(mask) == {0, 1}
    for step in made.steps:
        given, written = step.prompt_token_ids or [], step.candidates[0].token_ids or []
        assert ids[: len(given) + len(written)] == given + written
        assert mask[len(given) : len(given) + len(written)] == [1] * len(written)
    assert sum(mask) == sum(len(step.candidates[0].token_ids or []) for step in made.steps)
    trained = tokens.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert trained == "".join(step.candidates[0].text + end for step in made.steps)


def test_the_student_s_own_short_prompt_is_used() -> None:
    tokens = tokenizer(CHATML)
    [made] = generate([TASK], ScriptedModel("teacher", teacher), progress=False)
    [example] = to_examples([made], tokens).examples
    text = tokens.decode(example["input_ids"])
    [system, _] = opening("", load_prompt("student_agent"), tools=made.sampling["tools"])
    assert text.startswith(
        f"<|im_start|>system\n{system.content}<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?<|im_end|>"
    )
    assert made.messages[0][1] not in text
    bare = tokens.decode(to_examples([made], tokens, prompt="").examples[0]["input_ids"])
    assert bare.startswith("<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?")


def test_a_chain_of_thought_is_an_example_too() -> None:
    tokens = tokenizer(CHATML)
    made = generate([TASK], ScriptedModel("t", teacher), config=GenerateConfig(kind="cot"), progress=False)
    [example] = to_examples(made, tokens).examples
    trained = tokens.decode([i for i, m in zip(example["input_ids"], example["completion_mask"], strict=True) if m])
    assert trained == made[0].steps[0].candidates[0].text + "<|im_end|>"


def test_a_template_that_rewrites_history_gives_an_example_a_step() -> None:
    tokens = tokenizer(THINKING)
    made = generate([TASK], ScriptedModel("teacher", teacher), progress=False)
    rendered = to_examples(made, tokens)
    assert len(rendered.examples) == len(made[0].steps) == 2
    for example in rendered.examples:
        trained = tokens.decode([i for i, m in zip(example["input_ids"], example["completion_mask"], strict=True) if m])
        assert trained.startswith("<think>\n\n</think>\n\nThought: ") and trained.count("<end_code><|im_end|>") == 1


def test_long_trajectories_end_at_a_step_or_are_dropped() -> None:
    tokens = tokenizer(CHATML)
    made = generate([TASK], ScriptedModel("teacher", teacher), progress=False)
    whole = to_examples(made, tokens).examples[0]["input_ids"]
    same = to_examples(made, tokens, max_length=len(whole))
    assert (same.cut, same.examples[0]["input_ids"]) == (0, whole)
    shorter = to_examples(made, tokens, max_length=len(whole) - 1)
    assert shorter.cut == 1
    ids = shorter.examples[0]["input_ids"]
    assert whole[: len(ids)] == ids and tokens.decode(ids).endswith("print(x)\n```<end_code><|im_end|>")
    none = to_examples(made, tokens, max_length=len(ids) - 1)
    assert none == ([], 0, {"too_long": 1})


def test_what_the_tokenizer_cannot_say_is_dropped() -> None:
    made = rollout(
        [TASK], ScriptedModel("t", lambda messages, prefix, index: code("final_answer(5)", "Σ")), progress=False
    )
    assert to_examples(made, tokenizer(CHATML)).dropped == {}
    assert to_examples(made, tokenizer(CHATML, alphabet=False)).dropped == {"not_faithful": 1}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CHAT_TOKENS = tokenizer(CHATML)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4))
def test_whatever_is_said_the_mask_covers_the_assistant_and_nothing_else(said: list[tuple[str, str, str]]) -> None:
    steps = [
        Step([Candidate(thought, action=Action(thought, code=code or "pass"))], message=f"Observation:\n{observed}")
        for thought, code, observed in said
    ]
    rendered = to_examples([Trajectory("t", "Q?", steps=steps)], CHAT_TOKENS)
    assert rendered.dropped == {}
    [example] = rendered.examples
    runs = groupby(zip(example["completion_mask"], example["input_ids"], strict=True), key=lambda pair: pair[0])
    decoded = [(mask, CHAT_TOKENS.decode([i for _, i in run])) for mask, run in runs]
    assert [mask for mask, _ in decoded] == [0, 1] * len(steps)
    turns = [assistant_turn(step.candidates[0]) + "<|im_end|>" for step in steps]
    assert [text for mask, text in decoded if mask] == turns
    between = [f"\n<|im_start|>user\n{step.message}<|im_end|>\n<|im_start|>assistant\n" for step in steps[:-1]]
    assert [text for mask, text in decoded if not mask][1:] == between


BAD_TEMPLATES = [
    (CHATML.replace("{% for", "{{ raise_exception('no system role') }}{% for", 1), "no system role"),
    (CHATML.replace("<|im_end|>\n{% endfor %}", "\n{% endfor %}"), "end of an assistant's turn"),
    (CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>bot\n{% endif %}"), "otherwise than it asks"),
]


@pytest.mark.parametrize(("template", "says"), BAD_TEMPLATES)
def test_a_template_nobody_can_learn_from_is_refused(template: str, says: str) -> None:
    made = generate([TASK], ScriptedModel("teacher", teacher), progress=False)
    with pytest.raises(ValueError, match=says):
        to_examples(made, tokenizer(template))
