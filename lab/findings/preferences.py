"""Who prefers what: the paper's main result, and whether other labelers agree with those of the training data."""

import numpy as np

from data import town
from lab.evaluation import measure_reward_model, pairs_right

from . import pictures
from .finding import Claim, Finding
from .lab import SIZES, mean, means

RUNGS = ("gpt", "gpt_prompted", "sft", "ppo", "ppo_ptx")
STEPS = (("gpt_prompted", "gpt"), ("sft", "gpt_prompted"), ("ppo", "sft"), ("ppo_ptx", "sft"))


class Ladder(Finding):
    """At every size labelers prefer SFT to prompted GPT to GPT, and PPO and PPO-ptx to SFT, against the largest SFT."""

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
        f = {"sizes": list(lab.sizes)}
        for size, own in records.items():
            others = texts["largest on small's" if size == small else (large, "sft")]
            wins = {name: lab.wins(own, texts[size, name], others, f"{size} {name}") for name in RUNGS}
            f |= means(wins, own, STEPS, size)
        return f

    def claims(self, f):
        for name in (f"{size}: {one} minus {other}" for size in f["sizes"] for one, other in STEPS):
            yield Claim(f"{name}, in wins against the largest SFT", f[name], above=0)

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, rung in zip(pictures.LINES, RUNGS):
            values = [f[f"{size}: {rung}"] for size in f["sizes"]]
            pictures.steps(axis, f["sizes"], values, rung.replace("_", "-"), colour)
        axis.set(ylabel="win rate against the largest SFT", ylim=(0, 1))
        pictures.legend(axis)


class SmallBeatsLarge(Finding):
    """Answers of the smallest PPO-ptx model are preferred to those of a GPT a hundred times its size."""

    paper = "Section 1: the 1.3 billion PPO-ptx is preferred to the 175 billion GPT-3"
    minutes = 0.5
    sizes = SIZES
    mark = 0.5

    def measure(self, lab):
        small, large = lab.sizes[0], lab.sizes[-1]
        texts = lab.answers_to(lab.test, {"small": lab.models(small)["ppo_ptx"], "large": lab.models(large)["gpt"]})
        wins = lab.wins(lab.test, texts["small"], texts["large"], "small beats large")
        return {f"{small} ppo_ptx against {large} gpt": mean(wins, lab.test)}

    def claims(self, f):
        return [Claim(name, value, above=0.5) for name, value in f.items()]


class HeldOutLabelers(Finding):
    """Labelers whose rankings trained nothing prefer InstructGPT about as often as those who made the rankings, and a
    reward model predicts what labelers it has not seen will prefer about as well."""

    paper = "Section 4.1: similar rates; the reward model 72.4 % on labelers of its own, 69.6 % on others, in 5 folds"
    minutes = 2
    folds = 5
    panels = {"ppo_ptx wins": ("training labelers", "held-out labelers"),
              "RM accuracy": ("labelers of its own", "others", "two labelers agree")}  # fmt: skip
    mark = 0.5
    hypotheses = (
        ("held-out labelers prefer PPO-ptx to SFT", "ppo_ptx wins: held-out labelers", dict(above=0.5)),
        ("about as often as others: within 5 points",
         "ppo_ptx wins: training labelers minus held-out labelers", dict(above=-0.05, below=0.05)),
        ("RM on labelers unseen, better than chance", "RM accuracy: others", dict(above=0.5)),
        ("about as good as on its own: within 5 points",
         "RM accuracy: labelers of its own minus others", dict(above=-0.05, below=0.05)),
    )  # fmt: skip

    def measure(self, lab):
        both = lab.test_answers["ppo_ptx"], lab.test_answers["sft"]
        groups = {"training labelers": town.TRAINING_LABELERS, "held-out labelers": town.HELD_OUT_LABELERS}
        wins = {group: lab.wins(lab.test, *both, "labelers", labelers) for group, labelers in groups.items()}
        f = means(wins, lab.test, [tuple(groups)], "ppo_ptx wins")

        rankings, held_out, stages = lab.rankings(), lab.rankings("rankings_held_out"), {}
        parts = [town.TRAINING_LABELERS[i :: self.folds] for i in range(self.folds)]
        for i, part in enumerate(parts):
            names = {labeler.name for labeler in part}
            path = lab.write(f"rankings-fold-{i}", [r for r in rankings if r["labeler"] not in names])
            stages[f"rm-fold-{i}"] = lab.rm(path)
        own, other = [], []
        for i, folder in enumerate(lab.train(stages).values()):
            rest = sum(parts[:i] + parts[i + 1 :], ())
            own.append(pairs_right(folder, rank_again(held_out, rest, lab.rng(f"fold {i}"))))
            other.append(pairs_right(folder, rank_again(held_out, parts[i], lab.rng(f"fold {i}"))))
        own, other = np.sum(own, 0), np.sum(other, 0)  # (rankings, 2): pairs ordered as the labeler did, and pairs
        f["RM accuracy: labelers of its own"] = mean(own[:, 0], held_out, own[:, 1])
        f["RM accuracy: others"] = mean(other[:, 0], held_out, other[:, 1])
        share = own[:, 0] / own[:, 1].clip(1) - other[:, 0] / other[:, 1].clip(1)
        f["RM accuracy: labelers of its own minus others"] = mean(share, held_out)
        f["RM accuracy: two labelers agree"] = measure_reward_model(f"{lab.toy}/rm", held_out)["labeler_agreement"]
        return f


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
