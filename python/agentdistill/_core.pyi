"""The Rust core: sandbox, retrieval, actions, votes, trajectories. All functions release the GIL while they work."""

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
    """Base class of errors that are neither an invalid argument (ValueError) nor I/O (OSError)."""

class RetrievalError(AgentDistillError):
    """An index cannot be built, opened or read."""

class SandboxError(AgentDistillError):
    """The sandbox itself failed, not the code that ran in it."""

class TrajectoryError(AgentDistillError):
    """A trajectory cannot be read or written. The message names path and line."""

# ---- retrieval ---------------------------------------------------------------------------------

@final
class Passage:
    """A passage of an index."""

    id: str
    title: str
    text: str
    score: float
    """BM25 score for the query; 0.0 outside a search."""
    def __new__(cls, id: str, title: str, text: str, score: float = 0.0) -> Self: ...

@final
class Bm25Index:
    """A BM25 index of passages, in a folder on disk. Create it with ``build`` or ``open``.

    A query is a bag of words, of which the first 1,024 distinct ones count. Any string is valid. The best passages and
    their scores are exact. The defaults of ``k1`` and ``b`` are Lucene's.
    """

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

        The words of a title count ``title_weight`` times. ``progress`` is called from time to time with the number of
        passages indexed and, for files, the fraction read, 0 to 1. The index appears at ``path`` only when it is
        complete. Raises RetrievalError for a bad line (with file and line) and for an existing path, ValueError for an
        unknown language, a ``title_weight`` that is not positive, or less than 64 MB of memory.
        """
    @staticmethod
    def open(path: str | PathLike[str], k1: float = 1.2, b: float = 0.75) -> Bm25Index:
        """Open an index with the BM25 parameters ``k1`` (term frequency saturation, 0 to 100; at 0 only the presence of
        a word counts) and ``b`` (length normalization, 0 for none to 1 for full).

        Raises RetrievalError if there is no index, or if it has another version or is damaged; ValueError for
        parameters out of range.
        """
    def add(
        self,
        passages: Iterable[tuple[str, str, str] | Passage | dict[str, Any]]
        | str
        | PathLike[str]
        | Sequence[str | PathLike[str]],
        *,
        skip_bad: bool = False,
        memory_mb: int = 1024,
        progress: Callable[[int, float | None], object] | None = None,
    ) -> Bm25Index:
        """Add passages to the index that is now at the path, and open the result. They are given as to ``build``, whose
        language and title weight apply. An added passage replaces those of the index with the same id.

        Raises RetrievalError for a bad line, for an index that is damaged or older than version 4, and while another
        process is changing it. Then nothing is changed.
        """
    def delete(self, ids: Sequence[str]) -> Bm25Index:
        """Delete all passages with these ids from the index that is now at the path, and open the result.

        Raises RetrievalError if an id is not in the index or no passage would remain, and for the reasons of ``add``.
        Then nothing is deleted.
        """
    def merge(self, *, memory_mb: int = 1024) -> Bm25Index:
        """Merge all segments of the index that is now at the path, without the deleted passages, and open the result:
        the index that a build of its passages makes."""
    def check(self) -> None:
        """Verify every byte. Raises RetrievalError, which names the damaged files. An index of version 3 has no
        checksums, so it is verified only in part."""
    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The at most ``k`` passages with the highest scores, best first. Empty if no word of the query occurs in the
        index.

        Raises RetrievalError if an index file is found to be damaged, ValueError for ``k`` < 1.
        """
    def search_text(self, query: str, k: int = 3, *, compat: Literal["reference"] | None = None) -> str:
        """Search, and return the passages as text for a model to read, as a cell's ``web_search`` does. ``compat``:
        "reference" is the form of the paper's code."""
    def tool(self, k: int = 3, *, compat: Literal["reference"] | None = None) -> SearchTool:
        """The index as a sandbox tool that returns ``k`` passages, at most 100, in the form of ``search_text``."""
    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """Search for many queries in parallel on all cores."""
    def page(self, title: str) -> list[Passage]:
        """The passages with this title, in the order of indexing. Case does not count. They are found by the title's
        words: all with the title among the best 1,000, and those before and after these. At most about 4 MiB."""
    def info(self) -> dict[str, Any]:
        """``documents``, ``segments``, ``deleted`` (passages that the segments still contain), ``bytes``, ``version``,
        ``path``, ``skipped``, ``language``, ``analyzer``, ``title_weight``, and the search parameters ``k1`` and
        ``b``."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Passage]:
        """Iterate over all passages, in the order of indexing. Their scores are 0."""

@final
class SearchTool:
    """A search that the sandbox runs natively, without the GIL; returned by ``Bm25Index.tool``."""

def for_reading(passages: Sequence[Passage], *, compat: Literal["reference"] | None = None) -> str:
    """Passages as text for a model to read, best first, as a cell's ``web_search`` returns them. ``compat``:
    "reference" is the form of the paper's code."""

@final
class RetrievalServer:
    """Serves an index over HTTP with the protocol of Search-R1's server: ``POST /retrieve``, ``GET /health``. It runs
    on its own threads until ``stop`` or the end of a ``with`` block."""

    def __new__(cls, index: Bm25Index, host: str = "127.0.0.1", port: int = 8000) -> Self:
        """Listen at ``host`` and ``port``; port 0 selects a free port. Raises OSError if that fails."""
    @property
    def url(self) -> str:
        """``http://HOST:PORT``, as seen from this machine."""
    def stop(self) -> None:
        """Stop accepting requests, and wait at most 10 s for the running ones."""
    def __enter__(self) -> RetrievalServer: ...
    def __exit__(self, *args: object) -> None: ...

# ---- sandbox -----------------------------------------------------------------------------------

@final
class Limits:
    """Limits of one cell (one piece of code that runs in the sandbox)."""

    seconds: float
    """Time limit, in seconds. After that, the cell gets a TimeoutError. Time in tools does not count."""
    hard_seconds: float
    """Seconds after the TimeoutError until the cell is killed, if it has not ended."""
    memory_mb: int
    """Memory for what cells create, in MiB, without the interpreter's own memory."""
    stdout_chars: int
    """Characters kept of the printed output, and of the value or final answer. The middle of longer text is dropped."""
    tool_calls: int
    """Maximum number of tool calls. Further calls raise an error in the cell."""
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
    "value",  # the cell ended; ``value`` is None if its last statement is not an expression
    "final_answer",  # the cell called final_answer(...)
    "exception",  # the cell raised
    "timeout",  # exceeded Limits.seconds
    "out_of_memory",  # exceeded Limits.memory_mb
    "tool_error",  # a tool raised an error that the cell did not catch
    "killed",  # the interpreter failed or was stopped (stack overflow, hard time limit, ...); the State is unchanged
]

@final
class Observation:
    """The result of running a cell. Texts are those of Python's own repr, str and traceback.

    ``kind`` is one of:

    - ``"value"``: the cell ended
    - ``"final_answer"``: the cell called ``final_answer(...)``
    - ``"exception"``: the cell raised an exception
    - ``"timeout"``, ``"out_of_memory"``: the cell exceeded ``Limits.seconds`` or ``Limits.memory_mb``
    - ``"tool_error"``: a tool raised an error that the cell did not catch
    - ``"killed"``: the interpreter failed or was stopped; the State is the one before the cell
    """

    kind: _ObservationKind
    stdout: str
    """The printed output."""
    truncated: int
    """Characters dropped from the middle of stdout."""
    value: str | None
    """``repr`` of the last expression; None if the cell does not end in an expression with a value."""
    final_answer: str | None
    """``str()`` of final_answer's argument."""
    final_answer_json: str | None
    """The same argument as JSON, if JSON can represent it."""
    error_type: str | None
    """Name of the exception's class."""
    error: str | None
    """The traceback, starting at the cell."""
    tool_calls: list[ToolCall]
    """The calls of tools, in their order."""
    seconds: float
    """Wall time of the cell with its tools, in seconds."""
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
    """One call of a tool by a cell."""

    name: str
    arguments: str
    """JSON: [[positional], {keyword}]. The middle of very long text is left out."""
    result: str | None
    """JSON; None if the call raised an error. The middle of very long text is left out."""
    error: str | None
    """The error that the call raised."""
    seconds: float

@final
class State:
    """An immutable snapshot of the interpreter after some cells. Several cells can run from the same State.

    The States of a process use at most 1 GiB of memory. Beyond that, the least recently used ones are in the folder of
    temporary files, and are read back when they are used.
    """

    def to_bytes(self, base: State | None = None) -> bytes:
        """Serialize the State: about 20 kB for a few variables. With a ``base``, only the difference to it."""
    @staticmethod
    def from_bytes(data: bytes, limits: Limits | None = None, *, base: State | None = None) -> State:
        """Restore a State from ``to_bytes`` with the same ``base``.

        Raises SandboxError if the bytes are damaged, are of another guest or base, or exceed ``limits``.
        """
    @property
    def nbytes(self) -> int:
        """Memory that it takes beyond the base image, in bytes, whether it is in memory or on disk now."""

@final
class Sandbox:
    """CPython 3.14 compiled to WebAssembly, isolated from the host: a cell can reach its tools and nothing else.
    Thread-safe."""

    packages: ClassVar[tuple[str, ...]]
    """Packages for cells besides the standard library: sympy, mpmath, and numpy if this build has it."""
    def __new__(
        cls,
        tools: Mapping[str, Bm25Index | SearchTool | Callable[..., Any]] | None = None,
        limits: Limits | None = None,
        *,
        seed: int = 0,
        threads: int | None = None,
    ) -> Self:
        """Create a sandbox.

        ``tools``: name -> a Bm25Index or SearchTool (runs natively, without the GIL), or a callable whose arguments and
        result can be represented as JSON. Tools run on the host. ``limits``: of each cell; default ``Limits()``.
        ``seed``: of the cells' random numbers. ``threads``: number of cells that ``run_many`` runs at once; default:
        the number of cores.

        Raises ValueError for a tool that cannot be called, SandboxError if the interpreter cannot be loaded.
        """
    @property
    def limits(self) -> Limits: ...
    @property
    def initial(self) -> State:
        """The State before any cell."""
    def run(self, state: State, code: str) -> tuple[Observation, State]:
        """Run a cell from ``state``. Return its observation and the State after it.

        Whatever the code does is an observation, not an exception. ``state`` does not change. Raises SandboxError if
        the sandbox itself fails, or for a State that exceeds this sandbox's memory limit.
        """
    def run_many(self, cells: Sequence[tuple[State, str]]) -> list[tuple[Observation, State]]:
        """Run each cell from its State, in parallel; return the results in the same order. Several cells may use the
        same State. Raises as ``run``."""

# ---- actions and votes -------------------------------------------------------------------------

_SpanKind = Literal["thought", "code", "final_answer"]

_ActionFormat = Literal["code", "tool_call", "search_tags", "code_tags", "react"]

@final
class Action:
    """A parsed completion: a thought, and either code to run or a final answer in plain text."""

    thought: str
    """The reasoning before the action."""
    code: str | None
    """Python code to run; None if the model answered in plain text."""
    final_answer: str | None
    """An answer in plain text, without code."""
    spans: list[tuple[_SpanKind, int, int]]
    """Kind, start and end of each part, in characters of the completion."""
    format: _ActionFormat
    """The format in which it was written."""
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
    """A completion without a usable action.

    ``kind`` is one of:

    - ``"empty"``: nothing but white space
    - ``"no_action"``: neither code nor a final answer
    - ``"unclosed_code"``: the completion ends before its code does
    - ``"empty_code"``: all code blocks are empty
    - ``"bad_call"``: a call names no tool, or its arguments cannot be parsed
    - ``"repetition"``: the completion ends in a loop, with no action before it
    """

    kind: _ParseFailureKind
    message: str
    """For the model: what was wrong, and what to write instead."""
    def __new__(cls, kind: _ParseFailureKind, message: str) -> Self: ...

def parse_action(completion: str, format: _ActionFormat = "code") -> Action | ParseFailure:
    """Parse a model's completion. Any string gives an Action or a ParseFailure; nothing is raised for bad model output.

    A tool call becomes the code that makes it. Raises ValueError for an unknown format. The formats are in
    rust/action.rs, and the rules of each in rust/action/.
    """

@final
class Vote:
    """The result of a majority vote over candidates."""

    winner: int | None
    """Index of the first candidate with the most frequent outcome; None if all were dropped."""
    counts: list[tuple[str, int]]
    """Canonical outcome -> votes, in descending order."""
    dropped: list[int]
    """Indices of candidates that failed."""
    agreement: float
    """The winner's votes divided by the number of candidates that were not dropped; 0 if all were."""

def vote(observations: Sequence[Observation | ParseFailure], *, compat: Literal["reference"] | None = None) -> Vote:
    """Majority vote over the outcomes of a step's candidates: the paper's self-consistent action generation.

    The outcome of a candidate is its final answer, or else its value and printed output; equal numbers are the same
    outcome. Candidates that failed are dropped. In a tie, the outcome that occurs first wins. ``compat="reference"``
    compares printed output alone and verbatim, as the paper's code does, and takes the first candidate if all failed.
    The rules are in rust/vote.rs.
    """

@final
class StepResult:
    """The result of one self-consistent step: every candidate, the vote, and the State after the winner."""

    actions: list[Action | ParseFailure]
    observations: list[Observation | None]
    """None if the completion did not parse; a plain answer is a final_answer."""
    vote: Vote
    winner: int
    state: State

@final
class StepQueue:
    """Runs the steps of many episodes in the background, at most ``at_once`` of them concurrently: parses, runs and
    votes.

    No Python thread waits for a step, and the GIL is needed only to take the results. If every candidate failed,
    ``winner`` is drawn among them with ``seed`` (the paper's rule; ``compat`` takes the first), preferring candidates
    that at least ran; ``state`` is the State after it. Raises ValueError if ``at_once`` is 0.
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
        """Queue a step that runs each completion from ``state``. ``ticket`` is returned with the result.

        ``earlier`` is the result of the first of these completions, which are then not run again. Raises SandboxError
        if no thread can be started.
        """
    def fileno(self) -> int:
        """A file descriptor that is readable when there is a result to take, for ``loop.add_reader`` and ``select``."""
    def take(self) -> list[tuple[Any, StepResult | SandboxError | ValueError]]:
        """The results since the last call, in the order in which their steps ended: ticket, and result or error. A step
        without completions gives ValueError."""
    def withdraw(self, ticket: Any) -> bool:
        """Drop the step with this ticket. If it has already begun, it is cancelled, and its result must still be taken;
        then return True."""
    def close(self) -> None:
        """Drop the steps that have not begun, cancel the running ones, and wait for these.

        The wait is at most 3 s for cells and 20 s for tools.
        """

# ---- trajectories ------------------------------------------------------------------------------

@final
class Candidate:
    """One completion of a step, and its result."""

    text: str
    """The completion, including ``prefix`` and without thinking."""
    prefix: str
    """The beginning of ``text`` that was given to the model (first-thought prefix)."""
    reasoning: str
    """A reasoning model's thinking before ``text``, without the tags. ``token_ids`` include it."""
    token_ids: list[int] | None
    """The sampled token ids; None if the server did not return them."""
    logprobs: list[float] | None
    """Natural log probability of each sampled token."""
    finish_reason: str | None
    """"stop" or "length" (the token limit); servers may return others."""
    action: Action | ParseFailure | None
    """The parsed completion; None in a chain of thought."""
    observation: Observation | None
    """What its code did, or the plain answer; None if it was not run."""
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
    """One turn of the model in an episode: its candidates, the vote, and the message that followed."""

    candidates: list[Candidate]
    """All completions that were sampled for the step; one without self-consistent actions."""
    winner: int
    """Index of the candidate that the episode continued with."""
    votes: list[tuple[str, int]]
    """Canonical outcome and number of votes, in descending order."""
    prompt_token_ids: list[int] | None
    """The prompt as the model read it; None if the server did not return it."""
    message: str
    """The message to the model after this step ("Observation: ..."); "" after the last."""
    state: bytes | None
    """The serialized State after the winner, with ``keep_states`` (see ``state_before``)."""
    seconds: float
    """Wall time of the step, in seconds."""
    model_seconds: float
    """The part of ``seconds`` until the model had answered."""
    cached_tokens: int
    """Number of prompt tokens that the engine had cached."""
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
    "parse_failure",  # the last step could not be parsed
    "cut_completion",  # the last completion hit the token limit
    "model_error",  # the model was not available; ``error`` says why
    "sandbox_error",
    "error",
]

@final
class Trajectory:
    """One complete episode: enough to train on, to regrade, and to continue from any step. Stored as versioned JSON."""

    version: int
    """Version of the file format."""
    task_id: str
    """The task's id; ID#1, ID#2, ... for several samples of a task."""
    question: str
    reference: str | None
    """The task's reference answer."""
    aliases: list[str]
    """Other correct answers."""
    task_set: str
    """The set for which accuracy is reported."""
    kind: Literal["agent", "cot"]
    """"agent", or "cot" for a chain of thought."""
    model: str
    """Name of the model."""
    messages: list[tuple[str, str]]
    """(role, content) of the messages before the first step."""
    steps: list[Step]
    outcome: _Outcome
    """How the episode ended: "final_answer" if the model answered within its steps."""
    answer: str | None
    """The final answer; None if there is none."""
    score: float | None
    """1 if correct, 0 if wrong, None if not graded. Your own grader may give values between."""
    grader: str | None
    """Name and version of the grader."""
    error: str | None
    """Why the episode failed, for outcomes that are errors."""
    sampling: dict[str, Any]
    """The settings of the run."""
    usage: tuple[int, int]
    """Number of prompt tokens and of completion tokens."""
    seconds: float
    """Wall time of the episode, in seconds."""
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
        """The trajectory as one line of JSON."""
    @staticmethod
    def from_json(line: str, *, source: _Format = "agentdistill") -> Trajectory:
        """Parse a trajectory from ``to_json``, or from a record of another format. Raises TrajectoryError."""
    def _repr_html_(self) -> str:
        """The trajectory for a notebook."""

def read_trajectories(path: str | PathLike[str]) -> list[Trajectory]:
    """Read a JSONL file of this package's trajectories in parallel, into a list. An incomplete last line (from a killed
    writer) is skipped.

    Raises TrajectoryError, with file and line, for a record that cannot be read. ``iter_trajectories`` needs less
    memory, and also reads other formats.
    """

def iter_trajectories(path: str | PathLike[str], *, source: _Format | None = None) -> Iterator[Trajectory]:
    """Iterate over the trajectories of a file. They are read in batches, in parallel, with bounded memory.

    ``source``: their format, any that ``convert`` reads; by default it is detected from the first record. An incomplete
    last line (from a killed writer) is skipped. Raises TrajectoryError, with file and line, when the iteration reaches
    a record that cannot be read.
    """

def read_header(path: str | PathLike[str]) -> str | None:
    """The ``run`` in the file's header line, as JSON; None if there is no header. Raises TrajectoryError."""

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
    """Convert files of trajectories to another format; see ``agentdistill.files.formats.convert``.

    ``run`` (JSON) is for the header of an agentdistill file. ``progress`` is called from time to time with the number
    of trajectories read and the fraction of the files read, 0 to 1. Returns the number of trajectories read and of
    records written.
    """

@final
class TrajectoryWriter:
    """Appends trajectories durably. A file has one writer, and each line is complete and synced before ``append``
    returns.

    Opening locks the file (TrajectoryError if another process holds the lock), removes an incomplete last line, and
    checks that the header line has the same ``run`` (the resolved settings as JSON): a file of another run is refused.
    """

    def __new__(cls, path: str | PathLike[str], run: str) -> Self: ...
    @property
    def done(self) -> set[str]:
        """Task ids in the file."""
    def append(self, trajectories: Sequence[Trajectory]) -> None:
        """Append trajectories. Raises ValueError for a task that is already in the file or is given twice (then nothing
        is written), and OSError, for example for a full disk (then those that still fit are written; see ``done``)."""
    def close(self) -> None: ...
    def __enter__(self) -> TrajectoryWriter: ...
    def __exit__(self, *args: object) -> None: ...
