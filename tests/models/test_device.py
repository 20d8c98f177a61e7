"""The choice of this process's device."""

import pytest

torch = pytest.importorskip("torch")

from agentdistill.models.device import default_device  # noqa: E402  # it imports torch


@pytest.mark.parametrize(("environment", "device"), [({}, "cuda:0"), ({"LOCAL_RANK": "3"}, "cuda:3")])
def test_each_process_of_torchrun_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str
) -> None:
    """A process's teacher and student are loaded on its own GPU, not all on the first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_device() == device


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"
