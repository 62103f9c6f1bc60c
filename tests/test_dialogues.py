"""The town's conversations: follow-ups that need the turn before, judged as what they stand for, split by content."""

import random

import pytest

from data import town
from data.town.dialogues import FOLLOW_UPS
from data.town.prompts import content, split_of
from data.town.world import FACT, SPLITS
from findings import dialogue

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
    follows = [town.judge(talk, said(talk)[3]).follows for talk in TALKS[split]]
    assert 0.8 < sum(follows) / len(follows) < 0.97  # as of single prompts


def test_training_conversations_state_no_fact_of_the_test():
    assert not [text for talk in TALKS["train"] + TALKS["validation"] for text in said(talk)
                if town.states_test_fact(text)]  # fmt: skip
    assert any(town.states_test_fact(text) for talk in TALKS["test"] for text in said(talk))


def test_every_kind_of_follow_up_comes():
    assert {talk["kind"] for talk in TALKS["test"]} == FOLLOW_UPS.keys()


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
    assert dialogue.right([record] * 4, texts).tolist() == [1, 0, 0, 0]


def test_a_prompt_recast_is_the_first_turn_of_a_dialogue():
    record = {"prompt": "Hello! Who built the church? \n", "response": "monks", "kind": "myth"}
    assert dialogue.recast(record)["prompt"] == "\n\nHuman: Hello! Who built the church?\n\nAssistant:"
    assert dialogue.recast_answered(record) == {
        "messages": [
            {"role": "user", "content": "Hello! Who built the church?"},
            {"role": "assistant", "content": "monks"},
        ]
    }
