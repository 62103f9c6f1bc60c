"""The reward model: how it is best trained, and what makes it good."""

import random

import numpy as np
import torch

from data import town
from lab.evaluation import pairs_right, scores_of_rankings
from minirlhf.losses import ranking_loss

from . import pictures
from .finding import Finding
from .lab import SIZES, mean, means
from .preferences import rank_again


def measure_accuracy(lab, folders, rankings=None):
    """({name: pairs_right on held-out rankings}, {name: accuracy as a figure}) of {name: reward model's folder}."""
    rankings = rankings or lab.rankings("rankings_held_out")
    pairs = {name: pairs_right(folder, rankings) for name, folder in folders.items()}
    return pairs, {name: mean(own[:, 0], rankings, own[:, 1]) for name, own in pairs.items()}


def lead(lab, one, other):
    """By how much one's share of right pairs is above the other's, as a figure."""
    return mean(one[:, 0] - other[:, 0], lab.rankings("rankings_held_out"), one[:, 1])


class ComparisonsTogether(Finding):
    """Shuffled into one data set, comparisons train a worse reward model in an epoch than with all of a prompt's in one
    batch element."""

    paper = "Section 3.5: shuffled, a single pass over the data set overfits"
    remark = (
        "All rankings are of four answers without ties. Both ways take as many steps with as many comparisons; "
        "shuffled, an answer is in three steps instead of one, and a step has six times as many prompts. (Small steps, "
        "as many comparisons to one as there were rankings, are six times as many: shown beside.) Held-out answers are "
        "ranked by training labelers, so that only the prompts are new"
    )
    sample = "4,000 rankings, made again by training labelers"
    minutes = 1
    k = 4
    ways = ("together", "shuffled", "shuffled, in small steps")
    panels = dict.fromkeys(("loss on held-out rankings", "loss on its own rankings", "accuracy"), ways)
    hypotheses = (
        ("shuffled, the loss on held-out rankings is higher",
         "loss on held-out rankings: shuffled minus together", dict(above=0)),
        ("and fewer pairs are right", "accuracy: shuffled minus together", dict(below=0)),
    )  # fmt: skip

    def measure(self, lab):
        rankings = [cut(r, self.k) for r in lab.rankings() if len(set(cut(r, self.k)["ranks"])) == self.k]
        rankings, pairs = rankings[: 2400 if not lab.tiny else 12], []
        for r in rankings:
            pairs += [{"prompt": r["prompt"], "responses": [r["responses"][a], r["responses"][b]], "ranks": [1, 2]}
                      for a in range(self.k) for b in range(self.k) if r["ranks"][a] < r["ranks"][b]]  # fmt: skip
        size = lab.recipe("rm")["batch_size"]
        together, shuffled = lab.write("rankings-together", rankings), lab.write("rankings-shuffled", pairs)
        stages = lab.rm(together), lab.rm(shuffled, batch_size=size * len(pairs) // len(rankings)), lab.rm(shuffled)
        folders = lab.train({f"rm-{way}": stage for way, stage in zip(self.ways, stages)})
        folders, f = dict(zip(self.ways, folders.values())), {}
        held_out = rank_again(lab.rankings("rankings_held_out"), town.TRAINING_LABELERS, lab.rng("together"))
        for what, asked in (("held-out", held_out), ("its own", rankings[:1000])):
            losses = {way: losses_of(folder, asked) for way, folder in folders.items()}
            f |= means(losses, asked, [(way, "together") for way in self.ways[1:]], f"loss on {what} rankings")
        right, accuracies = measure_accuracy(lab, folders, held_out)
        f |= {f"accuracy: {way}": value for way, value in accuracies.items()}
        for way in self.ways[1:]:
            f[f"accuracy: {way} minus together"] = lead(lab, right[way], right["together"])
        return f


def losses_of(folder, rankings):
    """The reward model's loss (eq. 1) on each ranking, in nats. (N,)"""
    scores = scores_of_rankings(folder, rankings)
    pairs = [(torch.tensor([row]), torch.tensor([r["ranks"]])) for row, r in zip(scores, rankings, strict=True)]
    return np.array([ranking_loss(*pair).item() for pair in pairs])


class RewardModelScaling(Finding):
    """A reward model gets better with more rankings, with more responses (and so more comparisons) in each, and with
    its size."""

    paper = "Appendix C.2 and Stiennon et al. 2020, Figure 6: twice the data, about 1.1 points; twice the size, 1.8"
    remark = (
        "Fewer rankings take fewer steps; so do those cut to two responses, of which those that tie are left out. "
        "Neither source says that more responses help. Medium's pretraining has read half of the pages"
    )
    sample = "4,000 rankings by held-out labelers"
    minutes = 10
    sizes = SIZES
    shares = (0.125, 0.25, 0.5, 1.0)
    ks = (2, 3, 4)
    differences = ("all rankings minus an eighth", "all responses minus two", "larger minus smaller")
    hypotheses = [(f"{name}, in pairs right", name, dict(above=0)) for name in differences]

    def measure(self, lab):
        rankings = lab.rankings()
        stages = {f"rm-share-{share}": lab.rm(share_of_rankings(lab, share)) for share in self.shares[:-1]}
        for k in self.ks:
            path = lab.write(f"rankings-first-{k}", [cut(r, k) for r in rankings if len(set(cut(r, k)["ranks"])) > 1])
            stages[f"rm-first-{k}"] = lab.rm(path)
        of_size = {"toy": "rm-share-0.5"}  # half of the rankings is enough to tell sizes apart, at half the time
        for size in SIZES:
            lab.models(size)
            if size not in of_size:
                of_size[size] = f"rm-{size}"
                stages[f"rm-{size}"] = lab.rm(share_of_rankings(lab, 0.5), size)
        pairs, accuracy = measure_accuracy(lab, lab.train(stages) | {"all": f"{lab.toy}/rm"})
        f = {"share of the rankings": list(self.shares)}
        f["by share"] = [accuracy[f"rm-share-{share}"] for share in self.shares[:-1]] + [accuracy["all"]]
        f["responses to a prompt"] = [*map(str, self.ks), "all"]
        f["by responses"] = [accuracy[f"rm-first-{k}"] for k in self.ks] + [accuracy["all"]]
        f["size, on half of them"], f["by size"] = list(SIZES), [accuracy[of_size[size]] for size in SIZES]
        f["all rankings minus an eighth"] = lead(lab, pairs["all"], pairs["rm-share-0.125"])
        f["all responses minus two"] = lead(lab, pairs["all"], pairs["rm-first-2"])
        f["larger minus smaller"] = lead(lab, pairs[of_size[SIZES[-1]]], pairs[of_size[SIZES[0]]])
        return f

    def draw(self, figure, f):
        names = ("share of the rankings", "responses to a prompt", "size, on half of them")
        axes = figure.subplots(1, 3, sharey=True)
        for axis, x, y in zip(axes, names, ("by share", "by responses", "by size")):
            pictures.steps(axis, f[x], f[y])
            axis.set(xlabel=x)
        axes[0].set(ylabel="pairs right")


def share_of_rankings(lab, share):
    """The file of the first rankings, a share of all."""
    rankings = lab.rankings()
    return lab.write(f"rankings-{share}", rankings[: max(1, int(share * len(rankings)))])


def cut(ranking, k):
    """k of a ranking's responses, or all. Those of a smaller k are among those of a larger. (They are drawn: in the
    file the base model's answer comes first.)"""
    order = list(range(len(ranking["ranks"])))
    random.Random(ranking["prompt"]).shuffle(order)
    responses, ranks = ([ranking[name][i] for i in order[:k]] for name in ("responses", "ranks"))
    return ranking | {"responses": responses, "ranks": [1 + sorted(set(ranks)).index(rank) for rank in ranks]}


class RatingsOrComparisons(Finding):
    """The order that follows from a coarse scale of the same feelings trains a worse reward model than the ranking."""

    paper = "Beside the paper, whose labelers rate each response from 1 to 7, then rank them (Figure 12)"
    remark = (
        "The same labeler, with the same errors, rates all answers to a prompt, and then ranks them, so habits of "
        "rating cancel out: the ratings lose only what lies between two marks, or beyond the last. How widely labelers "
        "spread their marks is ours; the pairs that each way leaves untied are shown beside"
    )
    sample = "4,000 rankings by held-out labelers"
    minutes = 0.7
    panels = {"": ("rankings", "ratings")}
    mark = 0.5
    hypotheses = (("trained on rankings, more pairs right", "rankings minus ratings", dict(above=0)),)

    def measure(self, lab):
        rng, labelers = lab.rng("ratings"), {one.name: one for one in town.TRAINING_LABELERS}
        habits = {name: (rng.gauss(4, 1), rng.uniform(0.8, 2.5)) for name in labelers}
        ranked, rated = [], []
        for r in lab.rankings():
            both = rate_and_rank(r, labelers[r["labeler"]], *habits[r["labeler"]], rng)
            for rows, ranks in zip((rated, ranked), both):
                rows.append(r | {"ranks": ranks})
        stages = {f"rm-{name}": lab.rm(lab.write(f"rankings-{name}", rows))
                  for name, rows in (("ranked", ranked), ("rated", rated))}  # fmt: skip
        folders = dict(zip(("rankings", "ratings"), lab.train(stages).values()))
        pairs, f = measure_accuracy(lab, folders)
        for name, rows in (("rankings", ranked), ("ratings", rated)):
            f[f"untied pairs: {name}"] = float(sum(a < b for r in rows for a in r["ranks"] for b in r["ranks"]))
        return f | {"rankings minus ratings": lead(lab, pairs["rankings"], pairs["ratings"])}


def rate_and_rank(record, labeler, middle, stretch, rng):
    """The ranks that follow from a labeler's ratings of a record's responses, and the same labeler's ranks. middle,
    stretch: the rating that an answer of utility 0 gets from this labeler, and how many more one of utility 1."""
    state = rng.getstate()
    ranks = town.rank(record, record["responses"], labeler, rng)["ranks"]
    rng.setstate(state)  # the same errors
    feelings = town.felt(record, record["responses"], labeler, rng)
    ratings = [min(7, max(1, round(middle + stretch * feeling))) for feeling in feelings]
    order = sorted(set(ratings), reverse=True)
    return [1 + order.index(rating) for rating in ratings], ranks
