"""Optimizing against a reward model: alternatives to PPO, a second round, and the cost."""

import numpy as np

from lab.evaluation import kl, load, loss_difference, sample, utilities
from lab.methods import dpo
from lab.workers import at_once
from minirlhf.model import GPT
from minirlhf.support.logs import read_metrics

from .finding import Finding
from .lab import LIMIT, certain, means
from .overoptimization import best_of
from .preferences import rank_answers


class Alternatives(Finding):
    """The same rankings serve by other ways, too: the best of sixteen samples, and direct preference optimization on
    the best and the worst answer of each ranking, are preferred to SFT as PPO and PPO-ptx are."""

    paper = "Beside the paper, Rafailov et al. 2023 (DPO)"
    remark = (
        "All four begin at the RL start, which is another training than SFT; how often it wins itself is shown beside"
    )
    minutes = 1
    n = 16
    recipe = dict(lr=1e-4, beta=0.5, batch_size=16)  # DPO's: of six, the one that won most on validation content
    trained = ("ppo", "ppo_ptx", "DPO")
    panels = dict.fromkeys(("wins against SFT", "true utility"), ("rl_start", *trained, "best of 16")) | dict.fromkeys(
        ("KL, nats per response", "loss on the web above the start's"), trained
    )
    hypotheses = [(f"{name} is preferred to SFT", f"wins against SFT: {name}", dict(above=0.5))
                  for name in ("best of 16", "DPO", "ppo", "ppo_ptx")]  # fmt: skip

    def measure(self, lab):
        models, records, sft = lab.models(), lab.test, lab.test_answers["sft"]
        start = models["rl_start"]
        flags = dict(init=start, data=(lab.file("rankings"),), save_every=100) | self.recipe
        folders = dict(zip(self.trained, (models["ppo"], models["ppo_ptx"], lab.train_one("dpo", (dpo, flags)))))
        texts = {name: lab.test_answers[name] for name in ("rl_start", "ppo", "ppo_ptx")}
        texts |= lab.answers_to(records, {"DPO": folders["DPO"]}, "DPO")
        pooled, _, (proxy,) = best_of(lab, records, self.n)
        texts["best of 16"] = [own[i] for own, i in zip(pooled, proxy.argmax(1))]
        wins = {name: lab.wins(records, own, sft, f"alternatives {name}") for name, own in texts.items()}
        gold = {name: utilities(records, own) for name, own in texts.items()}
        drifts = at_once(*[(kl_of_samples, folder, start, records, lab.seed) for folder in folders.values()])
        f = means(wins, records, heading="wins against SFT") | means(gold, records, heading="true utility")
        f |= means(dict(zip(folders, drifts)), records, heading="KL, nats per response")
        losses = lab.losses(folders | {"start": start})
        for name in folders:
            f[f"loss on the web above the start's: {name}"] = loss_difference(losses[name], losses["start"])
        return f | {"seconds of training": {name: float(seconds(folder)) for name, folder in folders.items()}}


def kl_of_samples(folder, start, records, seed):
    """KL of a policy to its start on its own samples, in nats per response: (records,)."""
    model, tokenizer = load(folder, GPT)
    reference, values = load(start, GPT)[0], np.zeros(len(records))
    for rows, responses in sample(model, tokenizer, records, LIMIT, (seed, *b"drift")):
        values[rows] = kl(model, reference, responses).cpu().numpy()
    return values


def seconds(folder):
    """The seconds that a training's steps took."""
    return sum(row["episodes"] / (row["step"] + 1) / row["episodes_per_second"] if "episodes" in row else row["seconds"]
               for row in read_metrics(folder))  # fmt: skip


class Iterate(Finding):
    """A second round helps further: rankings of the best policy's answers, a reward model trained on these too, and
    PPO-ptx again. It helps more than PPO-ptx again with the old reward model, which has seen fewer rankings."""

    paper = "Section 3.1: steps 2 and 3 can be iterated, and some comparisons were of PPO policies; no figure"
    remark = "As many new rankings of SFT's answers were not tried"
    sample = "8,000 test prompts"
    minutes = 2.5
    k = 4
    rounds = ("first round", "second round", "PPO-ptx twice")
    panels = dict.fromkeys(("true utility", "wins against SFT"), rounds)
    hypotheses = (
        ("the second round's answers are liked more", "true utility: second round minus first round", dict(above=0)),
        ("and more than with the old reward model", "true utility: second round minus PPO-ptx twice", dict(above=0)),
    )

    def measure(self, lab):
        best, rng = lab.models()["ppo_ptx"], lab.rng("second round")
        records = lab.records("prompts_train", "prompt")[: lab.recipe("rankings")["prompts"] // 2]
        asked = [lab.answers_to(records, {j: best}, f"second round {j}")[j] for j in range(self.k)]
        path = lab.write("rankings-second-round", rank_answers(records, zip(*asked), rng))
        rm = lab.train_one("rm-second", lab.rm((lab.file("rankings"), path)))
        stages = {"ppo_ptx-second": lab.ppo(best, reward_model=rm), "ppo_ptx-twice": lab.ppo(best)}
        folders = {"SFT": lab.models()["sft"]} | dict(zip(self.rounds, (best, *lab.train(stages).values())))
        texts = lab.answers_to(lab.many, folders, "again")
        sft = texts.pop("SFT")
        gold = {name: utilities(lab.many, own) for name, own in texts.items()}
        wins = {name: lab.wins(lab.many, own, sft, f"iterate {name}") for name, own in texts.items()}
        pairs = [(self.rounds[1], other) for other in (self.rounds[0], self.rounds[2])]
        f = means(gold, lab.many, pairs, "true utility")
        return f | means(wins, lab.many, heading="wins against SFT")


class Compute(Finding):
    """What fine-tuning costs of the computation of pretraining. The recipe decides it, so there is no claim."""

    paper = "Section 5.1: SFT 4.9 and PPO-ptx 60 petaflop/s-days, where pretraining GPT-3 took 3,640"
    remark = "GPT-3 has read a million tokens for each answer of PPO's; how many the town's has read is shown beside"
    sample = "all of a run's tokens, counted"
    minutes = 0.1
    tuned = ("SFT", "reward model", "PPO-ptx")
    panels = {"share of pretraining": tuned}
    mark = 0.05

    def measure(self, lab):
        gpt, tokenizer = load(lab.models()["gpt"], GPT)
        weights = sum(p.numel() for name, p in gpt.named_parameters() if "wpe" not in name)  # that act on a token
        forward, step = 2 * weights, 6 * weights  # FLOPs per token; a step is a forward, and a backward of twice that

        def tokens(texts):
            return sum(min(len(tokenizer.encode(text)) + 1, gpt.config.n_ctx) for text in texts)

        web = tokens(r["text"] for r in lab.records("web", "document"))
        written = tokens(r["prompt"] + r["response"] for r in lab.records("demonstrations", "demonstration"))
        ranked = tokens(r["prompt"] + y for r in lab.rankings() for y in r["responses"])
        ppo, rows = lab.recipe("ppo"), read_metrics(lab.models()["ppo_ptx"])
        prompts = lab.records("prompts_train", "prompt")
        prompt = tokens(r["prompt"] for r in prompts) / len(prompts)
        episodes = sum((prompt + row["response_length"]) * ppo["batch_size"] for row in rows)
        documents = ppo["episodes"] * ppo["documents_per_episode"] * ppo["document_tokens"]
        flops = {
            "pretraining": step * web * lab.recipe("gpt")["epochs"],
            "SFT": step * written * lab.recipe("sft")["epochs"],
            "reward model": step * ranked,
            # sampling, reference, reward model and value network, then a step of the policy's and one of the value's
            "PPO-ptx": (4 * forward + 2 * step) * episodes + step * documents,
        }
        f = {f"FLOPs: {name}": float(value) for name, value in flops.items()}
        f["tokens read for each of PPO's answers"] = float(web * lab.recipe("gpt")["epochs"] / ppo["episodes"])
        return f | {f"share of pretraining: {n}": certain(flops[n] / flops["pretraining"]) for n in self.tuned}
