"""Who prefers what: the paper's main result, and whether other labelers agree with those of the training data."""

import numpy as np

from data import town
from lab.evaluation import count_right, measure_reward_model, pairs_right
from minirlhf.support.statistics import interval

from . import pictures
from .finding import Finding
from .lab import SIZES, apart, mean, means

RUNGS = ("gpt", "gpt_prompted", "sft", "ppo", "ppo_ptx")
STEPS = (("gpt_prompted", "gpt"), ("sft", "gpt_prompted"), ("ppo", "sft"), ("ppo_ptx", "sft"))


class Ladder(Finding):
    """At every size labelers prefer SFT to prompted GPT to GPT, and PPO and PPO-ptx to SFT, against the largest SFT."""

    paper = "Figure 1: GPT < GPT prompted < SFT < PPO, PPO-ptx at 1.3, 6 and 175 billion parameters"
    remark = "The smallest models seldom win, so nano's are judged on four times the prompts"
    sample = "2,000 test prompts, nano's 8,000"
    minutes = 3
    sizes = SIZES
    hypotheses = [(f"{size}: {one} minus {other}, in wins against the largest SFT", f"{size}: {one} minus {other}",
                   dict(above=0)) for size in SIZES for one, other in STEPS]  # fmt: skip

    def measure(self, lab):
        small, large = SIZES[0], SIZES[-1]
        records = dict.fromkeys(SIZES, lab.test) | {small: lab.many}
        asked = {"largest on small's": (lab.models(large)["sft"], records[small])}
        for size in SIZES:
            models = lab.models(size)
            asked |= {(size, name): (models[name], records[size]) for name in RUNGS if name != "gpt_prompted"}
            asked[size, "gpt_prompted"] = models["gpt"], records[size], town.few_shot()
        texts, f = lab.answers(asked), {}
        for size, own in records.items():
            others = texts["largest on small's" if size == small else (large, "sft")]
            wins = {name: lab.wins(own, texts[size, name], others, f"{size} {name}") for name in RUNGS}
            f |= means(wins, own, STEPS, size)
        return f

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, rung in zip(pictures.LINES, RUNGS):
            pictures.steps(axis, SIZES, [f[f"{size}: {rung}"] for size in SIZES], rung.replace("_", "-"), colour)
        axis.set(ylabel="win rate against the largest SFT", ylim=(0, 1))
        pictures.legend(axis)


class SmallBeatsLarge(Finding):
    """Answers of the smallest PPO-ptx model are preferred to those of a GPT a hundred times its size, prompted or
    not."""

    paper = "Section 1 and Figure 1: the 1.3 billion PPO-ptx is preferred to the 175 billion GPT-3, prompted or not"
    remark = "The largest GPT has read half of the pages; both models' losses on pages are shown"
    minutes = 0.5
    sizes = SIZES
    mark = 0.5
    rivals = ("gpt", "gpt_prompted")
    panels = {"": [f"nano ppo_ptx against medium {name}" for name in rivals]}
    hypotheses = [(f"preferred to medium's {name}", f"nano ppo_ptx against medium {name}", dict(above=0.5))
                  for name in rivals]  # fmt: skip

    def measure(self, lab):
        large = lab.models(SIZES[-1])["gpt"]
        asked = {"ppo_ptx": (lab.models(SIZES[0])["ppo_ptx"], lab.test), "gpt": (large, lab.test),
                 "gpt_prompted": (large, lab.test, town.few_shot())}  # fmt: skip
        texts = lab.answers(asked, "small beats large")
        wins = {name: lab.wins(lab.test, texts["ppo_ptx"], texts[name], name) for name in self.rivals}
        f = {f"nano ppo_ptx against medium {name}": mean(own, lab.test) for name, own in wins.items()}
        losses = lab.losses({size: lab.models(size)["gpt"] for size in (SIZES[0], SIZES[-1])})
        return f | {f"loss on pages: {size} gpt": interval(*own) for size, own in losses.items()}


class HeldOutLabelers(Finding):
    """Labelers whose rankings trained nothing prefer InstructGPT about as often as those who made the rankings, and a
    reward model predicts what they prefer."""

    paper = "Section 4.1: similar rates; the reward model 72.4 % on labelers of its own, 69.6 % on others, in 5 folds"
    remark = (
        "The ten held-out labelers are the same for all seeds, and have another taste. Intervals of wins resample "
        "labelers, all of whom judge. All labelers weigh the same four things, so that a reward model which is blind "
        "to one of these loses but two points on the held-out labelers: what it loses is shown, beside what the mean "
        "taste of the training labelers would without errors, and is no claim"
    )
    sample = "2,000 test prompts, 30 and 10 labelers; 4,000 rankings"
    minutes = 2
    folds = 5
    panels = {"ppo_ptx wins": ("training labelers", "held-out labelers"),
              "RM accuracy": ("labelers of its own", "others", "held-out labelers", "two labelers agree")}  # fmt: skip
    mark = 0.5
    hypotheses = (
        ("held-out labelers prefer PPO-ptx to SFT", "ppo_ptx wins: held-out labelers", dict(above=0.5)),
        ("about as often as others: within 5 points",
         "ppo_ptx wins: training labelers minus held-out labelers", dict(above=-0.05, below=0.05)),
        ("a reward model orders at least 60 % of their pairs", "RM accuracy: held-out labelers", dict(above=0.6)),
    )  # fmt: skip

    def measure(self, lab):
        f = self.wins(lab)
        rankings, held_out, stages = lab.rankings(), lab.rankings("rankings_held_out"), {}
        parts = [town.TRAINING_LABELERS[i :: self.folds] for i in range(self.folds)]
        for i, part in enumerate(parts):
            names = {labeler.name for labeler in part}
            path = lab.write(f"rankings-fold-{i}", [r for r in rankings if r["labeler"] not in names])
            stages[f"rm-fold-{i}"] = lab.rm(path)
        right, best = ({"labelers of its own": [], "others": [], "held-out labelers": []} for _ in range(2))
        taste = [felt_by(r, r["responses"], town.TRAINING_LABELERS) for r in held_out]
        for i, folder in enumerate(lab.train(stages).values()):
            rest = sum(parts[:i] + parts[i + 1 :], ())
            for name, labelers in zip(right, (rest, parts[i], town.HELD_OUT_LABELERS)):
                again = rank_again(held_out, labelers, lab.rng(f"fold {i}"))
                right[name].append(pairs_right(folder, again))
                best[name].append(count_right(taste, again))
        for what, counts in (("RM accuracy", right), ("accuracy of the mean taste of training labelers", best)):
            for name, own in counts.items():
                own = np.sum(own, 0)  # (rankings, 2): pairs right, and pairs
                f[f"{what}: {name}"] = mean(own[:, 0], held_out, own[:, 1])
        start = "RM accuracy: "
        for name in ("others", "held-out labelers"):
            own = apart(f[f"{start}labelers of its own"], f[f"{start}{name}"])
            f[f"{start}labelers of its own minus {name}"] = own
        f["RM accuracy: two labelers agree"] = measure_reward_model(f"{lab.toy}/rm", held_out)["labeler_agreement"]
        return f

    def wins(self, lab):
        """How often PPO-ptx wins against SFT by labelers of both groups, each of whom judges all prompts."""
        both = lab.test_answers["ppo_ptx"], lab.test_answers["sft"]
        groups, rates = (town.TRAINING_LABELERS, town.HELD_OUT_LABELERS), []
        for labelers in groups:
            rates.append([lab.wins(lab.test, *both, f"by {one.name}", (one,)).mean() for one in labelers])
        ours, others = (interval(own, items=[one.name for one in who]) for own, who in zip(rates, groups))
        names = self.panels["ppo_ptx wins"]
        f = {f"ppo_ptx wins: {name}": figure for name, figure in zip(names, (ours, others))}
        return f | {f"ppo_ptx wins: {names[0]} minus {names[1]}": apart(ours, others)}


def felt_by(record, texts, labelers):
    """The labelers' mean utility of each text, by what they believe, without errors. (N,)"""
    return np.array([np.mean([one.utility(town.judge(record, text, one.beliefs), text) for one in labelers])
                     for text in texts])  # fmt: skip


def rank_again(rankings, labelers, rng):
    """The same responses, ranked by other labelers, one drawn for each."""
    return [r | town.rank(r, r["responses"], rng.choice(labelers), rng) for r in rankings]


def rank_answers(records, answers, rng):
    """Each record's answers ranked by a training labeler, without those that state what the test asks."""
    rankings = []
    for record, texts in zip(records, answers):
        responses = [text for text in texts if not town.states_test_fact(text)]
        if len(responses) >= 2:
            rankings.append(town.rank(record, responses, rng.choice(town.TRAINING_LABELERS), rng))
    return rankings
