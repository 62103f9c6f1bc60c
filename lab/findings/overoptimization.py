"""Optimizing too far: where the reward model's score and what people really like part, and by which law.

"Proxy" is the reward model's score, "gold" the true utility, of the same answers; d is the square root of the KL from
the start, in nats per response.
"""

import math
from collections import Counter

import numpy as np

from data import town
from data.town.world import FACT
from lab.evaluation import contents_of, load, rm_scores, sample, texts_of, utilities
from lab.methods.best_of_n import kl_bound
from lab.workers import at_once
from minirlhf.model import GPT, RewardModel
from minirlhf.support.logs import read_metrics
from minirlhf.support.statistics import STUDENT, interval

from . import pictures
from .finding import Finding
from .lab import LIMIT, SIZES, UNKNOWN, apart, certain, mean
from .preferences import felt_by
from .rewards import measure_accuracy, share_of_rankings
from .tasks import KlSweep

LEAST = min(KlSweep.values)  # the beta with which a policy goes furthest
PARTS, FIT_PARTS = 10, 20  # of a run, each a point of a curve, or of a fit
NEAR = 1.0  # d: the fits read no part nearer to the start
NS = (1, 2, 4, 8, 16, 32)  # of best-of-n
TITLES = {"proxy": "RM score", "gold": "true utility"}


def episodes(lab, folder):
    """All of a PPO run: its rows of samples.jsonl, and each episode's {"kl", "proxy", "gold", "about"} (N,)."""
    rows = read_metrics(folder, "samples.jsonl")
    records = [lab.about[row["prompt"]] for row in rows]
    columns = {"kl": [r["kl"] for r in rows], "proxy": [r["score"] for r in rows], "about": contents_of(records)}
    gold = utilities(records, [row["response"] for row in rows])
    return rows, {name: np.array(own) for name, own in columns.items()} | {"gold": gold}


def parts(values, count=PARTS):
    """{name: its values in `count` parts of the run}, and each part's d."""
    cut = {name: np.array_split(own, count) for name, own in values.items()}
    return cut, [math.sqrt(max(0, part.mean())) for part in cut["kl"]]


def figures_of(cut, name):
    """A figure of each part."""
    return [interval(values, items=about) for values, about in zip(cut[name], cut["about"])]


class Overoptimization(Finding):
    """Far from its start, a policy's score by the reward model still rises while people like its answers less."""

    paper = "Beside the paper, Stiennon et al. 2020, Figure 5; Gao et al. 2022, Figure 1"
    remark = (
        "The rankings are by labelers of one group, who hold some myths; true utility is that of all labelers, without "
        "myths. How those of the group like the answers is shown beside"
    )
    sample = "every other of 640 training episodes, at the peak and at the end; 300 training prompts"
    minutes = 3
    hypotheses = (("the reward model's score still rises after the peak", "proxy: end minus peak", dict(above=0)),
                  ("while the true utility falls", "gold: end minus peak", dict(below=0)))  # fmt: skip

    def measure(self, lab):
        f = {"distance": [], "proxy": [], "gold": []}
        for beta, folder in KlSweep().folders(lab).items():
            rows, values = episodes(lab, folder)
            cut, distance = parts(values)
            f["distance"].append(distance)
            for name in TITLES:
                f[name].append(figures_of(cut, name))
            if beta == LEAST:  # every other episode finds the peak; the rest measure it
                peak = int(np.argmax([part[::2].mean() for part in cut["gold"]]))
                cut["row"] = np.array_split(np.arange(len(rows)), PARTS)
                best, last = ({name: own[i][1::2] for name, own in cut.items()} for i in (peak, -1))
                for end in (best, last):
                    end["gold by training labelers"] = felt_in_training(lab, [rows[i] for i in end["row"]])
                for name in (*TITLES, "gold by training labelers"):
                    one, other = (interval(end[name], items=end["about"]) for end in (last, best))
                    f[f"{name}: end minus peak"] = apart(one, other)
                f["examples"] = film(lab, rows, values["gold"])
        records = lab.records("prompts_train", "prompt")[: 10 if lab.tiny else 300]  # such as PPO's episodes answer
        _, gold, proxy = best_of(lab, records, max(NS))
        f["best of n: distance, at most"] = distances()
        for name, values in (("proxy", proxy[0]), ("gold", gold)):
            expected = expect_best(proxy[0], values, NS)
            f[f"best of n: {name}"] = [mean(own, records) for own in expected.T]
        return f

    def draw(self, figure, f):
        for axis, (which, title) in zip(figure.subplots(1, 2), TITLES.items()):
            for colour, beta, xs, ys in zip(pictures.LINES, KlSweep.values, f["distance"], f[which]):
                pictures.curve(axis, xs, ys, f"PPO, beta {beta}", colour)
            xs = f["best of n: distance, at most"]
            pictures.curve(axis, xs, f[f"best of n: {which}"], "best of n (a bound)", pictures.LINES[-1])
            axis.set(title=title, xlabel="square root of KL, nats per response")
        pictures.legend(axis)


def felt_in_training(lab, rows):
    """What the training labelers feel about the responses of rows of samples.jsonl on average, by what they believe,
    without errors. (N,)"""
    return np.concatenate([felt_by(lab.about[r["prompt"]], [r["response"]], town.TRAINING_LABELERS) for r in rows])


class OveroptimizationLaw(Finding):
    """The true utility follows d (a - b log d) in RL better than d (a - b d), and b is smaller with a reward model of
    more rankings, and of a larger size. A penalty for KL buys no more true utility at the same distance than stopping
    early."""

    paper = "Beside the paper, Gao et al. 2022, Figures 1, 3 and 9, where a larger reward model is what is true"
    remark = (
        "d (a - b d) is the form for best-of-n. Near the start neither form holds, as Gao et al. say, so the fits read "
        "parts of runs with d of 1 or more; of the four runs together, which have one utility of the start, one a and "
        "a b each, those up to a d that all reach. (Gao et al. hold a the same over sizes; over numbers of rankings "
        "they found no clean law.) An eighth of the rankings is also an eighth of the steps. The value network has the "
        "reward model's size, and starts as it. With the penalty: the last fifth of a run with beta 0.3, against the "
        "parts of the run with hardly any that are as far. A run's intervals take its parts for independent; R squared "
        "has none in a run, and is of each run alone, as far as it goes"
    )
    sample = "6,400 episodes of each RL run; 300 training prompts for best-of-n"
    minutes = 4
    sizes = ("nano", "toy")
    shares = (0.125, 0.5)
    models = ("all rankings", "half", "an eighth", "nano, all rankings")
    hypotheses = (
        ("RL: this form explains more than d (a - b d)", "RL, all rankings: R squared, minus the other form's",
         dict(above=0)),
        ("RL: b is above 0", "RL, all rankings: b", dict(above=0)),
        ("b is smaller with all rankings than with an eighth", "RL: b, all rankings minus an eighth", dict(below=0)),
        ("b is smaller with the toy as reward model and value network than with nano",
         "RL: b, all rankings minus nano, all rankings", dict(below=0)),
        ("beta 0.3 is at most 0.05 better than stopping at the same distance", "beta 0.3 minus stopping early",
         dict(below=0.05)),
    )  # fmt: skip

    def measure(self, lab):
        stages = {f"rm-share-{share}": lab.rm(share_of_rankings(lab, share)) for share in self.shares}
        lab.models("nano")
        stages["rm-nano-all"] = lab.rm(lab.file("rankings"), "nano")
        eighth, half, nano = lab.train(stages).values()
        reward_models = dict(zip(self.models, (f"{lab.toy}/rm", half, eighth, nano)))
        sweep = KlSweep().folders(lab)
        runs = {f"ppo-{name.replace(', ', '-').replace(' ', '-')}": KlSweep.stage(lab, LEAST, reward_model=folder)
                for name, folder in reward_models.items() if name != self.models[0]}  # fmt: skip
        small = dict(value_lr=lab.recipe("ppo", "nano")["value_lr"])  # the value network has the reward model's size
        runs["ppo-nano-all-rankings"] = KlSweep.stage(lab, LEAST, reward_model=nano, **small)
        runs = dict(zip(self.models, (sweep[LEAST], *lab.train(runs).values())))
        records = lab.records("prompts_train", "prompt")[: 10 if lab.tiny else 300]
        _, gold, proxies = best_of(lab, records, max(NS), list(reward_models.values()))
        f, curves = {}, {}
        for (name, folder), proxy in zip(runs.items(), proxies):
            cut, distance = parts(episodes(lab, folder)[1], FIT_PARTS)
            f[f"{name}: distance"], f[f"{name}: gold"] = distance, figures_of(cut, "gold")
            curves[name] = points = [(d, part.mean()) for d, part in zip(distance, cut["gold"]) if d >= NEAR]
            fits = [fit({name: points}, form)["R squared"]["mean"] for form in (log_form, square_form)]
            f[f"RL, {name}: R squared, minus the other form's"] = certain(fits[0] - fits[1])
            chosen = list(zip(distances(), expect_best(proxy, gold, NS).mean(0)))
            f |= {f"best of n, {name}: {key.removeprefix(': ')}": certain(value["mean"])
                  for key, value in fit({"": chosen}, square_form).items()}  # fmt: skip
        reach = min(max((d for d, _ in points), default=0) for points in curves.values())
        together = fit({name: [p for p in points if p[0] <= reach] for name, points in curves.items()}, log_form)
        f |= {f"RL: b, {key}" if " minus " in key else f"RL, {key}": value for key, value in together.items()}
        f["the d that all reach"] = certain(reach)
        gold_of_parts = [part["mean"] for part in f[f"{self.models[0]}: gold"]]
        f["all rankings: peak minus start"] = certain(max(gold_of_parts) - gold_of_parts[0])
        accuracies = measure_accuracy(lab, reward_models)[1]
        f |= {f"pairs right: {name}": value for name, value in accuracies.items()}
        early = f[f"{self.models[0]}: distance"], f[f"{self.models[0]}: gold"]
        return f | {"beta 0.3 minus stopping early": self.penalty(lab, sweep[0.3], *early)}

    def penalty(self, lab, folder, distance, gold):
        """The mean gold of the last fifth of a run, minus that of another run's parts that are as far."""
        values = episodes(lab, folder)[1]
        last = {name: own[-(len(own) // 5) :] for name, own in values.items()}
        d = math.sqrt(max(0, last["kl"].mean()))
        return apart(interval(last["gold"], items=last["about"]), at(d, distance, gold))

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, name in zip(pictures.LINES, self.models):
            xs = f[f"{name}: distance"]
            pictures.curve(axis, xs, f[f"{name}: gold"], f"RM: {name}", colour)
            fitted = [f[key]["mean"] for key in ("RL, start", "RL, a", f"RL, {name}: b")]
            line = np.linspace(NEAR, max(NEAR, f["the d that all reach"]["mean"]), 30)
            axis.plot(line, predict(*fitted, line, log_form), linestyle="--", linewidth=1, color=colour)
        axis.set(title="true utility, and the fitted law (dashed)", xlabel="square root of KL, nats per response")
        pictures.legend(axis)


class OveroptimizationBySize(Finding):
    """The best of n answers by a larger reward model are truly better than by a smaller one."""

    paper = "Beside the paper, Gao et al. 2022, Figure 1"
    remark = (
        "All three reward models are trained on half of the rankings, and choose among the same answers of the toy. "
        "Medium's pretraining has read half of the pages"
    )
    sample = "300 test prompts, 32 answers to each"
    minutes = 3
    sizes = SIZES
    hypotheses = (("true utility of the best of 32", "gold at 32: medium minus nano", dict(above=0)),)

    def measure(self, lab):
        path = share_of_rankings(lab, 0.5)
        for size in SIZES:
            lab.models(size)
        stages = {f"rm-{'share-0.5' if size == 'toy' else size}": lab.rm(path, size) for size in SIZES}
        folders, records = lab.train(stages), lab.test[: 10 if lab.tiny else 300]
        _, gold, proxies = best_of(lab, records, max(NS), list(folders.values()))
        f, most = {"best of n: distance, at most": distances()}, {}
        for size, proxy in zip(SIZES, proxies):
            expected = expect_best(proxy, gold, NS)
            f[f"{size}: gold"], most[size] = [mean(own, records) for own in expected.T], expected[:, -1]
            fitted = fit({size: list(zip(distances(), expected.mean(0)))}, square_form)
            f |= {f"{size}, {key}": certain(value["mean"]) for key, value in fitted.items()}
        return f | {"gold at 32: medium minus nano": mean(most[SIZES[-1]] - most[SIZES[0]], records)}

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, size in zip(pictures.LINES, SIZES):
            pictures.curve(axis, f["best of n: distance, at most"], f[f"{size}: gold"], f"RM: {size}", colour)
        axis.set(title="true utility of the best of n", xlabel="square root of KL, at most, nats per response")
        pictures.legend(axis)


# --- the law ---------------------------------------------------------------------------------------------------------


def log_form(d):
    """What b is subtracted with in RL: d log d, 0 at 0. (Gao et al. 2022, eq. 1)"""
    return d * np.log(np.maximum(d, 1e-9))


def square_form(d):
    """The same for best-of-n: d^2."""
    return d**2


def fit(curves, form):
    """Least squares for gold = start + a d - b form(d), of {name: [(d, gold), ...]}, with one `start` and one `a` for
    all curves and a `b` for each. Figures, whose intervals take the points for independent: "start", "a", "NAME: b",
    "R squared", and the first curve's b minus each other's: "FIRST minus NAME". Unknown of too few points."""
    names = list(curves)
    points = np.array([(d, gold, i) for i, own in enumerate(curves.values()) for d, gold in own]).reshape(-1, 3)
    d, gold, which = points.T
    columns = np.stack([np.ones_like(d), d, *(-form(d) * (which == i) for i in range(len(names)))], 1)
    wanted = dict(zip(("start", "a", *(f"{name}: b" for name in names)), np.eye(columns.shape[1])))
    for name in names[1:]:
        wanted[f"{names[0]} minus {name}"] = wanted[f"{names[0]}: b"] - wanted[f"{name}: b"]
    free = len(d) - columns.shape[1]
    if free < 1 or np.linalg.matrix_rank(columns) < columns.shape[1]:
        return {name: UNKNOWN for name in (*wanted, "R squared")}
    found, *_ = np.linalg.lstsq(columns, gold, rcond=None)
    left, t = gold - columns @ found, STUDENT[free - 1] if free <= len(STUDENT) else 1.96
    covariance, f = left @ left / free * np.linalg.inv(columns.T @ columns), {}
    for name, row in wanted.items():
        value, spread = float(row @ found), t * math.sqrt(max(0, row @ covariance @ row))
        f[name] = {"mean": value, "low": value - spread, "high": value + spread}
    total = ((gold - gold.mean()) ** 2).sum()
    return f | {"R squared": certain(float(1 - left @ left / total) if total else 1.0)}


def predict(start, a, b, d, form):
    """The law's gold at d."""
    return start + a * d - b * form(np.asarray(d, float))


def at(d, distance, figures):
    """The figure between the two of a curve that are next to d: unknown beyond the curve's ends."""
    order = np.argsort(distance)
    xs = np.array(distance)[order]
    if not xs[0] <= d <= xs[-1]:
        return UNKNOWN
    i = min(int(np.searchsorted(xs, d, side="right")) - 1, len(xs) - 2)
    share = (d - xs[i]) / (xs[i + 1] - xs[i]) if xs[i + 1] > xs[i] else 0.0
    one, other = figures[order[i]], figures[order[i + 1]]
    mean = (1 - share) * one["mean"] + share * other["mean"]
    low, high = (math.hypot((1 - share) * (one["mean"] - one[end]), share * (other["mean"] - other[end]))
                 for end in ("low", "high"))  # fmt: skip
    return {"mean": mean, "low": mean - low, "high": mean + high}


# --- best of n -------------------------------------------------------------------------------------------------------


def best_of(lab, records, n, reward_models=None):
    """n samples of the RL start for each record: the texts, their true utilities (records, n), and for each reward
    model their scores (models, records, n)."""
    start, half = lab.models()["rl_start"], n // 2
    reward_models = reward_models or [f"{lab.toy}/rm"]
    calls = [(pool, start, reward_models, records, i, i + half, (lab.seed, *b"pool")) for i in (0, half)]
    columns = sum(at_once(*calls), [])
    texts = [[own[i] for own, _ in columns] for i in range(len(records))]
    gold = np.stack([utilities(records, own) for own, _ in columns], 1)
    return texts, gold, np.stack([scores for _, scores in columns], 2)


def pool(folder, reward_models, records, first, last, seed):
    """[(texts, scores (models, records))] of the samples number first to last of each record."""
    model, tokenizer = load(folder, GPT)
    models, columns = [load(path, RewardModel)[0] for path in reward_models], []
    for i in range(first, last):
        texts = texts_of(sample(model, tokenizer, records, LIMIT, (*seed, i)), tokenizer, folder)
        columns.append((texts, np.stack([rm_scores(rm, tokenizer, records, texts) for rm in models])))
    return columns


def expect_best(proxy, values, ns):
    """The expected value of the sample with the highest proxy of n (records, len(ns)), from a pool of N samples. In
    rising order of proxy, sample i (from 1) is the best in C(i - 1, n - 1) of the C(N, n) draws. proxy, values:
    (records, N)."""
    values = np.take_along_axis(values, np.argsort(proxy, 1), 1)
    N = values.shape[1]
    weights = [[math.comb(i, n - 1) / math.comb(N, n) for i in range(N)] for n in ns]
    return values @ np.array(weights).T


def distances():
    """d of best-of-n for each n, at most: the root of log n - (n - 1) / n."""
    return [math.sqrt(kl_bound(n)) for n in NS]


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
