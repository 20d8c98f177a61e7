"""``agentdistill ask`` and ``agentdistill chat``: ask an agent questions, and show its work as it happens.

A conversation keeps its context: each question starts with all earlier messages, and with the variables of earlier
code. Not here: the same over HTTP (chat_server.py).
"""

import sys
from contextlib import suppress

from agentdistill._core import AgentDistillError, State, Trajectory
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import Show
from agentdistill.rollouts.agent import Episode
from agentdistill.rollouts.player import Player, PriorConversation
from agentdistill.tasks.task import Task
from agentdistill.terminal import say, tell, write

BANNER = "Ask the agent. :new starts a new conversation, Ctrl-C stops an answer, Ctrl-D exits."


class Conversation:
    """A conversation with one agent. Each question continues from the messages and the State of the previous ones."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._prior: PriorConversation | None = None

    def ask(self, question: str, show: Show) -> Trajectory:
        """Play the episode of one question. ``show`` gets the agent's output and its observations as they arrive.

        A question that is interrupted, or on which the model or the sandbox fails, is not kept in the conversation.
        Raises AgentDistillError if the model or the sandbox fails.
        """
        prior = self._prior

        def watch(episode: Episode, state: State) -> None:
            nonlocal prior
            prior = PriorConversation(episode.conversation, state)

        trajectory = run_blocking(self._player.play(Task("chat", question), prior, watch=watch, show=show))
        if trajectory.error:
            raise AgentDistillError(trajectory.error)
        self._prior = prior
        return trajectory

    def forget(self) -> None:
        """Start a new conversation."""
        self._prior = None


def show_answer(conversation: Conversation, question: str) -> None:
    """Ask a question, and print the agent's work and its answer. Raises AgentDistillError."""

    def show(text: str) -> None:
        with suppress(BrokenPipeError):  # the reader is gone; printing the answer will report it
            write(text, sys.stdout)

    trajectory = conversation.ask(question, show)
    answer = f"Answer: {trajectory.answer}" if trajectory.answer else f"No answer: {trajectory.outcome}"
    say(answer)


def chat(player: Player) -> None:
    """Read and answer questions, one per line, until the input ends. In a terminal, Ctrl-C stops only the current
    answer."""
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
            tell("\nStopped. The last question is not part of the conversation.")
        except AgentDistillError as error:
            tell(error)
    if terminal:
        say("")
