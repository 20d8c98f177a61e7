"""Options that several commands share: the model, the output, the tasks, the tools, the limits of a cell."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Fixed, arg

from agentdistill._core import (
    Bm25Index,
    Limits,
)
from agentdistill.extras import require
from agentdistill.named_function import named_function
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tasks.loading import load_tasks
from agentdistill.tasks.task import Kind, Task
from agentdistill.terminal import say
from agentdistill.tools.hybrid import HybridRetriever
from agentdistill.tools.page import open_page
from agentdistill.tools.retriever import Retriever
from agentdistill.tools.tool import TOOL_SECONDS, Tool, python_tool, web_search
from agentdistill.tools.tool import Search as SearchFunction

Output = Annotated[Path, arg(aliases=["-o"])]


ModelSpec = Annotated[
    str,
    arg(
        help="The model: openai:URL:NAME (a server), vllm:PATH_OR_ID, transformers:PATH_OR_ID, PATH_OR_ID (vLLM if "
        "installed, else transformers) or recorded:FILE (replays trajectories). Options of the engine may follow: "
        "vllm:PATH,max_model_len=4096,dtype=float32. So may arguments of the chat template: enable_thinking=false, or "
        'any other as chat_template_kwargs={"name": "value"}.'
    ),
]


@dataclass(frozen=True)
class Search:
    """What web_search searches. With neither option, the agent has no web_search."""

    index: Path | None = None
    """Folder of an index that ``index build`` wrote."""
    retriever: str | None = None
    """URL of a search server: ``serve-retrieval``, Search-R1's, or the paper's."""
    k: int = 3
    """Passages that one search returns (paper: 3)."""
    k1: float = 1.2
    """BM25's k1 for --index, 0 to 100: how much repetitions of a query word in a passage add to its score."""
    b: float = 0.75
    """BM25's b for --index, 0 to 1: how much long passages are penalized."""
    vectors: Path | None = None
    """Folder that ``index encode`` wrote: reorder the best passages of BM25 by meaning (hybrid search)."""

    def load(self) -> Tool | None:
        """``web_search``, if there is something to search."""
        if self.index is not None and self.retriever is not None:
            raise ValueError("give --index or --retriever, not both")
        found: Bm25Index | Retriever
        dense = False
        if self.index is not None:
            found = Bm25Index.open(self.index, self.k1, self.b)
        elif self.retriever is not None:
            from agentdistill.tools.http_retriever import HttpRetriever  # here, since it imports httpx2

            found = server = HttpRetriever(self.retriever)
            server.search("retriever", 1)  # so that a wrong address fails now and not in every cell
            dense = not server.is_lexical()
        elif self.vectors is not None:
            raise ValueError("--vectors needs something to search: give --index or --retriever")
        else:
            return None
        if self.vectors is not None:
            if dense:
                raise ValueError("--vectors needs BM25: --retriever must be a serve-retrieval server")
            found = HybridRetriever(found, self.vectors)
        return web_search(found, self.k, dense=dense)


@dataclass(frozen=True)
class Tools(Search):
    """The tools that the agent's code can call."""

    open_page: bool = False
    """Also provide the tool open_page(title): read a whole page (all passages with this title) in parts.
    Needs --index, or a ``serve-retrieval`` server as --retriever. The paper's agent has no such tool."""
    tool: tuple[str, ...] = ()
    """Your own functions as tools: FILE.py:FUNCTION or MODULE:FUNCTION, each with a docstring."""
    mcp: tuple[str, ...] = ()
    """MCP servers to take tools from: URLs, or commands, each in quotes."""

    @contextmanager
    def open(self, seconds: float = TOOL_SECONDS) -> Iterator[tuple[Tool, ...]]:
        """The tools. A call may take ``seconds``."""
        own = tuple(python_tool(named_function(name).function) for name in self.tool)
        tools = (*self._search_tools(), *own)
        if not self.mcp:
            yield tools
            return
        require("mcp", "mcp")
        from agentdistill.tools.mcp import mcp_tools  # here, since it imports mcp

        with mcp_tools(self.mcp, seconds) as theirs:
            yield tools + theirs

    def _search_tools(self) -> tuple[Tool, ...]:
        """``web_search`` and ``open_page``, as far as they are wanted."""
        search = self.load()
        if not self.open_page:
            return () if search is None else (search,)
        if search is None or not isinstance(search.function, SearchFunction):
            raise ValueError("--open-page needs something to read: give --index or --retriever")
        retriever = search.function.retriever
        retriever.page("page")  # so that a server without pages fails now and not in every cell
        return search, open_page(retriever)


@dataclass(frozen=True)
class Prices:
    """What a model's tokens cost."""

    cost: tuple[float, float] | None = None
    """Prices of one million input and one million output tokens, such as 0.15 0.6; the cost is printed at the end."""

    def __post_init__(self) -> None:
        if self.cost is not None and not all(0 <= price < math.inf for price in self.cost):
            raise ValueError(f"the prices are {self.cost}: give 0 or more")

    def say(self, read: int, written: int) -> None:
        """Print the cost of the tokens, if prices are given."""
        if self.cost is not None:
            price = (read * self.cost[0] + written * self.cost[1]) / 1e6
            say(f"cost: {price:,.2f} ({read:,} tokens read, {written:,} written)")


@dataclass(frozen=True)
class TaskFiles:
    """The tasks to solve."""

    tasks: tuple[Path, ...]
    """Task files (JSON, JSONL or CSV with question and answer), folders of data sets, or names of benchmarks.
    Benchmarks: hotpotqa, bamboogle, musique, 2wiki, math500, gsm_hard, aime, olymmath.
    Their data come from the hub (hotpotqa) or from a folder (data/hotpotqa).
    With several files, task ids become FILE/ID, so that they stay unique."""
    limit: int | None = None
    """Use only the first N tasks of each file."""
    task_set: str | None = None
    """Name of the task set. Default: the one in the file, or else the file's name."""
    kind: Annotated[Kind | None, arg(name="task-kind")] = None
    """How answers are graded: "fact" by words, "math" by value. Default: depends on the task set and the answer."""

    def load(self) -> list[Task]:
        if not self.tasks:
            raise ValueError("no tasks: give files, folders of data sets, or names of benchmarks")
        files = {path: load_tasks(path, self.task_set, self.limit, kind=self.kind) for path in self.tasks}
        if len(files) == 1:
            return files.popitem()[1]
        return [replace(task, id=f"{path.stem}/{task.id}") for path, tasks in files.items() for task in tasks]


@dataclass(frozen=True)
class UnrecordedConfig(RolloutConfig):
    """Settings of an agent whose episodes are not recorded."""

    # A fixed setting is no option, because it would have no effect.
    keep_states: Fixed[bool] = False
    checkpoints: Fixed[bool] = False
    ray: Fixed[str | None] = None


@dataclass(frozen=True)
class QuestionConfig(UnrecordedConfig):
    """Settings of an agent that answers one question at a time."""

    concurrency: Fixed[int] = RolloutConfig.concurrency


@dataclass(frozen=True)
class CellLimits:
    """Limits of each cell (one piece of code that runs in the sandbox)."""

    seconds: float = 5.0
    """Time limit of a cell, in seconds."""
    memory_mb: int = 256
    """Memory limit of the code's data, in MB."""
    output_chars: int = 10_000
    """Maximum length of printed output, and of the value, in characters. The middle of longer text is left out."""

    def load(self) -> Limits:
        return Limits(seconds=self.seconds, memory_mb=self.memory_mb, stdout_chars=self.output_chars)
