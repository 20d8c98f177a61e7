"""The form in which a recorded conversation is learnt, and warnings if the student will be evaluated in another.

An episode is learnt in one of two forms (rollouts/wording.py), whichever it was recorded in: the trajectory stores what
its cells did, so its messages can be written in the other form. Logs of other programs do not record the tools.

Not here: how a conversation becomes tokens (examples.py).
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from agentdistill._core import Trajectory
from agentdistill.rollouts import reference
from agentdistill.rollouts.prompt import is_cut, load_prompt
from agentdistill.rollouts.wording import WORDINGS, Compat, ConversationForm
from agentdistill.tools.tool import WEB_SEARCH


def form_of(trajectory: Trajectory, prompt: str | None = None, compat: Compat | None = None) -> ConversationForm:
    """The form in which a student learns an episode. ``prompt`` is as in ``AgentConfig``."""
    action_format = trajectory.sampling.get("action_format", "code")
    own = WORDINGS[compat].default_prompt("student", trajectory.kind, action_format) if prompt is None else prompt
    return ConversationForm(load_prompt(own), _tools(trajectory, compat), compat, action_format)


def message_after(trajectory: Trajectory, number: int, compat: Compat | None) -> str:
    """The message that the model gets after a step (from 0): as recorded, or rewritten from the step's observation."""
    step, settings = trajectory.steps[number], trajectory.sampling
    if compat is None and settings.get("compat") is None:
        return step.message
    chosen, wording = step.candidates[step.winner], WORDINGS[compat]
    message = wording.observation_message(
        chosen,
        number=number + 1,
        cut_at=settings.get("max_tokens") if is_cut(chosen) else None,
        action_format=settings.get("action_format", "code"),
    )
    if compat is None:
        message = reference.in_our_form(message)
    return wording.last_word(message, trajectory.question) if is_last_word(trajectory, number + 1) else message


def is_last_word(trajectory: Trajectory, number: int) -> bool:
    """Whether a step (from 0) is the final answer that was requested when the steps were used up."""
    was_requested = trajectory.sampling.get("last_word") and trajectory.kind == "agent"
    return bool(was_requested and trajectory.outcome != "final_answer" and 0 < number == len(trajectory.steps) - 1)


def form_warnings(trajectories: Sequence[Trajectory], prompt: str | None, compat: Compat | None) -> Iterator[str]:
    """Warnings about differences between what the student sees in training and in evaluation."""
    n = len(trajectories)
    recorded = Counter(trajectory.sampling.get("compat") for trajectory in trajectories)
    if compat is None and (theirs := recorded["reference"]):
        yield (
            f"{theirs} of {n} trajectories are in the form of the paper's code, and are converted to this package's: "
            'train and evaluate with compat "reference" to keep it'
        )
    if compat == "reference" and (ours := recorded[None]):
        yield (
            f"{ours} of {n} trajectories are not in the form of the paper's code: their messages are converted to it, "
            "except for the passages of searches"
        )
    if unsaid := sum("tools" not in trajectory.sampling and trajectory.kind == "agent" for trajectory in trajectories):
        yield (
            f"{unsaid} of {n} trajectories are from other programs, and do not record their tools: the prompt lists "
            "web_search if they mention it, and final_answer; evaluate with the same tools"
        )
    forms = Counter(form_of(trajectory, prompt, compat) for trajectory in trajectories)
    if len(forms) > 1:
        most, *others = (form for form, _ in forms.most_common())
        differ = sorted({part for other in others for part in most.differences(other)})
        yield f"the trajectories differ in their {' and '.join(differ)}: evaluation uses one of {len(forms)} forms"


def _tools(trajectory: Trajectory, compat: Compat | None) -> str:
    """The prompt's description of the tools. For another form or another program's log, it lists web_search only if the
    trajectory mentions it."""
    settings = trajectory.sampling
    recorded = settings.get("tools")
    if recorded is not None and settings.get("compat") == compat:
        return str(recorded)
    written = (step.candidates[step.winner].text for step in trajectory.steps)
    known = [recorded] if recorded is not None else [*(text for _, text in trajectory.messages), *written]
    tools = [WEB_SEARCH] if any(WEB_SEARCH.name in text for text in known) else []
    return str(WORDINGS[compat].describe_tools(tools, settings.get("action_format", "code")))
