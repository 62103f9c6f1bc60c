"""Fuzzing: breaks valid records, files, checkpoints, tokenizers and command lines at random, and runs the scripts.

    python tests/fuzz.py --seed 1 --attempts 10000

The property under test: a script raises an InputError of one line, or it succeeds and the model it writes is finite. It
raises no other exception, changes no existing file, and leaves no half-written one. Some mutations leave the input
valid (a changed letter in a text); then the script should succeed.
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

import chat  # noqa: E402
import pretrain  # noqa: E402
import tiny  # noqa: E402
import train_ppo  # noqa: E402
import train_rm  # noqa: E402
import train_sft  # noqa: E402
from minirlhf.support import files, records, run  # noqa: E402
from minirlhf.support.checkpoint import load_tokenizer  # noqa: E402
from minirlhf.support.config import ignore_write_errors  # noqa: E402
from minirlhf.support.errors import InputError  # noqa: E402
from minirlhf.support.folder import release_locks  # noqa: E402
from tiny import to_flags  # noqa: E402
from tools import export, select_sft, train_tokenizer  # noqa: E402

SCRIPTS = dict(tokenizer=train_tokenizer, gpt=pretrain, sft=train_sft, rm=train_rm, ppo=train_ppo, select=select_sft,
               export=export, chat=chat)  # fmt: skip
SECONDS = 30  # time limit of an attempt

# --- wrong values ----------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000
VALUES = [
    None, True, False, 0, 1, -1, 3.5, -0.0, 1e308, math.inf, math.nan, 2**31, 2**63, 2**64, 10**30,
    "", " ", "\n", "\x00", "\ud800", "\ufeff", "x", "x" * 5000, "\x1b[2J",
    [], [[]], ["a"], [None], [1, "a"], [[1, 2]], {}, {"a": 1}, {"role": "user"},
]  # fmt: skip
WORDS = [
    "", " ", "x", "0", "-1", "1", "2", "3", "1e30", "1e-30", "inf", "-inf", "nan", "0.5", "1.0", "1_0", "٣", "0x10",
    "9" * 25, "9" * 5000, f"{2**63}", f"{2**63 - 1}", f"{2**64}", "1000000000000", "1000000", "True", "none", "auto",
    "cuda", "mps", "adam", "../..", "/", ".", "~", "a" * 300, "a/" * 3000, "é", "\udcff", "$x$", "%s", "{}",
]  # fmt: skip


def wrong_value(value, rng):
    """A JSON value with one random mutation."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice([*value])
        rule = rng.randrange(4)
        if rule == 0:
            return {k: v for k, v in value.items() if k != key}
        if rule == 1:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        return value | {key: wrong_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i, rule = rng.randrange(len(value)), rng.randrange(4)
        if rule == 0:
            return value[:i] + value[i + 1 :]
        if rule == 1:
            return value * rng.choice([2, 20])
        return [*value[:i], wrong_value(value[i], rng), *value[i + 1 :]]
    return rng.choice(VALUES)


def wrong_bytes(content, rng):
    """A file's bytes with one random mutation."""
    at = rng.randrange(len(content) + 1)
    other = rng.randrange(len(content) + 1)
    return rng.choice([
        lambda: b"", lambda: content[:at], lambda: content[at:], lambda: content[:-1], lambda: content + content,
        lambda: content[:at] + rng.randbytes(1) + content[at + 1 :],
        lambda: content[:at] + rng.randbytes(20) + content[at + 20 :],
        lambda: content[:at] + b"\xff\xfe" + content[at:], lambda: b"\xef\xbb\xbf" + content,
        lambda: content[:at] + b"\x00" * 9 + content[at:], lambda: content.replace(b"\n", b"\r\n"),
        lambda: content.replace(b"\n", b" "), lambda: b"\n" * 50 + content, lambda: b" " * 10**6,
        lambda: DEEP.encode(), lambda: b'{"a":' * 100_000, lambda: b"[]", lambda: b"{}", lambda: b"null",
        lambda: b'"x"', lambda: b"7", lambda: rng.randbytes(300), lambda: b"\x1f\x8b" + content,
        lambda: content[min(at, other) : max(at, other)],
    ])()  # fmt: skip


def wrong_path(path, rng):
    """Replaces a file by a folder, a pipe, a broken or circular link, or an unreadable file; or removes it."""
    path, rule = Path(path), rng.randrange(6)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if rule == 0:
        path.mkdir()
    elif rule == 1:
        os.mkfifo(path)
    elif rule == 2:
        path.symlink_to(path)
    elif rule == 3:
        path.symlink_to(path.parent / "nowhere")
    elif rule == 4:
        path.write_bytes(b"x")
        path.chmod(0)


def wrong_tensors(checkpoint, rng):
    """A checkpoint's dict with one random mutation."""
    rule = rng.randrange(8)
    if rule == 0:
        return checkpoint | {"config": wrong_value(checkpoint["config"], rng)}
    if rule == 1:
        wrong = wrong_value({k: v for k, v in checkpoint.items() if k != "model"}, rng)
        return wrong | {"model": checkpoint["model"]} if isinstance(wrong, dict) else wrong
    if rule == 2:
        return rng.choice([[], {}, 5, checkpoint["model"], torch.zeros(3)])
    name = rng.choice([*checkpoint["model"]])
    tensor = checkpoint["model"][name]
    wrong = rng.choice([
        tensor * math.nan, tensor + math.inf, tensor[:0], tensor[None], tensor.flatten()[1:], tensor.int(),
        torch.zeros(()), "tensor", None, tensor.to(torch.complex64), tensor.half(), tensor.double(), tensor.to_sparse(),
    ])  # fmt: skip
    weights = dict(checkpoint["model"])
    if rule == 3:
        del weights[name]
    elif rule == 4:
        weights["transformer.h.9.extra"] = tensor
    else:
        weights[name] = wrong
    return checkpoint | {"model": weights}


# --- shapes of public data -------------------------------------------------------------------------------------------

ASKED, GOOD = {"role": "user", "content": "a dog"}, {"role": "assistant", "content": "red"}
SHAPES = {
    "chats": {"messages": [ASKED, GOOD]},
    "pairs": {"prompt": "a dog", "chosen": "red", "rejected": "the"},
    "alpaca": {"instruction": "a dog", "input": "", "output": "red"},
    "sharegpt": {"conversations": [{"from": "human", "value": "a dog"}, {"from": "gpt", "value": "red"}]},
    "trl": {"prompt": [ASKED], "completion": [GOOD], "label": True},
    "dolly": {"instruction": "a dog", "context": "the cat", "response": "red", "category": "qa"},
    "pku": {"prompt": "a dog", "response_0": "red", "response_1": "the", "better_response_id": 0},
    "helpsteer": {"prompt": "a dog", "response": "red", "helpfulness": 4},
    "helpsteer3": {"context": [ASKED], "response1": "red", "response2": "the", "overall_preference": -1},
    "arena": {"conversation_a": [ASKED, GOOD], "conversation_b": [ASKED, ASKED], "winner": "model_a"},
    "tree": {"message_tree_id": "a", "prompt": {"role": "prompter", "text": "a dog", "replies": [
        {"role": "assistant", "text": "red", "rank": 0}, {"role": "assistant", "text": "the", "rank": 1}]}},
    "self_instruct": {"instruction": "a dog", "instances": [{"input": "", "output": "red"}]},
}  # fmt: skip
RANKED = {"pairs", "pku", "helpsteer3", "arena", "tree"}  # train_rm.py reads these, too
MARKS = [(name, value) for name in ("label", "kto_tag", "is_safe", "correct", "thumbs_up")
         for value in (False, 0, 0.0, "false", "no", "bad")] + [("deleted", True), ("rating", "bad")]  # fmt: skip
OTHER = [("id", "x"), ("text", "the"), ("score", 0.5), ("meta", {"a": [1]}), ("label_source", "x"), ("split", None)]


def learns_the_bad(folder, rng):
    """Writes rows of one shape, of which some are marked as bad. Returns (what, whether such an answer is learned)."""
    name = rng.choice([shape for shape in SHAPES if shape not in RANKED | {"helpsteer"}])
    rows = []
    for i in range(4):
        row, bad = json.loads(json.dumps(SHAPES[name])), i % 2
        row |= dict(rng.sample(OTHER, 2))
        row.pop("label", None)
        row |= dict([rng.choice(MARKS)]) if bad else {}
        rows.append(json.loads(json.dumps(row).replace('"red"', '"BAD"' if bad else '"red"')))
        items = [*rows[-1].items()]
        rng.shuffle(items)
        rows[-1] = dict(items)
    rng.shuffle(rows)
    path = tiny.write_lines(folder / "marked.jsonl", rows)
    with contextlib.redirect_stdout(io.StringIO()):
        learned = [record["response"] for record in records.read(path, "demonstration")]
    return f"{name}: {rows}", any("BAD" in text for text in learned) or len(learned) != 2


# --- attempts --------------------------------------------------------------------------------------------------------


@dataclass
class Workspace:
    """A folder with valid inputs, and the flags with which each script runs on them."""

    folder: Path
    flags: dict

    def main(self, script, flags):
        words = to_flags({k: v for k, v in flags.items() if k != "models"})
        tiny.run(SCRIPTS[script], [*map(str, flags.get("models", ())), *words])


def make_inputs(folder, tokenizer):
    """Writes the valid inputs once; each attempt works on a copy of them."""
    folder.mkdir()
    world = tiny.make_world(folder, tokenizer)
    tiny.make_sft_run(folder / "sft", tokenizer)
    for name, row in SHAPES.items():
        tiny.write_lines(folder / f"{name}.jsonl", [row] * 2)
    (folder / "array.json").write_text(json.dumps([SHAPES["alpaca"]] * 2, indent=1))
    (folder / "table.csv").write_text('prompt,response\na dog,red\nthe cat,"red\n"\n')
    (folder / "stories.txt").write_text("the cat\n<|endoftext|>\nthe dog\n")
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(json.dumps(SHAPES["chats"]).encode()))
    with contextlib.suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([SHAPES["chats"]] * 2), folder / "table.parquet")
    with contextlib.suppress(ImportError), contextlib.redirect_stdout(io.StringIO()):
        tiny.run(export, to_flags(dict(checkpoint=world.gpt, out=folder / "hf")))


def copy_inputs(inputs, folder):
    shutil.copytree(inputs, folder)
    gpt, rm, out, quick = folder / "gpt", folder / "rm", folder / "out", dict(epochs=1, batch_size=2)
    documents, prompts = (folder / "documents.jsonl",), (folder / "prompts.jsonl",)
    return Workspace(folder, {
        "tokenizer": dict(data=documents, vocab_size=270, out=out),
        "gpt": dict(data=documents, tokenizer=gpt, size="nano", n_layer=1, n_ctx=16, out=out) | quick,
        "sft": dict(data=(folder / "demonstrations.jsonl",), init=gpt, out=out) | quick,
        "rm": dict(data=(folder / "rankings.jsonl",), init=gpt, out=out) | quick,
        "ppo": dict(policy=gpt, reward_model=rm, prompts=prompts, documents=documents, documents_per_episode=1,
                    episodes=4, batch_size=4, minibatch_size=2, max_response=5, out=out),
        "select": dict(sft=folder / "sft", reward_model=rm, prompts=prompts, max_response=5, out=out),
        "export": dict(checkpoint=gpt, out=out),
        "chat": dict(models=(gpt,), prompt="a dog", max_response=5),
    })  # fmt: skip


READERS = {  # which scripts read each input
    "documents.jsonl": ["tokenizer", "gpt", "ppo"], "demonstrations.jsonl": ["tokenizer", "sft"],
    "rankings.jsonl": ["rm", "tokenizer"], "prompts.jsonl": ["ppo", "select"],
    **{f"{name}.jsonl": ["sft", "rm"] if name in RANKED else ["sft"] for name in SHAPES},
    "array.json": ["sft"], "table.csv": ["sft", "tokenizer"], "packed.jsonl.gz": ["sft"], "table.parquet": ["sft"],
    "stories.txt": ["gpt", "tokenizer"], "gpt/model.pt": ["sft", "rm", "ppo", "export", "chat"],
    "rm/model.pt": ["ppo", "select"], "sft/epoch-1.pt": ["select"],
    "gpt/tokenizer.json": ["gpt", "sft", "chat"], "gpt/tokenizer.tiktoken": ["gpt", "sft", "chat"],
    "hf/config.json": ["sft", "chat"], "hf/tokenizer.json": ["sft", "chat"], "hf/model.safetensors": ["sft", "chat"],
}  # fmt: skip


def spoil_a_file(workspace, rng):
    """Returns (script, its flags, what was done)."""
    name = rng.choice([*READERS])
    script, path, flags = rng.choice(READERS[name]), workspace.folder / name, None
    if not path.exists():  # safetensors is not installed
        return spoil_a_file(workspace, rng)
    flags = dict(workspace.flags[script])
    if name.startswith("hf"):
        key = "models" if script == "chat" else "init"
        flags[key] = (workspace.folder / "hf",) if script == "chat" else workspace.folder / "hf"
    elif "data" in flags and not name.startswith(("gpt", "rm")):
        flags["data"] = (path,)
    kind = rng.random()
    if kind < 0.1:
        wrong_path(path, rng)
        return script, flags, f"{name}: no file"
    if kind < 0.4 or path.suffix not in (".jsonl", ".json", ".pt") or name == "array.json":
        most = 2000 if path.suffix == ".txt" else None  # a long text is valid, and takes long to learn
        path.write_bytes(wrong_bytes(path.read_bytes(), rng)[:most])
    elif path.suffix == ".jsonl":
        lines = path.read_text().split("\n")[:-1]
        i = rng.randrange(len(lines))
        lines[i] = json.dumps(wrong_value(json.loads(lines[i]), rng))
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(wrong_value(json.loads(path.read_text()), rng)))
    else:
        torch.save(wrong_tensors(torch.load(path), rng), path)
    return script, flags, f"{name} spoilt"


def spoil_a_flag(workspace, rng):
    script = rng.choice([*SCRIPTS])
    flags = dict(workspace.flags[script])
    config = getattr(SCRIPTS[script], "Config", None)
    names = [f.name for f in fields(config)] if config else ["prompt", "max_response", "temperature", "seed", "ending"]
    name = rng.choice([n for n in names if n not in ("compile",)])
    word = rng.choice(WORDS)
    if name == "out" and word in ("/", "~", ".", "../..", "x", "a/" * 3000):
        word = str(workspace.folder / "gpt")
    flags[name] = (word,) if isinstance(flags.get(name), tuple) else word
    if word in ("1000000000000", "1000000") and name in ("episodes", "epochs", "inner_epochs", "warmup"):
        flags[name] = "1000000000000"  # a million steps are valid, and take too long
        if name == "episodes":
            flags[name] = "10"
    if word == "1000000" and name == "documents_per_episode":
        flags[name] = "1000.5"
    return script, flags, f"--{name} {word[:40]!r}"


def spoil_a_run(workspace, rng):
    """Stops a run after its first state and corrupts a file of its folder; the script then runs with --resume."""
    script = rng.choice(["sft", "rm", "gpt"])
    flags = workspace.flags[script] | dict(save_every=1, resume=True)
    save_model = run.save_model

    def stop(path, *rest):
        raise KeyboardInterrupt

    run.save_model = stop
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(KeyboardInterrupt):
            workspace.main(script, flags)
    finally:
        run.save_model = save_model
    found = sorted(p for p in (workspace.folder / "out").iterdir() if p.is_file() and p.name != ".lock")
    path = rng.choice(found)
    kind = rng.random()
    if kind < 0.1 and path.name != "config.json":
        wrong_path(path, rng)
    elif kind < 0.5 or path.suffix not in (".json", ".pt"):
        path.write_bytes(wrong_bytes(path.read_bytes(), rng))
    elif path.suffix == ".json":
        path.write_text(json.dumps(wrong_value(json.loads(path.read_text()), rng)))
    else:
        state = torch.load(path)
        torch.save(wrong_value(state, rng) if rng.random() < 0.5 else rng.choice([[], {}, 5, None, "x"]), path)
    return script, flags, f"out/{path.name} spoilt, --resume"


KINDS = [spoil_a_file, spoil_a_file, spoil_a_flag, spoil_a_flag, spoil_a_run]


def snapshot(folder):
    """Modes and contents of all files outside the run's folder."""
    own = folder / "out"
    return {p: (p.lstat().st_mode, p.read_bytes() if p.is_file() and os.access(p, os.R_OK) else None)
            for p in folder.rglob("*") if own not in (p, *p.parents)}  # fmt: skip


class Hangs(BaseException):
    pass


def on_alarm(*_):
    raise Hangs


def attempt(seed, number, inputs, folder):
    """Runs one attempt in a new folder. Returns (the mutation, the outcome, None or how the property was violated)."""
    rng = random.Random(f"{seed} {number}")
    workspace = copy_inputs(inputs, folder)
    try:
        if rng.random() < 0.1:
            what, bad = learns_the_bad(folder, rng)
            return what, "read", "an answer that is marked as bad is learned, or a good one is not" if bad else None
        script, flags, what = rng.choice(KINDS)(workspace, rng)
        before = snapshot(folder)
        os.chdir(folder)
        outcome, broken = "succeeded", None
        signal.signal(signal.SIGALRM, on_alarm)
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # if the alarm has no effect
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                workspace.main(script, flags)
        except InputError as error:
            outcome = str(error)
            if not outcome.strip():
                broken = "an empty message"
        except SystemExit as error:
            broken = None if error.code == 0 else f"exit {error.code}"
        except Hangs:
            broken = f"hangs for {SECONDS} s"
        except BaseException as error:  # a panic of tiktoken's Rust code is not an Exception
            broken = f"{type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.alarm(0)
        release_locks()
        after = snapshot(folder)
        if not broken and any(after.get(path) != was for path, was in before.items()):
            broken = "an existing file was changed"
        halves = [p.name for p in folder.rglob(f"*{files.HALF}")]
        if not broken and halves:
            broken = f"left half written: {halves}"
        out = folder / "out"
        if not broken and outcome == "succeeded" and (out / "model.pt").exists():
            model = torch.load(out / "model.pt")["model"]
            if not all(t.isfinite().all() for t in model.values()):
                broken = "saved a model that is not finite"
            load_tokenizer(out)
        return f"{script}: {what}", outcome, broken
    finally:
        os.chdir(folder.parent)
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
        shutil.rmtree(folder)


def main(seed, attempts, show=False):
    """Runs the attempts; returns a line for each that violated the property. To save time, it draws no curves.png, does
    not sync files to the disk, and does not initialise models on the meta device, whose tensors hold no values."""
    run.draw_curves = os.fsync = lambda *args: None
    normal = torch.nn.init.normal_
    torch.nn.init.normal_ = lambda tensor, *args, **more: tensor if tensor.is_meta else normal(tensor, *args, **more)
    torch.set_num_threads(1)
    found, succeeded, here = [], 0, os.getcwd()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a file system in memory, on Linux
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        inputs = Path(scratch) / "inputs"
        make_inputs(inputs, tiny.make_tokenizer())
        os.chdir(scratch)
        try:
            for number in range(attempts):
                what, outcome, broken = attempt(seed, number, inputs, Path(scratch) / f"{number}")
                succeeded += outcome == "succeeded"
                if show:
                    print(number, what, "->", outcome[:200], flush=True)
                if broken:
                    found.append(f"seed {seed}, attempt {number}: {what}: {broken}")
                    print(found[-1], flush=True)
        finally:
            faulthandler.cancel_dump_traceback_later()
            os.chdir(here)
    ended = f"{attempts - succeeded} ended in an error, {succeeded} succeeded"
    print(f"seed {seed}: {attempts} attempts, {ended}, {len(found)} violated the property", file=sys.stderr)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempts", type=int, default=1000)
    parser.add_argument("--show", action="store_true", help="print every attempt and its outcome")
    args = parser.parse_args()
    ignore_write_errors()  # printed lines may hold lone surrogates
    sys.exit(bool(main(args.seed, args.attempts, args.show)))
