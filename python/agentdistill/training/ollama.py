"""Write the Modelfile that Ollama needs to run a student: the path of the weights, and the chat template in Go's
syntax.

The Go template is inferred from what the model's own template renders for a few conversations, and kept only if it
renders others identically: a wrong template would silently make a student worse. Not here: weights in GGUF (Ollama
reads safetensors).
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill.models.control_tokens import unmarked
from agentdistill.models.model import Message, ModelError
from agentdistill.models.rendering import Renderer

_log = logging.getLogger(__name__)

MODELFILE = """\
# ollama create NAME -f Modelfile
FROM {weights}
TEMPLATE \"\"\"{template}\"\"\"
{stop}PARAMETER temperature 0
"""


class _Form(NamedTuple):
    """The text before and after the content of each role, and before the model's next turn."""

    around: dict[str, tuple[str, str]]
    generation_prompt: str

    def of(self, messages: list[Message]) -> str:
        turns = "".join(f"{self.around[role][0]}{content}{self.around[role][1]}" for role, content in messages)
        return turns + self.generation_prompt


def write_modelfile(folder: Path, weights: Path, tokenizer: Any) -> bool:
    """Write ``folder/Modelfile`` for the student in ``weights``. Return False if its chat template cannot be expressed
    in Go's syntax."""
    form = _form(tokenizer)
    if form is None:
        _log.warning("no Modelfile is written: the chat template does more than wrap each turn in fixed text")
        return False
    turns = (
        f'if eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(after)}'
        for role, (before, after) in form.around.items()
    )
    each = "{{ " + "{{ else ".join(turns) + "{{ end }}"
    template = "{{ range .Messages }}" + each + "{{ end }}" + _go(form.generation_prompt)
    ends = (form.around["assistant"][1].strip(), str(tokenizer.eos_token or ""))
    stop = "".join(f'PARAMETER stop "{end}"\n' for end in dict.fromkeys(ends) if end and '"' not in end)
    where = weights.relative_to(folder) if weights.is_relative_to(folder) else weights
    text = MODELFILE.format(weights=f"./{where}" if not where.is_absolute() else where, template=template, stop=stop)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    return True


def _form(tokenizer: Any) -> _Form | None:
    """The form of a template's turns, or None if the template has no such form."""
    renderer = Renderer(tokenizer)
    adds_beginning = tokenizer.bos_token and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    beginning = str(tokenizer.bos_token) if adds_beginning else ""  # Ollama adds it too

    def shown(messages: list[Message], *, ask: bool = True) -> str:
        return unmarked(renderer.text(messages, ask=ask))

    roles = ("system", "user", "assistant", "user")
    system, user, reply, again = (Message(role, f"@{number}@") for number, role in enumerate(roles))
    try:
        whole = shown([system, user, reply, again])
        # Text after a turn belongs to that turn if it is also there when no turn follows.
        after_user = shown([system, user], ask=False).split(user.content)[1]
        after_reply = shown([system, user, reply], ask=False).split(reply.content)[1]
        before = whole.split(system.content)[0].removeprefix(beginning)
        between = whole.split(system.content)[1].split(user.content)[0]
        to_reply = whole.split(user.content)[1].split(reply.content)[0].removeprefix(after_user)
        to_user = whole.split(reply.content)[1].split(again.content)[0].removeprefix(after_reply)
        generation_prompt = whole.split(again.content)[1].removeprefix(after_user)
        form = _Form(
            {
                "system": (before, between.removesuffix(to_user)),
                "user": (to_user, after_user),
                "assistant": (to_reply, after_reply),
            },
            generation_prompt,
        )
        tries = ([system, user], [system, user, reply, again], [system, user, reply, again, reply, user])
        same = all(form.of(messages) == shown(messages).removeprefix(beginning) for messages in tries)
    except (ModelError, IndexError):
        return None
    texts = (generation_prompt, *sum(form.around.values(), ()))
    return form if same and all('"""' not in text for text in texts) else None


def _go(text: str) -> str:
    """Escape text for a Go template, which would interpret ``{{``."""
    return text.replace("{{", '{{ "{{" }}')
