"""What fine-tuning costs on public tasks, what cures that, and what fine-tuning on public tasks is worth."""

import random

import numpy as np

from data.town.demonstrations import respond
from data.town.prompts import KINDS, draw_record
from data.town.world import digest
from lab.evaluation import load, loss_difference
from lab.workers import at_once
from minirlhf.model import GPT
from minirlhf.support.statistics import interval

from . import benchmarks, pictures
from .finding import Claim, Finding
from .lab import LIMIT, follows, mean, means, utilities


def scores(lab, folders):
    """{name: {benchmark: (hits, contents)}} of {name: folder}, on the same items."""
    n = 20 if lab.tiny else 1000  # of each benchmark
    calls = [(benchmarks.accuracy, folder, n, lab.seed, lab.judge_on) for folder in folders.values()]
    return dict(zip(folders, at_once(*calls)))


def difference(one, other):
    """How much better a model is than another on all four benchmarks together, from their scores."""
    pairs = [(one[task][0] - other[task][0], task, one[task][1]) for task in one]
    contents = [f"{task} {content}" for _, task, contents in pairs for content in contents]
    return interval(np.concatenate([hits for hits, *_ in pairs]), items=contents)


class AlignmentTax(Finding):
    """Fine-tuned by PPO, the model is worse than GPT at public tasks which it was not asked about, and PPO-ptx regains
    some of that."""

    paper = "Section 4.2 and Figure 29: SQuADv2, DROP, HellaSwag, translation from French"
    remark = "Most of it comes with the fine-tuning that RL starts from; what PPO itself forgets is in ptx_sweep"
    minutes = 0.2
    panels = dict.fromkeys(("reading", "reasoning", "completion", "translation"),
                           ("gpt", "sft", "rl_start", "ppo", "ppo_ptx"))  # fmt: skip
    hypotheses = (("PPO is worse than GPT", "all four: ppo minus gpt", dict(below=0)),
                  ("PPO-ptx is better than PPO", "all four: ppo_ptx minus ppo", dict(above=0)))  # fmt: skip

    def measure(self, lab):
        hits = scores(lab, lab.models())
        f = {f"{task}: {name}": interval(values, items=contents)
             for name, own in hits.items() for task, (values, contents) in own.items()}  # fmt: skip
        for name, base in (("ppo", "gpt"), ("ppo", "rl_start"), ("ppo_ptx", "ppo"), ("ppo_ptx", "gpt")):
            f[f"all four: {name} minus {base}"] = difference(hits[name], hits[base])
        return f


class Sweep:
    """PPO at several `values` of a `coefficient`: what two findings share."""

    curves = ("loss above the start", "benchmarks minus the start's", "true utility")

    def sweep(self, lab, folders):
        """What the models of {value: folder} have lost of the web and of the benchmarks, and what they won."""
        start = {"start": lab.models()["rl_start"]}
        losses, hits = lab.losses(folders | start), scores(lab, folders | start)
        texts = lab.answers_to(lab.test, folders, "sweep")
        return {
            self.coefficient: list(folders),
            "loss above the start": [loss_difference(losses[value], losses["start"]) for value in folders],
            "benchmarks minus the start's": [difference(hits[value], hits["start"]) for value in folders],
            "true utility": [mean(utilities(lab.test, own), lab.test) for own in texts.values()],
            "loss: last minus first": loss_difference(losses[self.values[-1]], losses[self.values[0]]),
        }

    def draw(self, figure, f):
        for axis, title in zip(figure.subplots(1, 3), self.curves):
            pictures.steps(axis, f[self.coefficient], f[title])
            axis.set(title=title, xlabel=self.coefficient)


class PtxSweep(Sweep, Finding):
    """A large enough coefficient of PPO-ptx's pretraining loss undoes what PPO forgets."""

    paper = "Figure 33: from about 20 on, SQuADv2 and DROP are as good as before"
    minutes = 2
    coefficient = "ptx_coef"
    values = (0.0, 0.05, 0.2, 0.8, 3.2)

    def measure(self, lab):
        models = lab.models()
        folders = {0.0: models["ppo"], lab.recipe("ppo")["ptx_coef"]: models["ppo_ptx"]}
        new = [value for value in self.values if value not in folders]
        trained = lab.train({f"ppo-ptx-{value}": lab.ppo(models["rl_start"], ptx_coef=value) for value in new})
        folders |= dict(zip(new, trained.values()))
        return self.sweep(lab, {value: folders[value] for value in self.values})

    def claims(self, f):
        yield Claim("without it held-out pages are lost", f["loss above the start"][0], above=0)
        yield Claim("with the largest they are not", f["loss above the start"][-1], below=0.01)
        yield Claim("which is better", f["loss: last minus first"], below=0)


class KlSweep(Sweep, Finding):
    """A larger KL coefficient does not cure what PPO forgets: its loss on web pages is above PPO-ptx's at any value."""

    paper = "Figure 34: up to 100 times the default, SQuADv2 and DROP stay worse, and the reward falls"
    minutes = 3
    coefficient = "kl_coef"
    values = (0.01, 0.1, 0.3, 1.0, 3.0)

    def folders(self, lab):
        """{beta: folder} of PPO without documents; all episodes are kept in samples.jsonl."""
        start, show = lab.models()["rl_start"], lab.recipe("ppo")["batch_size"]
        stages = {f"ppo-kl-{beta}": lab.ppo(start, kl_coef=beta, ptx_coef=0.0, show=show) for beta in self.values}
        return dict(zip(self.values, lab.train(stages).values()))

    def measure(self, lab):
        folders = self.folders(lab)
        losses = lab.losses(folders | {"ptx": lab.models()["ppo_ptx"]})
        above = [loss_difference(losses[value], losses["ptx"]) for value in folders]
        return self.sweep(lab, folders) | {"loss above ppo_ptx": above}

    def claims(self, f):
        for value, above in zip(f["kl_coef"], f["loss above ppo_ptx"]):
            yield Claim(f"beta {value}: loss above PPO-ptx's", above, above=0)


def public_demonstrations(kinds, n, rng):
    """n demonstrations in equal shares of some kinds of task, without errors."""
    records = [draw_record(kinds[i % len(kinds)], rng, "train") for i in range(n)]
    return [{"prompt": r["prompt"], "response": respond(r, "careful", rng)} for r in records]


class PublicTasks(Finding):
    """Models tuned on public tasks that are phrased as instructions (FLAN, T0) lose to SFT on what people ask."""

    paper = "Figure 5: FLAN 29.8 %, T0 26.8 % of comparisons with SFT"
    minutes = 0.2
    mark = 0.5
    # Public data sets hold tasks that are easy to judge: classification, questions on a passage, translation.
    kinds = {"flan": ("closed_qa", "extract", "which_class", "kind_or_rude", "tovish", "summary"),
             "t0": ("closed_qa", "extract", "which_class", "kind_or_rude")}  # fmt: skip
    hypotheses = (("tuned on six public tasks, it loses to SFT", "wins against SFT: flan", dict(below=0.5)),
                  ("tuned on four, it loses to SFT", "wins against SFT: t0", dict(below=0.5)))  # fmt: skip

    def measure(self, lab):
        n, stages = len(lab.records("demonstrations", "demonstration")), {}
        for name, kinds in self.kinds.items():
            path = lab.write(f"demonstrations-{name}", public_demonstrations(kinds, n, lab.rng(name)))
            stages[name] = lab.sft(lab.models()["gpt"], data=(path,))
        texts = lab.answers_to(lab.test, lab.train(stages))
        wins = {name: lab.wins(lab.test, own, lab.test_answers["sft"], name) for name, own in texts.items()}
        wins["ppo_ptx"] = lab.wins(lab.test, lab.test_answers["ppo_ptx"], lab.test_answers["sft"], "ptx")
        return means(wins, lab.test, heading="wins against SFT")


class InContext(Finding):
    """The base model learns from examples in its context: shown some, it does a task more often than shown none."""

    paper = "Section 3.5 prompts GPT-3 with examples (Brown et al. 2020): accuracy grows with their number"
    minutes = 0.1
    kinds = ("polite", "which_class", "kind_or_rude", "outing")
    shots = (0, 1, 2, 3)
    hypotheses = (("with the most examples more often than with none", "most examples minus none", dict(above=0)),)

    def measure(self, lab):
        folder, most = lab.models()["gpt"], max(self.shots)
        model, tokenizer = load(folder, GPT)
        records, examples = [], []
        for i, record in enumerate(lab.draw_prompts(self.kinds, 800, "in context")):
            rngs = [random.Random(f"{lab.seed} {i} {k}") for k in range(most)]
            solved = [public_demonstrations((record["kind"],), 1, rng)[0] for rng in rngs]
            shown = [f"{one['prompt']}{one['response']}\n\n" for one in solved]
            if len(tokenizer.encode("".join(shown) + record["prompt"])) <= model.config.n_ctx - LIMIT:
                records.append(record)
                examples.append(shown)
        hits = {}
        for k in self.shots:
            shown = [r | {"prompt": "".join(own[:k]) + r["prompt"]} for r, own in zip(records, examples)]
            hits |= follows(lab.answers_to(shown, {k: folder}, f"{k} examples"), records)
        f = {"examples shown": list(self.shots), "follows": [mean(hits[k], records) for k in self.shots]}
        return f | {"most examples minus none": mean(hits[most] - hits[0], records)}

    def draw(self, figure, f):
        axis = figure.subplots()
        pictures.steps(axis, f["examples shown"], f["follows"])
        axis.set(xlabel="examples before the prompt", title="answers that follow")


class InstructionTuning(Finding):
    """Fine-tuned on instructions of more kinds, a model does kinds better that it was not fine-tuned on; and a larger
    model does them better than a smaller."""

    paper = "Beside the paper, Wei et al. 2022 (FLAN), Figures 6 and 7; Chung et al. 2022"
    minutes = 0.3
    sizes = ("nano", "toy")
    unseen = ("rename", "outing", "advert", "which_class")
    counts = (1, 3, 7, 14)
    hypotheses = (("fourteen kinds teach unseen ones better than one", "most kinds minus one", dict(above=0)),
                  ("the larger model does unseen kinds better", "larger minus smaller", dict(above=0)))  # fmt: skip

    def measure(self, lab):
        seen = sorted((kind for kind in KINDS if kind not in self.unseen), key=digest)
        n, stages = len(lab.records("demonstrations", "demonstration")) // 2, {}
        for size in self.sizes:
            for count in self.counts:
                demonstrations = public_demonstrations(seen[:count], n, lab.rng(f"{count} kinds"))
                path = lab.write(f"demonstrations-{count}-kinds", demonstrations)
                stages[size, count] = lab.sft(lab.models(size)["gpt"], size, data=(path,))
        folders = lab.train({f"{size}-tuned-on-{count}": stage for (size, count), stage in stages.items()})
        records = lab.draw_prompts(self.unseen, 800, "unseen kinds")
        hits = follows(lab.answers_to(records, dict(zip(stages, folders.values())), "unseen"), records)
        f = {size: [mean(hits[size, count], records) for count in self.counts] for size in self.sizes}
        f["kinds"] = list(self.counts)
        f["most kinds minus one"] = mean(hits["toy", self.counts[-1]] - hits["toy", 1], records)
        f["larger minus smaller"] = mean(hits["toy", self.counts[-1]] - hits["nano", self.counts[-1]], records)
        return f

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, size in zip(pictures.LINES, self.sizes):
            pictures.curve(axis, f["kinds"], f[size], size, colour)
        axis.set(xlabel="kinds of instructions fine-tuned on", title="answers that follow, of kinds unseen")
        pictures.legend(axis)


class PretrainingMixInSft(Finding):
    """A tenth of pretraining documents in the fine-tuning that RL starts from helps: from there PPO forgets less."""

    paper = "Appendix C.3: the RL starting point is fine-tuned with 10 % pretraining data, which helped PPO"
    minutes = 0.5
    panels = {"loss": ("start without", "start with", "ppo without", "ppo with")}
    hypotheses = (
        ("PPO forgets less of the web", "loss: ppo with minus ppo without", dict(below=0)),
        ("and is liked no less: at most 0.03", "true utility: ppo with minus ppo without", dict(above=-0.03)),
    )

    def measure(self, lab):
        models, sft = lab.models(), f"{lab.toy}/sft"
        without = lab.train_one("ppo-from-sft", lab.ppo(sft, ptx_coef=0.0))
        folders = dict(zip(self.panels["loss"], (sft, models["rl_start"], without, models["ppo"])))
        losses = lab.losses(folders)
        texts = lab.answers_to(lab.many, {name: folders[name] for name in ("ppo without", "ppo with")}, "mix")
        gold = {name: utilities(lab.many, own) for name, own in texts.items()}
        f = {f"loss: {name}": interval(*own) for name, own in losses.items()}
        f["loss: ppo with minus ppo without"] = loss_difference(losses["ppo with"], losses["ppo without"])
        return f | means(gold, lab.many, [("ppo with", "ppo without")], "true utility")
