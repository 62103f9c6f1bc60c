"""A device that is not there is named before anything starts."""

import pytest
import torch

from minirlhf.config import InputError
from minirlhf.device import pick_device


def test_auto_is_a_device_that_works():
    assert torch.zeros(1, device=pick_device("auto")).item() == 0


def test_the_cpu_can_always_be_asked_for():
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"--device {name}"):
        pick_device(name)


def test_a_device_nobody_knows_is_refused():
    with pytest.raises(InputError, match="--device gpu: choose cpu, cuda, mps or auto"):
        pick_device("gpu")
