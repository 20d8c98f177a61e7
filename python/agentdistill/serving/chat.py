"""``agentdistill ask`` and ``agentdistill chat``: questions to one agent, one after another, and what
it does shown as it does it.

In a conversation the agent keeps everything: each question begins with all messages of those before it, and with the
variables that their code left. Not here: the same over HTTP (chat_server.py).
"""

import sys
from contextlib import suppress

from agentdistill._core import AgentDistillError, State, Trajectory
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import Show
from agentdistill.rollouts.agent import Episode
from agentdistill.rollouts.player import Left, Player
from agentdistill.tasks.task import Task
from agentdistill.terminal import say, tell, write

BANNER = "Ask the agent. :new begins a new conversation, Ctrl-C stops an answer, Ctrl-D leaves."


class Conversation:
    """Questions to one agent, each with the messages and the State that those before it left."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._left: Left | None = None

    def ask(self, question: str, show: Show) -> Trajectory:
        """The episode of one question; ``show`` is given what the agent does and is told, as soon as it is there.

        A question that is interrupted, or that model or sandbox fail, is forgotten. Raises AgentDistillError for the
        latter.
        """
        left = self._left

        def watch(episode: Episode, state: State) -> None:
            nonlocal left
            left = Left(episode.conversation, state)

        trajectory = run_blocking(self._player.play(Task("chat", question), left, watch=watch, show=show))
        if trajectory.error:
            raise AgentDistillError(trajectory.error)
        self._left = left
        return trajectory

    def forget(self) -> None:
        """Begin anew."""
        self._left = None


def show_answer(conversation: Conversation, question: str) -> None:
    """Ask, and print what the agent does, and its answer. Raises AgentDistillError."""

    def show(said: str) -> None:
        with suppress(BrokenPipeError):  # nobody reads any more, as the answer will find, too
            write(said, sys.stdout)

    trajectory = conversation.ask(question, show)
    answer = f"Answer: {trajectory.answer}" if trajectory.answer else f"No answer: {trajectory.outcome}"
    say(answer)


def chat(player: Player) -> None:
    """Answer what is typed, a line each, until the input ends. A terminal's Ctrl-C ends no more than an answer."""
    conversation, terminal = Conversation(player), sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and a history
        say(BANNER)
    while True:
        try:
            match input("> " if terminal else "").strip():
                case "":
                    pass
                case ":new":
                    conversation.forget()
                case question:
                    show_answer(conversation, question)
        except EOFError:
            break
        except KeyboardInterrupt:
            if not terminal:
                raise
            tell("\nStopped: what was asked last is forgotten.")
        except AgentDistillError as error:
            tell(error)
    if terminal:
        say("")
