"""Two findings beside the paper: methods compared at the same cost, and PPO with one detail changed at a time.

All begin at the RL start of reproduce.py, and read the same rankings or its reward model. What people truly like is
known, so it decides, and not the reward model's score.
"""

from pathlib import Path

import numpy as np

from lab import broken
from lab.evaluation import answerable, contents_of, informative_truths, judge_all, loss_difference, utilities_of
from lab.findings import pictures
from lab.findings.finding import Finding
from lab.findings.lab import UNKNOWN, certain, mean, means
from lab.findings.optimization import seconds
from lab.findings.overoptimization import best_of, expect_best
from minirlhf.support.logs import read_metrics
from minirlhf.support.statistics import interval

from . import details
from .arms import BEST, CHOSEN, COST, FRONTIER, NS, N, at_ppos_flops, few, measured, slug, stage
from .best_of_n import kl_bound

CLAIMS = Path(__file__).parent / "claims.md"
SEEDS = tuple(range(40, 50))
SETTINGS = [f"{name} {lr:g} and {price:g}" for name, (lr, price) in CHOSEN.items()]
HEAD = f"""# Claims about methods and details

Written by `python -m lab.methods --claims` and committed before the runs that confirm them. No claim has been measured
with seeds {SEEDS[0]} to {SEEDS[-1]} before, nor was anything chosen with them. A claim holds if the whole 95 % interval
of its figure, over runs and prompts, is within the bounds.

Learning rate and price of the KL, chosen with seeds 11 and 12 on validation content:
{"; ".join(SETTINGS)}; {BEST}.

| finding | claim | figure | bound | measured on | seeds |
|---|---|---|---|---|---|
"""
MARGIN = 0.045  # of true utility: a third of what PPO gained over its start with seeds 30 to 34, 0.137
RECIPE = ("gpt", "sft", "rm", "ppo", "ppo_ptx")  # runs of reproduce.py whose curves are kept, for docs/healthy.md
SHOWN = (0, 1, 2, 5, 10, 20, 30, 49)  # iterations of which metrics are kept


def figures(lab, found, records, pairs):
    """The figures "heading: name" of {name: Measured}; and "heading: a minus b" of each of the pairs, prompt by
    prompt."""
    f, (sft,) = {}, lab.answers_to(records, {"sft": lab.models()["sft"]}, "methods").values()
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
        f |= means(values, about, pairs, heading)
    for name, own in found.items():
        f[f"RM score: {name}"] = interval(own.rm_scores, items=contents)
        f[f"KL: {name}"] = own.kl
        f[f"loss on pages above the start's: {name}"] = loss_difference(own.losses, losses)
    return f


def at_distance(d, frontier):
    """The utilities (N,) of a method at d = sqrt(KL), between the two nearest points of its frontier, prompt by prompt;
    None beyond its ends. frontier: [(d, utilities (N,))]."""
    frontier = sorted(frontier, key=lambda point: point[0])
    for (d0, one), (d1, other) in zip(frontier, frontier[1:]):
        if d0 <= d <= d1:
            share = (d - d0) / (d1 - d0) if d1 > d0 else 0.0
            return (1 - share) * one + share * other
    return None


class Methods(Finding):
    """Methods without a value network beside PPO, with as many sampled answers, and for the same FLOPs."""

    paper = "Beside the paper"
    remark = "Learning rate and price of the KL are the best of a search that was as large for each, of two other seeds"
    sample = "4,000 test prompts"
    seeds = SEEDS
    minutes = 20
    hypotheses = (
        *((f"{name}, with as many answers, is at most {MARGIN} below PPO",
           f"true utility: {name} minus PPO", dict(above=-MARGIN)) for name in ("REINFORCE", "RLOO")),
        (f"{BEST}, which trains nothing, is at most {MARGIN} below PPO",
         f"true utility: {BEST} minus PPO", dict(above=-MARGIN)),
        *((f"{name}, for PPO's FLOPs, is at most {MARGIN} below PPO",
           f"true utility: {name}, for PPO's FLOPs minus PPO", dict(above=-MARGIN)) for name in ("REINFORCE", "RLOO")),
        *((f"{name}, at PPO's KL, is within {MARGIN} of PPO",
           f"at PPO's KL: {name} minus PPO", dict(above=-MARGIN, below=MARGIN)) for name in ("REINFORCE", "RLOO")),
        *((f"{name}, with as many answers, is below PPO", f"true utility: {name} minus PPO", dict(below=0))
          for name in ("GRPO", "GRPO, not divided", "online DPO", "expert iteration")),
        *((f"{name}, at PPO's KL, is below PPO", f"at PPO's KL: {name} minus PPO", dict(below=0))
          for name in ("GRPO", "GRPO, not divided", "online DPO", "expert iteration")),
        ("DPO, on the best and the worst answer of each ranking, is above PPO",
         "true utility: DPO minus PPO", dict(above=0)),
        ("GRPO with a verifier does what was asked more often than with the reward model (it is what it is trained on)",
         "does what was asked: GRPO, verifier minus GRPO", dict(above=0)),
        (f"and its answers are liked as much, within {MARGIN}",
         "true utility: GRPO, verifier minus GRPO", dict(above=-MARGIN, below=MARGIN)),
    )  # fmt: skip

    def measure(self, lab):
        records = few(lab, lab.held_out, 10)
        stages = {name: stage(lab, name, *own) for name, own in CHOSEN.items()}
        for name, (lr, _) in CHOSEN.items():
            stages |= {(name, price): stage(lab, name, lr, price) for price in few(lab, FRONTIER[name])}
        stages |= {f"{name}, for PPO's FLOPs": stage(lab, name, *CHOSEN[name], episodes=at_ppos_flops(name))
                   for name in COST if name != "PPO"}  # fmt: skip
        lr, price = CHOSEN["PPO"]
        stages["PPO-ptx"] = lab.ppo(lab.models()["rl_start"], lr=lr, kl_coef=price)
        names = {label: slug("-".join(map(str, label)) if isinstance(label, tuple) else label) for label in stages}
        trained = lab.train({f"methods/{names[label]}": own for label, own in stages.items()})
        folders = {label: trained[f"methods/{names[label]}"] for label in stages}
        found = measured(lab, folders | {"start": lab.models()["rl_start"]}, records)
        found[BEST], best_of_each = self.best_of(lab, records, found["start"])
        swept = {label: found.pop(label) for label in list(found) if isinstance(label, tuple)}
        swept |= {(name, price): found[name] for name, (_, price) in CHOSEN.items()}
        pairs = [(name, "PPO") for name in found if name != "PPO"] + [("GRPO, verifier", "GRPO")]
        f = figures(lab, found, records, pairs)
        f |= self.frontiers(swept, found["start"], records)
        f["frontier: best of n: price"] = list(map(float, NS))
        f["frontier: best of n: KL"] = [certain(kl_bound(n)) for n in NS]  # at most
        f["frontier: best of n: true utility"] = [mean(own, records) for own in best_of_each.T]
        f["seconds of training"] = {name: float(seconds(folders[name])) for name in (*CHOSEN, "PPO-ptx")}
        return f

    def best_of(self, lab, records, start):
        """Measured of the best of N answers of the start; and the true utility that the best of each of NS is expected
        to have (records, len(NS))."""
        texts, gold, (scores,) = best_of(lab, records, max(NS))
        chosen = scores[:, :N].argmax(1)
        best = [own[i] for own, i in zip(texts, chosen)]
        judgements = judge_all(records, best)
        own = dict(texts=best, judgements=judgements, utilities=utilities_of(judgements, best))
        own |= dict(rm_scores=scores[:, :N].max(1), kl=certain(kl_bound(N)))
        return start._replace(**own), expect_best(scores, gold, NS)

    def frontiers(self, swept, start, records):
        """KL and true utility over each method's prices; and how far it is above PPO at the KL of PPO as chosen."""
        f, d = {}, {label: max(0.0, own.kl["mean"]) ** 0.5 for label, own in swept.items()}
        gold = {label: np.array(own.utilities) for label, own in swept.items()}
        at = "PPO", CHOSEN["PPO"][1]
        for name in dict.fromkeys(name for name, _ in swept):
            own = sorted(label for label in swept if label[0] == name)
            f[f"frontier: {name}: price"] = [float(price) for _, price in own]
            f[f"frontier: {name}: KL"] = [swept[label].kl for label in own]
            f[f"frontier: {name}: true utility"] = [mean(gold[label], records) for label in own]
            if name != "PPO":
                curve = [(0.0, np.array(start.utilities)), *((d[label], gold[label]) for label in own)]
                there = at_distance(d[at], curve)
                found = UNKNOWN if there is None else mean(there - gold[at], records, signed=True)
                f[f"at PPO's KL: {name} minus PPO"] = found
        return f

    def draw(self, figure, f):
        """A panel for each method: from the start, true utility at each price over the KL, before PPO's in grey. The
        chosen price has a ring."""
        names = [name.split(": ")[1] for name in f if name.startswith("frontier: ") and name.endswith(": KL")]
        figure.set_size_inches(9, 5)
        axes = figure.subplots(2, len(names) // 2, sharex=True, sharey=True)
        for axis, name in zip(axes.flat, [name for name in names if name != "PPO"]):
            for own, colour in (("PPO", pictures.GREY), (name, pictures.LINES[0])):
                prices, kls, utilities = (f[f"frontier: {own}: {what}"] for what in ("price", "KL", "true utility"))
                xs = [max(0.0, kl["mean"]) ** 0.5 for kl in kls]
                (chosen,) = np.flatnonzero(np.isclose(prices, CHOSEN[own][1] if own in CHOSEN else N))
                axis.plot(xs[chosen], utilities[chosen]["mean"], "o", markersize=10, color=colour, fillstyle="none")
                points = [(0.0, f["true utility: start"]), *sorted(zip(xs, utilities), key=lambda point: point[0])]
                pictures.curve(axis, *zip(*points), own, colour)
            axis.set_title(name, fontsize=10)
        for axis in (axes[0, -1], *axes[1]):
            axis.set_xlabel("square root of KL" + ", at most" * (axis.get_title() == "best of n"), fontsize=8)
            axis.tick_params(labelbottom=True)
        for axis in axes.flat[len(names) - 1 :]:
            axis.axis("off")
            lines, _ = axes.flat[0].get_legend_handles_labels()
            axis.legend(lines, ("PPO", "the method"), loc="center", frameon=False, labelcolor=pictures.GREY)
        for axis in axes[:, 0]:
            axis.set_ylabel("true utility", fontsize=9)


class Details(Finding):
    """PPO with one detail changed at a time."""

    paper = "Beside the paper, Huang et al. 2022 and 2024"
    remark = "PPO's settings are the recipe's. All policies are judged at temperature 1, with the usual limit"
    sample = "4,000 test prompts"
    seeds = SEEDS
    minutes = 12
    harmless = ("no_whitening", "whitening_without_shift", "whitening_by_minibatch", "lambda_1", "no_value_clipping",
                "value_from_sft", "value_from_sft_with_zero_head", "k2_in_the_reward", "k3_in_the_reward", "no_warmup",
                "no_gradient_clipping", "adam_eps_1e_5")  # fmt: skip
    harmful = ("k1_in_the_loss", "scores_times_10", "score_at_the_padding", "temperature_07_scored_at_1")
    hypotheses = (
        *((f"{name}: within {MARGIN} of PPO", f"true utility: {name} minus nothing", dict(above=-MARGIN, below=MARGIN))
          for name in harmless),
        *((f"{name}: below PPO", f"true utility: {name} minus nothing", dict(below=0)) for name in harmful),
    )  # fmt: skip

    def measure(self, lab):
        records = few(lab, lab.held_out, 10)
        script, flags = lab.ppo(lab.models()["rl_start"], ptx_coef=0.0)
        stages = {f"details/{name}": (details, flags | dict(change=name)) for name in details.CHANGES}
        folders = dict(zip(details.CHANGES, lab.train(stages).values()))
        pairs = [(name, "nothing") for name in folders if name != "nothing"]
        f = figures(lab, measured(lab, folders, records), records, pairs)
        f["metrics"] = {name: symptoms(folder) for name, folder in folders.items()}
        return f | {"curves": {name: broken.metrics(f"{lab.toy}/{name}") for name in RECIPE}}

    def draw(self, figure, f):
        """What each change does to the true utility, the best first; and the middle of that once more."""
        found = {name: value for name in details.CHANGES if (value := f.get(f"true utility: {name} minus nothing"))}
        found, left = dict(sorted(found.items(), key=lambda own: -own[1]["mean"])), -0.19
        figure.set_size_inches(9, 6)
        for axis in figure.subplots(1, 2, sharey=True):
            axis.axvspan(-MARGIN, MARGIN, color=pictures.GREY, alpha=0.15, linewidth=0)
            pictures.dots(axis, found, mark=0)
        axis.set_xlim(left, 0.07)
        beyond = [row for row, value in enumerate(found.values()) if value["mean"] < left]
        axis.plot([left + 0.005] * len(beyond), beyond, "<", color=pictures.LINES[0])
        figure.supxlabel("true utility minus PPO's", fontsize=9, color=pictures.GREY)


def symptoms(folder):
    """{column: its values in some iterations} of a run's metrics."""
    rows = read_metrics(folder)
    chosen = [rows[min(i, len(rows) - 1)] for i in SHOWN]
    return {name: [row[name] for row in chosen] for name in rows[0] if isinstance(rows[0][name], float)}


FINDINGS = {finding.name(): finding for finding in (Methods, Details)}
