"""The reward model: how it is best trained, and what makes it good."""

import numpy as np
import torch

from data import town
from lab.evaluation import pairs_right, score_rankings
from minirlhf.losses import ranking_loss

from . import pictures
from .finding import Finding
from .lab import SIZES, mean, means


def measure_accuracy(lab, folders):
    """({name: pairs_right on held-out rankings}, {name: accuracy as a figure}) of {name: reward model's folder}."""
    rankings = lab.rankings("rankings_held_out")
    pairs = {name: pairs_right(folder, rankings) for name, folder in folders.items()}
    return pairs, {name: mean(own[:, 0], rankings, own[:, 1]) for name, own in pairs.items()}


def lead(lab, one, other):
    """By how much one's share of right pairs is above the other's, as a figure."""
    return mean(one[:, 0] - other[:, 0], lab.rankings("rankings_held_out"), one[:, 1])


class ComparisonsTogether(Finding):
    """Shuffled into one data set, comparisons overfit in an epoch; one prompt's in one batch element, they do not."""

    paper = "Section 3.5: shuffled, a single pass over the data set overfits"
    minutes = 1
    ways = ("together", "shuffled", "shuffled, wide")
    panels = dict.fromkeys(("loss on held-out rankings", "loss on its own rankings", "accuracy"), ways)
    hypotheses = (
        ("shuffled, the loss on held-out rankings is higher",
         "loss on held-out rankings: shuffled minus together", dict(above=0)),
        ("and on those that were trained on lower: it overfits",
         "loss on its own rankings: shuffled minus together", dict(below=0)),
    )  # fmt: skip

    def measure(self, lab):
        rankings = lab.rankings()[: 2500 if not lab.tiny else 12]
        pairs = []
        for r in rankings:
            k = range(len(r["responses"]))
            pairs += [{"prompt": r["prompt"], "responses": [r["responses"][a], r["responses"][b]], "ranks": [1, 2]}
                      for a in k for b in k if r["ranks"][a] < r["ranks"][b]]  # fmt: skip
        wide = max(1, round(lab.recipe("rm")["batch_size"] * len(pairs) / len(rankings)))
        together, shuffled = lab.write("rankings-together", rankings), lab.write("rankings-shuffled", pairs)
        # shuffled: as many pairs to a step as there were rankings; wide: as many pairs to a step as together
        stages = lab.rm(together), lab.rm(shuffled), lab.rm(shuffled, batch_size=wide)
        folders = lab.train({f"rm-{way}": stage for way, stage in zip(self.ways, stages)})
        folders, f = dict(zip(self.ways, folders.values())), {}
        for what, asked in (("held-out", lab.rankings("rankings_held_out")), ("its own", rankings[:1000])):
            losses = {way: losses_of(folder, asked) for way, folder in folders.items()}
            f |= means(losses, asked, [("shuffled", "together")], f"loss on {what} rankings")
        _, accuracies = measure_accuracy(lab, folders)
        return f | {f"accuracy: {way}": value for way, value in accuracies.items()}


def losses_of(folder, rankings):
    """The reward model's loss (eq. 1) on each ranking, in nats. (N,)"""
    scores = score_rankings(folder, rankings)
    pairs = [(torch.tensor([row]), torch.tensor([r["ranks"]])) for row, r in zip(scores, rankings)]
    return np.array([ranking_loss(*pair).item() for pair in pairs])


class RewardModelScaling(Finding):
    """A reward model gets better with more rankings, with more responses in each, and with its size."""

    paper = "Appendix C.2 and Stiennon et al. 2020, Figure 6: twice the data, about 1.1 points; twice the size, 1.8"
    minutes = 10
    sizes = SIZES
    shares = (0.125, 0.25, 0.5, 1.0)
    ks = (2, 3, 4)
    differences = ("all rankings minus an eighth", "all responses minus two", "larger minus smaller")
    hypotheses = [(f"{name}, in pairs right", name, dict(above=0)) for name in differences]

    def measure(self, lab):
        rankings, stages = lab.rankings(), {}
        for share in self.shares[:-1]:
            path = lab.write(f"rankings-{share}", rankings[: max(1, int(share * len(rankings)))])
            stages[f"rm-share-{share}"] = lab.rm(path)
        for k in self.ks:
            path = lab.write(f"rankings-first-{k}", [cut(r, k) for r in rankings if len(set(cut(r, k)["ranks"])) > 1])
            stages[f"rm-first-{k}"] = lab.rm(path)
        of_size = {"toy": "rm-share-0.5"}  # half of the rankings is enough to tell sizes apart, at half the time
        for size in lab.sizes:
            lab.models(size)
            if size not in of_size:
                of_size[size] = f"rm-{size}"
                stages[f"rm-{size}"] = lab.rm(f"{lab.out}/rankings-0.5.jsonl", size)
        pairs, accuracy = measure_accuracy(lab, lab.train(stages) | {"all": f"{lab.toy}/rm"})
        f = {"share of the rankings": list(self.shares)}
        f["by share"] = [accuracy[f"rm-share-{share}"] for share in self.shares[:-1]] + [accuracy["all"]]
        f["responses to a prompt"] = [*map(str, self.ks), "all"]
        f["by responses"] = [accuracy[f"rm-first-{k}"] for k in self.ks] + [accuracy["all"]]
        f["size, on half of them"], f["by size"] = list(lab.sizes), [accuracy[of_size[size]] for size in lab.sizes]
        f["all rankings minus an eighth"] = lead(lab, pairs["all"], pairs["rm-share-0.125"])
        f["all responses minus two"] = lead(lab, pairs["all"], pairs["rm-first-2"])
        f["larger minus smaller"] = lead(lab, pairs[of_size[lab.sizes[-1]]], pairs[of_size[lab.sizes[0]]])
        return f

    def draw(self, figure, f):
        names = ("share of the rankings", "responses to a prompt", "size, on half of them")
        axes = figure.subplots(1, 3, sharey=True)
        for axis, x, y in zip(axes, names, ("by share", "by responses", "by size")):
            pictures.steps(axis, f[x], f[y])
            axis.set(xlabel=x)
        axes[0].set(ylabel="pairs right")


def cut(ranking, k):
    """The first k responses of a ranking. They are in no order."""
    ranks = ranking["ranks"][:k]
    return ranking | {"responses": ranking["responses"][:k], "ranks": [1 + sorted(set(ranks)).index(x) for x in ranks]}


class RatingsOrComparisons(Finding):
    """Rankings train a better reward model than ratings by the same labelers: one's five is another's three."""

    paper = "Section 3.4 has labelers rank several responses to a prompt at once; ratings are noted and not trained on"
    minutes = 0.5
    panels = {"": ("rankings", "ratings")}
    mark = 0.5
    hypotheses = (("trained on rankings, more pairs right", "rankings minus ratings", dict(above=0)),)

    def measure(self, lab):
        rankings, rng = lab.rankings(), lab.rng("ratings")
        habits = {labeler.name: (rng.gauss(4, 1), rng.uniform(0.8, 2.5)) for labeler in town.TRAINING_LABELERS}
        rated = []
        for r in rankings:  # each response is rated by one labeler: as many looks at answers as a ranking takes
            ratings = []
            for response in r["responses"]:
                labeler = rng.choice(town.TRAINING_LABELERS)
                middle, stretch = habits[labeler.name]
                (feeling,) = town.felt(r, [response], labeler, rng)
                ratings.append(min(7, max(1, round(middle + stretch * feeling))))
            order = sorted(set(ratings), reverse=True)
            rated.append(r | {"ranks": [1 + order.index(rating) for rating in ratings]})
        folder = lab.train_one("rm-ratings", lab.rm(lab.write("rankings-from-ratings", rated)))
        pairs, f = measure_accuracy(lab, {"rankings": f"{lab.toy}/rm", "ratings": folder})
        return f | {"rankings minus ratings": lead(lab, pairs["rankings"], pairs["ratings"])}
