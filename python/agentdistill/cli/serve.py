"""Commands that put an agent, or its sandbox, to use: ask, chat, serve, sandbox, mcp."""

import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from agentdistill._core import Sandbox
from agentdistill.cli.arguments import CellLimits, ModelSpec, Search, Tools
from agentdistill.extras import need
from agentdistill.rollouts.engine import player_of
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.serving.chat import Conversation, chat, show_answer
from agentdistill.serving.repl import Repl, run_file
from agentdistill.tools.tool import sandbox_tools


@dataclass(frozen=True)
class Ask:
    """Ask one question, and read what the agent does.

    Example: agentdistill ask "Who wrote the music of Metropolis?" --model vllm:student --index wiki
    """

    question: Positional[str]
    """What to ask."""
    model: ModelSpec
    tools: Tools = field(default_factory=Tools)
    config: RolloutConfig = field(default_factory=RolloutConfig)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools, player_of(self.model, tools, self.config) as player:
            show_answer(Conversation(player), self.question)


@dataclass(frozen=True)
class Chat:
    """Talk with an agent: a question a line, each with the messages and variables of those before it.

    Example: agentdistill chat --model vllm:student --index wiki
    """

    model: ModelSpec
    tools: Tools = field(default_factory=Tools)
    config: RolloutConfig = field(default_factory=RolloutConfig)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools, player_of(self.model, tools, self.config) as player:
            chat(player)


@dataclass(frozen=True)
class Serve:
    """Serve an agent as a model to any client of OpenAI's protocol: POST /v1/chat/completions, GET /v1/models.

    Each request is an episode: the agent thinks, searches, computes, and answers. At most --concurrency are under way
    at once. Ctrl-C, or SIGTERM, ends it when they have ended, or after 10 s; another one ends it at once.

    Example: agentdistill serve --model vllm:student --index wiki --sag 8
    """

    model: ModelSpec
    host: str = "127.0.0.1"
    """Address to listen at. Whoever reaches it can ask, unless there is an API key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    name: str | None = None
    """What clients call the model; by default its own name."""
    api_key: str | None = None
    """Key that clients must send. In the environment, as AGENTDISTILL_API_KEY, no list of processes shows it."""
    request_seconds: float = 600.0
    """Time that one request may take, in seconds; then it ends without an answer."""
    tools: Tools = field(default_factory=Tools)
    config: RolloutConfig = field(default_factory=RolloutConfig)

    def run(self) -> None:
        need("uvicorn", "serve")
        from agentdistill.serving.chat_server import ChatServer

        end = threading.Event()

        def stop(number: int, frame: object) -> None:
            end.set()
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with (
            self.tools.open(self.config.tool_seconds) as tools,
            player_of(self.model, tools, self.config) as player,
            ChatServer(
                player,
                self.host,
                self.port,
                name=self.name,
                api_key=self.api_key or os.environ.get("AGENTDISTILL_API_KEY"),
                seconds=self.request_seconds,
            ) as server,
        ):
            print(f"serving {server.name} at {server.url}", file=sys.stderr, flush=True)
            end.wait()


@dataclass(frozen=True)
class RunSandbox:
    """Run Python in the sandbox: a file, or what you type, with :undo (:help says more).

    A file is run as one cell. Without one, each input is a cell, and sees what those before it left.

    Example: agentdistill sandbox script.py
    """

    script: Positional[Path | None] = None
    """File to run; "-" is standard input. The exit status is 1 when it raises or goes over a limit."""
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
    """Serve run_python, and web_search where there is something to search, to an MCP client over standard input and
    output.

    Example: agentdistill mcp --index wiki
    """

    search: Search = field(default_factory=Search)
    limits: CellLimits = field(default_factory=CellLimits)

    def run(self) -> None:
        need("mcp", "mcp")
        from agentdistill.serving.mcp_server import make_server  # here, since it imports mcp

        server = make_server(self.limits.load(), self.search.load())
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a thread waits for input, and no exception would end it
        server.run()
