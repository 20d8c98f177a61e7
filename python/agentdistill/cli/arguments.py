"""Arguments that several commands share: the model, the output, the tasks, the tools, the limits of a cell."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from agentdistill._core import (
    Bm25Index,
    Limits,
)
from agentdistill.extras import need
from agentdistill.tasks.loading import load_tasks
from agentdistill.tasks.task import Kind, Task
from agentdistill.tools.tool import TOOL_SECONDS, Tool, web_search

if TYPE_CHECKING:
    from agentdistill.tools.http_retriever import HttpRetriever

Output = Annotated[Path, arg(aliases=["-o"])]


ModelSpec = Annotated[
    str,
    arg(
        help="openai:URL:NAME, vllm:PATH_OR_ID, transformers:PATH_OR_ID or recorded:PATH. Options of the engine may "
        "follow: vllm:PATH,max_model_len=4096,dtype=float32."
    ),
]


@dataclass(frozen=True)
class Search:
    """What web_search searches. Without one of these there is no web_search."""

    index: Path | None = None
    """Folder of an index."""
    retriever: str | None = None
    """URL of a server like that of serve-retrieval, or Search-R1's."""

    def load(self) -> "Bm25Index | HttpRetriever | None":
        if self.retriever is None:
            return None if self.index is None else Bm25Index.open(self.index)
        if self.index is not None:
            raise ValueError("give --index or --retriever, not both")
        from agentdistill.tools.http_retriever import HttpRetriever  # here, since it imports httpx2

        retriever = HttpRetriever(self.retriever)
        retriever.search("retriever", 1)  # a wrong address is an error now, not in every cell
        return retriever


@dataclass(frozen=True)
class Tools(Search):
    """What the agent's code can call."""

    mcp: tuple[str, ...] = ()
    """MCP servers whose tools it has too: commands, each in quotes, and URLs."""

    @contextmanager
    def open(self, seconds: float = TOOL_SECONDS) -> Iterator[tuple[Tool, ...]]:
        """The tools; ``seconds``: time for one call."""
        retriever = self.load()
        tools = () if retriever is None else (web_search(retriever),)
        if not self.mcp:
            yield tools
            return
        need("mcp", "mcp")
        from agentdistill.tools.mcp import mcp_tools  # here, since it imports mcp

        with mcp_tools(self.mcp, seconds) as theirs:
            yield tools + theirs


@dataclass(frozen=True)
class TaskFiles:
    """Which tasks."""

    tasks: tuple[Path, ...]
    """Files of tasks: JSON, JSONL or CSV with question and answer; folders of data sets; or benchmarks by name, of a
    folder (data/hotpotqa) or of the hub (hotpotqa): hotpotqa, bamboogle, musique, 2wiki, math500, gsm_hard, aime,
    olymmath. Ids of several files become FILE/ID, since they may clash (the paper's own do)."""
    limit: int | None = None
    """Only the first so many tasks of each file."""
    task_set: str | None = None
    """Name of the set; by default the file says, or is named so."""
    kind: Annotated[Kind | None, arg(name="task-kind")] = None
    """"fact" or "math", which decides how answers are graded; by default told from the set and the answer."""

    def load(self) -> list[Task]:
        files = {path: load_tasks(path, self.task_set, self.limit, kind=self.kind) for path in self.tasks}
        if len(files) == 1:
            return files.popitem()[1]
        return [replace(task, id=f"{path.stem}/{task.id}") for path, tasks in files.items() for task in tasks]


@dataclass(frozen=True)
class CellLimits:
    """What one cell may use."""

    seconds: float = 5.0
    """Time, in seconds."""
    memory_mb: int = 256
    """Memory, in MB."""
    output_chars: int = 10_000
    """Most characters shown of what it prints, and of its value; the middle is left out."""

    def load(self) -> Limits:
        return Limits(seconds=self.seconds, memory_mb=self.memory_mb, stdout_chars=self.output_chars)
