"""The town's conversations: follow-ups that need the turn before, judged as what they stand for, split by content."""

import random
import re
from types import SimpleNamespace

import pytest

from data import town
from data.town.dialogues import FOLLOW_UPS
from data.town.prompts import USERS, content, split_of
from data.town.world import FACT, NUMBERS, RELATIONS, SPLITS
from lab.findings import dialogue, lab
from minirlhf.support.chats import prompt_of

BESIDE = "messages user use_case kind content form answers partial wrong myth".split()  # not what is asked
TALKS = {split: town.dialogues(split, 400, 7) for split in SPLITS}


def said(talk):
    return [message["content"] for message in talk["messages"]]


@pytest.mark.parametrize("split", SPLITS)
def test_a_conversation_is_about_its_split_alone_and_people_answer_it_as_they_answer_prompts(split):
    for talk in TALKS[split]:
        assert [m["role"] for m in talk["messages"]] == ["user", "assistant", "user", "assistant"]
        slots = {name: value for name, value in talk.items() if name not in BESIDE}
        assert split_of(talk["kind"], slots) == split and content(talk["kind"], slots) == talk["content"]
    assert {USERS[talk["user"]] for talk in TALKS[split]} == {split}
    assert len({said(talk)[1] for talk in TALKS[split]}) > 100  # the first answers are people's, too
    follows = [town.judge(talk, said(talk)[3]).follows for talk in TALKS[split]]
    assert 0.8 < sum(follows) / len(follows) < 0.97  # as of single prompts


def test_training_conversations_state_no_fact_of_the_test():
    assert not [text for talk in TALKS["train"] + TALKS["validation"] for text in said(talk)
                if town.states_test_fact(text)]  # fmt: skip
    assert any(town.states_test_fact(text) for talk in TALKS["test"] for text in said(talk))


def test_every_kind_of_follow_up_comes():
    assert {talk["kind"] for talk in TALKS["test"]} == FOLLOW_UPS.keys()
    assert all(bool(talk["myth"]) == (talk["kind"] == "myth") for talk in TALKS["test"] if "fact" in talk)


NEW = {  # kind: what the second turn says, and the first did not
    "letter": lambda talk: talk["name"], "say": lambda talk: talk["name"], "advert": lambda talk: talk["colour"],
    "brainstorm": lambda talk: NUMBERS[talk["count"]], "which_class": lambda talk: talk["word"],
    "tovish": lambda talk: talk["english"], "rename": lambda talk: talk["passage"].split()[-1],
}  # fmt: skip


def test_the_second_turn_says_what_is_new_and_the_first_what_is_meant():
    for talk in town.dialogues("train", 3000, 3):
        first, _, second, _ = said(talk)
        if new := NEW.get(talk["kind"]):
            assert new(talk) in second and not re.search(rf"\b{new(talk)}\b", first), (first, second)
        if "thing" in talk:
            assert talk["thing"] in first
        if talk["kind"] == "brainstorm":
            assert second.partition(", but not ")[2].strip(".") == (talk["exclude"] or "")
        if "fact" in talk:
            relation, subject = FACT[talk["fact"]].key.split("/")
            assert RELATIONS[relation][0].replace("{s}", subject) not in first


def test_a_follow_up_alone_does_not_say_what_is_asked():
    """What two turns ask differs, where the second's words are the same: of facts, passages, names."""
    asked = {}
    for talk in town.dialogues("train", 5000, 3):
        asked.setdefault(said(talk)[2], set()).add((talk["kind"], talk["content"]))
    many = [own for words, own in asked.items() if len(own) > 1]
    assert sum(map(len, many)) > 0.5 * sum(map(len, asked.values()))


@pytest.mark.parametrize(
    ("kind", "first", "second", "answer"),
    [
        ("fact", "What does the fox eat?", "it", None),
        ("letter", "a letter", "one", "Dear {name}, thank you for the {thing}."),
        ("advert", "advert", "one", "Buy a {colour} {thing} today! It is a fine {thing}."),
    ],
)
def test_the_judge_wants_the_answer_to_what_is_meant(kind, first, second, answer):
    talks = [talk for talk in town.dialogues("train", 3000, 1) if talk["kind"] == kind]
    for talk in talks[:50]:
        if answer is None:
            fact = FACT[talk["fact"]]
            assert town.judge(talk, fact.statement).truthful is True
            others = [f for f in town.FACTS if f.relation == fact.relation and f.answer != fact.answer]
            assert town.judge(talk, others[0].statement).truthful is not True
        else:
            own = answer.format(**talk).replace("a orange", "an orange")
            assert town.judge(talk, own).follows


def test_a_follow_up_about_a_passage_asks_something_else_of_the_same():
    for talk in (talk for talk in TALKS["train"] if talk["kind"] == "closed_qa"):
        assert talk["passage"] in said(talk)[0] and talk["passage"] not in said(talk)[2]
        assert (
            talk["question"].lower() in said(talk)[2].lower().removeprefix("and ")
            and talk["question"] not in said(talk)[0]
        )


def test_an_open_conversation_ends_with_the_question_and_a_seed_gives_the_same():
    talks = town.dialogues("test", 50, 4, answered=False)
    assert all(len(talk["messages"]) == 3 for talk in talks)
    assert talks == town.dialogues("test", 50, 4, answered=False) != town.dialogues("test", 50, 5, answered=False)


def test_right_is_an_answer_that_does_what_was_asked_and_says_nothing_false():
    rng = random.Random(0)
    (record,) = town.prompts("train", 1, 0)
    while record["kind"] != "myth":
        (record,) = town.prompts("train", 1, rng.random())
    fact = FACT[record["fact"]]
    texts = [fact.statement, fact.myth_statement, "I do not know.", ""]
    assert dialogue.right({"": texts}, [record] * 4)[""].tolist() == [1, 0, 0, 0]


def test_a_prompt_recast_is_the_first_turn_of_a_dialogue():
    record = {"prompt": "Hello! Who built the church? \n", "response": "monks", "kind": "myth"}
    assert dialogue.recast(record)["prompt"] == "\n\nHuman: Hello! Who built the church?\n\nAssistant:"
    assert dialogue.recast_answered(record) == {
        "messages": [
            {"role": "user", "content": "Hello! Who built the church?"},
            {"role": "assistant", "content": "monks"},
        ]
    }


# --- the finding -----------------------------------------------------------------------------------------------------


class Lab:
    """What the finding asks of a lab: nothing is trained, and only the dialogue policy answers rightly."""

    tiny, seed, judge_on, toy = True, 0, "test", "toy"
    train_one, answers_to = lab.Lab.train_one, lab.Lab.answers_to

    def __init__(self):
        self.test, self.written, self.asked, self.stages = town.prompts("test", 20, 0), {}, {}, {}
        self.test_answers = {"ppo_ptx": ["no"] * 20, "rl_start": ["no"] * 20}
        self.file = self.name = lambda name: name
        self.rng = random.Random

    def models(self):
        return {name: name for name in ("gpt", "rl_start", "ppo_ptx")}

    def recipe(self, stage):
        return {"rankings": {"prompts": 60}, "gpt": {"n_ctx": 10_000}}[stage]

    def write(self, name, records):
        self.written[name] = list(records)
        return name

    def records(self, name, kind):
        records = town.prompts("train", 40, 0)
        return town.demonstrations(records, 0) if kind == "demonstration" else records

    def rankings(self, name="rankings"):
        return [r | {"responses": ["a", "b"], "ranks": [1, 2], "from": name} for r in town.prompts("train", 5, 0)]

    def sft(self, base, **flags):
        return {"init": base} | flags

    rm = ppo = sft

    def train(self, stages):
        self.stages |= stages
        return {name: name for name in stages}

    def answers(self, asked, purpose):
        self.asked[purpose] = asked
        return {
            name: [self.answer(name, r, i, purpose) for i, r in enumerate(rows)] for name, (_, rows) in asked.items()
        }

    def answer(self, name, record, i, purpose):
        if purpose == "dialogue first turns" and i % 3 == 0:
            return next(fact for fact in town.FACTS if fact.split == "test").statement
        if purpose.startswith("dialogue rankings"):  # each sample has a purpose, and so noise, of its own
            return f"answer {purpose[-1]}"
        return record["answers"][0] if name == "dialogue" and record.get("answers") else "no"


@pytest.fixture(name="lab")
def fake_lab(monkeypatch):
    monkeypatch.setattr(dialogue, "load_tokenizer", lambda folder: SimpleNamespace(encode=list))
    return Lab()


def test_models_are_judged_on_test_conversations_each_in_its_own_form(lab):
    f = dialogue.Dialogue().measure(lab)
    asked = lab.asked["dialogue"]
    talks = asked["dialogue"][1]
    open_ones = town.dialogues("test", 100, lab.seed + 1, answered=False)
    assert [talk["messages"] for talk in talks] == [talk["messages"] for talk in open_ones]
    forms = {
        "dialogue": ("ppo_ptx-dialogue", lambda m: prompt_of(m)),
        "dialogue, without the turn before": ("ppo_ptx-dialogue", lambda m: prompt_of(m[2:])),
        "single-turn": ("ppo_ptx", lambda m: f"{m[0]['content']}\n{m[1]['content']}\n\n{m[2]['content']}\n"),
        "dialogue, SFT": ("dialogue-start", lambda m: prompt_of(m)),
        "single-turn, SFT": ("recast-start", lambda m: prompt_of(m)),
    }
    for name, (model, form) in forms.items():
        assert asked[name][0] == model
        assert [r["prompt"] for r in asked[name][1]] == [form(talk["messages"]) for talk in talks], name
    for heading, one, other in (
        ("follow-ups", "dialogue", "single-turn"),
        ("single prompts", "dialogue", "single-turn"),
    ):
        means = [f[f"{heading}: {name}"]["mean"] for name in (one, other)]
        assert f[f"{heading}: {one} minus {other}"]["mean"] == pytest.approx(means[0] - means[1])
    assert f["follow-ups: dialogue minus single-turn"]["mean"] > 0.2


def test_a_single_prompt_s_difference_has_the_right_sign(lab):
    lab.test_answers["ppo_ptx"] = [r["answers"][0] if r.get("answers") else "no" for r in lab.test]
    assert dialogue.Dialogue().measure(lab)["single prompts: dialogue minus single-turn"]["mean"] < 0


def test_training_knows_no_test_conversation_and_the_control_has_as_many_examples(lab):
    dialogue.Dialogue().measure(lab)
    mixed, alone = lab.written["demonstrations-dialogue"], lab.written["demonstrations-recast"]
    turns = [sum(m["role"] == "assistant" for r in rows for m in r["messages"]) for rows in (mixed, alone)]
    assert turns[0] == turns[1] == 80 and all(len(r["messages"]) == 2 for r in alone)
    talks = [r for r in mixed if len(r["messages"]) == 4]
    assert talks == [{"messages": t["messages"]} for t in town.dialogues("train", 20, lab.seed)]
    assert lab.stages["recast-start"]["data"] == ("demonstrations-recast",)
    assert lab.stages["dialogue-start"]["data"] == ("demonstrations-dialogue",)
    assert lab.stages["dialogue-start"]["init"] == lab.stages["recast-start"]["init"]
    rows = lab.written["rankings-dialogue"]
    assert all(r.get("from", "rankings") == "rankings" and r["prompt"].endswith("\n\nAssistant:") for r in rows)
    assert all(r["responses"] == [" a", " b"] for r in rows if "from" in r)
    own = [r for r in rows if "from" not in r]
    assert own and all(r["responses"] == [f" answer {i}" for i in range(dialogue.Dialogue.k)] for r in own)
    assert all(len(set(r["ranks"])) > 1 for r in own)
    assert [list(lab.asked[f"dialogue rankings {i}"].values())[0][0] for i in range(4)] == ["dialogue-start"] * 4
    prompts = [r["prompt"] for r in lab.written["prompts-dialogue"]]
    own = [prompt for prompt in prompts if prompt.count("\n\nHuman:") == 2]
    assert own and not any(map(town.states_test_fact, prompts))
    assert all("\n\nAssistant: no\n\nHuman:" in prompt for prompt in own)  # the model's own first answer
    asked = {talk["messages"][2]["content"] for talk in town.dialogues("train", 30, lab.seed + 1, answered=False)}
    assert {prompt.rpartition("\n\nHuman: ")[2].removesuffix("\n\nAssistant:") for prompt in own} <= asked


def test_conversations_leave_room_for_an_answer(lab):
    lab.recipe = lambda stage: {"gpt": {"n_ctx": 200}}[stage]
    asked = dialogue.conversations(lab, "test", 100)
    assert asked and max(len(r["prompt"]) for r in asked) <= 200 - dialogue.LIMIT - 1


def test_an_answer_that_breaks_a_constraint_is_not_right():
    record = next(r for r in town.prompts("train", 3000, 0) if r["kind"] == "story" and r["one_sentence"])
    who, thing = record["topics"]
    text = f"One day {town.world.an(who)} found {town.world.an(thing)} at the mill. It was very sad."
    assert town.judge(record, text).follows and not dialogue.right({"": [text]}, [record])[""].any()
