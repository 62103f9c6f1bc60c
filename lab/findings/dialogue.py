"""Conversations, as ChatGPT added them to what InstructGPT was trained on."""

import numpy as np

from data import town
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.formats import prompt_of

from . import pictures
from .finding import Claim, Finding
from .lab import LIMIT, judged, mean
from .optimization import ranked


class Dialogue(Finding):
    """A policy that has learned from conversations, too, answers questions that need the turn before: one that knows
    single turns alone cannot."""

    paper = (
        "Beside the paper: ChatGPT (OpenAI, November 2022), which mixed dialogues with InstructGPT's data as dialogue"
    )
    remark = (
        "Single prompts lose by it: no page of the town's web is a transcript, and a toy is slow to learn that form"
    )
    minutes = 5
    k = 4

    def measure(self, lab):
        start, single_turn_start, policy = self.train(lab)
        asked = conversations(lab, lab.judge_on, 100 if lab.tiny else len(lab.test))
        with_turns = [r | {"prompt": prompt_of(r["messages"], "")} for r in asked]
        without = [r | {"prompt": prompt_of(r["messages"][-1:], "")} for r in asked]
        as_lines = [r | {"prompt": "".join(m["content"] + "\n" for m in r["messages"])} for r in asked]
        texts = lab.answers({
            "dialogue": (policy, with_turns),
            "dialogue, without the turn before": (policy, without),
            "single-turn": (lab.models()["ppo_ptx"], as_lines),
            "dialogue, SFT": (start, with_turns),
            "single-turn, SFT": (single_turn_start, with_turns),
            "single prompts, dialogue": (policy, [recast(r) for r in lab.test]),
            "single prompts, recast": (single_turn_start, [recast(r) for r in lab.test]),
        }, "dialogue")  # fmt: skip
        single, form = texts.pop("single prompts, dialogue"), texts.pop("single prompts, recast")
        hits = {name: right(asked, own) for name, own in texts.items()}
        f = {f"follow-ups: {name}": mean(own, asked) for name, own in hits.items()}
        for one, other in (("dialogue", "single-turn"), ("dialogue", "dialogue, without the turn before"),
                           ("dialogue, SFT", "single-turn, SFT")):  # fmt: skip
            f[f"follow-ups: {one} less {other}"] = mean(hits[one] - hits[other], asked)
        own = {"dialogue": single, "single-turn": lab.test_answers["ppo_ptx"],
               "single-turn, SFT": lab.test_answers["rl_start"], "single-turn, SFT on transcripts": form}  # fmt: skip
        own = {name: right(lab.test, answers) for name, answers in own.items()}
        f |= {f"single prompts: {name}": mean(values, lab.test) for name, values in own.items()}
        for one, other in (("dialogue", "single-turn"), ("single-turn, SFT on transcripts", "single-turn, SFT")):
            f[f"single prompts: {one} less {other}"] = mean(own[one] - own[other], lab.test)
        said = ["\n".join(m["content"] for m in r["messages"]) for r in asked[:4]]
        both = zip(said, texts["dialogue"], texts["single-turn"])
        return f | {"examples": [(text, f"dialogue: {a.strip()}\nsingle-turn: {b.strip()}") for text, a, b in both]}

    def train(self, lab):
        """Folders of SFT on dialogues and on the town's demonstrations recast as dialogue; of the same with as many
        more demonstrations in place of the dialogues' two turns; and of a policy by PPO-ptx from the former. Its reward
        model learns from the town's rankings, recast, and from rankings of what the former might say next in its own
        conversations."""
        demonstrations = [recast_answered(r) for r in lab.records("demonstrations", "demonstration")]
        n, more = len(demonstrations), lab.seed + 2  # others than the town's files hold
        talks = [{"messages": r["messages"]} for r in town.dialogues("train", n // 2, lab.seed)]
        others = [recast_answered(r) for r in town.demonstrations(town.prompts("train", n, more), more)]
        mixed = lab.write("demonstrations-dialogue", demonstrations + talks)
        alone = lab.write("demonstrations-recast", demonstrations + others)
        base, web = lab.models()["rl_start"], (lab.file("web"),)  # ChatGPT's was a GPT-3.5, fine-tuned itself
        start, single_turn_start = lab.train({
            "dialogue-start": lab.sft(base, data=(mixed,), documents=web),
            "recast-start": lab.sft(base, data=(alone,), documents=web),
        }).values()  # fmt: skip
        rankings = [recast(r) | {"responses": [f" {text}" for text in r["responses"]]} for r in lab.rankings()]
        singles, talks = [recast(r) for r in lab.records("prompts_train", "prompt")], self.own_talks(lab, start)
        answers = lab.answers({j: (start, talks) for j in range(self.k)}, "dialogue rankings")
        rankings += ranked(talks, zip(*answers.values()), lab.rng("dialogue rankings"))
        rm = lab.rm(lab.write("rankings-dialogue", rankings), init=start, demonstrations=(mixed,))
        rm = lab.train({"rm-dialogue": rm})["rm-dialogue"]
        prompts = lab.write("prompts-dialogue", [{"prompt": r["prompt"]} for r in singles + talks])
        policy = lab.ppo(start, reward_model=rm, prompts=(prompts,))
        return start, single_turn_start, lab.train({"ppo_ptx-dialogue": policy})["ppo_ptx-dialogue"]

    def own_talks(self, lab, start):
        """Conversations that people have with the model, up to the second question: the first answer is its own."""
        talks, records = conversations(lab, "train", lab.recipe("rankings")["prompts"] // 2), []
        opening = [{"prompt": prompt_of(talk["messages"][:1], "")} for talk in talks]
        for talk, answer in zip(talks, lab.answers({"": (start, opening)}, "dialogue first turns")[""]):
            first, _, second = talk["messages"]
            messages = [first, {"role": "assistant", "content": answer.strip()}, second]
            records.append(talk | {"prompt": prompt_of(messages, "")})
        return [r for r in fitting(lab, records) if not town.states_test_fact(r["prompt"])]

    def claims(self, f):
        yield Claim("follow-ups answered rightly, more than by the single-turn policy",
                    f["follow-ups: dialogue less single-turn"], above=0)  # fmt: skip
        yield Claim("than by itself without the turn before",
                    f["follow-ups: dialogue less dialogue, without the turn before"], above=0)  # fmt: skip
        yield Claim("and after SFT than after SFT on as many single turns in the same form",
                    f["follow-ups: dialogue, SFT less single-turn, SFT"], above=0)  # fmt: skip

    def draw(self, figure, f):
        for axis, heading in zip(figure.subplots(1, 2), ("follow-ups", "single prompts")):
            own = {name: value for name, value in f.items() if name.startswith(heading) and " less " not in name}
            pictures.dots(axis, {name.removeprefix(f"{heading}: "): value for name, value in own.items()})
            axis.set_title(heading)


def recast(record):
    """A prompt of the town as the first turn of a dialogue."""
    return record | {"prompt": prompt_of([{"role": "user", "content": record["prompt"].strip()}], "")}


def recast_answered(record):
    said = record["prompt"].strip(), record["response"]
    return {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said)]}


def conversations(lab, split, n):
    """n dialogues that wait for the answer to their second question."""
    talks = town.dialogues(split, n, lab.seed + 1, answered=False)
    return fitting(lab, [talk | {"prompt": prompt_of(talk["messages"], "")} for talk in talks])


def fitting(lab, records):
    """Those whose prompts leave room for an answer, and for its end."""
    tokenizer, room = load_tokenizer(lab.models()["gpt"]), lab.recipe("gpt")["n_ctx"] - LIMIT - 1
    return [r for r in records if len(tokenizer.encode(r["prompt"])) <= room]


def right(records, texts):
    """For each answer whether it does what was asked, within the constraints, and says nothing false."""
    hits = [j.follows and j.satisfies_constraints and j.truthful is not False for j in judged(records, texts)]
    return np.array(hits, float)
