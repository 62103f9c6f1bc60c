"""Who prefers what: the paper's headline, and whether the labelers who made it happen speak for others."""

import numpy as np

from data import town
from lab.evaluation import measure_reward_model
from minirlhf.model import RewardModel
from minirlhf.rollout import ranking_scores
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.records import encode_rankings
from minirlhf.support.statistics import pair_hits

from . import pictures
from .finding import Claim, Finding
from .lab import SIZES, mean

RUNGS = ("gpt", "gpt_prompted", "sft", "ppo", "ppo_ptx")


class Ladder(Finding):
    """At every size labelers prefer SFT to prompted GPT to GPT, and PPO and PPO-ptx to SFT. All are compared with the
    largest SFT model."""

    paper = "Figure 1: GPT < GPT prompted < SFT < PPO, PPO-ptx at 1.3, 6 and 175 billion parameters"
    remark = "The smallest models seldom win: to tell them apart takes four times the prompts"
    minutes = 3
    sizes = SIZES

    def measure(self, lab):
        small, large = lab.sizes[0], lab.sizes[-1]
        records = dict.fromkeys(lab.sizes, lab.test) | {small: lab.many}
        asked = {"largest on small's": (lab.models(large)["sft"], records[small])}
        for size in lab.sizes:
            models = lab.models(size)
            asked |= {(size, name): (models[name], records[size]) for name in RUNGS if name != "gpt_prompted"}
            asked[size, "gpt_prompted"] = models["gpt"], records[size], town.few_shot()
        texts = lab.answers(asked)
        figures = {}
        for size, own in records.items():
            others = texts["largest on small's" if size == small else (large, "sft")]
            wins = {name: lab.wins(own, texts[size, name], others, f"{size} {name}") for name in RUNGS}
            for name in RUNGS:
                figures[f"{size} {name}"] = mean(wins[name], own)
            for lower, upper in (("gpt", "gpt_prompted"), ("gpt_prompted", "sft"), ("sft", "ppo"), ("sft", "ppo_ptx")):
                figures[f"{size} {upper} less {lower}"] = mean(wins[upper] - wins[lower], own)
        return figures

    def claims(self, f):
        return [Claim(f"{name}, in wins against the largest SFT", f[name], above=0) for name in f if " less " in name]

    def draw(self, figure, f):
        axis, sizes = figure.subplots(), list(dict.fromkeys(name.split()[0] for name in f))
        for colour, rung in zip(pictures.LINES, RUNGS):
            values = [f[f"{size} {rung}"] for size in sizes]
            pictures.curve(axis, range(len(sizes)), values, rung.replace("_", "-"), colour)
        axis.set_xticks(range(len(sizes)), sizes)
        axis.set(ylabel="win rate against the largest SFT", ylim=(0, 1))
        pictures.legend(axis)


class SmallBeatsLarge(Finding):
    """Answers of the smallest PPO-ptx model are preferred to those of a GPT a hundred times its size."""

    paper = "Section 1: the 1.3 billion PPO-ptx is preferred to the 175 billion GPT-3"
    minutes = 0.5
    sizes = SIZES

    def measure(self, lab):
        small, large = lab.sizes[0], lab.sizes[-1]
        asked = {"small": (lab.models(small)["ppo_ptx"], lab.test), "large": (lab.models(large)["gpt"], lab.test)}
        texts = lab.answers(asked)
        wins = lab.wins(lab.test, texts["small"], texts["large"], "small beats large")
        return {f"{small} ppo_ptx against {large} gpt": mean(wins, lab.test)}

    def claims(self, f):
        return [Claim(name, value, above=0.5) for name, value in f.items()]

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), f, mark=0.5)


class HeldOutLabelers(Finding):
    """Labelers whose rankings trained nothing prefer InstructGPT about as often as those who made the rankings, and a
    reward model predicts what labelers it has not seen will prefer about as well."""

    paper = "Section 4.1: similar rates; the reward model 72.4 % on labelers of its own, 69.6 % on others, in 5 folds"
    minutes = 2
    folds = 5

    def measure(self, lab):
        figures, groups = {}, {"training": town.TRAINING_LABELERS, "held-out": town.HELD_OUT_LABELERS}
        texts, wins = lab.test_answers, {}
        for group, labelers in groups.items():
            wins[group] = lab.wins(lab.test, texts["ppo_ptx"], texts["sft"], "labelers", labelers)
            figures[f"ppo_ptx wins, {group} labelers"] = mean(wins[group], lab.test)
        figures["wins, training less held-out"] = mean(wins["training"] - wins["held-out"], lab.test)

        rankings = lab.rankings()
        parts = [town.TRAINING_LABELERS[i :: self.folds] for i in range(self.folds)]
        stages = {}
        for i, part in enumerate(parts):
            names = {labeler.name for labeler in part}
            path = lab.write(f"rankings-fold-{i}", [r for r in rankings if r["labeler"] not in names])
            stages[f"rm-fold-{i}"] = lab.rm(path)
        own, other = [], []
        held_out = lab.rankings("rankings_held_out")
        for i, folder in enumerate(lab.train(stages).values()):
            rest = [labeler for j, part in enumerate(parts) if j != i for labeler in part]
            for shares, labelers in ((own, rest), (other, parts[i])):
                shares.append(right(folder, ranked_again(held_out, labelers, lab.rng(f"fold {i}"))))
        own, other = np.sum(own, 0), np.sum(other, 0)  # (rankings, 2): pairs ordered as the labeler did, and pairs
        figures["RM accuracy, labelers of its own"] = mean(own[:, 0], held_out, own[:, 1])
        figures["RM accuracy, others"] = mean(other[:, 0], held_out, other[:, 1])
        share = own[:, 0] / own[:, 1].clip(1) - other[:, 0] / other[:, 1].clip(1)
        figures["RM accuracy, own less others"] = mean(share, held_out)
        agreement = measure_reward_model(f"{lab.toy}/rm", held_out)["labeler_agreement"]
        return figures | {"two labelers agree": agreement}

    def claims(self, f):
        yield Claim("held-out labelers prefer PPO-ptx to SFT", f["ppo_ptx wins, held-out labelers"], above=0.5)
        yield Claim("about as often as others: within 5 points", f["wins, training less held-out"], -0.05, 0.05)
        yield Claim("RM on labelers unseen, better than chance", f["RM accuracy, others"], above=0.5)
        yield Claim("about as good as on its own: within 5 points", f["RM accuracy, own less others"], -0.05, 0.05)

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), {name: value for name, value in f.items() if " less " not in name}, mark=0.5)


def ranked_again(rankings, labelers, rng):
    """The same responses, ranked by other labelers, one drawn for each."""
    return [r | town.rank(r, r["responses"], rng.choice(labelers), rng) for r in rankings]


def right(folder, rankings):
    """Of each ranking (pairs that the reward model orders as the labeler did, untied pairs), (N, 2)."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, RewardModel, tokenizer)
    scores = ranking_scores(model, encode_rankings(rankings, tokenizer, model.config.n_ctx), tokenizer.pad)
    hits = [pair_hits(row, ranking["ranks"]) for row, ranking in zip(scores, rankings, strict=True)]
    return np.array([(sum(h.values()), len(h)) for h in hits], float)
