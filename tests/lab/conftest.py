"""One tiny run of reproduce.py, which the tests of it and of the findings share."""

import contextlib
import pickle
from types import SimpleNamespace

import pytest
import torch

import reproduce
import tiny
from lab import workers
from minirlhf.support import run


@pytest.fixture(scope="session")
def in_one_process():
    """A context manager in which at_once calls functions in this process, on what it would send to another, and no
    training draws its curves. A new process needs seconds to import torch; a picture takes longer than a tiny training.
    """

    def call(function, *arguments):
        found = function(*pickle.loads(pickle.dumps(arguments)))
        return SimpleNamespace(result=lambda: found)

    @contextlib.contextmanager
    def patched():
        threads = torch.get_num_threads()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "_workers", lambda: SimpleNamespace(submit=call))
            patch.setattr(run, "draw_curves", lambda *args: None)
            yield
        torch.set_num_threads(threads)

    return patched


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, in_one_process):
    """The run's folder."""
    folder = tmp_path_factory.mktemp("reproduce") / "town"
    with in_one_process():
        tiny.run(reproduce, ["--tiny", "--out", str(folder)])
    return folder
