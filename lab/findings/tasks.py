"""What fine-tuning costs on public tasks, what cures that, and what fine-tuning on public tasks is worth."""

import random

import numpy as np

from data.town.demonstrations import respond
from data.town.prompts import KINDS, draw_record
from lab.evaluation import load, loss_difference, rm_scores, utilities
from lab.workers import at_once
from minirlhf.model import GPT, RewardModel
from minirlhf.support.logs import read_metrics
from minirlhf.support.statistics import interval

from . import benchmarks, pictures
from .finding import Finding
from .lab import LIMIT, follows, mean, means


def scores(lab, folders):
    """{name: {benchmark: (hits, contents)}} of {name: folder}, on the same items."""
    n = 20 if lab.tiny else 1000  # of each benchmark
    calls = [(benchmarks.accuracy, folder, n, lab.seed, lab.judge_on) for folder in folders.values()]
    return dict(zip(folders, at_once(*calls)))


def difference(one, other):
    """How much better a model is than another on all four benchmarks together, from their scores."""
    pairs = [(one[task][0] - other[task][0], task, one[task][1]) for task in one]
    contents = [f"{task} {content}" for _, task, contents in pairs for content in contents]
    return interval(np.concatenate([hits for hits, *_ in pairs]), items=contents, signed=True)


TASKS = ("reading", "lists", "completion", "translation")


class AlignmentTax(Finding):
    """PPO makes the model that it starts from worse at public tasks in the form of the web's pages, in which it was not
    asked, and PPO-ptx less so."""

    paper = "Section 4.2 and Figure 29: SQuADv2, DROP, HellaSwag, translation from French, against GPT-3"
    remark = (
        "PPO-ptx's documents hold pages of all four forms. The paper compares with GPT-3, which also counts what the "
        "fine-tuning before PPO costs; that is shown beside, and each of the four tasks"
    )
    sample = "1,000 items of each of four tasks"
    minutes = 0.2
    panels = dict.fromkeys(TASKS, ("gpt", "sft", "rl_start", "ppo", "ppo_ptx"))
    pairs = (("ppo", "rl_start"), ("ppo_ptx", "ppo"), ("ppo_ptx", "rl_start"), ("rl_start", "gpt"), ("ppo", "gpt"),
             ("ppo_ptx", "gpt"))  # fmt: skip
    hypotheses = (("PPO is worse than its start", "all four: ppo minus rl_start", dict(below=0)),
                  ("PPO-ptx is better than PPO", "all four: ppo_ptx minus ppo", dict(above=0)))  # fmt: skip

    def measure(self, lab):
        hits = scores(lab, lab.models())
        f = {f"{task}: {name}": interval(values, items=contents)
             for name, own in hits.items() for task, (values, contents) in own.items()}  # fmt: skip
        for name, base in self.pairs:
            f[f"all four: {name} minus {base}"] = difference(hits[name], hits[base])
            for task in TASKS:
                own = {task: hits[name][task]}, {task: hits[base][task]}
                f[f"{task}: {name} minus {base}"] = difference(*own)
        return f


class Sweep:
    """PPO at several `values` of a `coefficient`: what two findings share."""

    curves = ("loss above the start", "benchmarks minus the start's", "true utility", "RM score")

    def sweep(self, lab, folders):
        """What the models of {value: folder} have lost of the web and of the benchmarks, and what they won."""
        start = {"start": lab.models()["rl_start"]}
        losses, hits = lab.losses(folders | start), scores(lab, folders | start)
        texts = lab.answers_to(lab.test, folders | start, "sweep")
        reward = dict(zip(texts, at_once(*[(scores_of, f"{lab.toy}/rm", lab.test, own) for own in texts.values()])))
        first, last, usual = self.values[0], self.values[-1], self.usual(lab)
        drift = [np.mean([row["kl"] for row in read_metrics(folder)][-10:]) for folder in folders.values()]
        return {
            "KL of the last ten iterations, nats": [float(value) for value in drift],
            "loss above the start": [loss_difference(losses[value], losses["start"]) for value in folders],
            "benchmarks minus the start's": [difference(hits[value], hits["start"]) for value in folders],
            "true utility": [mean(utilities(lab.test, texts[value]), lab.test) for value in folders],
            "RM score": [mean(reward[value], lab.test) for value in folders],
            "loss: last above the start": loss_difference(losses[last], losses["start"]),
            "loss: first above the start": loss_difference(losses[first], losses["start"]),
            "loss above the start: last minus half of the recipe's": half_of(losses, last, usual),
            "benchmarks: first minus the start's": difference(hits[first], hits["start"]),
            "benchmarks: last minus the start's": difference(hits[last], hits["start"]),
            "benchmarks: last minus first": difference(hits[last], hits[first]),
            "RM score: last minus the recipe's": mean(reward[last] - reward[usual], lab.test),
            "RM score: last minus the start's": mean(reward[last] - reward["start"], lab.test),
        }

    def usual(self, lab):
        """The recipe's value of the coefficient."""
        return lab.recipe("ppo")[self.coefficient]

    def draw(self, figure, f):
        for axis, title in zip(figure.subplots(1, len(self.curves)), self.curves):
            pictures.steps(axis, self.values, f[title])
            axis.set(title=title, xlabel=self.coefficient)


def half_of(losses, last, usual):
    """How far one model's loss is above half of what another's is, both counted from the start's."""
    nats, tokens = {name: own[0] for name, own in losses.items()}, losses["start"][1]
    return interval(nats[last] - nats["start"] - (nats[usual] - nats["start"]) / 2, tokens)


def scores_of(reward_model, records, texts):
    """A reward model's score of each text as an answer to its record's prompt (N,)."""
    return rm_scores(*load(reward_model, RewardModel), records, texts)


class PtxSweep(Sweep, Finding):
    """A large enough coefficient of PPO-ptx's pretraining loss undoes what PPO forgets."""

    paper = "Figure 33: from about 20 on, SQuADv2 and DROP are as good as before"
    remark = "The documents are pages of the same web, and hold all four tasks' forms"
    sample = "600 pages; 1,000 items of each of four tasks"
    minutes = 2
    coefficient = "ptx_coef"
    values = (0.0, 0.05, 0.1, 0.4, 1.6)
    hypotheses = (
        ("without it held-out pages are lost", "loss: first above the start", dict(above=0)),
        ("with the largest they are not", "loss: last above the start", dict(below=0.01)),
        ("without it public tasks are lost", "benchmarks: first minus the start's", dict(below=0)),
        ("with the largest they are not: at most 2 points", "benchmarks: last minus the start's", dict(above=-0.02)),
        ("which is better than without it", "benchmarks: last minus first", dict(above=0)),
        ("and the reward is still above the start's", "RM score: last minus the start's", dict(above=0)),
    )

    def measure(self, lab):
        models = lab.models()
        folders = {0.0: models["ppo"], self.usual(lab): models["ppo_ptx"]}
        new = [value for value in self.values if value not in folders]
        trained = lab.train({f"ppo-ptx-{value}": lab.ppo(models["rl_start"], ptx_coef=value) for value in new})
        folders |= dict(zip(new, trained.values()))
        return self.sweep(lab, {value: folders[value] for value in self.values})


class KlSweep(Sweep, Finding):
    """A larger KL coefficient does not cure what PPO forgets: at 100 times the default at least half of it is lost
    still, and the reward is lower."""

    paper = "Figure 34: up to 100 times the default, SQuADv2 and DROP stay worse, and the reward falls"
    remark = (
        "PPO without documents is compared with its own start, on pages and on public tasks. The paper says only that "
        "the loss is not cured; the half is our bound"
    )
    sample = "600 pages; 1,000 items of each of four tasks; 2,000 test prompts"
    minutes = 3
    coefficient = "kl_coef"
    values = (0.01, 0.1, 0.3, 3.0, 30.0)
    hypotheses = (
        (
            "at 100 times the default PPO has lost at least half as much of the pages as at the default",
            "loss above the start: last minus half of the recipe's",
            dict(above=0),
        ),
        ("and is worse than its start at public tasks", "benchmarks: last minus the start's", dict(below=0)),
        ("and the reward is lower than at the default", "RM score: last minus the recipe's", dict(below=0)),
    )

    def folders(self, lab):
        """{beta: folder} of PPO without documents."""
        stages = {f"ppo-kl-{beta}": self.stage(lab, beta) for beta in self.values}
        return dict(zip(self.values, lab.train(stages).values()))

    @staticmethod
    def stage(lab, beta, **changes):
        """A stage: PPO without documents; all episodes are kept in samples.jsonl."""
        show = lab.recipe("ppo")["batch_size"]
        return lab.ppo(lab.models()["rl_start"], kl_coef=beta, ptx_coef=0.0, show=show, **changes)

    def measure(self, lab):
        return self.sweep(lab, self.folders(lab))


def public_demonstrations(kinds, n, rng):
    """n demonstrations in equal shares of some kinds of task, without errors."""
    records = [draw_record(kinds[i % len(kinds)], rng, "train") for i in range(n)]
    return [{"prompt": r["prompt"], "response": respond(r, "careful", rng)} for r in records]


class PublicTasks(Finding):
    """Models tuned on public tasks that are phrased as instructions (FLAN, T0) lose to SFT on what people ask."""

    paper = "Section 1: FLAN 29.8 %, T0 26.8 % of comparisons with SFT; Figure 5 rates them"
    remark = (
        "As public data sets do, these differ from demonstrations in kinds of task (15 and 7.5 % of the prompts; on "
        "these alone beside), in the users' habits that they lack, and in answers without errors. The reward model "
        "chooses the epoch, as SFT's"
    )
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
            stages[f"{name}_epochs"] = lab.sft(lab.models()["gpt"], data=(path,))
        trained, rm = lab.train(stages), f"{lab.toy}/rm"
        chosen = {name: lab.pipeline().select(trained[f"{name}_epochs"], rm) for name in self.kinds}
        texts = lab.answers_to(lab.test, lab.train(chosen))
        wins = {name: lab.wins(lab.test, own, lab.test_answers["sft"], name) for name, own in texts.items()}
        wins["ppo_ptx"] = lab.wins(lab.test, lab.test_answers["ppo_ptx"], lab.test_answers["sft"], "ptx")
        f = means(wins, lab.test, heading="wins against SFT")
        for name, kinds in self.kinds.items():
            rows = [i for i, record in enumerate(lab.test) if record["kind"] in kinds]
            f[f"wins against SFT, on its own kinds: {name}"] = mean(wins[name][rows], [lab.test[i] for i in rows])
        return f


class InContext(Finding):
    """The base model learns from examples in its context: shown some of a kind of task, it does that kind more often
    than shown none, and than shown as many of another kind."""

    paper = "Section 3.5 prompts GPT-3 with examples (Brown et al. 2020): accuracy grows with their number"
    remark = "All kinds of task are asked; where three examples do not fit in the context, the prompt is left out"
    sample = "those of 2,400 test prompts, in equal shares of all kinds, before which three examples fit"
    minutes = 0.3
    shots = (0, 1, 2, 3)
    hypotheses = (
        ("with the most examples more often than with none", "most examples minus none", dict(above=0)),
        ("and than with as many of another kind", "most examples minus as many of another kind", dict(above=0)),
    )

    def measure(self, lab):
        folder, most = lab.models()["gpt"], max(self.shots)
        model, tokenizer = load(folder, GPT)
        room, records, examples, others = model.config.n_ctx - LIMIT, [], [], []
        for i, record in enumerate(lab.draw_prompts(tuple(KINDS), 2400, "in context")):
            rng = random.Random(f"{lab.seed} {i}")
            other = rng.choice([kind for kind in KINDS if kind != record["kind"]])
            both = [public_demonstrations((kind,) * most, most, rng) for kind in (record["kind"], other)]
            shown = [[f"{one['prompt']}{one['response']}\n\n" for one in solved] for solved in both]
            if all(len(tokenizer.encode("".join(own) + record["prompt"])) <= room for own in shown):
                records.append(record)
                examples.append(shown[0])
                others.append(shown[1])
        asked = {k: [r | {"prompt": "".join(own[:k]) + r["prompt"]} for r, own in zip(records, examples)]
                 for k in self.shots}  # fmt: skip
        asked["another kind"] = [r | {"prompt": "".join(own) + r["prompt"]} for r, own in zip(records, others)]
        hits = {}
        for k, own in asked.items():
            hits |= follows(lab.answers_to(own, {k: folder}, f"{k} examples"), records)
        f = {"examples shown": list(self.shots), "follows": [mean(hits[k], records) for k in self.shots]}
        f["follows: as many of another kind"] = mean(hits["another kind"], records)
        f["kinds that fit"] = len({record["kind"] for record in records})
        f["most examples minus as many of another kind"] = mean(hits[most] - hits["another kind"], records, signed=True)
        return f | {"most examples minus none": mean(hits[most] - hits[0], records, signed=True)}

    def draw(self, figure, f):
        axis = figure.subplots()
        pictures.steps(axis, f["examples shown"], f["follows"])
        axis.set(xlabel="examples before the prompt", title="answers that follow")


class InstructionTuning(Finding):
    """Fine-tuned on instructions of more kinds, a model does kinds better that it was not fine-tuned on; and a larger
    model gains more by it than a smaller."""

    paper = "Beside the paper, Wei et al. 2022 (FLAN), Figures 6 and 7; Chung et al. 2022"
    remark = (
        "Of no kinds: GPT. If it does few of the unseen kinds at either size, a gain is nearly what the tuned model "
        "does. Which kinds are seen differs between seeds. Each size has its recipe's rate and epochs"
    )
    sample = "800 test prompts of four unseen kinds"
    minutes = 0.3
    sizes = ("nano", "toy")
    unseen = ("rename", "outing", "advert", "which_class")
    counts = (0, 1, 3, 7, 14)
    hypotheses = (
        ("toy: fourteen kinds teach unseen ones better than none", "most kinds minus none", dict(above=0)),
        ("and than one", "most kinds minus one", dict(above=0)),
        ("the larger model gains more than the smaller", "most minus none, larger minus smaller", dict(above=0)),
    )

    def measure(self, lab):
        seen = [kind for kind in KINDS if kind not in self.unseen]
        lab.rng("kinds seen").shuffle(seen)
        n, stages = len(lab.records("demonstrations", "demonstration")) // 2, {}
        for size in self.sizes:
            for count in self.counts[1:]:
                demonstrations = public_demonstrations(seen[:count], n, lab.rng(f"{count} kinds"))
                path = lab.write(f"demonstrations-{count}-kinds", demonstrations)
                stages[size, count] = lab.sft(lab.models(size)["gpt"], size, data=(path,))
        folders = lab.train({f"{size}-tuned-on-{count}": stage for (size, count), stage in stages.items()})
        records = lab.draw_prompts(self.unseen, 800, "unseen kinds")
        models = {(size, 0): lab.models(size)["gpt"] for size in self.sizes} | dict(zip(stages, folders.values()))
        hits = follows(lab.answers_to(records, models, "unseen"), records)
        f = {size: [mean(hits[size, count], records) for count in self.counts] for size in self.sizes}
        f["kinds"], most = list(self.counts), self.counts[-1]
        smaller, larger = ({n: hits[size, most] - hits[size, n] for n in (0, 1)} for size in self.sizes)
        f["most kinds minus none"] = mean(larger[0], records, signed=True)
        f["most kinds minus one"] = mean(larger[1], records, signed=True)
        f["most minus none, larger minus smaller"] = mean(larger[0] - smaller[0], records)
        return f

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, size in zip(pictures.LINES, self.sizes):
            pictures.curve(axis, f["kinds"], f[size], size, colour)
        axis.set(xlabel="kinds of instructions fine-tuned on", title="answers that follow, of kinds unseen")
        pictures.legend(axis)


class PretrainingMixInSft(Finding):
    """A tenth of pretraining documents in the fine-tuning that RL starts from helps: RL forgets less of the web from
    there on, and its answers are liked no less."""

    paper = "Appendix C.3: the RL starting point is fine-tuned with 10 % pretraining data, which helped PPO"
    remark = (
        "What helped means is ours. Both starts are trained for as many epochs, the mixed one on a tenth more; it has "
        "lost less before RL begins (shown beside)"
    )
    sample = "600 pages; 8,000 test prompts"
    minutes = 0.7
    panels = {"loss": ("start without", "start with", "ppo without", "ppo with")}
    forgets = "loss, ppo minus its start: with minus without"
    hypotheses = (
        ("RL forgets less of the web", forgets, dict(below=0)),
        ("and is liked no less: at most 0.03", "true utility: ppo with minus ppo without", dict(above=-0.03)),
    )

    def measure(self, lab):
        models = lab.models()
        plain = lab.train_one("rl_start-without", lab.sft(models["gpt"], epochs=lab.recipe("rl_start")["epochs"]))
        without = lab.train_one("ppo-from-without", lab.ppo(plain, ptx_coef=0.0))
        folders = dict(zip(self.panels["loss"], (plain, models["rl_start"], without, models["ppo"])))
        losses = lab.losses(folders)
        texts = lab.answers_to(lab.many, {name: folders[name] for name in ("ppo without", "ppo with")}, "mix")
        gold = {name: utilities(lab.many, own) for name, own in texts.items()}
        f = {f"loss: {name}": interval(*own) for name, own in losses.items()}
        nats, tokens = ([own[i] for own in losses.values()] for i in (0, 1))  # in the order of the panel
        more = {"with": nats[3] - nats[1], "without": nats[2] - nats[0]}
        for name, own in more.items():
            f[f"loss, ppo minus its start: {name}"] = interval(own, tokens[0])
        f[self.forgets] = interval(more["with"] - more["without"], tokens[0])
        f["loss: ppo with minus ppo without"] = loss_difference(losses["ppo with"], losses["ppo without"])
        return f | means(gold, lab.many, [("ppo with", "ppo without")], "true utility")
