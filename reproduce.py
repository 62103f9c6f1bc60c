"""InstructGPT in miniature: the whole paper on the town, offline, on two CPU cores, in minutes.

    python reproduce.py                     all stages, from nothing to runs/town/report.html
    python reproduce.py --seed 1 --out runs/town-1
    python reproduce.py --stage rm          up to the reward model, and no further

Each stage calls the same main() as the script a person would run. Stopped or killed, it goes on with the same command:
finished stages are kept, and training resumes from its newest state. RECIPE is all that differs from the paper's
defaults; README.md declares it.
"""

import functools
import os
import random
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import select_sft
import train_ppo
import train_rm
import train_sft
import train_tokenizer
from data import town
from minirlhf import data, report
from minirlhf.checkpoint import load_model, load_tokenizer
from minirlhf.config import InputError, parse, require, run, to_flags
from minirlhf.device import pick_device
from minirlhf.evaluate import interval, kl, pair_hits, ranking_scores, respond, sequence_losses, sequence_scores
from minirlhf.files import claim, read_json, write_json, write_lines
from minirlhf.model import GPT, RewardModel

LIMIT = 26  # tokens of a response
RECIPE = {
    "town": dict(web=14_000, web_held_out=600, demonstration=6_000, demonstration_validation=200, prompt_train=6_000,
                 prompt_validation=300, prompt_test=2_000),
    "tokenizer": dict(vocab_size=768),
    "gpt": dict(size="toy", n_layer=2, n_ctx=96, epochs=2, batch_size=24, lr=3.5e-3, optimizer="muon", muon_lr=0.02,
                embedding_std=0.4, dropout=0.0, save_every=100),
    "sft": dict(epochs=2, batch_size=32, lr=6e-4, dropout=0.1, save_every=100),
    "rankings": dict(prompts=5_500, held_out=400),
    "rm": dict(batch_size=8, lr=7e-4, save_every=100),
    "rl_start": dict(epochs=2, batch_size=32, lr=6e-4, dropout=0.1, save_every=100),
    "ppo": dict(episodes=40 * 128, batch_size=128, minibatch_size=32, documents_per_episode=0.5, document_tokens=64,
                lr=5e-4, value_lr=5e-4, kl_coef=0.1, max_response=LIMIT, save_every=10),
    "ptx_coef": 0.2,
}  # fmt: skip
TINY = {
    "town": dict(web=400, web_held_out=40, demonstration=80, demonstration_validation=20, prompt_train=100,
                 prompt_validation=20, prompt_test=40),
    "rankings": dict(prompts=24, held_out=12),
    "gpt": dict(n_layer=1, n_ctx=128),
    "sft": dict(save_every=1),
    "ppo": dict(episodes=64, batch_size=32, minibatch_size=16),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    out: str | None = None  # folder for everything the run makes; unless given runs/town, with --tiny runs/tiny
    seed: int = 0  # of everything that is drawn
    stage: str = "report"  # last stage to run: town, gpt, sft, rankings, rm, select, ppo, evaluate or report
    tiny: bool = False  # a hundredth of the work, to see that it runs; its figures mean nothing

    def __post_init__(self):
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        require(self.stage in STAGES, f"--stage {self.stage}: choose one of {', '.join(STAGES)}")


def main(argv):
    config = parse(Config, argv, __doc__)
    config = replace(config, out=config.out or ("runs/tiny" if config.tiny else "runs/town"))
    claim(config, ignore=("stage",))
    finished = Path(config.out) / "stages.json"
    seconds = read_json(finished) if finished.exists() else {}
    recipe = {k: v | TINY.get(k, {}) if config.tiny and isinstance(v, dict) else v for k, v in RECIPE.items()}
    for name, stage in STAGES.items():
        if name in seconds:
            print(f"-- {name}: kept ({seconds[name]:.0f} s)", flush=True)
        else:
            print(f"-- {name}: {stage.__doc__}", flush=True)
            start = time.perf_counter()
            stage(config, recipe)
            seconds[name] = round(time.perf_counter() - start, 2)
            write_json(finished, seconds)
        if name == config.stage:
            break
    if "report" in seconds:
        print(report.table(read_json(Path(config.out) / "results.json")))
        print(f"{config.out}/report.html shows it{'; a tiny run, whose figures mean nothing' if config.tiny else ''}")


def flags(config, name, settings):
    """A training script's command line: its folder is the stage's own, its seed the run's."""
    return to_flags(settings | {"out": f"{config.out}/{name}", "seed": config.seed, "resume": True})


@functools.cache
def workers():
    """Processes for at_once, kept for the next call of it: a new one takes seconds to import torch."""
    return ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), begin)


def begin():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a process without a word; the parent has one
    threading.Thread(target=follow, daemon=True).start()


def follow():
    """Ends this process when its parent has: two runs must not write to one folder."""
    parent_process().join()
    os._exit(1)


def at_once(*calls):
    """[function(*arguments) for function, *arguments in calls], side by side in processes that share the cores: small
    matrices keep few threads busy."""
    cores = os.cpu_count() or 1
    threads = cores // min(len(calls), cores)
    try:
        return list(workers().map(worker, range(len(calls)), repeat(threads), calls))
    except BrokenProcessPool:
        workers.cache_clear()
        raise InputError("a process was killed (out of memory?); the same command goes on from here") from None


def worker(position, threads, call):
    function, *arguments = call
    os.environ["TQDM_POSITION"] = str(position)  # a line of the terminal for each bar
    torch.set_num_threads(threads)
    return function(*arguments)


def file(config, name):
    return f"{config.out}/town/{name}.jsonl"


# --- stages ----------------------------------------------------------------------------------------------------------


def make_town(config, recipe):
    """the web, prompts, demonstrations; and a tokenizer for them"""
    for name, records in town.files(config.seed, **recipe["town"]).items():
        write_lines(file(config, name), records)
    files = (file(config, "web"), file(config, "demonstrations"))
    train_tokenizer.main(to_flags({"data": files, "out": f"{config.out}/tokenizer"} | recipe["tokenizer"]))


def make_gpt(config, recipe):
    """pretraining on the web"""
    data_flags = dict(data=(file(config, "web"),), validation=(file(config, "web_held_out"),))
    train_sft.main(flags(config, "gpt", data_flags | dict(tokenizer=f"{config.out}/tokenizer") | recipe["gpt"]))


def make_sft(config, recipe):
    """step 1, supervised fine-tuning"""
    own = dict(init=f"{config.out}/gpt", data=(file(config, "demonstrations"),))
    own |= dict(validation=(file(config, "demonstrations_validation"),))
    train_sft.main(flags(config, "sft", own | recipe["sft"]))


def make_rankings(config, recipe):
    """labelers rank K answers to a prompt, one by the base model and the others by the last SFT epoch"""
    train = data.read(file(config, "prompts_train"), "prompt")[: recipe["rankings"]["prompts"]]
    records = train + data.read(file(config, "prompts_test"), "prompt")[: recipe["rankings"]["held_out"]]
    rng = random.Random(f"rankings {config.seed}")
    counts = rng.choices(range(4, 10), (8, 4, 2, 1, 1, 1), k=len(records))  # K
    calls = [(sample, config, "gpt", records, "rankings gpt")]
    for j in range(1, max(counts)):
        calls.append((sample, config, "sft", [r for r, k in zip(records, counts) if k > j], f"rankings sft {j}"))
    by_gpt, *by_sft = (iter(texts) for texts in at_once(*calls))
    lines = {"rankings": [], "rankings_held_out": []}
    for i, (record, k) in enumerate(zip(records, counts)):
        both = [(next(texts), "sft") for texts in by_sft[: k - 1]] + [(next(by_gpt), "gpt")]
        name, labelers = "rankings_held_out", town.HELD_OUT_LABELERS
        if i < len(train):  # rankings must not teach what the test asks
            name, labelers = "rankings", town.TRAINING_LABELERS
            both = [(text, model) for text, model in both if not town.states_test_fact(text)]
        if len(both) >= 4:
            responses, models = zip(*both)
            one, other = rng.sample(labelers, 2)
            line = town.rank(record, responses, one, rng) | {"models": models}
            lines[name].append(line | {"second_ranks": town.rank(record, responses, other, rng)["ranks"]})
    for name in lines:
        write_lines(file(config, name), lines[name])


def make_rm(config, recipe):
    """step 2, the reward model; beside it where RL starts: SFT again, with a tenth of pretraining documents mixed in"""
    demonstrations = (file(config, "demonstrations"),)
    rm = dict(init=f"{config.out}/sft", data=(file(config, "rankings"),), demonstrations=demonstrations)
    rm |= dict(validation=(file(config, "rankings_held_out"),)) | recipe["rm"]
    rl_start = dict(init=f"{config.out}/gpt", data=demonstrations, documents=(file(config, "web"),))
    rl_start = flags(config, "rl_start", rl_start | recipe["rl_start"])
    at_once((train_rm.main, flags(config, "rm", rm)), (train_sft.main, rl_start))


def select_epoch(config, recipe):
    """the SFT epoch that the reward model likes best"""
    select = dict(sft=f"{config.out}/sft", reward_model=f"{config.out}/rm", max_response=LIMIT)
    select |= dict(prompts=(file(config, "prompts_validation"),), out=f"{config.out}/sft_selected", seed=config.seed)
    select_sft.main(to_flags(select))


def make_ppo(config, recipe):
    """step 3, PPO and PPO-ptx: the same but for the coefficient"""
    both = dict(policy=f"{config.out}/rl_start", reward_model=f"{config.out}/rm")
    both |= dict(prompts=(file(config, "prompts_train"),), documents=(file(config, "web"),)) | recipe["ppo"]
    ppo = flags(config, "ppo", both | dict(ptx_coef=0.0))
    ppo_ptx = flags(config, "ppo_ptx", both | dict(ptx_coef=recipe["ptx_coef"]))
    at_once((train_ppo.main, ppo), (train_ppo.main, ppo_ptx))


# --- evaluation ------------------------------------------------------------------------------------------------------

MODELS = {"gpt": "gpt", "gpt_prompted": "gpt", "sft": "sft_selected", "rl_start": "rl_start", "ppo": "ppo",
          "ppo_ptx": "ppo_ptx"}  # fmt: skip


def answer(config, folder, records, purpose, prefix=""):
    """A model, and its sampled answers to records' prompts, as (indices, Rollout) pairs."""
    tokenizer = load_tokenizer(f"{config.out}/{folder}")
    model = load_model(f"{config.out}/{folder}", GPT, tokenizer).to(pick_device("auto"))
    prompts = [tokenizer.encode(prefix) + tokenizer.encode(record["prompt"]) for record in records]
    longest, room = max(map(len, prompts)), model.config.n_ctx - LIMIT
    require(longest <= room, f"a town prompt has {longest} tokens and {room} fit; raise gpt's n_ctx in RECIPE")
    return model, tokenizer, list(respond(model, tokenizer, prompts, LIMIT, (config.seed, *purpose.encode())))


def sample(config, folder, records, purpose):
    """One sampled response to each record's prompt, cut at the first line's end: so all are ranked and judged."""
    _, tokenizer, rollouts = answer(config, folder, records, purpose)
    return first_lines(rollouts, tokenizer)


def first_lines(rollouts, tokenizer):
    texts = {i: text for part, rollout in rollouts for i, text in zip(part, rollout.texts(tokenizer))}
    return [texts[i].split("\n")[0] for i in range(len(texts))]


class Measured(NamedTuple):
    """What is measured of one model without the others."""

    texts: list  # a sampled response to each test prompt
    judgements: list  # of texts
    utilities: list  # of texts, to the labelers' whole pool, without noise
    losses: tuple  # of held-out documents, up to the context's length: (nats, tokens) of each
    rm_scores: np.ndarray  # of texts
    kl: dict | None  # of PPO's policies to where they started, in nats per response, on the same samples


def measure(config, name):
    folder, prefix = MODELS[name], town.few_shot() if name == "gpt_prompted" else ""
    records = data.read(file(config, "prompts_test"), "prompt")
    model, tokenizer, rollouts = answer(config, folder, records, f"evaluate {name}", prefix)
    texts = first_lines(rollouts, tokenizer)
    judgements = [town.judge(*both) for both in zip(records, texts)]
    utilities = [town.mean_utility(*both) for both in zip(judgements, texts)]

    documents = [record["text"] for record in data.read(file(config, "web_held_out"), "document")]
    rows = [[tokenizer.eos, *tokenizer.encode(text), tokenizer.eos][: model.config.n_ctx + 1] for text in documents]
    losses = sequence_losses(model, [data.Sequence(np.array(row), 1) for row in rows], tokenizer.pad)

    reward_model = load_model(f"{config.out}/rm", RewardModel, tokenizer).to(pick_device("auto"))
    sequences = [data.encode_response(r["prompt"], t, tokenizer).tokens for r, t in zip(records, texts)]
    rm_scores = sequence_scores(reward_model, sequences, tokenizer.pad).numpy()

    drift = None
    if name in ("ppo", "ppo_ptx"):
        reference = load_model(f"{config.out}/rl_start", GPT, tokenizer).to(pick_device("auto")).eval()
        drift = interval(np.concatenate([kl(model, reference, rollout).cpu().numpy() for _, rollout in rollouts]))
    return Measured(texts, judgements, utilities, losses, rm_scores, drift)


def evaluate(config, recipe):
    """every model on test prompts: judged by held-out labelers, and measured"""
    records = data.read(file(config, "prompts_test"), "prompt")
    measured = dict(zip(MODELS, at_once(*((measure, config, name) for name in MODELS))))
    texts = {name: measured[name].texts for name in MODELS}
    rng = random.Random(f"evaluate {config.seed}")
    labelers = [rng.choice(town.HELD_OUT_LABELERS) for _ in records]
    models, sft = {}, measured["sft"].utilities
    for name in MODELS:
        judgements = measured[name].judgements
        truths = [j.truthful for j in judgements if j.truthful is not None]
        models[name] = {
            "win_rate_vs_sft": win_rate(records, texts[name], texts["sft"], labelers, rng) if name != "sft" else None,
            "true_win_rate_vs_sft": true_win_rate(measured[name].utilities, sft) if name != "sft" else None,
            "follows_instruction": interval([j.follows for j in judgements]),
            "truthful": interval(truths) if truths else None,
            "toxic": interval([j.toxic for j in judgements]),
            "pretraining_loss": interval(*measured[name].losses),
            "kl_to_reference": measured[name].kl,
            "rm_score": interval(measured[name].rm_scores),
        }
    models["ppo_ptx"]["win_rate_vs_rl_start"] = win_rate(records, texts["ppo_ptx"], texts["rl_start"], labelers, rng)
    tax = {}
    for name, base in (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")):
        (nats, tokens), (others, _) = measured[name].losses, measured[base].losses
        tax[f"{name}_above_{base}"] = interval(nats - others, tokens)
    keys = dict(seed=config.seed, models=models, pretraining_loss=tax, reward_model=measure_reward_model(config))
    write_json(f"{config.out}/evaluation.json", keys)
    rows = [{"prompt": r["prompt"], "use_case": r["use_case"]} | {m: texts[m][i] for m in MODELS}
            for i, r in enumerate(records)]  # fmt: skip
    write_lines(f"{config.out}/samples.jsonl", rows)


def win_rate(records, texts, others, labelers, rng):
    """Share of prompts on which a labeler, one drawn per prompt, prefers texts[i] to others[i]; a tie is one half."""
    wins = [town.compare(*each, rng) for each in zip(records, texts, others, labelers)]
    return interval(wins)


def true_win_rate(utilities, others):
    """The same by the pool's mean utility without noise."""
    return interval([0.5 if a == b else float(a > b) for a, b in zip(utilities, others)])


def measure_reward_model(config):
    """Accuracy on rankings of held-out labelers on test prompts, also among samples of one model; and how often two
    labelers agree on the same pairs, those left out that either finds equal."""
    tokenizer = load_tokenizer(f"{config.out}/rm")
    reward_model = load_model(f"{config.out}/rm", RewardModel, tokenizer)
    records = data.read(file(config, "rankings_held_out"), "ranking")
    scored = ranking_scores(
        reward_model, data.encode_rankings(records, tokenizer, reward_model.config.n_ctx), tokenizer.pad
    )
    right, within, agree = [], [], []  # per ranking: (pairs ordered alike, pairs)
    for record, score in zip(records, scored):
        ranks, second, models = record["ranks"], record["second_ranks"], record["models"]
        hits = pair_hits(score, ranks)
        same = [hit for (a, b), hit in hits.items() if models[a] == models[b]]
        both = [second[a] < second[b] for a, b in hits if second[a] != second[b]]
        right.append((sum(hits.values()), len(hits)))
        within.append((sum(same), len(same)))
        agree.append((sum(both), len(both)))
    named = {"accuracy": right, "accuracy_within_model": within, "labeler_agreement": agree}
    return {name: interval(*zip(*counts)) for name, counts in named.items()}


def make_report(config, recipe):
    """a table, results.json and report.html"""
    seconds = read_json(f"{config.out}/stages.json")
    results = read_json(f"{config.out}/evaluation.json")
    results["seconds"] = seconds | {"total": round(sum(seconds.values()), 1)}
    write_json(f"{config.out}/results.json", results)
    report.write(config.out, results)


STAGES = {
    "town": make_town, "gpt": make_gpt, "sft": make_sft, "rankings": make_rankings, "rm": make_rm,
    "select": select_epoch, "ppo": make_ppo, "evaluate": evaluate, "report": make_report,
}  # fmt: skip

if __name__ == "__main__":
    run(main)
