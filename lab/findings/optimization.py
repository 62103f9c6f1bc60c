"""Optimizing against a reward model: how far that goes well, what else there is, a second round, and the cost."""

import math
from collections import Counter

import numpy as np

from data import town
from data.town.world import FACT
from lab.evaluation import first_lines, kl, load, sample
from lab.workers import at_once
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import per_sequence, response_scores
from minirlhf.support.records import encode_response
from minirlhf.support.run import read_metrics
from minirlhf.support.statistics import interval

from . import dpo, pictures
from .finding import Claim, Finding
from .lab import LIMIT, mean, utilities
from .tasks import KlSweep, sweep_of_kl, web_losses


class Overoptimization(Finding):
    """Past some distance from where it started, a policy's score by the reward model still rises while people like its
    answers less."""

    paper = "Beside the paper, Stiennon et al. 2020, Figure 5; Gao et al. 2022, Figure 1"
    minutes = 3
    parts = 10  # of a run, each a point
    pool, prompts, ns = 32, 300, (1, 2, 4, 8, 16, 32)

    def measure(self, lab):
        f = {"beta": list(KlSweep.values), "distance": [], "proxy": [], "gold": []}
        for beta, folder in sweep_of_kl(lab, KlSweep.values).items():
            rows = read_metrics(folder, "samples.jsonl")
            gold = utilities([lab.about[row["prompt"]] for row in rows], [row["response"] for row in rows])
            of = {"proxy": [row["score"] for row in rows], "gold": gold, "kl": [row["kl"] for row in rows]}
            proxies, golds, kls = (np.array_split(np.array(of[name]), self.parts) for name in ("proxy", "gold", "kl"))
            f["distance"].append([math.sqrt(max(0, part.mean())) for part in kls])
            f["proxy"].append([interval(part) for part in proxies])
            f["gold"].append([interval(part) for part in golds])
            if beta == min(KlSweep.values):  # every other episode says where the peak is, and the rest how high
                peak = int(np.argmax([part[::2].mean() for part in golds]))
                f["gold, end less peak"] = apart(golds[-1][1::2], golds[peak][1::2])
                f["proxy, end less peak"] = apart(proxies[-1][1::2], proxies[peak][1::2])
                f["examples"] = film(lab, rows, gold)
        return f | self.best_of_n(lab)

    def best_of_n(self, lab):
        """Both scores of that of n samples of the RL start which the reward model likes best. From a pool of N, without
        bias: in rising order, sample i is the best of n that are drawn in C(i - 1, n - 1) of C(N, n) cases."""
        records = lab.records("prompts_train", "prompt")[: self.prompts]  # such as PPO's episodes answer
        proxy, gold, _ = best_of(lab, records, self.pool)
        order = np.argsort(proxy, 1)
        proxy, gold = (np.take_along_axis(x, order, 1) for x in (proxy, gold))
        f = {"n": list(self.ns), "best of n: proxy": [], "best of n: gold": []}
        for n in self.ns:
            weights = np.array([math.comb(i, n - 1) for i in range(self.pool)]) / math.comb(self.pool, n)
            f["best of n: proxy"].append(mean(proxy @ weights, records))
            f["best of n: gold"].append(mean(gold @ weights, records))
        f["best of n: distance, at most"] = [math.sqrt(math.log(n) - (n - 1) / n) for n in self.ns]
        return f

    def claims(self, f):
        yield Claim("the reward model's score still rises after the peak", f["proxy, end less peak"], above=0)
        yield Claim("while the true utility falls", f["gold, end less peak"], below=0)

    def draw(self, figure, f):
        for axis, which, title in zip(figure.subplots(1, 2), ("proxy", "gold"), ("RM score", "true utility")):
            for colour, beta, xs, ys in zip(pictures.LINES, f["beta"], f["distance"], f[which]):
                pictures.curve(axis, xs, ys, f"PPO, beta {beta}", colour)
            xs = f["best of n: distance, at most"]
            pictures.curve(axis, xs, f[f"best of n: {which}"], "best of n (a bound)", pictures.LINES[-1])
            axis.set(title=title, xlabel="square root of KL, nats per response")
        pictures.legend(axis)


def film(lab, rows, gold, count=12):
    """What the policy said over its iterations to the question that came most often: [(when and what, answer)]."""
    asked = [lab.about[row["prompt"]]["content"] for row in rows]
    about_facts = [content for content in asked if content in FACT]
    ((most, _),) = Counter(about_facts or asked).most_common(1)
    shown = [i for i, content in enumerate(asked) if content == most]
    shown = [shown[i] for i in np.linspace(0, len(shown) - 1, min(count, len(shown))).astype(int)]
    scores = [f"RM score {rows[i]['score']:+.2f}, true utility {gold[i]:+.2f}" for i in shown]
    return [(f"Iteration {rows[i]['step']}. {rows[i]['prompt'].strip()}", f"{rows[i]['response'].strip()} ({both})")
            for i, both in zip(shown, scores)]  # fmt: skip


def best_of(lab, records, n):
    """n samples of the RL start to each record: RM scores and true utilities (records, n), and the texts."""
    start = lab.models()["rl_start"]
    half = n // 2
    calls = [(pool, start, f"{lab.toy}/rm", records, i, i + half, (lab.seed, *b"pool")) for i in (0, half)]
    columns = sum(at_once(*calls), [])
    texts = [[own[i] for own, _ in columns] for i in range(len(records))]
    proxy = np.stack([scores for _, scores in columns], 1)
    gold = np.stack([utilities(records, own) for own, _ in columns], 1)
    return proxy, gold, texts


def pool(folder, reward_model, records, first, last, seed):
    """[(texts, RM scores)] of the samples number first to last of each record."""
    model, tokenizer = load(folder, GPT)
    rm, columns = load(reward_model, RewardModel)[0], []
    for i in range(first, last):
        texts = first_lines(sample(model, tokenizer, records, LIMIT, (*seed, i)), tokenizer)
        sequences = [encode_response(r["prompt"], text, tokenizer) for r, text in zip(records, texts)]
        columns.append((texts, per_sequence(response_scores, rm, sequences, tokenizer.pad).numpy()))
    return columns


def apart(a, b):
    """The difference of the means of two independent samples, with its interval."""
    spread = 1.96 * math.hypot(np.std(a) / math.sqrt(len(a)), np.std(b) / math.sqrt(len(b)))
    less = float(np.mean(a) - np.mean(b))
    return {"mean": less, "low": less - spread, "high": less + spread}


class Alternatives(Finding):
    """The same rankings serve by other ways, too: the best of sixteen samples, and direct preference optimization, are
    preferred to SFT as PPO and PPO-ptx are."""

    paper = "Beside the paper, Rafailov et al. 2023 (DPO)"
    minutes = 1
    n = 16
    recipe = dict(lr=1e-4, beta=0.5, batch_size=16)  # DPO's: of six, the one that won most on validation content

    def measure(self, lab):
        models, records = lab.models(), lab.test
        flags = dict(init=models["rl_start"], data=(lab.file("rankings"),), save_every=100) | self.recipe
        tuned = lab.train({"dpo": (dpo, flags)})["dpo"]
        texts = {"ppo": lab.test_answers["ppo"], "ppo_ptx": lab.test_answers["ppo_ptx"]}
        texts |= lab.answers({"DPO": (tuned, records)}, "DPO")
        proxy, _, pooled = best_of(lab, records, self.n)
        texts["best of 16"] = [own[i] for own, i in zip(pooled, proxy.argmax(1))]
        sft, f = lab.test_answers["sft"], {}
        own = {name: utilities(records, texts[name]) for name in texts}
        for name in texts:
            f[f"wins against SFT: {name}"] = mean(lab.wins(records, texts[name], sft, f"alternatives {name}"), records)
            f[f"true utility: {name}"] = mean(own[name], records)
        folders = {"ppo": models["ppo"], "ppo_ptx": models["ppo_ptx"], "DPO": tuned}
        losses = web_losses(lab, folders | {"start": models["rl_start"]})
        base, tokens = losses["start"]
        drifts = at_once(*[(drift, folder, models["rl_start"], records, lab.seed) for folder in folders.values()])
        for name, moved in zip(folders, drifts):
            f[f"loss on the web above the start's: {name}"] = interval(losses[name][0] - base, tokens)
            f[f"KL, nats per response: {name}"] = mean(moved, records)
        f["seconds of training"] = {name: round(seconds(folder)) for name, folder in folders.items()}
        return f

    def claims(self, f):
        for name in ("best of 16", "DPO", "ppo", "ppo_ptx"):
            yield Claim(f"{name} is preferred to SFT", f[f"wins against SFT: {name}"], above=0.5)

    def draw(self, figure, f):
        headings = ("wins against SFT", "true utility", "KL, nats per response", "loss on the web above the start's")
        for axis, heading in zip(figure.subplots(2, 2).flat, headings):
            start = f"{heading}: "
            pictures.dots(axis, {name[len(start) :]: value for name, value in f.items() if name.startswith(start)})
            axis.set_title(heading)


def drift(folder, start, records, seed):
    """KL of a policy to its start on its own samples, nats per response, for each record."""
    model, tokenizer = load(folder, GPT)
    values = np.zeros(len(records))
    for rows, responses in sample(model, tokenizer, records, LIMIT, (seed, *b"drift")):
        values[rows] = kl(model, load(start, GPT)[0], responses).cpu().numpy()
    return values


def seconds(folder):
    """What a training's steps took."""
    rows = read_metrics(folder)
    return sum(row["episodes"] / (row["step"] + 1) / row["episodes_per_second"] if "episodes" in row else row["seconds"]
               for row in rows)  # fmt: skip


class Iterate(Finding):
    """A second round helps further: rankings of the best policy's answers, a reward model trained on these too, and
    PPO-ptx again."""

    paper = "Section 3.1: steps 2 and 3 can be iterated; most comparisons come from SFT, some from PPO policies"
    minutes = 1.5
    k = 4

    def measure(self, lab):
        best, rng = lab.models()["ppo_ptx"], lab.rng("second round")
        records = lab.records("prompts_train", "prompt")[: lab.recipe("rankings")["prompts"] // 2]
        asked = [lab.answers({j: (best, records)}, f"second round {j}")[j] for j in range(self.k)]
        path = lab.write("rankings-second-round", ranked(records, zip(*asked), rng))
        rm = lab.train({"rm-second": lab.rm((lab.file("rankings"), path))})["rm-second"]
        again = lab.train({"ppo_ptx-second": lab.ppo(best, reward_model=rm)})["ppo_ptx-second"]
        folders = {"SFT": lab.models()["sft"], "first round": best, "second round": again}
        texts = lab.answers({name: (folder, lab.many) for name, folder in folders.items()}, "again")
        sft, own, f = texts.pop("SFT"), {}, {}
        for name, answers in texts.items():
            own[name] = utilities(lab.many, answers)
            f[f"true utility: {name}"] = mean(own[name], lab.many)
            wins = lab.wins(lab.many, answers, sft, f"iterate {name}")
            f[f"wins against SFT: {name}"] = mean(wins, lab.many)
        return f | {"true utility, second less first": mean(own["second round"] - own["first round"], lab.many)}

    def claims(self, f):
        yield Claim("the second round's answers are liked more", f["true utility, second less first"], above=0)

    def draw(self, figure, f):
        for axis, heading in zip(figure.subplots(1, 2), ("true utility", "wins against SFT")):
            pictures.dots(axis, {name: f[f"{heading}: {name}"] for name in ("first round", "second round")})
            axis.set_title(heading)


def ranked(records, answers, rng):
    """Each record's answers ranked by a training labeler, without those that state what the test asks."""
    rankings = []
    for record, texts in zip(records, answers):
        responses = [text for text in texts if not town.states_test_fact(text)]
        if len(responses) >= 2:
            rankings.append(town.rank(record, responses, rng.choice(town.TRAINING_LABELERS), rng))
    return rankings


class Compute(Finding):
    """Fine-tuning costs a few per cent of the computation of pretraining."""

    paper = "Section 5.1: SFT 4.9 and PPO-ptx 60 petaflop/s-days, where pretraining GPT-3 took 3,640"
    remark = "GPT-3 has read a million tokens for each answer of PPO's; the town's base model, seven hundred"
    minutes = 0.1

    def measure(self, lab):
        gpt, tokenizer = load(lab.models()["gpt"], GPT)
        weights = sum(p.numel() for name, p in gpt.named_parameters() if "wpe" not in name)  # that a token meets
        forward, step = 2 * weights, 6 * weights  # FLOPs of a token; a step is a forward, and twice that backward

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
        exact = lambda value: {"mean": value, "low": value, "high": value}  # noqa: E731
        f = {f"FLOPs: {name}": float(value) for name, value in flops.items()}
        for name in ("SFT", "reward model", "PPO-ptx"):
            f[f"{name}, share of pretraining"] = exact(flops[name] / flops["pretraining"])
        return f

    def claims(self, f):
        yield Claim("SFT: below 5 % of pretraining", f["SFT, share of pretraining"], below=0.05)
        yield Claim("PPO-ptx: below 5 % of pretraining", f["PPO-ptx, share of pretraining"], below=0.05)

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), {name: value for name, value in f.items() if "share" in name}, mark=0.05)
