"""A session keeps its States, but not more than fit in memory."""

import pytest

from agentdistill import Sandbox, session
from agentdistill.session import Session


def test_the_oldest_states_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Session(Sandbox())
    kept.run("x = 0; y = bytes(range(256)) * 4096")
    monkeypatch.setattr(session, "KEPT_BYTES", 4 * kept.state().nbytes)
    for _ in range(9):
        kept.run("x += 1")
    assert kept.step == 10
    assert kept.run("x").value == "9"
    with pytest.raises(ValueError, match=r"no step 5: the steps kept are 0 and (\d+) to 11"):
        kept.run("x", from_step=5)
    assert kept.run("x", from_step=0).error_type == "NameError"
    with pytest.raises(ValueError, match="nothing to undo"):
        for _ in range(12):
            kept.undo()
    assert kept.step > 5  # never back over the gap, to a State that is not the one before


def test_a_state_larger_than_the_memory_for_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KEPT_BYTES", 1)
    kept = Session(Sandbox())
    assert [kept.run(code).value for code in ("x = 1", "x += 1", "x")] == [None, None, "2"]
