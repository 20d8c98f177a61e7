"""Commands that prepare data: index, serve-retrieval, convert."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from agentdistill._core import (
    Bm25Index,
    RetrievalServer,
)
from agentdistill.cli.arguments import Output
from agentdistill.extras import require
from agentdistill.files.formats import Format, convert
from agentdistill.progress import FileProgress
from agentdistill.terminal import json_for_people, say, tell
from agentdistill.tools.hybrid import HybridRetriever


@dataclass(frozen=True)
class IndexBuild:
    """Build a BM25 index of a corpus, on all cores.

    A corpus is JSON Lines files with id, title and text (or Search-R1's id and contents), plain, .gz or .zst; Parquet
    files with these columns; a dataset saved by Hugging Face's library; a BEIR folder; or a folder of such files.

    Example: agentdistill index build corpus.jsonl -o wiki
    """

    corpus: Positional[tuple[Path, ...]]
    """Files, folders, or patterns such as 'wiki/*.parquet', in the order to index them."""
    output: Output
    """Folder to create."""
    language: str = "english"
    """Language of the passages, for stemming and stop words: english, german, ...
    Use cjk for Chinese, Japanese and Korean, and none to index words unchanged."""
    title_weight: int = 1
    """How often the words of a title count. If titles are names, as in an encyclopaedia, 4 or more improves recall."""
    overwrite: bool = False
    """Replace an existing index once the new one is complete."""
    skip_bad: bool = False
    """Skip and count records that are not passages, instead of stopping at the first one."""
    memory: int = 1024
    """Memory to use, approximately, in MB."""

    def run(self) -> None:
        if not self.corpus:
            raise ValueError("no corpus: give files or folders of passages")
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
class IndexAdd:
    """Add passages to an index, and replace those with the same ids.

    The index is replaced in one step when the change is complete. A process that has it open continues with the old
    version. The language and the title weight are those of the index.

    Example: agentdistill index add wiki new.jsonl
    """

    index: Positional[Path]
    """Folder of the index."""
    corpus: Positional[tuple[Path, ...]]
    """Files, folders, or patterns, as in ``index build``."""
    skip_bad: bool = False
    """Skip and count records that are not passages, instead of stopping at the first one."""
    memory: int = 1024
    """Memory to use, approximately, in MB."""

    def run(self) -> None:
        if not self.corpus:
            raise ValueError("no corpus: give files or folders of passages")
        with FileProgress("add", "passages", "merging") as progress:
            Bm25Index.open(self.index).add(
                self.corpus, skip_bad=self.skip_bad, memory_mb=self.memory, progress=progress
            )
        IndexInfo(self.index).run()


@dataclass(frozen=True)
class IndexDelete:
    """Delete passages from an index by their ids.

    If an id is not in the index, nothing is deleted.

    Example: agentdistill index delete wiki Q90 Q64
    """

    index: Positional[Path]
    """Folder of the index."""
    ids: Positional[tuple[str, ...]]
    """Ids of the passages. All passages with one of these ids are deleted."""

    def run(self) -> None:
        if not self.ids:
            raise ValueError("no ids: give those of the passages to delete")
        Bm25Index.open(self.index).delete(self.ids)
        IndexInfo(self.index).run()


@dataclass(frozen=True)
class IndexMerge:
    """Merge the segments of an index and drop its deleted passages.

    ``index add`` and ``index delete`` leave segments, which make searches slower. The result of a merge is the index
    that ``index build`` makes of the same passages.

    Example: agentdistill index merge wiki
    """

    index: Positional[Path]
    """Folder of the index."""
    memory: int = 1024
    """Memory to use, approximately, in MB."""

    def run(self) -> None:
        Bm25Index.open(self.index).merge(memory_mb=self.memory)
        IndexInfo(self.index).run()


@dataclass(frozen=True)
class IndexEncode:
    """Compute a vector of each passage of an index with a sentence encoder, for hybrid search (--vectors).

    Passages that already have a vector in the folder are skipped. So repeat the command to resume it, and after
    ``index add``.

    Example: agentdistill index encode wiki --model sentence-transformers/all-MiniLM-L6-v2 -o wiki-vectors
    """

    index: Positional[Path]
    """Folder of the index."""
    model: str
    """The encoder: folder or hub id of a transformers model whose last states are averaged."""
    output: Output
    """Folder of the vectors."""

    def run(self) -> None:
        require("transformers", "train")
        from agentdistill.tools.vectors import encode  # here, since it imports torch

        with FileProgress("encode", "passages", "finishing") as progress:
            vectors = encode(Bm25Index.open(self.index), self.model, self.output, progress)
        say(f"{self.output}: {len(vectors):,} vectors")


@dataclass(frozen=True)
class IndexInfo:
    """Show the language, size and other properties of an index.

    Example: agentdistill index info wiki
    """

    index: Positional[Path]
    """Folder of the index."""

    def run(self) -> None:
        for name, value in Bm25Index.open(self.index).info().items():
            say(f"{name:12} {value}")


@dataclass(frozen=True)
class IndexCheck:
    """Verify the checksum of every file of an index.

    Example: agentdistill index check wiki
    """

    index: Positional[Path]
    """Folder of the index."""

    def run(self) -> None:
        Bm25Index.open(self.index).check()
        say(f"{self.index}: all checksums match")


@dataclass(frozen=True)
class IndexSearch:
    """Search an index and print the best passages.

    Example: agentdistill index search wiki "capital of France" -k 5
    """

    index: Positional[Path]
    """Folder of the index."""
    query: Positional[str]
    """Words to search for. No character has a special meaning."""
    k: Annotated[int, arg(aliases=["-k"])] = 3
    """Number of passages to print."""
    k1: float = 1.2
    """BM25's k1, 0 to 100: how much repetitions of a query word in a passage add to its score."""
    b: float = 0.75
    """BM25's b, 0 to 1: how much long passages are penalized."""
    vectors: Path | None = None
    """Folder that ``index encode`` wrote: reorder the best passages of BM25 by meaning (hybrid search)."""
    json: bool = False
    """Print JSON Lines with id, title, text and score."""

    def run(self) -> None:
        index = Bm25Index.open(self.index, self.k1, self.b)
        retriever = index if self.vectors is None else HybridRetriever(index, self.vectors)
        for found in retriever.search(self.query, self.k):
            if self.json:
                passage = {"id": found.id, "title": found.title, "text": found.text, "score": found.score}
                say(json_for_people(passage))
            else:
                say(f"{found.score:7.3f}  [{found.id}] {found.title}\n{found.text}\n")


@dataclass(frozen=True)
class Index:
    """Build, search, change and check BM25 indexes.

    Example: agentdistill index build corpus.jsonl -o wiki
    """

    command: (
        Annotated[IndexBuild, subcommand("build")]
        | Annotated[IndexInfo, subcommand("info")]
        | Annotated[IndexSearch, subcommand("search")]
        | Annotated[IndexAdd, subcommand("add")]
        | Annotated[IndexDelete, subcommand("delete")]
        | Annotated[IndexMerge, subcommand("merge")]
        | Annotated[IndexCheck, subcommand("check")]
        | Annotated[IndexEncode, subcommand("encode")]
    )

    def run(self) -> None:
        self.command.run()


@dataclass(frozen=True)
class ServeRetrieval:
    """Serve an index over HTTP with the protocol of Search-R1.

    Endpoints: POST /retrieve and GET /health. Ctrl-C or SIGTERM stops the server after it has answered the running
    requests.

    Example: agentdistill serve-retrieval wiki --port 8000
    """

    index: Positional[Path]
    """Folder of the index."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no password: everyone who can reach it can search."""
    port: int = 8000
    """Port to listen on; 0 picks a free one."""
    k1: float = 1.2
    """As in ``index search``."""
    b: float = 0.75
    """As in ``index search``."""

    def run(self) -> None:
        stopping = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # before the server starts threads, which inherit the mask
        with RetrievalServer(Bm25Index.open(self.index, self.k1, self.b), self.host, self.port) as server:
            tell(f"serving {self.index} at {server.url}/retrieve")
            signal.sigwait(stopping)


@dataclass(frozen=True)
class Convert:
    """Convert trajectories from and to other programs' formats.

    Formats: agentdistill; reference (logs of the paper's code); smolagents (an agent's memory); openai (messages with
    tool calls); messages and prompt-completion (TRL); sharegpt (LLaMA-Factory); atif (Harbor).

    Example: agentdistill convert logs/*.jsonl -o traj.jsonl
    """

    inputs: Positional[tuple[Path, ...]]
    """JSON or Parquet files, datasets saved by Hugging Face's library, or the hub id of a dataset."""
    output: Output
    """A .jsonl, .json or .parquet file or, without a suffix, the folder of a dataset. Existing output is replaced."""
    source: Annotated[Format | None, arg(name="from")] = None
    """Format of the inputs. Default: detected from their fields."""
    target: Annotated[Format, arg(name="to")] = "agentdistill"
    """Format of the output."""

    def run(self) -> None:
        say(convert(self.inputs, self.output, source=self.source, target=self.target))
