"""Two findings beside the paper: methods compared at the same cost, and PPO with one detail changed at a time.

All begin at the RL start of reproduce.py, and read the same rankings or its reward model. What people truly like is
known, so it decides, and not the reward model's score.
"""

import itertools
from pathlib import Path

import numpy as np

import train_ppo
from lab import broken
from lab.evaluation import answerable, contents_of, informative_truths, judge_all, loss_difference, measure
from lab.findings import pictures
from lab.findings.finding import Finding
from lab.findings.lab import LIMIT, UNKNOWN, certain, mean, utilities
from lab.findings.optimization import seconds
from lab.findings.overoptimization import best_of
from lab.workers import at_once
from minirlhf.support.run import read_metrics
from minirlhf.support.statistics import interval

from . import details, dpo, expert_iteration, grpo, online_dpo, reinforce, rloo, verifier
from .best_of_n import kl_bound

CLAIMS = Path(__file__).parent / "claims.md"
SEEDS = tuple(range(40, 50))
HEAD = f"""# Claims about methods and details

Written by `python -m lab.methods --claims` and committed before the runs that confirm them. No claim has been measured
with seeds {SEEDS[0]} to {SEEDS[-1]} before, nor was anything chosen with them. A claim holds if the whole 95 % interval
of its figure, over runs and prompts, is within the bounds.

| finding | claim | figure | bound | measured on | seeds |
|---|---|---|---|---|---|
"""
EPISODES = 6400  # answers that each online method samples
BATCH = dict(batch_size=128, minibatch_size=32)  # four steps with each batch, as PPO takes them
ON_POLICY = dict(batch_size=64, minibatch_size=64, warmup=20)  # one step with each batch; as many answers in the warmup
ARMS = {  # name: (script, its flags, the flag of its KL price)
    "PPO": (train_ppo, BATCH | dict(ptx_coef=0.0), "kl_coef"),
    "REINFORCE": (reinforce, ON_POLICY, "kl_coef"),
    "RLOO": (rloo, ON_POLICY, "kl_coef"),
    "GRPO": (grpo, BATCH, "kl_coef"),
    "GRPO, not divided": (grpo, BATCH | dict(divide=False), "kl_coef"),
    "online DPO": (online_dpo, ON_POLICY, "kl_coef"),
    "expert iteration": (expert_iteration, BATCH, "kl_coef"),
    "DPO": (dpo, dict(batch_size=16), "beta"),
    "GRPO, verifier": (verifier, BATCH, "kl_coef"),
}
# What the search tries for each method: three learning rates with three prices, which differ in unit.
RATES = (2e-4, 5e-4, 1e-3)
PRICES = {
    "PPO": (0.1, 0.3, 1.0), "REINFORCE": (0.1, 0.3, 1.0), "RLOO": (0.1, 0.3, 1.0), "GRPO": (0.03, 0.1, 0.3),
    "GRPO, not divided": (0.03, 0.1, 0.3), "online DPO": (0.1, 0.3, 1.0), "expert iteration": (0.0, 0.1, 0.3),
    "DPO": (0.1, 0.3, 1.0), "GRPO, verifier": (0.03, 0.1, 0.3),
}  # fmt: skip
# Learning rate and price of each: until the search has been run, the middle of what it tries.
CHOSEN = {name: (5e-4, PRICES[name][1]) for name in ARMS}
FRONTIER = {name: tuple(CHOSEN[name][1] * times for times in (0.25, 0.5, 2, 4)) for name in ARMS}
N, BEST = 16, "best of 16"
TENTH = 0.05  # of true utility: a tenth of what PPO gains, about
RECIPE = ("gpt", "sft", "rm", "ppo", "ppo_ptx")  # runs of reproduce.py whose curves are kept, for docs/healthy.md
SHOWN = (0, 1, 2, 5, 10, 20, 30, 49)  # iterations of which metrics are kept
# Forwards of a network's size for each token that an answer costs: in sampling, by the reference, the reward model and
# the value network; and three for each forward that is learned from (a backward costs two).
COST = {"PPO": 4 + 3 + 3, "REINFORCE": 3 + 3, "RLOO": 3 + 3, "GRPO": 3 + 3, "GRPO, not divided": 3 + 3,
        "online DPO": 3 + 3, "expert iteration": 3 + 3 / 4}  # fmt: skip


def stage(lab, name, lr, price, episodes=EPISODES):
    """A method's training: a script and its flags."""
    script, flags, price_flag = ARMS[name]
    start, ppo = lab.models()["rl_start"], lab.recipe("ppo")
    flags = flags | {"lr": lr, price_flag: price}
    if script is dpo:
        return dpo, dict(init=start, data=(lab.file("rankings"),), save_every=100) | flags
    common = dict(policy=start, prompts=(lab.file("prompts_train"),), episodes=32 if lab.tiny else episodes,
                  max_response=LIMIT, ema_decay=ppo["ema_decay"], save_every=50)  # fmt: skip
    if lab.tiny:
        flags |= dict(batch_size=32, minibatch_size=32)
    if script is not verifier:
        common |= dict(reward_model=f"{lab.toy}/rm")
    if script is train_ppo:
        common |= dict(value_lr=ppo["value_lr"])
    return script, common | flags


def measured(lab, folders, records):
    """{name: Measured} of {name: folder of a policy}."""
    start, documents = lab.models()["rl_start"], lab.records("web_held_out", "document")
    calls = [(measure, folder, f"{lab.toy}/rm", records, documents, LIMIT, (lab.seed, *b"methods"), "", start)
             for folder in folders.values()]  # fmt: skip
    return dict(zip(folders, at_once(*calls)))


def figures(lab, found, records, base):
    """The figures "heading: name" of {name: Measured}; and of differences from `base`, paired by prompt."""
    f, sft = {}, lab.test_answers["sft"][: len(records)]
    start = lab.models()["rl_start"]
    losses = lab.losses({"start": start})["start"]
    contents = contents_of(records)
    gold = {name: np.array(own.utilities) for name, own in found.items()}
    wins = {name: lab.wins(records, own.texts, sft, "methods") for name, own in found.items()}
    does = {name: np.array([j.follows for j in own.judgements], float) for name, own in found.items()}
    asked = [record for record in records if answerable(record)]
    true = {name: informative_truths(records, own.judgements) for name, own in found.items()}
    for heading, values, about in (("true utility", gold, records), ("wins against SFT", wins, records),
                                   ("does what was asked", does, records), ("true", true, asked)):  # fmt: skip
        f |= {f"{heading}: {name}": mean(own, about) for name, own in values.items()}
        f |= {f"{heading}: {name} minus {base}": mean(own - values[base], about, signed=True)
              for name, own in values.items() if name != base}  # fmt: skip
    for name, own in found.items():
        f[f"RM score: {name}"] = interval(own.rm_scores, items=contents)
        f[f"KL: {name}"] = own.kl
        f[f"loss on pages above the start's: {name}"] = loss_difference(own.losses, losses)
    return f


def search(lab):
    """What each method comes to with each learning rate and price, on validation content: [{"method", "lr", "price",
    "true utility", "KL"}]."""
    tried = {f"search/{slug(name)}-{lr}-{price}": (name, lr, price)
             for name in ARMS for lr in few(lab, RATES) for price in few(lab, PRICES[name])}  # fmt: skip
    folders = lab.train({folder: stage(lab, *own) for folder, own in tried.items()})
    found = measured(lab, folders, lab.test[: 10 if lab.tiny else 1000])
    return [dict(zip(("method", "lr", "price"), own))
            | {"true utility": float(np.mean(found[folder].utilities)), "KL": found[folder].kl["mean"]}
            for folder, own in tried.items()]  # fmt: skip


def best(searches):
    """{method: (learning rate, price)} with the highest true utility, as a mean over searches of several seeds."""
    sums = {}
    for one in itertools.chain(*searches):
        own = sums.setdefault(one["method"], {})
        own[one["lr"], one["price"]] = own.get((one["lr"], one["price"]), 0.0) + one["true utility"]
    return {name: max(own, key=own.get) for name, own in sums.items()}


def few(lab, values):
    """All values, or one in a tiny run."""
    return values[:1] if lab.tiny else values


def slug(name):
    return name.lower().replace(", ", "-").replace(" ", "-")


def above_frontier(d, gold, frontier):
    """How much higher a policy's utility is (N,) than the frontier's at the same d = sqrt(KL), prompt by prompt; None
    beyond its ends. frontier: [(d, utilities (N,))]."""
    frontier = sorted(frontier, key=lambda point: point[0])
    for (d0, one), (d1, other) in zip(frontier, frontier[1:]):
        if d0 <= d <= d1:
            share = (d - d0) / (d1 - d0) if d1 > d0 else 0.0
            return gold - (1 - share) * one - share * other
    return None


class Methods(Finding):
    """At the same number of sampled answers, and at the same cost, methods without a value network make answers as good
    as PPO's."""

    paper = "Beside the paper"
    remark = "The search has not been run yet: each has the middle of what it tries"
    sample = "1,000 test prompts"
    seeds = SEEDS
    minutes = 15
    without = ("REINFORCE", "RLOO", "GRPO", "GRPO, not divided", "online DPO")  # a value network
    hypotheses = (
        *((f"{name}: with as many answers at most {TENTH} below PPO",
           f"true utility: {name} minus PPO", dict(above=-TENTH)) for name in without),
        *((f"{name}: at PPO's cost at most {TENTH} below PPO",
           f"true utility: {name}, at PPO's cost minus PPO", dict(above=-TENTH)) for name in without),
        *((f"{name}: at the same KL within {TENTH} of PPO",
           f"above PPO's frontier: {name}", dict(above=-TENTH, below=TENTH)) for name in without),
        ("DPO, which never sees its own answers, is below PPO", "true utility: DPO minus PPO", dict(below=0)),
        ("expert iteration, which learns from its best answers alone, is below PPO",
         "true utility: expert iteration minus PPO", dict(below=0)),
        ("best of 16, which trains nothing, is below PPO", f"true utility: {BEST} minus PPO", dict(below=0)),
        ("with a verifier more answers do what was asked than with the reward model",
         "does what was asked: GRPO, verifier minus PPO", dict(above=0)),
        ("and they are liked less", "true utility: GRPO, verifier minus PPO", dict(below=0)),
    )  # fmt: skip

    def measure(self, lab):
        records = lab.test[: 10 if lab.tiny else 1000]
        stages = {name: stage(lab, name, *own) for name, own in CHOSEN.items()}
        for name, (lr, _) in CHOSEN.items():
            stages |= {(name, price): stage(lab, name, lr, price) for price in few(lab, FRONTIER[name])}
        stages |= {f"{name}, at PPO's cost": stage(lab, name, *CHOSEN[name], episodes=at_cost(name))
                   for name in COST if name != "PPO"}  # fmt: skip
        names = {label: slug("-".join(map(str, label)) if isinstance(label, tuple) else label) for label in stages}
        trained = lab.train({f"methods/{names[label]}": own for label, own in stages.items()})
        folders = {label: trained[f"methods/{names[label]}"] for label in stages}
        folders |= {"start": lab.models()["rl_start"], "PPO-ptx": lab.models()["ppo_ptx"]}
        found = measured(lab, folders, records)
        found[BEST] = self.best_of(lab, records, found["start"])
        swept = {label: found.pop(label) for label in list(found) if isinstance(label, tuple)}
        swept |= {(name, price): found[name] for name, (_, price) in CHOSEN.items()}
        f = figures(lab, found, records, "PPO")
        gold = {label: np.array(own.utilities) for label, own in (found | swept).items()}
        f |= self.frontiers(swept | {(BEST, 0): found[BEST]}, gold | {(BEST, 0): gold[BEST]}, gold["start"], records)
        f["seconds of training"] = {name: float(seconds(folders[name])) for name in CHOSEN}
        return f

    def best_of(self, lab, records, start):
        """Measured of the best of 16 answers of the start."""
        texts, _, (scores,) = best_of(lab, records, N)
        best = [own[i] for own, i in zip(texts, scores.argmax(1))]
        judgements = judge_all(records, best)
        drift = certain(kl_bound(N))
        return start._replace(texts=best, judgements=judgements, utilities=list(utilities(records, best)),
                              rm_scores=scores.max(1), kl=drift)  # fmt: skip

    def frontiers(self, swept, gold, start, records):
        """KL and true utility over each method's prices; and how far they are above PPO, on average, at the same KL."""
        f, d = {}, {label: max(0.0, own.kl["mean"]) ** 0.5 for label, own in swept.items()}
        ppo = [(0.0, start)] + [(d[label], gold[label]) for label in swept if label[0] == "PPO"]
        for name in dict.fromkeys(name for name, _ in swept):
            own = [label for label in swept if label[0] == name]
            f[f"frontier: {name}: price"] = [float(price) for _, price in own]
            f[f"frontier: {name}: KL"] = [swept[label].kl for label in own]
            f[f"frontier: {name}: true utility"] = [mean(gold[label], records) for label in own]
            if name != "PPO":
                above = [above_frontier(d[label], gold[label], ppo) for label in own]
                above = [values for values in above if values is not None]
                found = mean(np.mean(above, 0), records, signed=True) if above else UNKNOWN
                f[f"above PPO's frontier: {name}"] = found
        return f

    def draw(self, figure, f):
        axis = figure.subplots()
        names = [name.split(": ")[1] for name in f if name.startswith("frontier: ") and name.endswith(": KL")]
        colours = [*pictures.LINES, *pictures.LINES]
        for name, colour in zip(names, colours):
            xs = [max(0.0, own["mean"]) ** 0.5 for own in f[f"frontier: {name}: KL"]]
            pictures.curve(axis, xs, f[f"frontier: {name}: true utility"], name, colour)
        axis.set(title="true utility", xlabel="square root of KL, nats per response")
        pictures.legend(axis)


class Details(Finding):
    """Most details of PPO make no difference to how good the answers are."""

    paper = "Beside the paper, Huang et al. 2022 and 2024"
    remark = "PPO's settings are the recipe's. All policies are judged at temperature 1, with the usual limit"
    sample = "1,000 test prompts"
    seeds = SEEDS
    minutes = 12
    harmless = ("no_whitening", "whitening_without_shift", "whitening_by_minibatch", "lambda_1", "no_value_clipping",
                "value_from_sft", "value_from_sft_with_zero_head", "k2_in_the_reward", "k3_in_the_reward", "no_warmup",
                "no_gradient_clipping", "adam_eps_1e_5")  # fmt: skip
    harmful = ("k1_in_the_loss", "scores_times_10", "score_at_the_padding", "temperature_07_scored_at_1")
    hypotheses = (
        *((f"{name}: within {TENTH} of PPO", f"true utility: {name} minus nothing", dict(above=-TENTH, below=TENTH))
          for name in harmless),
        *((f"{name}: below PPO", f"true utility: {name} minus nothing", dict(below=0)) for name in harmful),
    )  # fmt: skip

    def measure(self, lab):
        records = lab.test[: 10 if lab.tiny else 1000]
        script, flags = lab.ppo(lab.models()["rl_start"], ptx_coef=0.0)
        stages = {f"details/{name}": (details, flags | dict(change=name)) for name in details.CHANGES}
        folders = dict(zip(details.CHANGES, lab.train(stages).values()))
        f = figures(lab, measured(lab, folders, records), records, "nothing")
        f["metrics"] = {name: symptoms(folder) for name, folder in folders.items()}
        return f | {"curves": {name: broken.metrics(f"{lab.toy}/{name}") for name in RECIPE}}


def at_cost(name):
    """The answers that a method samples for PPO's cost: a whole number of its batches."""
    batch = ARMS[name][1]["batch_size"]
    return int(EPISODES * COST["PPO"] / COST[name]) // batch * batch


def symptoms(folder):
    """{column: its values in some iterations} of a run's metrics."""
    rows = read_metrics(folder)
    chosen = [rows[min(i, len(rows) - 1)] for i in SHOWN]
    return {name: [row[name] for row in chosen] for name in rows[0] if isinstance(rows[0][name], float)}


FINDINGS = {finding.name(): finding for finding in (Methods, Details)}
