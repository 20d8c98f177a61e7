"""Tools: their description for the model, and what the sandbox gets."""

import threading

import pytest

from agentdistill import Sandbox
from agentdistill.tools.tool import MAX_HANGING_CALLS, Tool, describe_tools, python_tool, sandbox_tools


def distance(start: str, end: str = "here", *, miles: bool = False) -> float:
    """Distance between two towns.

    In kilometres, or else in miles.
    """
    return 5.0 if miles else 8.0


SEARCH = Tool("web_search", "(query: str) -> str", "Search.\nUse key words.", lambda query: "nothing")

SHOWN = '''def web_search(query: str) -> str:
    """Search.
    Use key words."""

def distance(start: str, end: str = 'here', *, miles: bool = False) -> float:
    """Distance between two towns.

    In kilometres, or else in miles."""

def final_answer(answer):
    """Give the final answer to the question and end the work."""'''


def test_tools_are_shown_as_python() -> None:
    shown = describe_tools([SEARCH, python_tool(distance)])
    assert shown == SHOWN
    compile(shown, "tools", "exec")


def test_a_model_can_call_what_it_is_shown() -> None:
    tools = [SEARCH, python_tool(distance)]
    sandbox = Sandbox(sandbox_tools(tools))
    observation, _ = sandbox.run(sandbox.initial, "web_search('x'), distance('a', miles=True)")
    assert observation.value == "('nothing', 5.0)"


def test_a_tool_that_hangs_is_given_up() -> None:
    come_back = threading.Event()

    def hangs() -> int:
        """Wait."""
        come_back.wait()
        return 1

    sandbox = Sandbox(sandbox_tools([python_tool(hangs)], seconds=0.05))
    code = "try:\n    hangs()\nexcept Exception as error:\n    print(error)"
    observation, _ = sandbox.run(sandbox.initial, code)
    assert observation.stdout == "TimeoutError: hangs did not answer within 0.05 s\n"
    observations = [sandbox.run(sandbox.initial, code)[0].stdout for _ in range(MAX_HANGING_CALLS)]
    assert observations[-1] == f"TimeoutError: hangs hangs: {MAX_HANGING_CALLS} calls have not returned\n"
    come_back.set()
    while sandbox.run(sandbox.initial, "hangs()")[0].value != "1":
        pass


def test_a_tool_s_own_timeout_is_its_own() -> None:
    def slow() -> None:
        """Be slow."""
        raise TimeoutError("mine")

    sandbox = Sandbox(sandbox_tools([python_tool(slow)]))
    observation, _ = sandbox.run(sandbox.initial, "slow()")
    assert observation.error is not None and "mine" in observation.error


def test_a_tool_s_arguments_may_have_any_name() -> None:
    def total(result: int, args: int = 0, self: int = 0, tool: int = 0) -> int:
        """Add up."""
        return result + args + self + tool

    sandbox = Sandbox(sandbox_tools([python_tool(total)]))
    observation, _ = sandbox.run(sandbox.initial, "total(result=1, args=2, self=3, tool=4)")
    assert (observation.value, observation.error) == ("10", None)


def undocumented() -> None:
    pass


BAD = [
    (lambda: python_tool(lambda x: x), "a tool needs a valid name"),
    (lambda: python_tool(undocumented), "the tool undocumented has no docstring"),
    (lambda: sandbox_tools([SEARCH, SEARCH]), "tools need different names"),
    (lambda: sandbox_tools([Tool("final_answer", "()", "", print)]), "none may be called final_answer"),
]


@pytest.mark.parametrize("make, message", BAD)
def test_tools_that_make_no_sense(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
