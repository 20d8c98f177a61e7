"""The Rust core: sandbox, retrieval, actions, votes, trajectories. Everything here releases the GIL while it works."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Literal, Self, final

__all__ = [
    "Action",
    "AgentDistillError",
    "Bm25Index",
    "Candidate",
    "Limits",
    "Observation",
    "ParseFailure",
    "Passage",
    "RetrievalError",
    "RetrievalServer",
    "Sandbox",
    "SandboxError",
    "SearchTool",
    "State",
    "Step",
    "StepQueue",
    "StepResult",
    "ToolCall",
    "Trajectory",
    "TrajectoryError",
    "TrajectoryWriter",
    "Vote",
    "__version__",
    "convert",
    "for_reading",
    "iter_trajectories",
    "parse_action",
    "read_header",
    "read_trajectories",
    "vote",
]

__version__: str

class AgentDistillError(Exception):
    """Base of the errors that are neither a wrong argument (ValueError) nor plain I/O (OSError)."""

class RetrievalError(AgentDistillError):
    """An index that cannot be built, opened or read."""

class SandboxError(AgentDistillError):
    """The sandbox itself failed (never: the code that ran in it)."""

class TrajectoryError(AgentDistillError):
    """A trajectory that cannot be read or written; names path and line."""

# ---- retrieval ---------------------------------------------------------------------------------

@final
class Passage:
    """One passage, as indexed; ``score`` is its BM25 score for the query (0.0 outside a search)."""

    id: str
    title: str
    text: str
    score: float
    def __new__(cls, id: str, title: str, text: str, score: float = 0.0) -> Self: ...

@final
class Bm25Index:
    """BM25 over passages on disk. A query is a bag of words: any string is a valid one, of which 1,024 distinct words
    count."""

    @staticmethod
    def build(
        passages: Iterable[tuple[str, str, str] | Passage | dict[str, Any]]
        | str
        | PathLike[str]
        | Sequence[str | PathLike[str]],
        path: str | PathLike[str],
        *,
        language: str = "english",
        title_weight: int = 1,
        overwrite: bool = False,
        skip_bad: bool = False,
        memory_mb: int = 1024,
        progress: Callable[[int, float | None], object] | None = None,
    ) -> Bm25Index:
        """Index passages: an iterable of ``(id, title, text)`` or of dicts with ``id|_id``, ``title``, ``text`` (or
        ``contents``); or files and folders of them, which ``agentdistill.files.corpus`` reads.

        A title counts ``title_weight`` times. ``progress`` is called now and then with the number of passages indexed
        and, for files, the share of them that has been read, 0 to 1. The index appears at ``path`` only when complete.
        Raises RetrievalError (with file and line for a bad line; for a path that exists), ValueError for a language
        that is not known, a title that does not count, or under 64 MB of memory.
        """
    @staticmethod
    def open(path: str | PathLike[str], k1: float = 1.2, b: float = 0.75) -> Bm25Index:
        """Open an index, to be searched with these parameters of BM25: ``k1`` from 0 to 100 (how slowly a repeated word
        saturates), ``b`` from 0 to 1 (how much a long passage is held against it).

        Raises RetrievalError when there is none, one of another version, or a damaged one; ValueError for parameters
        out of range.
        """
    def check(self) -> None:
        """Verify every byte. Raises RetrievalError, which names the damaged files. An index of version 3 has no
        checksums, and only a part of it is verified."""
    def search(self, query: str, k: int = 3) -> list[Passage]: ...
    def search_text(self, query: str, k: int = 3, *, compat: Literal["reference"] | None = None) -> str:
        """The same as text for a model to read: what a cell's ``web_search`` returns. ``compat``: "reference" is the
        form of the paper's code."""
    def tool(self, k: int = 3, *, compat: Literal["reference"] | None = None) -> SearchTool:
        """The index as a tool of the sandbox that returns ``k`` passages, at most 100, in the form of
        ``search_text``."""
    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """The same for many queries, in parallel on all cores."""
    def info(self) -> dict[str, Any]:
        """``documents``, ``bytes``, ``version``, ``path``, ``skipped``, ``language``, ``analyzer``,
        ``title_weight``; and the parameters it is searched with, ``k1`` and ``b``."""
    def __len__(self) -> int: ...

@final
class SearchTool:
    """A search that the sandbox does natively, without the GIL: what ``Bm25Index.tool`` gives."""

def for_reading(passages: Sequence[Passage], *, compat: Literal["reference"] | None = None) -> str:
    """Passages as text for a model to read, the best first: what a cell's ``web_search`` returns. ``compat``:
    "reference" is the form of the paper's code."""

@final
class RetrievalServer:
    """An index over HTTP in the form of Search-R1's server: ``POST /retrieve``, ``GET /health``. It works on threads of
    its own until ``stop``, or the end of a ``with`` block."""

    def __new__(cls, index: Bm25Index, host: str = "127.0.0.1", port: int = 8000) -> Self:
        """Listen at ``host`` and ``port``; port 0 takes a free one. Raises OSError when that cannot be."""
    @property
    def url(self) -> str:
        """``http://HOST:PORT``, as seen from this machine."""
    def stop(self) -> None:
        """Take no more requests, and wait for those under way, at most 10 s."""
    def __enter__(self) -> RetrievalServer: ...
    def __exit__(self, *args: object) -> None: ...

# ---- sandbox -----------------------------------------------------------------------------------

@final
class Limits:
    """What one cell may use. ``seconds`` raises TimeoutError in the cell; ``hard_seconds`` later it is killed."""

    seconds: float
    hard_seconds: float
    memory_mb: int
    stdout_chars: int
    tool_calls: int
    def __new__(
        cls,
        *,
        seconds: float = 5.0,
        hard_seconds: float = 2.0,
        memory_mb: int = 256,
        stdout_chars: int = 20_000,
        tool_calls: int = 64,
    ) -> Self: ...

_ObservationKind = Literal[
    "value",  # the cell ran to its end; value is None when its last statement is no expression
    "final_answer",  # the cell called final_answer(...)
    "exception",  # the cell raised
    "timeout",  # over Limits.seconds
    "out_of_memory",  # over Limits.memory_mb
    "tool_error",  # a tool raised, and the cell did not catch it
    "killed",  # the guest trapped (stack, hard time limit inside C code, ...): the State is the one before
]

@final
class Observation:
    """What running a cell did. Strings are what Python's own repr/str and traceback give."""

    kind: _ObservationKind
    stdout: str
    truncated: int  # characters of stdout that were dropped from its middle
    value: str | None  # repr of the last expression
    final_answer: str | None  # str() of final_answer's argument
    final_answer_json: str | None  # the same as JSON, where JSON can say it
    error_type: str | None
    error: str | None  # the traceback, from the cell on
    tool_calls: list[ToolCall]
    seconds: float
    def __new__(
        cls,
        kind: _ObservationKind,
        *,
        stdout: str = "",
        truncated: int = 0,
        value: str | None = None,
        final_answer: str | None = None,
        final_answer_json: str | None = None,
        error_type: str | None = None,
        error: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        seconds: float = 0.0,
    ) -> Self: ...
    def to_json(self) -> str: ...

@final
class ToolCall:
    name: str
    arguments: str  # JSON: [[positional], {keyword}]; of very long texts the middle is left out
    result: str | None  # JSON, likewise
    error: str | None
    seconds: float

@final
class State:
    """An immutable value: the whole interpreter after some cells. Using it twice is a fork."""

    def to_bytes(self, base: State | None = None) -> bytes:
        """About 20 kB for a few variables; with a ``base``, what differs from it."""
    @staticmethod
    def from_bytes(data: bytes, limits: Limits | None = None, *, base: State | None = None) -> State:
        """The State that ``to_bytes`` gave with the same ``base``.

        Raises SandboxError when the bytes are damaged, of another guest or base, or too large for ``limits``.
        """
    @property
    def nbytes(self) -> int:
        """Memory held beyond the base image, in bytes."""

@final
class Sandbox:
    """Isolated CPython 3.14 (WASM). Thread-safe; a cell can reach its tools and nothing else."""

    packages: ClassVar[tuple[str, ...]]
    """What cells can import besides Python's standard library: sympy, mpmath, and numpy if this build has it."""
    def __new__(
        cls,
        tools: Mapping[str, Bm25Index | SearchTool | Callable[..., Any]] | None = None,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        threads: int | None = None,
    ) -> Self:
        """``tools``: name -> Bm25Index (answers natively, without the GIL) or a callable of JSON-able arguments."""
    @property
    def limits(self) -> Limits: ...
    @property
    def initial(self) -> State: ...
    def run(self, state: State, code: str) -> tuple[Observation, State]: ...
    def run_many(self, cells: Sequence[tuple[State, str]]) -> list[tuple[Observation, State]]:
        """Each cell from its own State, in parallel; the same State may stand in many."""

# ---- actions and votes -------------------------------------------------------------------------

_SpanKind = Literal["thought", "code", "final_answer"]

_ActionFormat = Literal["code", "tool_call", "search_tags", "code_tags", "react"]

@final
class Action:
    """A completion understood: a Thought and either code to run or a final answer given in plain text."""

    thought: str
    code: str | None
    final_answer: str | None
    spans: list[tuple[_SpanKind, int, int]]  # character ranges of the completion
    format: _ActionFormat  # what it was read as
    def __new__(
        cls,
        thought: str,
        code: str | None = None,
        final_answer: str | None = None,
        spans: Sequence[tuple[_SpanKind, int, int]] = (),
        format: _ActionFormat = "code",
    ) -> Self: ...

_ParseFailureKind = Literal["empty", "no_action", "unclosed_code", "empty_code", "bad_call", "repetition"]

@final
class ParseFailure:
    kind: _ParseFailureKind
    message: str  # written for the model: what was wrong and what to write instead
    def __new__(cls, kind: _ParseFailureKind, message: str) -> Self: ...

def parse_action(completion: str, format: _ActionFormat = "code") -> Action | ParseFailure:
    """Total: any string gives an Action or a ParseFailure. A call of a tool is the code that makes it. See
    rust/action.rs for the forms, and rust/action/ for the rules of each."""

@final
class Vote:
    winner: int | None  # index of the first candidate that did what most did; None when there was none to choose
    counts: list[tuple[str, int]]  # canonical outcome -> votes, most first
    dropped: list[int]  # candidates that failed
    agreement: float  # winner's votes / candidates not dropped

def vote(observations: Sequence[Observation | ParseFailure], *, compat: Literal["reference"] | None = None) -> Vote:
    """Majority over what the candidates did (IDEA 3). See rust/vote.rs for canonical form and tie rule."""

@final
class StepResult:
    """One self-consistent step: every candidate, the vote, and the State after the winner."""

    actions: list[Action | ParseFailure]
    observations: list[Observation | None]  # None where the completion did not parse; a plain answer is a final_answer
    vote: Vote
    winner: int
    state: State

@final
class StepQueue:
    """Takes steps of many episodes in the background, ``at_once`` of them at once: parses, runs and votes.

    No thread of Python's waits for it, and the GIL is not needed until the results are taken. When every candidate
    failed, ``winner`` is drawn by ``seed`` among them (the paper's rule; ``compat`` takes the first), preferring one
    that at least ran; ``state`` is the State after it. Raises ValueError for none at once.
    """

    def __new__(
        cls,
        sandbox: Sandbox,
        at_once: int,
        *,
        format: _ActionFormat = "code",
        compat: Literal["reference"] | None = None,
        seed: int = 0,
    ) -> Self: ...
    def push(self, ticket: Any, state: State, completions: Sequence[str], earlier: StepResult | None = None) -> None:
        """Have a step taken, each completion from ``state``; ``ticket`` comes back with the result.

        ``earlier`` is the result for the first of the completions, if they were asked: what ran then is not run again.
        Raises SandboxError when there is no thread for it.
        """
    def fileno(self) -> int:
        """A file that can be read when there is something to take, as ``loop.add_reader`` and ``select`` want it."""
    def take(self) -> list[tuple[Any, StepResult | SandboxError | ValueError]]:
        """What has ended since, in that order: ticket and result, or the error in its place; ValueError for a step
        without completions."""
    def withdraw(self, ticket: Any) -> bool:
        """Forget the step with this ticket. One that has begun is cancelled, and is to be taken when it has ended: then
        True."""
    def close(self) -> None:
        """Forget the steps that have not begun, cancel those that have, and wait for these, 3 s at most."""

# ---- trajectories ------------------------------------------------------------------------------

@final
class Candidate:
    """One completion of a step, and what it did."""

    text: str
    prefix: str  # text given to the model as the beginning of this completion (first-thought prefix), part of text
    reasoning: str  # what a reasoning model thought before text, without the tags; token_ids have it too
    token_ids: list[int] | None
    logprobs: list[float] | None
    finish_reason: str | None
    action: Action | ParseFailure | None  # None in a chain of thought
    observation: Observation | None
    def __new__(
        cls,
        text: str,
        *,
        prefix: str = "",
        reasoning: str = "",
        token_ids: Sequence[int] | None = None,
        logprobs: Sequence[float] | None = None,
        finish_reason: str | None = None,
        action: Action | ParseFailure | None = None,
        observation: Observation | None = None,
    ) -> Self: ...

@final
class Step:
    candidates: list[Candidate]
    winner: int
    votes: list[tuple[str, int]]
    prompt_token_ids: list[int] | None
    message: str  # what the model was told after this step ("Observation: ..."); "" after the last
    state: bytes | None  # after the winner, with the State before the step as its base; see session.state_before
    seconds: float
    model_seconds: float  # of seconds, those until the model had answered
    cached_tokens: int  # of the prompt, those that the engine had read before
    def __new__(
        cls,
        candidates: Sequence[Candidate],
        *,
        winner: int = 0,
        votes: Sequence[tuple[str, int]] = (),
        prompt_token_ids: Sequence[int] | None = None,
        message: str = "",
        state: bytes | None = None,
        seconds: float = 0.0,
        model_seconds: float = 0.0,
        cached_tokens: int = 0,
    ) -> Self: ...

_Outcome = Literal[
    "final_answer",  # the episode answered
    "out_of_steps",
    "parse_failure",  # its last step could not be parsed
    "cut_completion",  # the last completion hit the token limit
    "model_error",  # the model could not be had; ``error`` says why
    "sandbox_error",
    "error",
]

@final
class Trajectory:
    """One episode, complete: enough to train on, to grade again, and to enter again at any step. JSON, versioned."""

    version: int
    task_id: str
    question: str
    reference: str | None  # the task's own answer
    aliases: list[str]  # others that are as right
    task_set: str
    kind: Literal["agent", "cot"]
    model: str
    messages: list[tuple[str, str]]  # (role, content) before the first step
    steps: list[Step]
    outcome: _Outcome
    answer: str | None
    score: float | None
    grader: str | None
    error: str | None
    sampling: dict[str, Any]
    usage: tuple[int, int]  # prompt, completion tokens
    seconds: float
    def __new__(
        cls,
        task_id: str,
        question: str,
        *,
        reference: str | None = None,
        aliases: Sequence[str] = (),
        task_set: str = "",
        kind: Literal["agent", "cot"] = "agent",
        model: str = "",
        messages: Sequence[tuple[str, str]] = (),
        steps: Sequence[Step] = (),
        outcome: _Outcome = "final_answer",
        answer: str | None = None,
        score: float | None = None,
        grader: str | None = None,
        error: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        usage: tuple[int, int] = (0, 0),
        seconds: float = 0.0,
    ) -> Self: ...
    def to_json(self) -> str:
        """One line."""
    @staticmethod
    def from_json(line: str) -> Trajectory: ...
    def _repr_html_(self) -> str:
        """As a notebook shows it."""

def read_trajectories(path: str | PathLike[str]) -> list[Trajectory]:
    """Read a JSONL file in parallel. A torn last line (a killed writer) is left out. Raises TrajectoryError."""

def iter_trajectories(path: str | PathLike[str], *, source: _Format | None = None) -> Iterator[Trajectory]:
    """Read a file of trajectories one after the other: some at a time, in parallel, so that memory is bounded.

    ``source``: their format, any that ``convert`` reads; by default the first record says it. A torn last line (a
    killed writer) is left out. Raises TrajectoryError, with file and line, on the way to what cannot be read.
    """

def read_header(path: str | PathLike[str]) -> str | None:
    """The ``run`` of the file's header line, as JSON; None when it has no header. Raises TrajectoryError."""

_Format = Literal[
    "agentdistill", "reference", "smolagents", "openai", "messages", "prompt-completion", "sharegpt", "atif"
]

def convert(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    source: _Format | None = None,
    target: _Format = "agentdistill",
    run: str = "{}",
    progress: Callable[[int, float | None], object] | None = None,
) -> tuple[int, int]:
    """Convert files of trajectories from one format to another: ``agentdistill.files.formats.convert`` says how.

    ``run`` (JSON) is for the header of ours. ``progress`` is called now and then with the number of trajectories read
    and the share of the files that has been read, 0 to 1. Gives how many trajectories were read, and how many records
    written.
    """

@final
class TrajectoryWriter:
    """Appends trajectories durably: one writer a file, each line whole and synced before ``append`` returns.

    Opening takes a lock (TrajectoryError when another process holds it), cuts off a torn last line, and checks that the
    file's header line carries the same ``run`` (the resolved settings as JSON): a file of another run is refused.
    """

    def __new__(cls, path: str | PathLike[str], run: str) -> Self: ...
    @property
    def done(self) -> set[str]:
        """Task ids already in the file."""
    def append(self, trajectories: Sequence[Trajectory]) -> None:
        """Raises ValueError for a task that is in the file already or twice among these (then none is written), and
        OSError (a full disk for one; then those before the first for which there was no room are, see ``done``)."""
    def close(self) -> None: ...
    def __enter__(self) -> TrajectoryWriter: ...
    def __exit__(self, *args: object) -> None: ...
