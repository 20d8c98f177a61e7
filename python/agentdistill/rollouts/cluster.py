"""Run a rollout on several machines as Ray actors: one per GPU, or one per node without a GPU. Each actor has its own
model, sandbox and index.

Tasks are assigned one at a time, and graded trajectories return to the one process that records them. If a node dies,
its running episodes are run elsewhere. Not here: starting Ray on the machines, and models on more than one GPU.
"""

import asyncio
import logging
import re
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentdistill._core import AgentDistillError, Trajectory
from agentdistill.models.loading import load_model
from agentdistill.rollouts.player import FirstThought, Player, RolloutConfig
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import Tool

MAX_DEATHS = 3
"""An episode fails if this many actors died while they played its task, since the task may be the cause."""

PAUSE = 1.0
"""Seconds between two checks whether a lost actor is back, as Ray restarts its process."""


class ClusterPlayers:
    """All players of a Ray cluster behind the interface of one. A context manager, for use within one event loop.

    Every node must have agentdistill with the same extras, and model and index under the same paths.
    """

    def __init__(
        self,
        address: str,
        model: str,
        tools: Sequence[Tool],
        config: RolloutConfig,
        first_thought: FirstThought | None = None,
    ) -> None:
        """``address``: as for ``ray.init``, such as "auto" on a node of the cluster. Waits until all players have
        loaded their models. Raises AgentDistillError if there is no cluster, ValueError for a tool that cannot be
        pickled, and the exceptions of loading a model."""
        for tool in tools:
            try:
                ray.cloudpickle.dumps(tool)
            except Exception as error:  # pickling can raise anything
                raise ValueError(f"the tool {tool.name} cannot be sent to other machines: {error}") from error
        try:
            if address_of := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address):  # Ray itself would retry for minutes
                socket.create_connection((address_of[1], int(address_of[2])), timeout=10).close()
            ray.init(address=address, ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise AgentDistillError(
                f"no Ray cluster at {address!r} ({error}): run `ray start --head` on one machine"
            ) from error
        actor: Any = ray.remote(max_restarts=-1, max_concurrency=config.concurrency)(_Actor)
        self._concurrency = config.concurrency
        self._players: list[Any] = []
        for node in ray.nodes():
            if node["Alive"]:
                gpus = int(node["Resources"].get("GPU", 0))
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = {"num_gpus": 1 if gpus else 0, "num_cpus": 0, "scheduling_strategy": here}
                made = [actor.options(**options).remote(model, tools, config, first_thought) for _ in range(gpus or 1)]
                self._players += made
        self._asked = Counter[int]()  # running tasks of each player
        self._up = set(range(len(self._players)))
        self._lost = dict[int, asyncio.Task[None]]()  # player -> the task that waits for it to return
        try:
            self.model_name: str = ray.get([player.model_name.remote() for player in self._players])[0]
        except RayActorError as error:
            self.__exit__()
            raise AgentDistillError(f"the model {model} cannot be loaded on the cluster: {error}") from error

    @property
    def at_once(self) -> int:
        """Maximum number of concurrent episodes."""
        return self._concurrency * len(self._players)

    @property
    def retried(self) -> int:
        """Always 0: the actors count their retried requests, but do not report them."""
        return 0

    async def play(self, task: Task) -> Trajectory:
        """Play and grade one episode on the least busy player. Raises AgentDistillError if no player is left."""
        for _ in range(MAX_DEATHS):
            while not self._up:
                if not self._lost:
                    raise AgentDistillError("no node of the Ray cluster is left")
                await asyncio.wait(self._lost.values(), return_when=asyncio.FIRST_COMPLETED)
            at = min(self._up, key=lambda player: self._asked[player])
            self._asked[at] += 1
            try:
                return Trajectory.from_json(await self._players[at].play.remote(task))
            except (RayActorError, ActorUnschedulableError):
                if at in self._up:
                    self._up.remove(at)
                    self._lost[at] = asyncio.create_task(self._wait_for(at))
            finally:
                self._asked[at] -= 1
        message = f"{MAX_DEATHS} processes died while playing it"
        return Trajectory(task.id, task.question, model=self.model_name, outcome="error", error=message)

    async def _wait_for(self, at: int) -> None:
        """Wait until a player is back, or lost for good with its node."""
        while at not in self._up:
            try:
                await self._players[at].model_name.remote()
                self._up.add(at)
            except (ActorDiedError, ActorUnschedulableError):
                break
            except RayActorError:
                await asyncio.sleep(PAUSE)
        del self._lost[at]

    def __enter__(self) -> "ClusterPlayers":
        return self

    def __exit__(self, *_: object) -> None:
        for waiting in list(self._lost.values()):  # a further call would start Ray again after its shutdown
            waiting.get_loop().call_soon_threadsafe(waiting.cancel)
        for player in self._players:
            ray.kill(player)


class _Actor:
    """A player in its own process."""

    def __init__(
        self, model: str, tools: Sequence[Tool], config: RolloutConfig, first_thought: FirstThought | None
    ) -> None:
        self._player = Player(load_model(model), tools, config, first_thought)

    async def model_name(self) -> str:
        return self._player.model_name

    async def play(self, task: Task) -> str:
        return (await self._player.play(task)).to_json()
