"""A session: cells run one after another, as in a notebook, and every State on the way is kept.

A State is a value, so going back is naming an older one: nothing is undone, nothing is run again. The prompt
(repl.py) and the MCP server (mcp_server.py) are two faces of this, and a recorded episode with its States is a third.
"""

from agentdistill._core import Observation, Sandbox, State, Trajectory

KEPT_BYTES = 1 << 30
"""Most memory for the States of a session, which are some 20 kB each for a few variables; the oldest are forgotten
first."""


class Session:
    """The States of one user, by step: 0 is the State before any cell, and each cell makes the next step."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._states = {0: sandbox.initial}  # the oldest first; 0 is never forgotten

    @property
    def step(self) -> int:
        """The last step."""
        return next(reversed(self._states))

    def state(self, step: int | None = None) -> State:
        """The State after ``step``, by default the last. Raises ValueError for a step that is not kept."""
        step = self.step if step is None else step
        if step not in self._states:
            oldest = next((kept for kept in self._states if kept), self.step)
            raise ValueError(f"there is no step {step}: the steps kept are 0 and {oldest} to {self.step}")
        return self._states[step]

    def run(self, code: str, from_step: int | None = None) -> Observation:
        """Run a cell from the State after ``from_step`` (by default the last); the State after it is the next step.

        Raises ValueError for a step that is not kept, SandboxError when the sandbox fails, and KeyboardInterrupt;
        then there is no next step.
        """
        observation, state = self._sandbox.run(self.state(from_step), code)
        self.add(state)
        return observation

    def add(self, state: State) -> None:
        """Make ``state`` the next step."""
        self._states[self.step + 1] = state
        while len(self._states) > 2 and sum(kept.nbytes for kept in self._states.values()) > KEPT_BYTES:
            del self._states[next(step for step in self._states if step)]

    def undo(self) -> None:
        """Take the last step back. Raises ValueError when the one before it is not kept."""
        if self.step - 1 not in self._states:
            raise ValueError("there is nothing to undo")
        del self._states[self.step]


def state_before(trajectory: Trajectory, step: int, sandbox: Sandbox) -> State:
    """The State that ``step`` of a recorded episode began from (0 is the first step): run another action from it, and
    the episode takes another turn. ``len(trajectory.steps)`` gives the State after the last step.

    ``sandbox`` is the episode's own, made again: tools of the same names, the same seed (``player.sandbox_of``). Raises
    ValueError for a step that there is not, and for an episode recorded without ``keep_states``; SandboxError for
    States of another build of the guest, or of another sandbox.
    """
    if not 0 <= step <= len(trajectory.steps):
        raise ValueError(f"there is no step {step} in {trajectory.task_id}, which has {len(trajectory.steps)}")
    state = sandbox.initial
    for done in trajectory.steps[:step]:
        if done.state is None:
            raise ValueError(f"{trajectory.task_id} was recorded without its States: record it with keep_states")
        state = State.from_bytes(done.state, sandbox.limits, base=state)
    return state
