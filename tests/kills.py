"""Kills each script at random moments until it ends, sometimes while a second process waits for its lock, and checks
that it leaves the same bytes as a run without kills.

    python tests/kills.py --seed 1 --kills 30
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
from tiny import to_flags  # noqa: E402

PAIRS = [{"prompt": f"\n\nHuman: {i}\n\nAssistant:", "chosen": f" yes {i}", "rejected": " no"} for i in range(24)]


def commands(folder):
    """{script: its flags without --out}, for runs of a few seconds."""
    (folder / "world").mkdir()
    world = tiny.make_world(folder / "world", tiny.make_tokenizer())
    pairs = tiny.write_lines(folder / "world" / "pairs.jsonl", PAIRS)
    many = tiny.write_lines(folder / "world" / "many.jsonl", [{"text": f"page {i} of the cat"} for i in range(60_000)])
    kept = dict(save_every=3, resume=True)
    return {
        "train_sft.py": dict(data=(world.demonstrations,), init=world.gpt, epochs=150, batch_size=2) | kept,
        "train_rm.py": dict(data=(world.rankings,), init=world.gpt, epochs=150, batch_size=2) | kept,
        "train_ppo.py": dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), max_response=8,
                             documents=(world.documents,), documents_per_episode=1, episodes=4 * 60, batch_size=4,
                             minibatch_size=2) | kept,
        "-m lab.cross_validation": dict(pairs=pairs, documents=(world.documents,), folds=2, run_folds=2,
                                        size="nano", n_layer=1, n_ctx=64, vocab_size=270, episodes=128, max_response=4),
        "reproduce.py": dict(tiny=True, stage="rm"),
        "-m tools.train_tokenizer": dict(data=(many,), vocab_size=400),
        "-m tools.encode": dict(data=(many,), tokenizer=world.gpt, processes=2),
        "-m data.town": dict(web=60_000, demonstration=2_000),
    }  # fmt: skip


def left_in(out):
    """The contents of a folder's files, without metrics.jsonl, which has times."""
    names = ("model.pt", "*.bin", "about.json", "*.tiktoken", "tokenizer.json", "*.jsonl", "folds.json", "epoch-*.pt")
    found = {path.relative_to(out): path for name in names for path in Path(out).rglob(name)}
    return {str(name): content(path) for name, path in sorted(found.items()) if path.name != "metrics.jsonl"}


def content(path):
    """A file's content, without the command that made it, which names the folder."""
    if path.name == "folds.json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key != "made by"}
    return path.read_bytes()


def start(script, flags, out):
    words = [sys.executable, *script.split(), *to_flags(flags | dict(out=out))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # sums in the same order
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)


def end(process, seconds=None):
    """(exit status, output) of a process, which is killed after so many seconds."""
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0]
    return process.returncode, output


def harass(script, flags, scratch, kills, rng):
    """Yields descriptions of what went wrong with one script."""
    began = time.perf_counter()
    status, output = end(start(script, flags, scratch / "undisturbed"))
    seconds, wanted, out = time.perf_counter() - began, left_in(scratch / "undisturbed"), scratch / "killed"
    if status:
        yield f"{script}, without kills: {output}"
        return
    killed = finished = 0
    while killed < kills or finished == 0:
        run, other = start(script, flags, out), None
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 2))
            other = start(script, flags, out)
        status, output = end(run, rng.uniform(0.2, 1) * seconds if killed < kills else None)
        killed += status == -9
        if other:
            output += end(other, 0)[1]
        if "Traceback" in output:
            yield f"{script}: {output[-2000:]}"
        if status == 0:
            left, finished = left_in(out), finished + 1
            differing = [name for name in left.keys() | wanted.keys() if left.get(name) != wanted.get(name)]
            halves = [path.name for path in out.rglob("*.half")]
            if differing or halves:
                yield f"{script}: differing {sorted(differing)}, half written {halves}"
            shutil.rmtree(out)
        elif status != -9 and "is at work in it" not in output:
            yield f"{script}: exit {status}: {output[-2000:]}"
    print(
        f"{script}: {killed} kills of a run of {seconds:.0f} s, {finished} times {len(wanted)} files compared",
        flush=True,
    )
    shutil.rmtree(scratch / "undisturbed")


def main(seed, kills, only=""):
    """A list of lines about what went wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        scripts = commands(Path(scratch)).items()
        return [line for script, flags in scripts if only in script
                for line in harass(script, flags, Path(scratch), kills, rng)]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=30, help="of each script")
    parser.add_argument("--only", default="", help="part of a script's name")
    args = parser.parse_args()
    found = main(args.seed, args.kills, args.only)
    print(*found, sep="\n")
    sys.exit(bool(found))
