"""A session: cells run one after another, as in a notebook, and the State after each is kept.

A State is a value, so going back means using an older State: nothing is undone or run again. The interactive prompt
(repl.py) and the MCP server (mcp_server.py) both use sessions. A recorded episode with its States works the same way.
"""

from agentdistill._core import Observation, Sandbox, State, Trajectory

MAX_STATE_BYTES = 1 << 30
"""Maximum memory for a session's States (some 20 kB each for a few variables). The oldest are dropped first."""


class Session:
    """The States of one user by step. Step 0 is the State before any cell, and each cell adds a step."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._states = {0: sandbox.initial}  # oldest first; 0 is never dropped

    @property
    def step(self) -> int:
        """Number of the last step."""
        return next(reversed(self._states))

    def state(self, step: int | None = None) -> State:
        """The State after ``step``, by default the last. Raises ValueError if that step is not kept."""
        step = self.step if step is None else step
        if step not in self._states:
            oldest = next((kept for kept in self._states if kept), self.step)
            raise ValueError(f"no step {step}: the steps kept are 0 and {oldest} to {self.step}")
        return self._states[step]

    def run(self, code: str, from_step: int | None = None) -> Observation:
        """Run a cell from the State after ``from_step`` (by default the last). The State after the cell is the next
        step.

        Raises ValueError if that step is not kept, SandboxError if the sandbox fails, and KeyboardInterrupt; none of
        these adds a step.
        """
        observation, state = self._sandbox.run(self.state(from_step), code)
        self.add(state)
        return observation

    def add(self, state: State) -> None:
        """Add ``state`` as the next step."""
        self._states[self.step + 1] = state
        while len(self._states) > 2 and sum(kept.nbytes for kept in self._states.values()) > MAX_STATE_BYTES:
            del self._states[next(step for step in self._states if step)]

    def undo(self) -> None:
        """Remove the last step. Raises ValueError if the step before it is not kept."""
        if self.step - 1 not in self._states:
            raise ValueError("nothing to undo")
        del self._states[self.step]


def state_before(trajectory: Trajectory, step: int, sandbox: Sandbox) -> State:
    """The interpreter's State before ``step`` of a recorded episode (0 is the first step). Run other code from it to
    continue the episode differently. ``len(trajectory.steps)`` gives the State after the last step.

    ``sandbox`` must have tools with the same names and the same seed as the episode's
    (``agentdistill.rollouts.player.sandbox_of`` makes it). Raises ValueError for a step that does not exist and for an
    episode recorded without ``keep_states``, and SandboxError for States of another build or of another sandbox.
    """
    if not 0 <= step <= len(trajectory.steps):
        raise ValueError(f"no step {step} in {trajectory.task_id}, which has {len(trajectory.steps)} steps")
    state = sandbox.initial
    for done in trajectory.steps[:step]:
        if done.state is None:
            raise ValueError(f"{trajectory.task_id} was recorded without its States: record it with keep_states")
        state = State.from_bytes(done.state, sandbox.limits, base=state)
    return state
