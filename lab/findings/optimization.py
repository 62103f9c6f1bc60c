"""Optimizing against a reward model: overoptimization, alternatives, a second round, and the cost."""

import math
from collections import Counter

import numpy as np

from data.town.world import FACT
from lab.evaluation import kl, load, loss_difference, rm_scores, sample, texts_of
from lab.workers import at_once
from minirlhf.model import GPT, RewardModel
from minirlhf.support.run import read_metrics
from minirlhf.support.statistics import interval

from . import dpo, pictures
from .finding import Finding
from .lab import LIMIT, around, mean, means, utilities
from .preferences import rank_answers
from .tasks import KlSweep


class Overoptimization(Finding):
    """Far from its start, a policy's score by the reward model still rises while people like its answers less."""

    paper = "Beside the paper, Stiennon et al. 2020, Figure 5; Gao et al. 2022, Figure 1"
    minutes = 3
    parts = 10  # of a run, each a point
    pool, ns = 32, (1, 2, 4, 8, 16, 32)
    hypotheses = (("the reward model's score still rises after the peak", "proxy: end minus peak", dict(above=0)),
                  ("while the true utility falls", "gold: end minus peak", dict(below=0)))  # fmt: skip

    def measure(self, lab):
        f = {"beta": list(KlSweep.values), "distance": [], "proxy": [], "gold": []}
        for beta, folder in KlSweep().folders(lab).items():
            rows = read_metrics(folder, "samples.jsonl")
            gold = utilities([lab.about[row["prompt"]] for row in rows], [row["response"] for row in rows])
            columns = [row["score"] for row in rows], gold, [row["kl"] for row in rows]
            proxies, golds, kls = (np.array_split(np.array(column), self.parts) for column in columns)
            f["distance"].append([math.sqrt(max(0, part.mean())) for part in kls])
            f["proxy"].append([interval(part) for part in proxies])
            f["gold"].append([interval(part) for part in golds])
            if beta == min(KlSweep.values):  # every other episode finds the peak; the rest measure it
                peak = int(np.argmax([part[::2].mean() for part in golds]))
                f["gold: end minus peak"] = difference(golds[-1][1::2], golds[peak][1::2])
                f["proxy: end minus peak"] = difference(proxies[-1][1::2], proxies[peak][1::2])
                f["examples"] = film(lab, rows, gold)
        records = lab.records("prompts_train", "prompt")[: 10 if lab.tiny else 300]  # such as PPO's episodes answer
        return f | self.best_of_n(lab, records)

    def best_of_n(self, lab, records):
        """Mean scores of the best of n samples by the reward model. Unbiased, from a pool of N: in rising order, sample
        i (from 1) is the best in C(i - 1, n - 1) of the C(N, n) draws."""
        proxy, gold, _ = best_of(lab, records, self.pool)
        order = np.argsort(proxy, 1)
        proxy, gold = (np.take_along_axis(x, order, 1) for x in (proxy, gold))
        shares = [[math.comb(i, n - 1) / math.comb(self.pool, n) for i in range(self.pool)] for n in self.ns]
        return {
            "n": list(self.ns),
            "best of n: proxy": [mean(proxy @ np.array(weights), records) for weights in shares],
            "best of n: gold": [mean(gold @ np.array(weights), records) for weights in shares],
            "best of n: distance, at most": [math.sqrt(math.log(n) - (n - 1) / n) for n in self.ns],
        }

    def draw(self, figure, f):
        for axis, which, title in zip(figure.subplots(1, 2), ("proxy", "gold"), ("RM score", "true utility")):
            for colour, beta, xs, ys in zip(pictures.LINES, f["beta"], f["distance"], f[which]):
                pictures.curve(axis, xs, ys, f"PPO, beta {beta}", colour)
            xs = f["best of n: distance, at most"]
            pictures.curve(axis, xs, f[f"best of n: {which}"], "best of n (a bound)", pictures.LINES[-1])
            axis.set(title=title, xlabel="square root of KL, nats per response")
        pictures.legend(axis)


def film(lab, rows, gold, count=12):
    """The policy's answers over its iterations to the most frequent question: [(iteration and prompt, answer)]."""
    asked = [lab.about[row["prompt"]]["content"] for row in rows]
    about_facts = [content for content in asked if content in FACT]
    ((most, _),) = Counter(about_facts or asked).most_common(1)
    shown = [i for i, content in enumerate(asked) if content == most]
    shown = [shown[i] for i in np.linspace(0, len(shown) - 1, min(count, len(shown))).astype(int)]
    scores = [f"RM score {rows[i]['score']:+.2f}, true utility {gold[i]:+.2f}" for i in shown]
    return [(f"Iteration {rows[i]['step']}. {rows[i]['prompt'].strip()}", f"{rows[i]['response'].strip()} ({both})")
            for i, both in zip(shown, scores)]  # fmt: skip


def best_of(lab, records, n):
    """n samples of the RL start for each record: RM scores and true utilities (records, n), and the texts."""
    start, half = lab.models()["rl_start"], n // 2
    calls = [(pool, start, f"{lab.toy}/rm", records, i, i + half, (lab.seed, *b"pool")) for i in (0, half)]
    columns = sum(at_once(*calls), [])
    texts = [[own[i] for own, _ in columns] for i in range(len(records))]
    proxy = np.stack([scores for _, scores in columns], 1)
    return proxy, np.stack([utilities(records, own) for own, _ in columns], 1), texts


def pool(folder, reward_model, records, first, last, seed):
    """[(texts, RM scores)] of the samples number first to last of each record."""
    model, tokenizer = load(folder, GPT)
    rm, columns = load(reward_model, RewardModel)[0], []
    for i in range(first, last):
        texts = texts_of(sample(model, tokenizer, records, LIMIT, (*seed, i)), tokenizer, folder)
        columns.append((texts, rm_scores(rm, tokenizer, records, texts)))
    return columns


def difference(a, b):
    """The difference of the means of two independent samples, with its interval."""
    spread = 1.96 * math.hypot(np.std(a) / math.sqrt(len(a)), np.std(b) / math.sqrt(len(b)))
    return around(float(np.mean(a) - np.mean(b)), spread)


class Alternatives(Finding):
    """The same rankings serve by other ways, too: the best of sixteen samples, and direct preference optimization, are
    preferred to SFT as PPO and PPO-ptx are."""

    paper = "Beside the paper, Rafailov et al. 2023 (DPO)"
    minutes = 1
    n = 16
    recipe = dict(lr=1e-4, beta=0.5, batch_size=16)  # DPO's: of six, the one that won most on validation content
    trained = ("ppo", "ppo_ptx", "DPO")
    panels = dict.fromkeys(("wins against SFT", "true utility"), (*trained, "best of 16")) | dict.fromkeys(
        ("KL, nats per response", "loss on the web above the start's"), trained
    )
    hypotheses = [(f"{name} is preferred to SFT", f"wins against SFT: {name}", dict(above=0.5))
                  for name in ("best of 16", "DPO", "ppo", "ppo_ptx")]  # fmt: skip

    def measure(self, lab):
        models, records, sft = lab.models(), lab.test, lab.test_answers["sft"]
        start = models["rl_start"]
        flags = dict(init=start, data=(lab.file("rankings"),), save_every=100) | self.recipe
        folders = dict(zip(self.trained, (models["ppo"], models["ppo_ptx"], lab.train_one("dpo", (dpo, flags)))))
        texts = {name: lab.test_answers[name] for name in ("ppo", "ppo_ptx")}
        texts |= lab.answers_to(records, {"DPO": folders["DPO"]}, "DPO")
        proxy, _, pooled = best_of(lab, records, self.n)
        texts["best of 16"] = [own[i] for own, i in zip(pooled, proxy.argmax(1))]
        wins = {name: lab.wins(records, own, sft, f"alternatives {name}") for name, own in texts.items()}
        gold = {name: utilities(records, own) for name, own in texts.items()}
        drifts = at_once(*[(drift, folder, start, records, lab.seed) for folder in folders.values()])
        f = means(wins, records, heading="wins against SFT") | means(gold, records, heading="true utility")
        f |= means(dict(zip(folders, drifts)), records, heading="KL, nats per response")
        losses = lab.losses(folders | {"start": start})
        for name in folders:
            f[f"loss on the web above the start's: {name}"] = loss_difference(losses[name], losses["start"])
        return f | {"seconds of training": {name: round(seconds(folder)) for name, folder in folders.items()}}


def drift(folder, start, records, seed):
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
    PPO-ptx again."""

    paper = "Section 3.1: steps 2 and 3 can be iterated; most comparisons come from SFT, some from PPO policies"
    minutes = 1.5
    k = 4
    panels = dict.fromkeys(("true utility", "wins against SFT"), ("first round", "second round"))
    more = "true utility: second round minus first round"
    hypotheses = (("the second round's answers are liked more", more, dict(above=0)),)

    def measure(self, lab):
        best, rng = lab.models()["ppo_ptx"], lab.rng("second round")
        records = lab.records("prompts_train", "prompt")[: lab.recipe("rankings")["prompts"] // 2]
        asked = [lab.answers_to(records, {j: best}, f"second round {j}")[j] for j in range(self.k)]
        path = lab.write("rankings-second-round", rank_answers(records, zip(*asked), rng))
        rm = lab.train_one("rm-second", lab.rm((lab.file("rankings"), path)))
        again = lab.train_one("ppo_ptx-second", lab.ppo(best, reward_model=rm))
        folders = {"SFT": lab.models()["sft"], "first round": best, "second round": again}
        texts = lab.answers_to(lab.many, folders, "again")
        sft = texts.pop("SFT")
        gold = {name: utilities(lab.many, own) for name, own in texts.items()}
        wins = {name: lab.wins(lab.many, own, sft, f"iterate {name}") for name, own in texts.items()}
        f = means(gold, lab.many, [("second round", "first round")], "true utility")
        return f | means(wins, lab.many, heading="wins against SFT")


class Compute(Finding):
    """Fine-tuning costs a few per cent of the computation of pretraining."""

    paper = "Section 5.1: SFT 4.9 and PPO-ptx 60 petaflop/s-days, where pretraining GPT-3 took 3,640"
    remark = "GPT-3 has read a million tokens for each answer of PPO's; the town's base model, seven hundred"
    minutes = 0.1
    tuned = ("SFT", "reward model", "PPO-ptx")
    panels = {"share of pretraining": tuned}
    mark = 0.05
    hypotheses = (("SFT: below 5 % of pretraining", "share of pretraining: SFT", dict(below=0.05)),
                  ("PPO-ptx: below 5 % of pretraining", "share of pretraining: PPO-ptx", dict(below=0.05)))  # fmt: skip

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
        return f | {f"share of pretraining: {n}": around(flops[n] / flops["pretraining"]) for n in self.tuned}
