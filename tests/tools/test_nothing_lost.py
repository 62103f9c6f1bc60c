"""Whatever goes wrong beside a training, what it made is kept; and nothing that is no result is saved as one."""

import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import chat
import pretrain
import reproduce
import tiny
import train_ppo
import train_rm
import train_sft
from data.town import __main__ as town_command
from forked import PYTHON
from lab import cross_validation, stages
from minirlhf.model import GPT, RewardModel
from minirlhf.support import folder, huggingface, run
from minirlhf.support.checkpoint import load_model, read_checkpoint, save_model
from minirlhf.support.errors import InputError
from minirlhf.support.tokenizer import LONG, Tokenizer
from tiny import to_flags
from tools import export, train_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sft(world, tmp_path):
    return dict(data=(world.demonstrations,), init=world.gpt, epochs=1, batch_size=2, out=tmp_path / "sft")


def finite(path):
    return all(tensor.isfinite().all() for tensor in torch.load(path)["model"].values())


# --- results first, pictures last -----------------------------------------------------------------------------------


def test_a_folder_whose_name_looks_like_mathematics_is_drawn_all_the_same(sft, tmp_path):
    pytest.importorskip("matplotlib")
    tiny.run(train_sft, to_flags(sft | dict(out=tmp_path / "$x_$")))
    assert (tmp_path / "$x_$" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_costs_a_line_and_no_training(sft, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    (sft["out"]).mkdir()
    draw = run.draw_curves

    def in_the_way(out, curves):
        (out / "curves.png").mkdir()
        draw(out, curves)

    monkeypatch.setattr(run, "draw_curves", in_the_way)
    tiny.run(train_sft, to_flags(sft))
    assert finite(sft["out"] / "model.pt")
    assert f"no {sft['out']}/curves.png: " in capsys.readouterr().out


def test_a_foreign_backend_of_matplotlib_costs_no_training(sft):
    environment = os.environ | {"MPLBACKEND": "no such"}
    words = [sys.executable, "train_sft.py", *to_flags(sft)]
    assert subprocess.run(words, cwd=ROOT, env=environment).returncode == 0
    assert finite(sft["out"] / "model.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize("how", ["closed pipe", "full disk", "closed"])
def test_output_that_goes_nowhere_costs_no_training(how, sft):
    words = [sys.executable, "train_sft.py", *to_flags(sft)]
    if how == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
    elif how == "full disk":
        with open("/dev/full", "w") as full:
            ended = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    else:
        shell = ["bash", "-c", '"$@" >&-', "bash", *words]
        ended = subprocess.run(shell, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert finite(sft["out"] / "model.pt")
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr and "Error" not in ended.stderr


# --- nothing that is no result ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["gpt", "sft", "rm"])
def test_a_last_step_that_blows_up_saves_nothing(script, world, tmp_path, no_pictures, monkeypatch):
    """The loss of the last step is finite; what that step makes of the weights is not."""
    place, own = {
        "gpt": (pretrain, dict(data=(world.documents,), tokenizer=world.gpt, size="nano", n_layer=1, n_ctx=64)),
        "sft": (train_sft, dict(data=(world.demonstrations,), init=world.gpt)),
        "rm": (train_rm, dict(data=(world.rankings,), init=world.gpt, demonstrations=(world.demonstrations,))),
    }[script]

    def blow_up(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(math.inf)

    monkeypatch.setattr(torch.optim.Adam, "step", blow_up)
    with pytest.raises(InputError, match="epoch-1.pt: not saved, its weights are not finite|step 0: bias is nan"):
        tiny.run(place, to_flags(own | dict(batch_size=4, epochs=1, out=tmp_path / "out")))
    assert not list((tmp_path / "out").glob("*.pt"))


def spoil(world, tmp_path, tokenizer, change):
    """The world's GPT with its checkpoint changed."""
    checkpoint = read_checkpoint(world.gpt)
    change(checkpoint)
    tokenizer.save(tmp_path / "spoilt")
    torch.save(checkpoint, tmp_path / "spoilt" / "model.pt")
    return tmp_path / "spoilt"


NAME = "transformer.h.1.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"][NAME].fill_(math.nan), f"tensor {NAME}: no model"),
        (lambda c: c["model"][NAME].fill_(1e30), f"tensor {NAME}: no model"),
        (lambda c: c["model"].update({NAME: torch.ones(64, 16).to_sparse()}), "no model of the sizes"),
        (lambda c: c["model"].pop(NAME), f"tensor {NAME}: no model"),
        (lambda c: c["model"].update(more=torch.ones(1)), "tensor more: no model"),
        (lambda c: c["model"].update({NAME: torch.ones(2)}), f"tensor {NAME}: no model"),
        (lambda c: c["model"].update({NAME: "x"}), f"tensor {NAME}: no model"),
        (lambda c: c["config"].update(n_layer=1), "tensor transformer.h.1.attn.c_attn.bias: no model"),
        (lambda c: c["config"].update(n_layer=10**9), "tensor transformer.h.10.attn.c_attn.bias: no model"),
        (lambda c: c["config"].update(n_ctx=32), "tensor transformer.wpe.weight: no model"),
        (lambda c: c["config"].update(n_head=3), "no model of the sizes"),
        (lambda c: c["config"].update(n_head=0), "no model of the sizes"),
        (lambda c: c["config"].update(n_embd="16"), "no model of the sizes"),
        (lambda c: c["config"].update(dropout=0.1), "no model of the sizes"),
        (lambda c: c["config"].pop("n_ctx"), "no model of the sizes"),
        (lambda c: c.update(config=[1]), "no model of the sizes"),
        (lambda c: c.update(model=[1]), "no model of the sizes"),
        (lambda c: c.update(kind=["gpt"]), "is a \\['gpt'\\]'s checkpoint"),
    ],
)
@pytest.mark.parametrize(("kind", "new_head"), [(GPT, False), (RewardModel, True)])
def test_a_checkpoint_that_disagrees_with_itself_is_named(kind, new_head, change, says, world, tmp_path, tokenizer):
    """A new reward model too: only its head may be new."""
    source = spoil(world, tmp_path, tokenizer, change)
    with pytest.raises(InputError, match=f"{source}/model.pt: .*{says}"):
        load_model(source, kind, tokenizer, new_head=new_head)


def test_a_reward_model_may_start_from_a_gpt_or_go_on_from_one_of_its_kind(world, tokenizer):
    for source, same in ((world.gpt, False), (world.rm, True)):
        model = load_model(source, RewardModel, tokenizer, new_head=True)
        stored = read_checkpoint(source)["model"]
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())
        assert ("head.weight" in stored) is same


def test_weights_that_are_not_finite_are_not_saved(tmp_path, tokenizer):
    model = tiny.make(GPT, tokenizer.n_vocab)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] = math.inf
    with pytest.raises(InputError, match="model.pt: not saved, its weights are not finite; lower the learning rate"):
        save_model(tmp_path / "model.pt", model, tokenizer)
    assert not (tmp_path / "model.pt").exists()


def test_rankings_that_all_tie_are_refused(world, tmp_path):
    path = tiny.write_lines(tmp_path / "ties.jsonl", [{"prompt": "a", "responses": ["b", "c"], "ranks": [2, 2]}] * 3)
    with pytest.raises(InputError, match=f"{path}: all responses tie"):
        tiny.run(train_rm, to_flags(dict(data=(path,), init=world.gpt, out=tmp_path / "rm")))
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize("record", [{"text": ""}, {"other": "x"}, {"responses": []}])
def test_data_without_text_trains_no_tokenizer(record, tmp_path):
    path = tiny.write_lines(tmp_path / "none.jsonl", [record])
    with pytest.raises(InputError, match=f"{path}: no text to learn from"):
        tiny.run(train_tokenizer, ["--data", path, "--out", str(tmp_path / "t")])
    assert not (tmp_path / "t").exists()


def test_a_tokenizer_is_not_replaced_when_its_corpus_has_changed(tmp_path):
    path = tiny.write_lines(tmp_path / "d.jsonl", [{"text": "the cat"}])
    words = ["--data", path, "--vocab_size", "258", "--out", str(tmp_path / "t")]
    tiny.run(train_tokenizer, words)
    before = tiny.snapshot(tmp_path / "t")
    tiny.write_lines(path, [{"text": "oooo"}])
    with pytest.raises(InputError, match=f"--data {path} has changed since --out {tmp_path}/t was begun"):
        tiny.run(train_tokenizer, words)
    assert tiny.snapshot(tmp_path / "t") == before


def test_a_pipe_is_refused_since_it_cannot_be_read_again(sft, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: a folder or a pipe; give a file"):
        tiny.run(train_sft, to_flags(sft | dict(data=(tmp_path / "pipe",))))


# --- whose folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", [pretrain, train_sft, train_rm, train_ppo, train_tokenizer, export, reproduce, cross_validation,
               town_command],
)  # fmt: skip
def test_an_empty_folders_name_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "data init prompts policy reward_model pairs documents checkpoint"
    given = {pretrain: ["data"], train_sft: ["data", "init"], train_rm: ["data", "init"], export: ["checkpoint"],
             train_ppo: ["policy", "reward_model", "prompts"], train_tokenizer: ["data"], reproduce: [],
             cross_validation: ["pairs", "documents"], town_command: []}[script]  # fmt: skip
    assert set(given) <= set(words.split())
    more = ["--ptx_coef", "0"] if script is train_ppo else []
    with pytest.raises(InputError, match="--out: is empty; give a name"):
        tiny.run(script, [*sum((["--" + name, "x"] for name in given), []), "--out", "", *more])
    assert not list(tmp_path.iterdir())


def test_the_towns_command_leaves_a_finished_runs_folder_alone(tmp_path):
    few = {f: 2 for f in town_command.Config.__dataclass_fields__ if f not in ("out", "seed")}
    tiny.run(town_command, to_flags(few | dict(out=tmp_path / "town")))
    before = tiny.snapshot(tmp_path)
    with pytest.raises(InputError, match="holds another run .--seed was 0, now 1"):
        tiny.run(town_command, to_flags(few | dict(out=tmp_path / "town", seed=1)))
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize(("word", "says"), [("-1", "--web: -1 is negative"), ("x", "--web: invalid int value")])
def test_the_towns_command_answers_a_mistake_with_a_line(word, says, tmp_path):
    words = [*PYTHON, "-m", "data.town", "--out", tmp_path / "town", "--web", word]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert says in ended.stderr


def test_an_export_that_was_cut_short_is_done_again_and_replaces_nothing(world, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    words = ["--checkpoint", world.gpt, "--out", str(tmp_path / "hf")]
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "write_atomically", lambda *args: 1 / 0)  # at the weights, which come last
        with pytest.raises(ZeroDivisionError):
            tiny.run(export, words)
    assert not (tmp_path / "hf").exists()
    tiny.run(export, words)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    before = tiny.snapshot(tmp_path)
    for file in ("tokenizer_config.json", None):  # a folder of other weights has no such file
        with pytest.raises(InputError, match="is not empty"):
            tiny.run(export, words)
        assert tiny.snapshot(tmp_path) == before
        if file:
            before.pop(tmp_path / "hf" / file)
            (tmp_path / "hf" / file).unlink()


def test_a_rank_ends_when_torchrun_is_killed(tmp_path):
    """Its parent here is a shell that is killed as torchrun may be."""
    follow = "import os; from minirlhf.support.processes import end_with; end_with(os.getppid())"
    code = f"{follow}; {tiny.beats(tmp_path / 'beat')}"
    starter = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {code!r}])"
    tiny.kill_when_it_beats(subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT), tmp_path / "beat")
    assert tiny.stopped_beating(tmp_path / "beat")


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", None), ("RANK", "x"), ("MASTER_PORT", "")])
def test_half_of_torchruns_environment_is_named(name, value, sft):
    torchruns = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="x", MASTER_PORT="1")
    environment = {k: v for k, v in (os.environ | torchruns | {name: value}).items() if v is not None}
    words = [*PYTHON, "train_sft.py", *to_flags(sft)]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert (
        ended.stderr
        == f"error: environment: RANK is set, and {name} is not a number; unset RANK, or start by torchrun\n"
    )


def test_a_rank_ends_before_python_takes_itself_apart(sft):
    """Gloo's threads, which DDP keeps alive, would abort some of the processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    alone = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    code = "import atexit, runpy, sys; atexit.register(print, 'taken apart'); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path('train_sft.py', run_name='__main__')"
    words, environment = [*PYTHON, "-c", code, "train_sft.py", *to_flags(sft)], os.environ | alone
    ended = subprocess.run(words, cwd=ROOT, env=environment | dict(MASTER_PORT=port), capture_output=True, text=True)
    assert ended.returncode == 0 and "taken apart" not in ended.stdout
    assert finite(sft["out"] / "model.pt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(RANK="3"), "RANK 3 is not below WORLD_SIZE 1"), (dict(MASTER_ADDR=""), "MASTER_ADDR is not"),
        (dict(MASTER_ADDR="nowhere.invalid"), "MASTER_ADDR nowhere.invalid, MASTER_PORT"),
        (dict(LOCAL_RANK=None), "LOCAL_RANK is not a number"), (dict(MASTER_PORT="99999"), "MASTER_PORT 99999"),
        (dict(), "the processes cannot meet there"),
    ],
)  # fmt: skip
def test_an_environment_in_which_no_processes_can_meet_is_a_line(change, says, sft):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        by_hand = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        environment = os.environ | by_hand | dict(MASTER_PORT=port) | change
        environment = {name: value for name, value in environment.items() if value is not None}
        words = [*PYTHON, "train_sft.py", *to_flags(sft)]
        ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("[")]  # torch logs, too
    assert ended.returncode == 2 and len(lines) == 1
    assert lines[0].startswith("error: environment: ") and says in lines[0]


def test_a_rank_whose_partner_has_failed_says_so(sft, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    by_hand = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    words = [*PYTHON, "train_sft.py", *to_flags(sft)]
    pipes = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ranks = [
        subprocess.Popen([*words, *more], env=os.environ | by_hand | dict(RANK=rank, LOCAL_RANK=rank), **pipes)
        for rank, more in (("0", ()), ("1", ("--data", "nowhere.jsonl")))
    ]
    (out, first), (_, second) = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2] and "nowhere.jsonl: no such file" in second
    assert out.startswith(f"waiting for 2 processes to meet at 127.0.0.1:{port}\n")
    lines = [line for line in first.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and lines[0].startswith("error: another process of this run has ended")


# --- permissions -----------------------------------------------------------------------------------------------------

AS_NOBODY = """
import os, runpy, sys, train_sft
"".encode("utf-8-sig")  # loaded now, since Python's own folder may be closed to others
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def as_nobody(tmp_path):
    """Runs a script as an ordinary user, who owns nothing; pytest's folders are closed to others, so it opens them."""
    if not hasattr(os, "getuid") or os.getuid():
        pytest.skip("only root can become somebody else")
    before = {path: path.stat().st_mode for path in (tmp_path, *tmp_path.parents)[:4]}
    for path, mode in before.items():
        path.chmod(mode | 0o055)
    yield lambda *words: subprocess.run(
        [*PYTHON, "-c", AS_NOBODY, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    for path, mode in before.items():
        path.chmod(mode)


@pytest.mark.parametrize("closed", ["data", "data's folder", "init", "out", "out's folder", "the run's config.json"])
def test_a_path_without_permission_is_a_line(closed, as_nobody, world, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(world.folder, folder)
    (folder / "run").mkdir()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
        path.chmod(0o755 if path.is_dir() else 0o644)
    flags = dict(
        data=(folder / "demonstrations.jsonl",), init=folder / "gpt", epochs=1, batch_size=2, out=folder / "run"
    )
    target = {"data": folder / "demonstrations.jsonl", "init": folder / "gpt" / "model.pt", "out": folder / "run",
              "data's folder": tmp_path / "closed", "out's folder": tmp_path / "closed",
              "the run's config.json": folder / "run" / "config.json"}[closed]  # fmt: skip
    if target.name == "closed":
        target.mkdir()
        name, value = ("data", (target / "d.jsonl",)) if closed == "data's folder" else ("out", target / "run")
        flags[name] = value
    if target.name == "config.json":
        target.write_text("{}")
    os.chown(target, 0, 0)
    target.chmod(0)
    ended = as_nobody("train_sft.py", *to_flags(flags))
    target.chmod(0o700)
    assert ended.returncode == 2 and re.fullmatch(r"error: [^\n]+\n", ended.stderr), ended.stderr
    assert not list(folder.rglob("model.pt.*")) and not (folder / "run" / "model.pt").exists()


def test_what_may_not_be_read_is_not_taken_for_damaged(as_nobody, world, tmp_path):
    """A finished run's model, and a state: both are in order, and stay."""
    mine = shutil.copytree(world.folder, tmp_path / "mine")
    for name, kept in (("model.pt", "finished"), ("state-00000002.pt", "stopped")):
        out = mine / kept
        words = ["--data", mine / "demonstrations.jsonl", "--init", mine / "gpt", "--epochs", "2", "--batch_size", "2"]
        words += ["--out", out, "--save_every", "1"]
        tiny.run(train_sft, [*map(str, words)])
        folder.release_locks()
        if kept == "stopped":
            (out / "model.pt").rename(out / name)
        for path in (mine, *mine.rglob("*")):
            os.chown(path, 65534, 65534)
            path.chmod(0o755 if path.is_dir() else 0o644)
        before = (out / name).read_bytes()
        (out / name).chmod(0)
        ended = as_nobody("train_sft.py", *words, "--resume")
        assert ended.returncode == 2 and re.fullmatch(rf"error: .*{name}: Permission denied[^\n]+\n", ended.stderr)
        assert (out / name).read_bytes() == before


# --- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "flag", "value", "says"),
    [
        (train_sft, "seed", 2**63, "out of range"), (train_sft, "seed", "9" * 5000, "invalid int value"),
        (train_sft, "lr", "inf", "out of range"), (train_sft, "max_grad_norm", "nan", "out of range"),
        (train_sft, "epochs", 10**12, "at most 10,000"), (train_sft, "batch_size", 10**12, "at most 1,000,000"),
        (pretrain, "n_ctx", 10**12, "at most 1,000,000"), (pretrain, "n_layer", 10**9, "at most 10,000"),
        (train_ppo, "document_tokens", 0, "must be above 0"), (train_ppo, "inner_epochs", 10**12, "at most 10,000"),
    ],
)  # fmt: skip
def test_numbers_beyond_sense_are_refused(script, flag, value, says, world, tmp_path):
    settings = {
        train_sft: dict(data=(world.demonstrations,), init=world.gpt),
        pretrain: dict(data=(world.documents,), tokenizer=world.gpt, size="nano"),
        train_ppo: dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), ptx_coef=0, batch_size=4,
                        episodes=4, minibatch_size=2, max_response=5),
    }[script]  # fmt: skip
    with pytest.raises(InputError, match=f"--{flag}.*{says}|{says}.*--{flag}"):
        tiny.run(script, to_flags(settings | {flag: value, "out": tmp_path / "out"}))
    assert not (tmp_path / "out").exists()


def test_more_memory_than_there_is_ends_in_a_line(world, tmp_path):
    flags = dict(
        data=(world.documents,), tokenizer=world.gpt, size="nano", n_embd=999_999, n_head=3, out=tmp_path / "x"
    )
    words = [*PYTHON, "pretrain.py", *to_flags(flags)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "memory" in ended.stderr and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


# --- records and tokenizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"prompt":' * 100_000, "not JSON"),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', "a message needs a role"),
        ('{"messages": [{"role": {}, "content": "a"}]}', "a message needs a role"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 3}]}', "without content"),
    ],
)
def test_records_of_any_shape_are_named(line, says, sft, tmp_path):
    (tmp_path / "d.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=f"d.jsonl(:1)?: .*{says}"):
        tiny.run(train_sft, to_flags(sft | dict(data=(tmp_path / "d.jsonl",))))


def test_a_million_spaces_are_encoded(tokenizer):
    text = "the cat" + " " * 10**6 + "sat"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    short = "the" + " " * (LONG - 10) + "cat"
    assert tokenizer.encode(short) == tokenizer.encoding.encode_ordinary(short)


@pytest.mark.parametrize("pattern", ["", "a*", "(a+)+$", "(", None, 7, ["x"]])
def test_a_pattern_that_is_not_known_is_refused(pattern, sft, tmp_path, tokenizer, world):
    folder = tmp_path / "gpt"
    save_model(folder / "model.pt", load_model(world.gpt, GPT), tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps({"pattern": pattern}))
    with pytest.raises(InputError, match="tokenizer.json: its pattern is not one of these scripts'"):
        tiny.run(train_sft, to_flags(sft | dict(init=folder)))


# --- talking ---------------------------------------------------------------------------------------------------------


def talk(world, monkeypatch, stdin, *words):
    monkeypatch.setattr(sys, "stdin", stdin)
    tiny.run(chat, [world.gpt, *words])


@pytest.mark.parametrize("content", [b"\xff\xfe name a dog\n", b"", b"\n"])
def test_a_chat_reads_any_bytes(content, world, monkeypatch, capsys):
    talk(world, monkeypatch, io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert capsys.readouterr().out.count(" | ") >= (b"dog" in content)


def test_a_chat_whose_input_is_closed_ends(world, monkeypatch):
    talk(world, monkeypatch, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "1e-30"], "--temperature 1e-30: must be at least 0.01"),
        (["--temperature", "inf"], "out of range"),
        (["--seed", "-1"], "--seed: -1 is negative"), (["--prompt", "", "--ending", ""], "the prompt is empty"),
        (["--prompt", "a" * 200], "shorten it"),
    ],
)  # fmt: skip
def test_a_chat_that_cannot_answer_fails(words, says, world):
    with pytest.raises(InputError, match=says):
        tiny.run(chat, [world.gpt, *words])


def test_control_characters_of_a_model_are_shown_and_not_obeyed(world, monkeypatch, capsys):
    monkeypatch.setattr(chat, "reply", lambda *args: ("a\x1b[2Jb\rc\nd\u202e", 0))
    tiny.run(chat, [world.gpt, "--prompt", "x"])
    shown = capsys.readouterr().out
    assert "a\\x1b[2Jb\\rc\n" in shown and "| d\\u202e\n" in shown


# --- scripts that call scripts ---------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    records = [{"prompt": f"\n\nHuman: {i}\n\nAssistant:", "chosen": f" yes {i}", "rejected": " no"} for i in range(12)]
    documents = tiny.write_lines(tmp_path / "docs.jsonl", tiny.DOCUMENTS)
    shape = dict(size="nano", n_layer=1, n_ctx=64, vocab_size=270, episodes=64, max_response=4)
    pairs = tiny.write_lines(tmp_path / "pairs.jsonl", records)
    return shape | dict(pairs=pairs, documents=(documents,), folds=2, run_folds=1, out=tmp_path / "folds")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("episodes", 10), ("episodes", 0), ("max_response", 64), ("rm_batch", 0), ("lr", 0),
     ("rm_lr", 0), ("n_layer", 0), ("pretrain_epochs", 0), ("vocab_size", 256), ("folds", 13), ("n_ctx", 3),
     ("tokenizer", "nowhere")],
)  # fmt: skip
def test_folds_refuses_before_any_training_and_names_its_own_flag(flag, value, pairs, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(pretrain, "main", lambda argv: pytest.fail("trained"))
    with pytest.raises(InputError) as error:
        tiny.run(cross_validation, to_flags(pairs | {flag: value} | ({"max_response": 2} if flag == "n_ctx" else {})))
    assert f"--{flag} {value}" in str(error.value) or f"{value}: no tokenizer there" in str(error.value)


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [("y", "n", "too little for the comparison with word counts"), ("yes", "yes", "one answer above another"),
     ("", "no", "one answer above another")],
)  # fmt: skip
def test_folds_refuses_pairs_of_which_it_cannot_learn_before_any_training(chosen, rejected, says, pairs, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(pretrain, "main", lambda argv: pytest.fail("trained"))
    ranks = [1, 1 if chosen == rejected else 2]
    records = [{"prompt": f"{i}", "responses": [chosen, rejected], "ranks": ranks} for i in range(12)]
    with pytest.raises(InputError, match=says):
        tiny.run(
            cross_validation,
            to_flags(pairs | dict(pairs=tiny.write_lines(pairs["out"].parent / "other.jsonl", records))),
        )


def test_a_corrected_flag_of_folds_keeps_the_stages_that_did_not_use_it(pairs, monkeypatch, no_pictures, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(train_ppo, "main", lambda argv: (_ for _ in ()).throw(InputError("so long")))
    with pytest.raises(InputError, match="so long"):
        tiny.run(cross_validation, to_flags(pairs))
    monkeypatch.undo()
    before = (pairs["out"] / "fold-0" / "rm" / "model.pt").read_bytes()
    tiny.run(cross_validation, to_flags(pairs | dict(episodes=128)))
    assert "fold-0/rm is finished already" in capsys.readouterr().out
    assert (pairs["out"] / "fold-0" / "rm" / "model.pt").read_bytes() == before
    assert json.loads((pairs["out"] / "folds.json").read_text())["ppo"]


def test_a_stage_whose_result_is_gone_is_done_again(tmp_path, capsys):
    out = tmp_path / "town"
    words = ["--tiny", "--out", str(out), "--stage", "gpt"]
    tiny.run(reproduce, words)
    model = (out / "gpt" / "model.pt").read_bytes()
    for path in (out / "gpt").iterdir():
        path.unlink()
    (out / "gpt").rmdir()
    tiny.run(reproduce, words)
    shown = capsys.readouterr().out
    assert f"-- gpt: again, since {out}/gpt/model.pt is missing or truncated" in shown and "-- town: kept" in shown
    assert (out / "gpt" / "model.pt").read_bytes() == model
    for name, content in (("gpt/model.pt", model[:-50]), ("gpt/model.pt", b"")):
        (out / name).write_bytes(content)
        tiny.run(reproduce, words)
        assert f"{out}/{name} is missing or truncated" in capsys.readouterr().out
        assert (out / "gpt" / "model.pt").read_bytes() == model


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_truncated_evaluation_is_not_whole(content, tmp_path):
    (tmp_path / "evaluation.json").write_text(content)
    assert not stages.whole(tmp_path / "evaluation.json")
    (tmp_path / "evaluation.json").write_text('{"models": {}}')
    assert stages.whole(tmp_path / "evaluation.json")


@pytest.mark.parametrize("content", ["[]", "{", '{"gpt": "x"}'])
def test_a_spoilt_record_of_the_stages_is_named(content, tmp_path):
    out = tmp_path / "town"
    tiny.run(reproduce, ["--tiny", "--out", str(out), "--stage", "town"])
    (out / "stages.json").write_text(content)
    with pytest.raises(InputError, match=f"{out}/stages.json: "):
        tiny.run(reproduce, ["--tiny", "--out", str(out), "--stage", "town"])


def test_ctrl_c_while_workers_begin_is_one_line(tmp_path):
    code = (
        "from minirlhf.support.config import command; from lab.workers import at_once; import time\n"
        "from lab.stages import Config\n"
        "def main(config): print('on', flush=True); at_once((time.sleep, 9), (time.sleep, 9))\n"
        "command(main, Config)"
    )
    words = [sys.executable, "-c", code]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    accept_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # SIGINT is ignored in background jobs
    process = subprocess.Popen(words, cwd=ROOT, start_new_session=True, preexec_fn=accept_sigint, **pipes)
    process.stdout.readline()
    time.sleep(0.5)  # they import torch
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.startswith("stopped: ") and shown.count("\n") == 1


def test_a_folds_fold_of_no_use_is_not_needed(pairs):
    """A dataclass of flags that is never parsed is still checked."""
    with pytest.raises(InputError, match="--episodes 10"):
        replace(cross_validation.Config(pairs="", documents=(), out="x"), episodes=10)


def test_locks_are_let_go(tmp_path):
    folder.lock(tmp_path)
    folder.release_locks()
    folder.lock(tmp_path)
    assert len(folder._locks) == 1


def test_a_tokenizers_pattern_is_one_of_two(tokenizer):
    assert Tokenizer(tokenizer.ranks).encode("the cat") == tokenizer.encode("the cat")
