"""Commands that use an agent, its model, or only its tasks or sandbox: ask, chat, serve, record, serve-environment,
sandbox, mcp."""

import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from agentdistill._core import Sandbox
from agentdistill.cli.arguments import (
    CellLimits,
    ModelSpec,
    Output,
    QuestionConfig,
    Search,
    TaskFiles,
    Tools,
    UnrecordedConfig,
)
from agentdistill.extras import require
from agentdistill.models.loading import opened
from agentdistill.rollouts.engine import player_of
from agentdistill.serving.chat import Conversation, chat, show_answer
from agentdistill.serving.repl import Repl, run_file
from agentdistill.terminal import say, tell
from agentdistill.tools.tool import TOOL_SECONDS, sandbox_tools


@dataclass(frozen=True)
class Ask:
    """Ask an agent one question and watch its steps.

    Example: agentdistill ask "Who wrote the music of Metropolis?" --model vllm:student --index wiki
    """

    question: Positional[str]
    """The question."""
    model: ModelSpec
    tools: Tools = field(default_factory=Tools)
    config: Annotated[QuestionConfig, arg(name="agent")] = field(default_factory=QuestionConfig)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools, player_of(self.model, tools, self.config) as player:
            show_answer(Conversation(player), self.question)


@dataclass(frozen=True)
class Chat:
    """Chat with an agent in the terminal.

    Each line is a question. It can refer to the messages and variables of the questions before it.

    Example: agentdistill chat --model vllm:student --index wiki
    """

    model: ModelSpec
    tools: Tools = field(default_factory=Tools)
    config: Annotated[QuestionConfig, arg(name="agent")] = field(default_factory=QuestionConfig)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools, player_of(self.model, tools, self.config) as player:
            chat(player)


@dataclass(frozen=True)
class Listen:
    """Where the server listens, and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs an API key."""
    port: int = 8000
    """Port to listen on; 0 picks a free one."""
    api_key: str | None = None
    """Key that clients must send. Set AGENTDISTILL_API_KEY instead to keep it out of process lists."""

    def options(self) -> dict[str, Any]:
        """The arguments of a server."""
        key = os.environ.get("AGENTDISTILL_API_KEY") or None if self.api_key is None else self.api_key
        return {"host": self.host, "port": self.port, "api_key": key}


@dataclass(frozen=True)
class ListenAs(Listen):
    """Where the server of a model listens."""

    name: str | None = None
    """Name of the model for clients. Default: its own name."""

    def options(self) -> dict[str, Any]:
        return super().options() | {"name": self.name}


@dataclass(frozen=True)
class Serve:
    """Serve an agent over HTTP with OpenAI's protocol.

    Endpoints: POST /v1/chat/completions, GET /v1/models, GET /health. Each request is one episode: the agent thinks,
    searches, computes and answers. At most --concurrency requests run at once. Ctrl-C or SIGTERM stops the server when
    they have ended, or after 10 s; a second signal stops it at once.

    Example: agentdistill serve --model vllm:student --index wiki --sag 8
    """

    model: ModelSpec
    listen: Annotated[ListenAs, arg(name="server")] = field(default_factory=ListenAs)
    request_seconds: float = 600.0
    """Time limit of a request, in seconds. After that it ends without an answer."""
    tools: Tools = field(default_factory=Tools)
    config: Annotated[UnrecordedConfig, arg(name="agent")] = field(default_factory=UnrecordedConfig)

    def run(self) -> None:
        require("uvicorn", "serve")
        from agentdistill.serving.chat_server import ChatServer

        stopped = _stop_signal()
        with (
            self.tools.open(self.config.tool_seconds) as tools,
            player_of(self.model, tools, self.config) as player,
            ChatServer(player, seconds=self.request_seconds, **self.listen.options()) as server,
        ):
            tell(f"serving {server.name} at {server.url}")
            stopped.wait()


@dataclass(frozen=True)
class Record:
    """Record what any agent does with a model, as trajectories.

    The model is served with OpenAI's protocol: use the printed URL as the base URL of your agent's client. Each
    conversation becomes a trajectory, with the token ids and log probabilities that the model returned. It is written
    after --idle-seconds without a request, and when Ctrl-C or SIGTERM stops the server. A client can name its session
    with the header X-Session-ID, and end it with POST /v1/sessions/NAME.

    Example: agentdistill record --model vllm:student --tasks train.jsonl -o recorded.jsonl
    """

    model: ModelSpec
    output: Output
    """JSONL file for the trajectories. A file that was recorded with the same model is appended to."""
    tasks: tuple[Path, ...] = ()
    """Task files or benchmarks, as in ``generate``.
    A conversation that asks the question of a task gets its id and its correct answer."""
    idle_seconds: float = 600.0
    """Seconds without a request after which a conversation is written."""
    listen: Annotated[ListenAs, arg(name="server")] = field(default_factory=ListenAs)

    def run(self) -> None:
        require("uvicorn", "serve")
        from agentdistill.serving.gateway import Gateway

        stopped = _stop_signal()
        tasks = TaskFiles(self.tasks).load() if self.tasks else []
        with (
            opened(self.model) as model,
            Gateway(
                model, self.output, tasks=tasks, idle_seconds=self.idle_seconds, **self.listen.options()
            ) as gateway,
        ):
            tell(f"recording {gateway.name} at {gateway.url}")
            stopped.wait()
        say(f"{gateway.written} trajectories in {self.output}")


@dataclass(frozen=True)
class ServeEnvironment:
    """Serve tasks and sandbox over HTTP to other trainers.

    OpenEnv's clients connect to the printed URL, and so does the taskset openenv of verifiers. Plain HTTP works too:
    POST /reset begins a task, POST /step runs code, and an answer ends the episode with its grade as the reward.
    GET /schema describes the code that a model can run.

    Example: agentdistill serve-environment --tasks train.jsonl --index wiki
    """

    files: Annotated[TaskFiles, arg(name="task")]
    listen: Annotated[Listen, arg(name="server")] = field(default_factory=Listen)
    max_steps: int = 5
    """An episode without an answer ends after so many steps, with reward 0."""
    sessions: int = 256
    """Maximum number of sessions and episodes that are open at once."""
    idle_seconds: float = 600.0
    """A session without a request for this long is closed, in seconds."""
    tools: Tools = field(default_factory=Tools)
    tool_seconds: float = TOOL_SECONDS
    """Time limit of a call of a tool, in seconds."""
    limits: CellLimits = field(default_factory=CellLimits)

    def run(self) -> None:
        require("uvicorn", "serve")
        from agentdistill.serving.environment_server import EnvironmentServer

        stopped = _stop_signal()
        tasks = self.files.load()
        with (
            self.tools.open(self.tool_seconds) as tools,
            EnvironmentServer(
                tasks,
                tools,
                limits=self.limits.load(),
                tool_seconds=self.tool_seconds,
                max_steps=self.max_steps,
                sessions=self.sessions,
                idle_seconds=self.idle_seconds,
                **self.listen.options(),
            ) as server,
        ):
            tell(f"serving {len(tasks)} tasks at {server.url}")
            stopped.wait()


def _stop_signal() -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets. A second signal ends the process."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopped


@dataclass(frozen=True)
class RunSandbox:
    """Run Python in the sandbox: a file, or an interactive prompt.

    A file runs as one cell. At the prompt, each input is a cell that sees the variables of the previous ones; :undo
    goes back, and :help lists all commands.

    Example: agentdistill sandbox script.py
    """

    script: Positional[Path | None] = None
    """File to run, or "-" for standard input. The exit status is 1 if it raises or exceeds a limit."""
    tools: Tools = field(default_factory=Tools)
    limits: CellLimits = field(default_factory=lambda: CellLimits(output_chars=1_000_000))

    def run(self) -> None:
        with self.tools.open() as tools:
            sandbox = Sandbox(sandbox_tools(tools), self.limits.load())
            if self.script is None:
                Repl(sandbox).run()
            elif not run_file(sandbox, self.script):
                sys.exit(1)


@dataclass(frozen=True)
class Mcp:
    """Serve the sandbox and search to MCP clients.

    The server speaks MCP over standard input and output. Its tools are run_python and, with --index or --retriever,
    web_search.

    Example: agentdistill mcp --index wiki
    """

    search: Search = field(default_factory=Search)
    limits: CellLimits = field(default_factory=CellLimits)

    def run(self) -> None:
        require("mcp", "mcp")
        from agentdistill.serving.mcp_server import make_server  # here, since it imports mcp

        server = make_server(self.limits.load(), self.search.load())
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a thread is blocked on input; an exception would not end it
        server.run()
