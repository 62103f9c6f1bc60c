"""What fine-tuning costs on public tasks and what cures it; and what public tasks are worth instead of people's."""

import random

import numpy as np

from data import town
from data.town.demonstrations import respond
from data.town.prompts import KINDS, draw_record
from lab.evaluation import document_losses, load
from lab.workers import at_once
from minirlhf.model import GPT
from minirlhf.support.statistics import interval

from . import benchmarks, pictures
from .finding import Claim, Finding
from .lab import LIMIT, judged, mean, utilities

ITEMS = 1000  # of each benchmark


def scores(lab, folders):
    """{name: {benchmark: (hits, contents)}} of {name: folder}, on the same items."""
    n = ITEMS // 20 if lab.tiny else ITEMS
    calls = [(benchmarks.accuracy, folder, n, lab.seed, lab.judge_on) for folder in folders.values()]
    return dict(zip(folders, at_once(*calls)))


def less(one, other):
    """How much better a model is than another on all four benchmarks together, of their scores."""
    pairs = [(one[task][0] - other[task][0], task, one[task][1]) for task in one]
    contents = [f"{task} {content}" for _, task, contents in pairs for content in contents]
    return interval(np.concatenate([difference for difference, *_ in pairs]), items=contents)


def web_losses(lab, folders):
    """{name: (nats, tokens)} of held-out pages."""
    documents = lab.records("web_held_out", "document")
    return dict(zip(folders, at_once(*[(page_losses, folder, documents) for folder in folders.values()])))


def page_losses(folder, documents):
    model, tokenizer = load(folder, GPT)
    return document_losses(model, tokenizer, documents)


class AlignmentTax(Finding):
    """Fine-tuned by PPO, the model is worse than GPT at public tasks which it was not asked about, and PPO-ptx regains
    some of that."""

    paper = "Section 4.2 and Figure 29: SQuADv2, DROP, HellaSwag, translation from French"
    remark = "Most of it comes with the fine-tuning that RL starts from; what PPO itself forgets is in ptx_sweep"
    minutes = 0.2

    def measure(self, lab):
        hits = scores(lab, lab.models())
        figures = {f"{task}: {name}": interval(values, items=contents)
                   for name, own in hits.items() for task, (values, contents) in own.items()}  # fmt: skip
        for name, base in (("ppo", "gpt"), ("ppo", "rl_start"), ("ppo_ptx", "ppo"), ("ppo_ptx", "gpt")):
            figures[f"all four, {name} less {base}"] = less(hits[name], hits[base])
        return figures

    def claims(self, f):
        yield Claim("PPO is worse than GPT", f["all four, ppo less gpt"], below=0)
        yield Claim("PPO-ptx is better than PPO", f["all four, ppo_ptx less ppo"], above=0)

    def draw(self, figure, f):
        for axis, task in zip(figure.subplots(2, 2).flat, ("reading", "reasoning", "completion", "translation")):
            names = ("gpt", "sft", "rl_start", "ppo", "ppo_ptx")
            pictures.dots(axis, {name: f[f"{task}: {name}"] for name in names})
            axis.set_title(task)


class PtxSweep(Finding):
    """A large enough coefficient of PPO-ptx's pretraining loss undoes what PPO forgets."""

    paper = "Figure 33: from about 20 on, SQuADv2 and DROP are as good as before"
    minutes = 2
    values = (0.0, 0.05, 0.2, 0.8, 3.2)

    def measure(self, lab):
        models = lab.models()
        there = {0.0: models["ppo"], lab.recipe("ppo")["ptx_coef"]: models["ppo_ptx"]}
        new = [value for value in self.values if value not in there]
        folders = lab.train({f"ppo-ptx-{value}": lab.ppo(models["rl_start"], ptx_coef=value) for value in new})
        folders = there | dict(zip(new, folders.values()))
        return swept(lab, {value: folders[value] for value in self.values}, "ptx_coef")

    def claims(self, f):
        yield Claim("without it held-out pages are lost", f["loss above the start"][0], above=0)
        yield Claim("with the largest they are not", f["loss above the start"][-1], below=0.01)
        yield Claim("which is better", f["loss, last less first"], below=0)

    def draw(self, figure, f):
        draw_sweep(figure, f)


class KlSweep(Finding):
    """A larger KL coefficient is no cure for what PPO forgets: at no value is its loss on pages of the web as low as
    PPO-ptx's."""

    paper = "Figure 34: up to 100 times the default, SQuADv2 and DROP stay worse, and the reward falls"
    minutes = 3
    values = (0.01, 0.1, 0.3, 1.0, 3.0)

    def measure(self, lab):
        folders = sweep_of_kl(lab, self.values)
        f = swept(lab, folders, "kl_coef")
        losses = web_losses(lab, folders | {"ptx": lab.models()["ppo_ptx"]})
        nats, tokens = losses["ptx"]
        f["loss above ppo_ptx"] = [interval(losses[value][0] - nats, tokens) for value in folders]
        return f

    def claims(self, f):
        for value, above in zip(f["kl_coef"], f["loss above ppo_ptx"]):
            yield Claim(f"beta {value}: loss above PPO-ptx's", above, above=0)

    def draw(self, figure, f):
        draw_sweep(figure, f)


def sweep_of_kl(lab, values):
    """{beta: folder} of PPO without documents; all episodes are kept in samples.jsonl."""
    start = lab.models()["rl_start"]
    shown = lab.recipe("ppo")["batch_size"]
    stages = {f"ppo-kl-{value}": lab.ppo(start, ptx_coef=0.0, kl_coef=value, show=shown) for value in values}
    return dict(zip(values, lab.train(stages).values()))


def swept(lab, folders, name):
    """What a sweep's models have lost of the web and of the benchmarks, and what they won, {value: folder}."""
    start = lab.models()["rl_start"]
    losses, hits = web_losses(lab, folders | {"start": start}), scores(lab, folders | {"start": start})
    records = lab.test
    texts = lab.answers({value: (folder, records) for value, folder in folders.items()}, "sweep")
    (base, tokens), f = losses["start"], {name: list(folders)}
    f["loss above the start"] = [interval(losses[value][0] - base, tokens) for value in folders]
    f["benchmarks less the start's"] = [less(hits[value], hits["start"]) for value in folders]
    gold = {value: utilities(records, own) for value, own in texts.items()}
    f["true utility"] = [mean(own, records) for own in gold.values()]
    first, *_, last = folders
    f["loss, last less first"] = interval(losses[last][0] - losses[first][0], tokens)
    return f


def draw_sweep(figure, f):
    name, *panels = [key for key, value in f.items() if isinstance(value, list) and key != "loss above ppo_ptx"]
    for axis, panel in zip(figure.subplots(1, len(panels)), panels):
        pictures.curve(axis, range(len(f[name])), f[panel])
        axis.set_xticks(range(len(f[name])), f[name])
        axis.set(title=panel, xlabel=name)


class PublicTasks(Finding):
    """Models tuned on public tasks that are phrased as instructions (FLAN, T0) lose to SFT on what people ask."""

    paper = "Figure 5: FLAN 29.8 %, T0 26.8 % of comparisons with SFT"
    minutes = 0.2
    # Public data sets hold tasks that are easy to judge: classification, questions on a passage, translation.
    kinds = {"flan": ("closed_qa", "extract", "which_class", "kind_or_rude", "tovish", "summary"),
             "t0": ("closed_qa", "extract", "which_class", "kind_or_rude")}  # fmt: skip

    def measure(self, lab):
        n, stages = len(lab.records("demonstrations", "demonstration")), {}
        for name, kinds in self.kinds.items():
            rng = lab.rng(name)
            records = [draw_record(kinds[i % len(kinds)], rng, "train") for i in range(n)]
            answered = [{"prompt": r["prompt"], "response": respond(r, "careful", rng)} for r in records]
            path = lab.write(f"demonstrations-{name}", answered)
            stages[name] = lab.sft(lab.models()["gpt"], data=(path,))
        texts = lab.answers({name: (folder, lab.test) for name, folder in lab.train(stages).items()})
        sft, figures = lab.test_answers["sft"], {}
        for name in self.kinds:
            figures[f"{name} against sft"] = mean(lab.wins(lab.test, texts[name], sft, name), lab.test)
        ppo_ptx = lab.wins(lab.test, lab.test_answers["ppo_ptx"], sft, "ptx")
        return figures | {"ppo_ptx against sft": mean(ppo_ptx, lab.test)}

    def claims(self, f):
        yield Claim("tuned on six public tasks, it loses to SFT", f["flan against sft"], below=0.5)
        yield Claim("tuned on four, it loses to SFT", f["t0 against sft"], below=0.5)

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), f, mark=0.5)


class InContext(Finding):
    """The base model learns from examples in its context: shown some of a task, it does it oftener than shown none."""

    paper = "Section 3.5 prompts GPT-3 with examples (Brown et al. 2020): accuracy grows with their number"
    minutes = 0.1
    kinds = ("polite", "which_class", "kind_or_rude", "outing")
    shots = (0, 1, 2, 3)

    def measure(self, lab):
        folder, most = lab.models()["gpt"], max(self.shots)
        model, tokenizer = load(folder, GPT)
        records, examples = [], []
        for i, record in enumerate(lab.ask(self.kinds, 800, "in context")):
            shown = [self.example(record["kind"], random.Random(f"{lab.seed} {i} {k}")) for k in range(most)]
            if len(tokenizer.encode("".join(shown) + record["prompt"])) <= model.config.n_ctx - LIMIT:
                records.append(record)
                examples.append(shown)
        follows = {}
        for k in self.shots:
            shown = [r | {"prompt": "".join(own[:k]) + r["prompt"]} for r, own in zip(records, examples)]
            texts = lab.answers({k: (folder, shown)}, f"{k} examples")[k]
            follows[k] = np.array([j.follows for j in judged(records, texts)], float)
        f = {"examples shown": list(self.shots), "follows": [mean(follows[k], records) for k in self.shots]}
        return f | {"most examples less none": mean(follows[max(self.shots)] - follows[0], records)}

    @staticmethod
    def example(kind, rng):
        record = draw_record(kind, rng, "train")
        return record["prompt"] + respond(record, "careful", rng) + "\n\n"

    def claims(self, f):
        yield Claim("with the most examples oftener than with none", f["most examples less none"], above=0)

    def draw(self, figure, f):
        axis = figure.subplots()
        pictures.curve(axis, f["examples shown"], f["follows"])
        axis.set_xticks(f["examples shown"])
        axis.set(xlabel="examples before the prompt", title="answers that follow")


class InstructionTuning(Finding):
    """Fine-tuned on instructions of more kinds, a model does kinds better that it was not fine-tuned on; and a larger
    model does them better than a smaller."""

    paper = "Beside the paper, Wei et al. 2022 (FLAN), Figures 6 and 7; Chung et al. 2022"
    minutes = 0.3
    sizes = ("nano", "toy")
    unseen = ("rename", "outing", "advert", "which_class")
    counts = (1, 3, 7, 14)

    def measure(self, lab):
        seen = sorted((kind for kind in KINDS if kind not in self.unseen), key=lambda kind: town.world.digest(kind))
        n, small = len(lab.records("demonstrations", "demonstration")) // 2, lab.sizes[0]
        stages = {}
        for size in (small, "toy"):
            for count in self.counts:
                rng = lab.rng(f"{count} kinds")
                records = [draw_record(seen[i % count], rng, "train") for i in range(n)]
                answered = [{"prompt": r["prompt"], "response": respond(r, "careful", rng)} for r in records]
                path = lab.write(f"demonstrations-{count}-kinds", answered)
                stages[f"{size}-tuned-on-{count}"] = lab.sft(lab.models(size)["gpt"], size, data=(path,))
        folders, records = lab.train(stages), lab.ask(self.unseen, 800, "unseen kinds")
        texts = lab.answers({name: (folder, records) for name, folder in folders.items()}, "unseen")
        follows = {name: np.array([j.follows for j in judged(records, own)], float) for name, own in texts.items()}
        f = {"kinds": list(self.counts)}
        for size in (small, "toy"):
            f[size] = [mean(follows[f"{size}-tuned-on-{count}"], records) for count in self.counts]
        most, least = (f"tuned-on-{count}" for count in (max(self.counts), min(self.counts)))
        f["most kinds less one"] = mean(follows[f"toy-{most}"] - follows[f"toy-{least}"], records)
        f["larger less smaller"] = mean(follows[f"toy-{most}"] - follows[f"{small}-{most}"], records)
        return f

    def claims(self, f):
        yield Claim("fourteen kinds teach unseen ones better than one", f["most kinds less one"], above=0)
        yield Claim("the larger model does unseen kinds better", f["larger less smaller"], above=0)

    def draw(self, figure, f):
        axis = figure.subplots()
        for colour, size in zip(pictures.LINES, [name for name, value in f.items() if isinstance(value, list)][1:]):
            pictures.curve(axis, f["kinds"], f[size], size, colour)
        axis.set(xlabel="kinds of instructions fine-tuned on", title="answers that follow, of kinds unseen")
        pictures.legend(axis)


class PretrainingMixInSft(Finding):
    """A tenth of pretraining documents in the fine-tuning that RL starts from helps: from there PPO forgets less."""

    paper = "Appendix C.3: the RL starting point is fine-tuned with 10 % pretraining data, which helped PPO"
    minutes = 0.5

    def measure(self, lab):
        models, sft = lab.models(), f"{lab.toy}/sft"
        without = lab.train({"ppo-from-sft": lab.ppo(sft, ptx_coef=0.0)})["ppo-from-sft"]
        folders = {
            "start without": sft,
            "start with": models["rl_start"],
            "ppo without": without,
            "ppo with": models["ppo"],
        }
        losses = web_losses(lab, folders)
        texts = lab.answers({name: (folders[name], lab.many) for name in ("ppo without", "ppo with")}, "mix")
        gold = {name: utilities(lab.many, own) for name, own in texts.items()}
        f = {f"loss: {name}": interval(*own) for name, own in losses.items()}
        (nats, tokens), (others, _) = losses["ppo with"], losses["ppo without"]
        f["loss of ppo, with less without"] = interval(nats - others, tokens)
        f["true utility of ppo, with less without"] = mean(gold["ppo with"] - gold["ppo without"], lab.many)
        return f

    def claims(self, f):
        yield Claim("PPO forgets less of the web", f["loss of ppo, with less without"], below=0)
        yield Claim("and is liked no less: at most 0.03", f["true utility of ppo, with less without"], above=-0.03)

    def draw(self, figure, f):
        pictures.dots(figure.subplots(), {name: value for name, value in f.items() if name.startswith("loss: ")})
