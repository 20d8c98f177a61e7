"""Commands for data: build and search an index, serve it, convert trajectories."""

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from agentdistill._core import (
    Bm25Index,
    RetrievalServer,
)
from agentdistill.cli.arguments import Output
from agentdistill.files.formats import Format, convert
from agentdistill.progress import FileProgress
from agentdistill.terminal import write


@dataclass(frozen=True)
class IndexBuild:
    """Index a corpus for BM25 search, on all cores.

    A corpus is files of JSON lines with id, title and text (or Search-R1's id and contents), plain, .gz or .zst;
    Parquet files with such columns; a dataset saved by Hugging Face's library; a folder of BEIR, or of such files.

    Example: agentdistill index build corpus.jsonl -o wiki
    """

    corpus: Positional[tuple[Path, ...]]
    """Files, folders, or patterns such as 'wiki/*.parquet', indexed in this order."""
    output: Output
    """Folder to make."""
    language: str = "english"
    """What the passages are written in, which decides about stems and stop words: english, german and others; cjk
    for Chinese, Japanese and Korean; none for words as they are."""
    title_weight: int = 1
    """How often a title counts. Where titles are names, as in an encyclopaedia, 4 or more finds better."""
    overwrite: bool = False
    """Replace an index that is there, when the new one is complete."""
    skip_bad: bool = False
    """Leave out what is no passage, and count it, instead of stopping at the first."""
    memory: int = 1024
    """Memory to use, in MB."""

    def run(self) -> None:
        if not self.corpus:
            raise ValueError("there is no corpus: give files or folders of passages")
        with FileProgress("index", "passages", "merging") as progress:
            Bm25Index.build(
                self.corpus,
                self.output,
                language=self.language,
                title_weight=self.title_weight,
                overwrite=self.overwrite,
                skip_bad=self.skip_bad,
                memory_mb=self.memory,
                progress=progress,
            )
        IndexInfo(self.output).run()


@dataclass(frozen=True)
class IndexInfo:
    """Say what is in an index.

    Example: agentdistill index info wiki
    """

    index: Positional[Path]
    """Folder of the index."""

    def run(self) -> None:
        for name, value in Bm25Index.open(self.index).info().items():
            print(f"{name:12} {value}")


@dataclass(frozen=True)
class IndexCheck:
    """Verify the checksum of every file of an index.

    Example: agentdistill index check wiki
    """

    index: Positional[Path]
    """Folder of the index."""

    def run(self) -> None:
        Bm25Index.open(self.index).check()
        print(f"{self.index} is as it was built")


@dataclass(frozen=True)
class IndexSearch:
    """Search an index.

    Example: agentdistill index search wiki "capital of France" -k 5
    """

    index: Positional[Path]
    """Folder of the index."""
    query: Positional[str]
    """A bag of words; no character in it is special."""
    k: Annotated[int, arg(aliases=["-k"])] = 3
    """How many passages to show."""
    json: bool = False
    """Show them as lines of JSON: id, title, text, score."""

    def run(self) -> None:
        for found in Bm25Index.open(self.index).search(self.query, self.k):
            if self.json:
                passage = {"id": found.id, "title": found.title, "text": found.text, "score": found.score}
                print(json.dumps(passage, ensure_ascii=False))
            else:
                write(f"{found.score:7.3f}  [{found.id}] {found.title}\n{found.text}\n\n", sys.stdout)


@dataclass(frozen=True)
class Index:
    """Build, look into, and search BM25 indexes.

    Example: agentdistill index build corpus.jsonl -o wiki
    """

    command: (
        Annotated[IndexBuild, subcommand("build")]
        | Annotated[IndexInfo, subcommand("info")]
        | Annotated[IndexSearch, subcommand("search")]
        | Annotated[IndexCheck, subcommand("check")]
    )

    def run(self) -> None:
        self.command.run()


@dataclass(frozen=True)
class ServeRetrieval:
    """Serve an index over HTTP, as Search-R1's retrieval server does: POST /retrieve, and GET /health.

    Ctrl-C, or SIGTERM, ends it when the requests under way are answered.

    Example: agentdistill serve-retrieval wiki --port 8000
    """

    index: Positional[Path]
    """Folder of the index."""
    host: str = "127.0.0.1"
    """Address to listen at. Whoever can reach it can search: there is no password."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""

    def run(self) -> None:
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which take it over
        with RetrievalServer(Bm25Index.open(self.index), self.host, self.port) as server:
            print(f"serving {self.index} at {server.url}/retrieve", file=sys.stderr, flush=True)
            signal.sigwait(ends)


@dataclass(frozen=True)
class Convert:
    """Read trajectories as others write them, and write them for others.

    Formats: agentdistill, reference (logs of the paper's code), smolagents (an agent's memory), openai (messages with
    calls of tools), messages and prompt-completion (TRL), sharegpt (LLaMA-Factory), atif (Harbor).

    Example: agentdistill convert logs/*.jsonl -o traj.jsonl
    """

    inputs: Positional[tuple[Path, ...]]
    """Files of JSON or Parquet, or datasets saved by Hugging Face's library."""
    output: Output
    """File .jsonl, .json or .parquet, or, without a suffix, folder of a dataset; one that is there is replaced."""
    source: Annotated[Format | None, arg(name="from")] = None
    """Format of the inputs; by default told from their fields."""
    target: Annotated[Format, arg(name="to")] = "agentdistill"
    """Format of the output."""

    def run(self) -> None:
        print(convert(self.inputs, self.output, source=self.source, target=self.target))
