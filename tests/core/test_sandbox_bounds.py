"""Upper bounds on the resources that cells make the process use."""

from agentdistill._core import Limits, Sandbox


def test_what_a_cell_hands_to_its_tools_is_bounded_and_so_is_the_record() -> None:
    received: list[int] = []

    def take(text: str) -> str:
        received.append(len(text))
        return text[:100_000]

    sandbox = Sandbox({"take": take}, Limits(seconds=30, tool_calls=64))
    code = "taken = 0\nfor i in range(64):\n    take('a' * 1_000_000)\n    taken += 1"
    observation, state = sandbox.run(sandbox.initial, code)
    assert observation.kind == "tool_error"
    assert "the arguments of all calls of a cell are at most 8388608 bytes" in (observation.error or "")
    assert sandbox.run(state, "taken")[0].value == str(len(received)) == "8"
    recorded = [text for call in observation.tool_calls for text in (call.arguments, call.result, call.error) if text]
    assert sum(map(len, recorded)) < 600_000
    assert observation.tool_calls[0].arguments.startswith('[["aaa') and "characters left out" in recorded[0]
    assert sandbox.run(state, "take('b')")[0].tool_calls[0].arguments == '[["b"], {}]'
