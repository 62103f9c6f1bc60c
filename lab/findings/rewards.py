"""The reward model: how it is best trained, and what makes it good."""

import numpy as np
import torch

from data import town
from minirlhf.losses import ranking_loss
from minirlhf.model import RewardModel
from minirlhf.rollout import ranking_scores
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.records import encode_rankings

from . import pictures
from .finding import Claim, Finding
from .lab import SIZES, mean
from .preferences import right


def accuracies(lab, folders):
    """{name: (rankings, 2): pairs ordered as the labeler did, and pairs} on held-out rankings."""
    rankings = lab.rankings("rankings_held_out")
    return {name: right(folder, rankings) for name, folder in folders.items()}


def accuracy(pairs, records):
    return mean(pairs[:, 0], records, pairs[:, 1])


def lead(one, other, records):
    """By how much the one's share of right pairs is above the other's, as a figure."""
    return mean(one[:, 0] - other[:, 0], records, one[:, 1])


class ComparisonsTogether(Finding):
    """Shuffled into one data set, the comparisons overfit in an epoch; all of a prompt in one batch element, they do
    not."""

    paper = "Section 3.5: shuffled, a single pass over the data set overfits"
    minutes = 1

    def measure(self, lab):
        rankings = lab.rankings()[: 2500 if not lab.tiny else 12]
        pairs = []
        for r in rankings:
            k = range(len(r["responses"]))
            pairs += [{"prompt": r["prompt"], "responses": [r["responses"][a], r["responses"][b]], "ranks": [1, 2]}
                      for a in k for b in k if r["ranks"][a] < r["ranks"][b]]  # fmt: skip
        wide = max(1, round(lab.recipe("rm")["batch_size"] * len(pairs) / len(rankings)))
        shuffled = lab.write("rankings-shuffled", pairs)
        folders = lab.train({
            "rm-together": lab.rm(lab.write("rankings-together", rankings)),
            "rm-shuffled": lab.rm(shuffled),  # each pair is an element as a ranking was: more and smaller steps
            "rm-shuffled, wide": lab.rm(shuffled, batch_size=wide),  # as many comparisons to a step, as many steps
        })  # fmt: skip
        f = {}
        for what, asked in (("held-out", lab.rankings("rankings_held_out")), ("its own", rankings[:1000])):
            losses = {name[3:]: losses_of(folder, asked) for name, folder in folders.items()}
            f |= {f"loss on {what} rankings, {name}": mean(own, asked) for name, own in losses.items()}
            less = mean(losses["shuffled"] - losses["together"], asked)
            f[f"loss on {what} rankings, shuffled less together"] = less
        found, held_out = accuracies(lab, folders), lab.rankings("rankings_held_out")
        return f | {f"accuracy, {name[3:]}": accuracy(pairs, held_out) for name, pairs in found.items()}

    def claims(self, f):
        start, end = "loss on", "rankings, shuffled less together"
        yield Claim("shuffled, the loss on held-out rankings is higher", f[f"{start} held-out {end}"], above=0)
        yield Claim("and on those that were trained on lower: it overfits", f[f"{start} its own {end}"], below=0)

    def draw(self, figure, f):
        for axis, start in zip(
            figure.subplots(1, 3), ("loss on held-out rankings", "loss on its own rankings", "accuracy")
        ):
            names = [name for name in f if name.startswith(start) and "less" not in name]
            pictures.dots(axis, {name.removeprefix(f"{start}, "): f[name] for name in names})
            axis.set_title(start)


def losses_of(folder, rankings):
    """The reward model's loss (eq. 1) on each ranking, in nats."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, RewardModel, tokenizer)
    scores = ranking_scores(model, encode_rankings(rankings, tokenizer, model.config.n_ctx), tokenizer.pad)
    pairs = [(torch.tensor([row]), torch.tensor([r["ranks"]])) for row, r in zip(scores, rankings)]
    return np.array([ranking_loss(*pair).item() for pair in pairs])


class RewardModelScaling(Finding):
    """A reward model gets better with more rankings, with more responses in each, and with its size."""

    paper = "Appendix C.2 and Stiennon et al. 2020, Figure 6: twice the data, about 1.1 points; twice the size, 1.8"
    minutes = 10
    sizes = SIZES
    shares = (0.125, 0.25, 0.5, 1.0)
    ks = (2, 3, 4)

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
        found = accuracies(lab, lab.train(stages) | {"all": f"{lab.toy}/rm"})
        held_out = lab.rankings("rankings_held_out")
        of = {name: accuracy(pairs, held_out) for name, pairs in found.items()}
        f = {"share of the rankings": list(self.shares)}
        f["by share"] = [of[f"rm-share-{share}"] for share in self.shares[:-1]] + [of["all"]]
        f["responses to a prompt"] = [*map(str, self.ks), "all"]
        f["by responses"] = [of[f"rm-first-{k}"] for k in self.ks] + [of["all"]]
        f["size, on half of them"], f["by size"] = list(lab.sizes), [of[of_size[size]] for size in lab.sizes]
        f["all rankings less an eighth"] = lead(found["all"], found["rm-share-0.125"], held_out)
        f["all responses less two"] = lead(found["all"], found["rm-first-2"], held_out)
        small, *_, large = (found[of_size[size]] for size in lab.sizes)
        f["larger less smaller"] = lead(large, small, held_out)
        return f

    def claims(self, f):
        for name in ("all rankings less an eighth", "all responses less two", "larger less smaller"):
            yield Claim(f"{name}, in pairs right", f[name], above=0)

    def draw(self, figure, f):
        axes = figure.subplots(1, 3, sharey=True)
        for axis, (x, y) in zip(axes, (("share of the rankings", "by share"), ("responses to a prompt", "by responses"),
                                       ("size, on half of them", "by size"))):  # fmt: skip
            pictures.curve(axis, range(len(f[x])), f[y])
            axis.set_xticks(range(len(f[x])), f[x])
            axis.set(xlabel=x)
        axes[0].set(ylabel="pairs right")


def cut(ranking, k):
    """The first k responses of a ranking. They are in no order."""
    ranks = ranking["ranks"][:k]
    return ranking | {"responses": ranking["responses"][:k], "ranks": [1 + sorted(set(ranks)).index(x) for x in ranks]}


class RatingsOrComparisons(Finding):
    """Rankings train a better reward model than ratings by the same labelers: what one calls a five is another's
    three."""

    paper = "Section 3.4 has labelers rank several responses to a prompt at once; ratings are noted and not trained on"
    minutes = 0.5

    def measure(self, lab):
        rankings, rng = lab.rankings(), lab.rng("ratings")
        habits = {labeler.name: (rng.gauss(4, 1), rng.uniform(0.8, 2.5)) for labeler in town.TRAINING_LABELERS}
        rated = []
        for r in rankings:  # each response is rated by somebody: as many looks at answers as a ranking takes
            ratings = []
            for response in r["responses"]:
                labeler = rng.choice(town.TRAINING_LABELERS)
                middle, stretch = habits[labeler.name]
                (feeling,) = town.felt(r, [response], labeler, rng)
                ratings.append(min(7, max(1, round(middle + stretch * feeling))))
            order = sorted(set(ratings), reverse=True)
            rated.append(r | {"ranks": [1 + order.index(rating) for rating in ratings]})
        folders = lab.train({"rm-ratings": lab.rm(lab.write("rankings-from-ratings", rated))})
        found = accuracies(lab, {"rankings": f"{lab.toy}/rm", "ratings": folders["rm-ratings"]})
        held_out = lab.rankings("rankings_held_out")
        f = {name: accuracy(pairs, held_out) for name, pairs in found.items()}
        return f | {"rankings less ratings": lead(found["rankings"], found["ratings"], held_out)}

    def claims(self, f):
        yield Claim("trained on rankings, more pairs right", f["rankings less ratings"], above=0)

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), {name: f[name] for name in ("rankings", "ratings")}, mark=0.5)
