"""Shared samples: an action as a model writes it, a teacher with its task, and a small real tokenizer."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentdistill import Task
from agentdistill.models.model import Message
from agentdistill.rollouts.prompt import load_prompt

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<|bos|>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TASK = Task("q", "What is 2 + 3?", "5", "sums", "math")


def code(text: str, thought: str = "I act.") -> str:
    return f"Thought: {thought}\nCode:\n```py\n{text}\n```<end_code>"


def teacher(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Reasons in text if asked for a chain of thought, else acts, continuing a given first thought."""
    if "<answer>" in messages[0].content:
        return "First I add the two.\n\nThat is 5.\n\n<answer>\\boxed{5}</answer>"
    if messages[-1].role == "user" and len(messages) == 2:
        return f"{'' if prefix else 'Thought:'} Now in code.\nCode:\n```py\nx = 2 + 3\nprint(x)\n```"
    return code("final_answer(x)")


def tokenizer(template: str, *, alphabet: bool = True, vocabulary: int = 600) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like Qwen2.5's: single digits, separate line ends, chat marks as special tokens."""
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=initial, special_tokens=SPECIAL, show_progress=False
    )
    bpe.train_from_iterator([load_prompt("teacher_agent"), load_prompt("student_agent")], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", bos_token="<|bos|>")
    made.chat_template = template
    return made
