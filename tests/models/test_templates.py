"""Chat templates of real models: a student learns from exactly what the engine gets at each turn, and what a template
does not support is expressed in another way."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentdistill import GenerateConfig, generate, read_trajectories
from agentdistill._core import read_header
from agentdistill.distillation import select
from agentdistill.models.local import LocalModel
from agentdistill.models.model import Completion, Generation, Message, ModelError, Sampling
from agentdistill.models.rendering import Renderer
from agentdistill.rollouts.engine import rollout
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.training.examples import load_tokenizer, to_examples
from samples import TASK, code, tokenizer

ENDED = "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}"
ASKED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
DROPS = (  # Qwen3: thinking of earlier turns is dropped, the last turn may have some; thinking can be turned off
    "{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' %}{%- set thought = '' %}"
    "{%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.last %}{%- set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{%- endif %}{%- endif %}"
    + ENDED
    + "{%- endfor %}"
    + ASKED
    + "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
OPENS = (  # DeepSeek-R1, QwQ: the model's turn begins inside its thinking
    "{%- for m in messages %}{%- set content = m.content.split('</think>')[-1] %}"
    + ENDED
    + "{%- endfor %}"
    + ASKED
    + "{{ '<think>\n' }}{%- endif %}"
)
NO_SYSTEM = (  # Gemma 2, Mistral 7B: no system role, and turns must alternate
    "{{ bos_token }}"
    "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif %}"
    "{%- set content = m.content | trim %}" + ENDED + "{%- endfor %}" + ASKED + "{%- endif %}"
)
FORGETS_SYSTEM = (  # some models: the system message is not rendered
    "{%- for m in messages if m.role != 'system' %}{%- set content = m.content %}"
    + ENDED
    + "{%- endfor %}"
    + ASKED
    + "{%- endif %}"
)
LLAMA_DATE = (  # Llama 3.2
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{ '<|im_start|>system\nToday Date: ' + date_string + '<|im_end|>\n' }}"
    "{%- for m in messages %}{%- set content = m.content %}" + ENDED + "{%- endfor %}" + ASKED + "{%- endif %}"
)
SMOLLM3_DATE = (
    "{%- set today = strftime_now('%d %B %Y') -%}{{ '<|im_start|>system\nToday Date: ' + today + '<|im_end|>\n' }}"
    "{%- for m in messages %}{%- set content = m.content %}" + ENDED + "{%- endfor %}" + ASKED + "{%- endif %}"
)
TEMPLATES = {
    "drops thoughts": (DROPS, {}),
    "does not think": (DROPS, {"enable_thinking": False}),
    "opens thoughts": (OPENS, {}),
    "no system": (NO_SYSTEM, {}),
    "forgets the system": (FORGETS_SYSTEM, {}),
    "Llama's date": (LLAMA_DATE, {}),
    "SmolLM3's date": (SMOLLM3_DATE, {}),
}
REPLIES = [
    ("I could write\n```py\nfinal_answer(4)\n```\nBut I add.", code("x = 2 + 3\nprint(x)")),
    ("Now.", code("final_answer(x)")),
]


class Engine:
    """An engine in this process without a network: it renders, and thinks if the template allows it."""

    name = "engine"

    def __init__(self, tokens: Any, template: Mapping[str, Any]) -> None:
        self._tokens = tokens
        self._render = Renderer(tokens, template)
        self.prefixes = list[str]()

    date = LocalModel.date

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        self.prefixes.append(prefix)
        prompt = self._render(messages, prefix)
        given = self._tokens.decode(prompt)
        thought, reply = REPLIES[sum(role == "assistant" for role, _ in messages)]
        if "Thought" not in messages[0].content:
            reply = "First I add them.\n\nThat is 5.\n\n<answer>5</answer>"
        if prefix or given.endswith("</think>\n\n"):
            written = reply.removeprefix(prefix)
        else:
            written = ("" if given.endswith("<think>\n") else "<think>\n") + f"{thought}\n</think>\n\n{reply}"
        ids = self._tokens(written + "<|im_end|>", add_special_tokens=False)["input_ids"]
        opened = "" if prefix else self._render.opens_thinking
        return Generation([Completion(written, ids).with_thinking_split(opened=opened)] * n, prompt)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("thoughts", [False, True])
@pytest.mark.parametrize("template, told", TEMPLATES.values(), ids=TEMPLATES)
def test_a_student_is_given_what_the_engine_was_given(
    template: str, told: dict[str, Any], thoughts: bool, tmp_path: Path
) -> None:
    tokenizer(template).save_pretrained(tmp_path)
    engine = Engine(tokenizer(template), told)
    [made] = rollout([TASK], engine, config=RolloutConfig(date="2025-02-03"), progress=False)
    assert (made.score, len(made.steps)) == (1, 2)
    thinks = told != {"enable_thinking": False}
    assert [step.candidates[0].reasoning for step in made.steps] == [
        thought if thinks else "" for thought, _ in REPLIES
    ]
    assert [step.candidates[0].text for step in made.steps] == [reply for _, reply in REPLIES]

    tokens = load_tokenizer(str(tmp_path), told)
    examples = to_examples([made], tokens, thoughts=thoughts)
    assert examples.dropped == {}
    learnt = [
        tokens.decode([token for token, taught in zip(e["input_ids"], e["completion_mask"], strict=True) if taught])
        for e in examples.examples
    ]
    prompts = [step.prompt_token_ids or [] for step in made.steps]
    for prompt in prompts:  # each prompt is the beginning of an example, id for id
        assert any(example["input_ids"][: len(prompt)] == prompt for example in examples.examples)
    text = "".join(learnt)
    for thought, reply in REPLIES:
        assert reply + "<|im_end|>" in text
        assert (thought in text) == (thoughts and thinks)
    if thoughts or not thinks:
        assert examples.recorded == 2, "the ids that were drawn"
    if template in (NO_SYSTEM, FORGETS_SYSTEM):
        first = tokens.decode(prompts[0])
        assert "system" not in first.split("\n")[0] and "Thought" in first and TASK.question in first
    if template in (LLAMA_DATE, SMOLLM3_DATE):
        assert all("Today Date: 03 Feb" in tokens.decode(prompt) for prompt in prompts)


@pytest.mark.parametrize("template, told", TEMPLATES.values(), ids=TEMPLATES)
def test_a_first_thought_is_never_thinking(template: str, told: dict[str, Any]) -> None:
    engine = Engine(tokenizer(template), told)
    config = GenerateConfig(first_thought_prefix=True, prompt="student_agent")
    [made] = generate([TASK], engine, config=config, progress=False)
    assert made.steps[0].candidates[0].prefix == "Thought: First I add them."
    given = tokenizer(template).decode(made.steps[0].prompt_token_ids or [])
    assert given.endswith("Thought: First I add them.")
    assert given.count("<think>") == given.count("</think>"), "the thinking that the template began is over"


def test_a_student_keeps_what_its_template_was_told(tmp_path: Path) -> None:
    tokenizer(DROPS).save_pretrained(tmp_path)
    load_tokenizer(str(tmp_path), {"enable_thinking": False, "name": "a"}).save_pretrained(tmp_path / "student")
    asked = Renderer(load_tokenizer(str(tmp_path / "student"))).text([Message("user", "x")])
    assert asked.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("template", [LLAMA_DATE, SMOLLM3_DATE])
def test_a_run_goes_on_after_midnight(template: str, tmp_path: Path) -> None:
    output, tasks = tmp_path / "t.jsonl", [replace(TASK, id=name) for name in "ab"]
    first = Engine(tokenizer(template), {})
    rollout(tasks[:1], first, config=RolloutConfig(date="2025-02-03"), output=output, progress=False)
    header = read_header(output)
    assert header and '"date":"2025-02-03"' in header.replace(" ", "")
    made = rollout(tasks, Engine(tokenizer(template), {}), output=output, progress=False)
    prompts = [trajectory.steps[0].prompt_token_ids for trajectory in made]
    assert prompts[0] == prompts[1] and len(read_trajectories(output)) == 2
    assert [trajectory.sampling["date"] for trajectory in made] == ["2025-02-03"] * 2
    assert select(made).kept == made


def test_turns_of_one_role_are_one_where_they_must_alternate() -> None:
    said = [Message("system", "S"), Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    shown = Renderer(tokenizer(NO_SYSTEM)).text([*said, Message("assistant", "d"), Message("user", "e")])
    assert "user\nS\n\na\n\nb" in shown and "assistant\nc\n\nd" in shown
    with pytest.raises(ModelError, match="must alternate"):
        Renderer(tokenizer(NO_SYSTEM)).text([Message("assistant", "c")])
