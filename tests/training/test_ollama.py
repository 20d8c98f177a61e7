"""The Modelfile's template renders a conversation as the student's own template does."""

import re
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from agentdistill.training.ollama import write_modelfile
from chat_templates import CHATML
from samples import tokenizer

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
TOLD = [("system", "Be {{ brief }}."), ("user", "What is 6 times 7?"), ("assistant", "42"), ("user", "Again.")]


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """Renders the few constructs of Go's text/template that our Modelfiles use."""
    [(each, asked)] = re.findall(
        r"\A\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)\Z", template, re.DOTALL
    )
    forms = dict(re.findall(r'if eq \.Role "(\w+)" \}\}(.*?\{\{ \.Content \}\}.*?)(?:\{\{ else |\Z)', each, re.DOTALL))
    said = [forms[role].replace('{{ "{{" }}', "{{").replace("{{ .Content }}", content) for role, content in messages]
    return "".join(said) + asked


@pytest.mark.parametrize("adds_beginning", [False, True])
@pytest.mark.parametrize("template", [CHATML, LLAMA, CHATML.replace("{{ m.role }}\n", "{{ m.role }}\n{{ '{{' }}")])
def test_the_template_is_the_students_own(template: str, adds_beginning: bool, tmp_path: Path) -> None:
    tokens = tokenizer(template)
    if adds_beginning:
        begin = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", tokens.bos_token_id or 0)])
        tokens.backend_tokenizer.post_processor = begin
    assert write_modelfile(tmp_path, tmp_path / "merged", tokens)
    written = (tmp_path / "Modelfile").read_text()
    assert "FROM ./merged\n" in written and 'PARAMETER stop "<|' in written
    [said] = re.findall(r'TEMPLATE """(.*?)"""', written, re.DOTALL)
    for length in (2, 4):
        own = tokens.apply_chat_template(
            [{"role": role, "content": content} for role, content in TOLD[:length]],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert go(said, TOLD[:length]) == own.removeprefix("<|bos|>" if adds_beginning else "")


@pytest.mark.parametrize(
    "template",
    [GEMMA, CHATML.replace("{{ m.content }}", "{{ m.content }}{% if loop.index == 3 %}!{% endif %}")],
    ids=["the system in the first turn", "turns by their place"],
)
def test_what_cannot_be_said_is_not_written(template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not write_modelfile(tmp_path, tmp_path / "merged", tokenizer(template))
    assert "no Modelfile" in caplog.text and not (tmp_path / "Modelfile").exists()
