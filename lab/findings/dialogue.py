"""Conversations, which ChatGPT added to what InstructGPT was trained on."""

from data import town
from data.town.dialogues import SHARES
from data.town.prompts import USERS_OF, draw_record
from data.town.world import weighted
from minirlhf.support.chats import prompt_of
from minirlhf.support.checkpoint import load_tokenizer

from .finding import Finding
from .lab import LIMIT, means, shares
from .preferences import rank_answers


class Dialogue(Finding):
    """A policy also trained on dialogues answers questions that need the turn before better than PPO-ptx without them,
    than itself without that turn, and after SFT than after as many single turns of the same kinds."""

    paper = "Beside the paper: ChatGPT (OpenAI, November 2022) mixed dialogues with InstructGPT's data as dialogue"
    remark = (
        "PPO-ptx without dialogues is also trained for fewer steps, on fewer answers, and is asked in the form of the "
        "web's pages, of which none is a transcript. What single prompts lose is shown beside"
    )
    minutes = 5
    k = 4
    panels = {
        "follow-ups": ("dialogue", "dialogue, without the turn before", "single-turn", "dialogue, SFT",
                       "single-turn, SFT"),
        "single prompts": ("dialogue", "single-turn", "single-turn, SFT", "single-turn, SFT on transcripts"),
    }  # fmt: skip
    hypotheses = (
        ("follow-ups answered rightly, more than by the single-turn policy",
         "follow-ups: dialogue minus single-turn", dict(above=0)),
        ("than by itself without the turn before",
         "follow-ups: dialogue minus dialogue, without the turn before", dict(above=0)),
        ("and after SFT than after SFT on as many single turns in the same form",
         "follow-ups: dialogue, SFT minus single-turn, SFT", dict(above=0)),
    )  # fmt: skip

    def measure(self, lab):
        start, single_turn_start, policy = self.train(lab)
        asked = conversations(lab, lab.judge_on, 100 if lab.tiny else len(lab.test))
        with_turns = [r | {"prompt": prompt_of(r["messages"])} for r in asked]
        without = [r | {"prompt": prompt_of(r["messages"][-1:])} for r in asked]
        as_page = [r | {"prompt": page_of(r["messages"])} for r in asked]
        folders = {"policy": policy, "control": single_turn_start}
        single = lab.answers_to([recast(r) for r in lab.test], folders, "dialogue")
        single = {"dialogue": single["policy"], "single-turn": lab.test_answers["ppo_ptx"],
                  "single-turn, SFT": lab.test_answers["rl_start"],
                  "single-turn, SFT on transcripts": single["control"]}  # fmt: skip
        texts = lab.answers({
            "dialogue": (policy, with_turns),
            "dialogue, without the turn before": (policy, without),
            "single-turn": (lab.models()["ppo_ptx"], as_page),
            "dialogue, SFT": (start, with_turns),
            "single-turn, SFT": (single_turn_start, with_turns),
        }, "dialogue")  # fmt: skip
        f = means(right(texts, asked), asked, [
            ("dialogue", "single-turn"), ("dialogue", "dialogue, without the turn before"),
            ("dialogue, SFT", "single-turn, SFT"),
        ], "follow-ups")  # fmt: skip
        f |= means(right(single, lab.test), lab.test, [
            ("dialogue", "single-turn"), ("single-turn, SFT on transcripts", "single-turn, SFT")
        ], "single prompts")  # fmt: skip
        said = ["\n".join(m["content"] for m in r["messages"]) for r in asked[:4]]
        both = zip(said, texts["dialogue"], texts["single-turn"])
        return f | {"examples": [(text, f"dialogue: {a.strip()}\nsingle-turn: {b.strip()}") for text, a, b in both]}

    def train(self, lab):
        """Trains three models and returns their folders: SFT on dialogues and on the town's demonstrations recast as
        dialogues; SFT on as many more demonstrations instead of the dialogues; and PPO-ptx from the first, whose reward
        model learns from the town's rankings, recast, and from rankings of the first model's answers in dialogues."""
        demonstrations = [recast_answered(r) for r in lab.records("demonstrations", "demonstration")]
        n, more = len(demonstrations), lab.seed + 2  # others than the town's files hold
        talks = [{"messages": r["messages"]} for r in town.dialogues("train", n // 2, lab.seed)]
        others = [recast_answered(r) for r in town.demonstrations(self.single_turns(lab, n), more)]
        mixed = lab.write("demonstrations-dialogue", demonstrations + talks)
        alone = lab.write("demonstrations-recast", demonstrations + others)
        base, web = lab.models()["rl_start"], (lab.file("web"),)  # ChatGPT's was a GPT-3.5, fine-tuned itself
        data = {"dialogue-start": mixed, "recast-start": alone}
        stages = {name: lab.sft(base, data=(path,), documents=web) for name, path in data.items()}
        start, single_turn_start = lab.train(stages).values()
        rankings = [recast(r) | {"responses": [f" {text}" for text in r["responses"]]} for r in lab.rankings()]
        singles, talks = [recast(r) for r in lab.records("prompts_train", "prompt")], self.own_talks(lab, start)
        own = [lab.answers_to(talks, {i: start}, f"dialogue rankings {i}")[i] for i in range(self.k)]
        ranked = rank_answers(talks, zip(*own), lab.rng("dialogue rankings"))
        rankings += [r | {"responses": [f" {text}" for text in r["responses"]]} for r in ranked]
        path = lab.write("rankings-dialogue", rankings)
        rm = lab.train_one("rm-dialogue", lab.rm(path, init=start, demonstrations=(mixed,)))
        prompts = lab.write("prompts-dialogue", [{"prompt": r["prompt"]} for r in singles + talks])
        policy = lab.ppo(start, reward_model=rm, prompts=(prompts,))
        return start, single_turn_start, lab.train_one("ppo_ptx-dialogue", policy)

    def single_turns(self, lab, n):
        """n training prompts of the kinds that dialogues have, in the shares that these have there."""
        rng = lab.rng("single turns")
        users = rng.choices(USERS_OF["train"], k=n)
        return [draw_record(weighted(SHARES, rng), rng, "train", user) for user in users]

    def own_talks(self, lab, start):
        """Conversations up to the second question, in which the model gave the first answer."""
        talks, records = conversations(lab, "train", lab.recipe("rankings")["prompts"] // 2), []
        opening = [{"prompt": prompt_of(talk["messages"][:1])} for talk in talks]
        for talk, answer in zip(talks, lab.answers_to(opening, {0: start}, "dialogue first turns")[0]):
            first, _, second = talk["messages"]
            messages = [first, {"role": "assistant", "content": answer.strip()}, second]
            records.append(talk | {"prompt": prompt_of(messages)})
        return [r for r in fitting(lab, records) if not town.states_test_fact(r["prompt"])]


def page_of(messages):
    """Turns as a page of the web has questions and answers."""
    ends = {"user": "\n", "assistant": "\n\n"}
    return "".join(message["content"] + ends[message["role"]] for message in messages)


def recast(record):
    """A prompt of the town as the first turn of a dialogue."""
    return record | {"prompt": prompt_of([{"role": "user", "content": record["prompt"].strip()}])}


def recast_answered(record):
    user, assistant = record["prompt"].strip(), record["response"]
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def conversations(lab, split, n):
    """n dialogues up to their second question."""
    talks = town.dialogues(split, n, lab.seed + 1, answered=False)
    return fitting(lab, [talk | {"prompt": prompt_of(talk["messages"])} for talk in talks])


def fitting(lab, records):
    """The records whose prompts leave room in the context for an answer and its end."""
    tokenizer, room = load_tokenizer(lab.models()["gpt"]), lab.recipe("gpt")["n_ctx"] - LIMIT - 1
    return [r for r in records if len(tokenizer.encode(r["prompt"])) <= room]


def right(texts, records):
    """{name: for each answer whether it does what was asked, within the constraints, and says nothing false}."""
    return shares(texts, records, lambda j: j.follows and j.satisfies_constraints and j.truthful is not False)
