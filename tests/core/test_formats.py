"""Other people's records become ours: one small file of each shape, as its makers publish it, and what it must give."""

import gzip
import json
import os
from decimal import Decimal

import pytest

import tiny
from minirlhf.support import chats, formats, marks
from minirlhf.support import records as ours
from minirlhf.support.errors import InputError

USER, BOT = "\n\nHuman:", "\n\nAssistant:"
HI = [{"role": "user", "content": "Hi"}]
HELLO, GO = [{"role": "assistant", "content": "Hello"}], [{"role": "assistant", "content": "Go"}]
LONG = "Repeat the question before you answer it.\n"
TALK = [{"role": "system", "content": "Be kind."}, *HI, *HELLO, {"role": "user", "content": "Bye"}]
BYE = {"role": "assistant", "content": "See you"}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: See you",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: Go",
}
NECTAR = {
    "prompt": "\n\nHuman: Name a food.\n\nAssistant: ",
    "answers": [{"answer": f"Food {i}.", "model": f"m{i}", "rank": float(rank)}
                for i, rank in enumerate((3, 1, 2, 4, 5, 7, 6))],
    "turns": 1, "num_responses": 7, "source": ["lmsys-chat-1m"], "good_natured": True,
}  # fmt: skip
ULTRAFEEDBACK = {
    "source": "flan", "instruction": "Name a food.", "models": ["a", "b", "c", "d"],
    "completions": [{"model": m, "response": f"{m}!", "overall_score": s, "fine-grained_score": 4.0, "critique": "ok"}
                    for m, s in zip("abcd", (7.0, 8.5, 7.0, 1.0))],
}  # fmt: skip
PAIR = {"chosen": HI + HELLO, "rejected": HI + GO}
TLDR = {
    "info": {"id": "t3", "post": "I lost a kite.", "title": "Kite", "subreddit": "pets", "site": None, "article": None},
    "summaries": [{"text": " Kite lost.", "policy": "sup1", "note": None}, {"text": " No.", "policy": "ref"}],
    "choice": 1, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": 3},
}  # fmt: skip
SHP = {
    "post_id": "p", "domain": "askhr", "history": "What now?", "human_ref_A": "Wait.", "human_ref_B": "Go.",
    "labels": 0, "score_A": 3, "score_B": 9, "score_ratio": 3.0, "seconds_difference": 10.0,
}  # fmt: skip


def message(name, parent, role, text, rank=None, **more):
    return {"message_id": name, "parent_id": parent, "message_tree_id": "a", "role": role, "text": text, "rank": rank,
            "lang": "en", "deleted": False, "review_result": True} | more  # fmt: skip


MESSAGES = [
    message("b", "a", "assistant", "Hello", 1),
    message("a", None, "prompter", "Hi"),
    message("c", "a", "assistant", "Good day", 0),
    message("d", "a", "assistant", "Bad", 2, deleted=True),
    message("e", "c", "prompter", "Bye"),
    message("f", "e", "assistant", "See you"),
    message("g", "c", "prompter", "And?"),
]


def tree_of(name):
    (node,) = (m for m in MESSAGES if m["message_id"] == name)
    return node | {"replies": [tree_of(m["message_id"]) for m in MESSAGES if m["parent_id"] == name]}


TREE = {"message_tree_id": "a", "tree_state": "ready_for_export", "prompt": tree_of("a")}


def read(tmp_path, records, kind):
    return ours.read(tiny.write_lines(tmp_path / "some.jsonl", records), kind)


# --- demonstrations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "a ", "response": "b"}, [("a ", "b")]),
        ({"prompt": "a ", "completion": " b"}, [("a ", " b")]),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, [("Add.\n1 2\n", "3")]),
        ({"instruction": "Say hi.", "input": "", "output": "Hi"}, [("Say hi.\n", "Hi")]),
        ({"instruction": "Say hi.", "output": "Hi"}, [("Say hi.\n", "Hi")]),
        ({"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "0"}]},
         [("Add.\n1 2\n", "3"), ("Add.\n", "0")]),
        ({"messages": HI + HELLO}, [(f"{USER} Hi{BOT}", " Hello")]),
        ({"messages": [*TALK, BYE]},
         [(f"Be kind.{USER} Hi{BOT}", " Hello"),
          (f"Be kind.{USER} Hi{BOT} Hello{USER} Bye{BOT}", " See you")]),
        ({"prompt": HI, "completion": HELLO}, [(f"{USER} Hi{BOT}", " Hello")]),
        (HH, [(f"{USER} Hi{BOT} Hello{USER} Bye{BOT}", " See you")]),
        (NECTAR, [(f"{USER} Name a food.{BOT}", " Food 1.")]),
        (ULTRAFEEDBACK, [(f"{USER} Name a food.{BOT}", " b!")]),
        (TLDR, [("SUBREDDIT: r/pets\n\nTITLE: Kite\n\nPOST: I lost a kite.\n\nTL;DR:", " No.")]),
        (SHP, [(f"{USER} What now?{BOT}", " Go.")]),
        (TREE, [(f"{USER} Hi{BOT}", " Good day"), (f"{USER} Hi{BOT} Good day{USER} Bye{BOT}", " See you")]),
    ],
)  # fmt: skip
def test_demonstrations(tmp_path, record, expected):
    found = [(r["prompt"], r["response"]) for r in read(tmp_path, [record], "demonstration")]
    assert found == expected


def test_the_loss_of_a_conversation_is_on_every_answer_and_on_nothing_else(tmp_path, tokenizer):
    """What is learned of it, put together, is the assistant's words, each once and with an end of its own."""
    path = tiny.write_lines(tmp_path / "talk.jsonl", [{"messages": [*TALK, BYE]}])
    sequences = ours.load_demonstrations([path], tokenizer, 200)
    learned = [tokenizer.decode(s.tokens[s.start : -1]) for s in sequences]
    assert learned == [" Hello", " See you"]
    assert all(s.tokens[-1] == tokenizer.eos for s in sequences)
    read_only = [tokenizer.decode(s.tokens[: s.start]) for s in sequences]
    assert read_only[1].startswith(read_only[0] + learned[0])  # the second answer reads the first


# --- rankings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "prompt", "responses", "ranks"),
    [
        ({"prompt": "a ", "responses": ["x", "", "z"], "ranks": [1, 2, 2]}, "a ", ["x", "", "z"], [1, 2, 2]),
        ({"messages": HI, "responses": ["Ho", "", "Hum"], "ranks": [2, 3, 1]},
         f"{USER} Hi{BOT}", [" Ho", "", " Hum"], [2, 3, 1]),
        ({"prompt": "a ", "chosen": "good", "rejected": "bad"}, "a ", ["good", "bad"], [1, 2]),
        (HH, f"{USER} Hi{BOT} Hello{USER} Bye{BOT}", [" See you", " Go"], [1, 2]),
        ({"prompt": HI, "chosen": HELLO, "rejected": GO}, f"{USER} Hi{BOT}", [" Hello", " Go"], [1, 2]),
        ({"chosen": HI + HELLO, "rejected": HI + GO}, f"{USER} Hi{BOT}", [" Hello", " Go"], [1, 2]),
        ({"prompt": "Hi", "chosen": HI + HELLO, "rejected": HI + GO, "messages": HI + HELLO, "score_chosen": 8.0},
         f"{USER} Hi{BOT}", [" Hello", " Go"], [1, 2]),
        (NECTAR, f"{USER} Name a food.{BOT}", [f" Food {i}." for i in range(7)], [3, 1, 2, 4, 5, 7, 6]),
        (ULTRAFEEDBACK, f"{USER} Name a food.{BOT}", [" a!", " b!", " c!", " d!"], [2, 1, 2, 3]),
        (TLDR, "SUBREDDIT: r/pets\n\nTITLE: Kite\n\nPOST: I lost a kite.\n\nTL;DR:", [" Kite lost.", " No."], [2, 1]),
        (SHP, f"{USER} What now?{BOT}", [" Wait.", " Go."], [2, 1]),
        (SHP | {"labels": 1}, f"{USER} What now?{BOT}", [" Wait.", " Go."], [1, 2]),
        (TREE, f"{USER} Hi{BOT}", [" Good day", " Hello"], [1, 2]),
    ],
)  # fmt: skip
def test_rankings(tmp_path, record, prompt, responses, ranks):
    (found,) = read(tmp_path, [record], "ranking")
    assert (found["prompt"], found["responses"], found["ranks"]) == (prompt, responses, ranks)


def test_the_public_preference_data_is_read(real_data):
    rankings = ours.read(real_data / "hh_harmless_base_test.jsonl.gz", "ranking")
    assert all(r["prompt"].endswith("\n\nAssistant:") for r in rankings)
    with gzip.open(real_data / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as file:
        for ranking, line in zip(rankings, file):
            pair = json.loads(line)
            texts = [ranking["prompt"] + response for response in ranking["responses"]]
            assert texts == [pair["chosen"], pair["rejected"]]


def test_the_self_instruct_seeds_are_read(real_data):
    path = real_data / "seed_tasks.jsonl"
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    instances = [(task["instruction"], i["output"]) for task in tasks for i in task["instances"]]
    found = ours.read(path, "demonstration")
    assert [r["response"] for r in found] == [output for _, output in instances] and len(found) > 100
    assert all(r["prompt"].startswith(instruction) for r, (instruction, _) in zip(found, instances))


# --- prompts and texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": HI}, [f"{USER} Hi{BOT}"]),
        ({"messages": [*TALK, BYE]}, [f"Be kind.{USER} Hi{BOT} Hello{USER} Bye{BOT}"]),
        ({"prompt": HI}, [f"{USER} Hi{BOT}"]),
        (TREE, [f"{USER} Hi{BOT}" + more for more in ("", f" Good day{USER} Bye{BOT}", f" Good day{USER} And?{BOT}")]),
        (SHP, [f"{USER} What now?{BOT}"]),
    ],
)  # fmt: skip
def test_prompts(tmp_path, record, expected):
    assert [r["prompt"] for r in read(tmp_path, [record], "prompt")] == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, ["p", "c", "r"]),
        ({"messages": TALK}, [f"Be kind.{USER} Hi{BOT} Hello{USER} Bye"]),
        (SHP, [f"{USER} What now?{BOT}", " Wait.", " Go."]),
    ],
)
def test_texts_for_a_tokenizer(tmp_path, record, expected):
    assert sorted(ours.texts(tiny.write_lines(tmp_path / "t.jsonl", [record]))) == sorted(expected)


# --- shapes of public files ------------------------------------------------------------------------------------------

QUESTION, ANSWER = f"{USER} Name a pet.{BOT}", " A cat."
ASKED, ANSWERED = {"role": "user", "content": "Name a pet."}, {"role": "assistant", "content": "A cat."}
PKU = {"prompt": "Name a pet.", "response_0": "No.", "response_1": "A cat.", "is_response_0_safe": True,
       "is_response_1_safe": True, "better_response_id": 1, "safer_response_id": 0}  # fmt: skip
WEBGPT = {"question": {"dataset": "eli5", "id": "x", "full_text": "Name a pet."}, "answer_0": "No.",
          "answer_1": "A cat.", "score_0": -0.5, "score_1": 0.5, "quotes_0": {"title": []}}  # fmt: skip
HELPSTEER3 = {"domain": "general", "context": [ASKED], "response1": "No.", "response2": "A cat.",
              "overall_preference": 2}  # fmt: skip
ARENA = {"conversation_a": [ASKED, {"role": "assistant", "content": "No."}], "conversation_b": [ASKED, ANSWERED],
         "winner": "model_b", "language": "English"}  # fmt: skip
ORCA = {"system": "Be kind.", "question": "Name a pet.", "chosen": "A cat.", "rejected": "No."}


def helpsteer(response, helpfulness):
    return {"prompt": "Name a pet.", "response": response, "helpfulness": helpfulness, "correctness": 4, "verbosity": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "conversations": [{"from": "human", "value": "Name a pet."}, {"from": "gpt", "value": "A cat."}]},
        {"conversations": ["Name a pet.", "A cat."], "source": "multi_turn"},
        {"conversation": [{"input": "Name a pet.", "output": "A cat."}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Name a "}, {"text": "pet."}]}, ANSWERED]},
        {"prompt": [ASKED], "completion": [ANSWERED], "label": True},
        {"prompt": [ASKED], "response": "A cat."},
        PKU, WEBGPT, HELPSTEER3, ARENA, helpsteer("A cat.", 4),
    ],
)  # fmt: skip
def test_conversations_in_other_words(tmp_path, row):
    assert [(r["prompt"], r["response"]) for r in read(tmp_path, [row], "demonstration")] == [(QUESTION, ANSWER)]


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"instruction": "Name a pet.", "context": "A cat sat.", "response": "A cat.", "category": "closed_qa"},
         "Name a pet.\nA cat sat.\n", "A cat."),
        ({"instruction": "Name a pet.", "input": None, "output": "A cat."}, "Name a pet.\n", "A cat."),
        ({"question": "Name a pet.", "answer": "A cat."}, "Name a pet.\n", "A cat."),
        ({"system_prompt": "", "question": "Name a pet.", "response": "A cat."}, "Name a pet.\n", "A cat."),
        ({"instruction": "Name a pet.", "input": "", "output": "A cat.", "system": "Be kind."},
         f"Be kind.{QUESTION}", ANSWER),
        ({"instruction": "Name a pet.", "output": "A cat.", "history": [["Hi", "Hello"]]},
         f"{USER} Hi{BOT} Hello{QUESTION}", ANSWER),
        (ORCA, f"Be kind.{QUESTION}", ANSWER),
        ({"question": "Name a pet.", "response_j": "A cat.", "response_k": "No."}, "Name a pet.\n", "A cat."),
    ],
)  # fmt: skip
def test_instructions_in_other_words(tmp_path, row, prompt, answer):
    assert [(r["prompt"], r["response"]) for r in read(tmp_path, [row], "demonstration")] == [(prompt, answer)]


@pytest.mark.parametrize(
    "rows", [[PKU], [WEBGPT], [HELPSTEER3], [ARENA], [helpsteer("No.", 1), helpsteer("A cat.", 4)]]
)
def test_two_answers_of_which_the_second_is_better(tmp_path, rows):
    (ranking,) = read(tmp_path, rows, "ranking")
    assert (ranking["prompt"], ranking["responses"], ranking["ranks"]) == (QUESTION, [" No.", ANSWER], [2, 1])


@pytest.mark.parametrize(
    "row",
    [WEBGPT | {"score_0": 0.5}, HELPSTEER3 | {"overall_preference": 0}, ARENA | {"winner": "tie"}],
)
def test_what_people_call_equal_is_a_tie(tmp_path, row):
    (ranking,) = read(tmp_path, [row], "ranking")
    assert ranking["ranks"] == [1, 1]


BAD = {"prompt": "a ", "response": "bad"}
SAID = {"messages": [ASKED, {"role": "assistant", "content": "bad"}]}


BAD_SAID = {"role": "assistant", "content": "bad", "is_safe": False}


@pytest.mark.parametrize(
    "row",
    [
        BAD | {"label": False}, BAD | {"label": 0}, BAD | {"label": 0.0}, BAD | {"label": "false"},
        BAD | {"label": "0"},
        BAD | {"label": "bad"}, BAD | {"is_safe": False}, BAD | {"correct": 0}, BAD | {"thumbs_down": True},
        BAD | {"deleted": 1}, BAD | {"rating": "thumbs_down"}, BAD | {"vote": -1}, BAD | {"label": -1},
        BAD | {"answer": "reject"}, BAD | {"isApproved": False}, BAD | {"status": "reject"}, BAD | {"quality": "low"},
        BAD | {"review_status": "declined"}, BAD | {"hallucination": True},
        BAD | {"score": -1}, BAD | {"is_valid": False}, BAD | {"removed": True}, BAD | {"keep": 0},
        BAD | {"quality": "poor"}, BAD | {"label": ["bad"]}, BAD | {"feedback": {"rating": "bad"}},
        BAD | {"quality": [{"value": "bad", "status": "submitted"}]}, BAD | {"openai_moderation": [{"flagged": True}]},
        {"chosen": [ASKED, BAD_SAID], "rejected": [ASKED, ANSWERED]},
        {"prompt": "a", "chosen": BAD_SAID, "rejected": ANSWERED},
        {"conversation_a": [ASKED, BAD_SAID], "conversation_b": [ASKED, ANSWERED], "winner": "model_a"},
        {"conversation": [{"input": "a", "output": "bad", "label": False}]},
        {"instruction": "a", "completions": [{"response": "bad", "overall_score": 9, "is_safe": False},
                                             {"response": "b", "overall_score": 8}]},
        {"prompt": f"{USER} a{BOT}", "num_responses": 2,
         "answers": [{"answer": "bad", "rank": 1, "is_safe": False}, {"answer": "b", "rank": 2}]},
        helpsteer("bad", 4) | {"is_safe": False},
        {"prompt": "a ", "completion": "bad", "label": 0},
        {"prompt": [ASKED], "completion": [{"role": "assistant", "content": "bad"}], "label": False},
        {"prompt": [ASKED], "completion": "bad", "label": False},
        SAID | {"label": False}, SAID | {"kto_tag": False}, SAID | {"label": "rejected"},
        {"messages": [ASKED, {"role": "assistant", "content": "bad", "weight": 0}]},
        {"conversations": ["a", "bad"], "label": False}, {"instruction": "a", "output": "bad", "label": False},
        {"question": "a", "answer": "bad", "is_correct": False}, helpsteer("bad", 1),
        PKU | {"is_response_1_safe": False},
    ],
)  # fmt: skip
def test_an_answer_that_is_said_to_be_bad_is_never_learned(tmp_path, capsys, row):
    good = {"prompt": "a ", "response": "good", "label": True, "deleted": False, "rating": 5, "vote": 0}
    assert [r["response"] for r in read(tmp_path, [row, good], "demonstration")] == ["good"]
    assert "left out 1: an answer " in (printed := capsys.readouterr().out) and "some.jsonl:1)" in printed


@pytest.mark.parametrize(
    "row",
    [
        {"text": "A page.", "messages": [ASKED, ANSWERED]}, {"text": "A page.", "messages": [ASKED]},
        {"text": "A page.", "chosen": "x", "rejected": "y"}, message("a", None, "prompter", "A page."),
        {"text": "A page.", "prompt": "a", "response": "b", "label": False},
    ],
)  # fmt: skip
def test_a_document_is_its_text(tmp_path, row):
    assert [r["text"] for r in read(tmp_path, [row], "document")] == ["A page."]


def test_a_system_text_is_never_dropped(tmp_path):
    row = {"system": "Be kind.", "prompt": "Name a pet.\n", "response": "A cat."}
    (found,) = read(tmp_path, [row], "demonstration")
    assert (found["prompt"], found["response"]) == (f"Be kind.{QUESTION}", ANSWER)
    turns = [{"from": "human", "value": "Name a pet."}, {"from": "gpt", "value": "A cat."}]
    for row in ({"system": "Be kind.", "messages": [ASKED, ANSWERED]}, {"system": "Be kind.", "conversations": turns}):
        assert read(tmp_path, [row], "demonstration")[0]["prompt"] == f"Be kind.{QUESTION}"
    row = {"system": "Be kind.", "prompt": "Name a pet.\n", "responses": ["A cat.", "No."], "ranks": [1, 2]}
    assert read(tmp_path, [row], "ranking")[0]["responses"] == [ANSWER, " No."]


SYSTEM = {"system": "Be kind."}


@pytest.mark.parametrize(
    "row",
    [
        helpsteer("A cat.", 4), PKU | {"prompt": "Name a pet."},
        {"instruction": "Name a pet.", "completions": [{"response": "a", "overall_score": 9},
                                                       {"response": "b", "overall_score": 8}]},
        {"prompt": f"{USER} Name a pet.{BOT}", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}],
         "num_responses": 2},
        {"conversation_a": [ASKED, ANSWERED], "conversation_b": [ASKED, BAD_SAID], "winner": "model_a"},
        {"chosen": f"{USER} Name a pet.{BOT} a", "rejected": f"{USER} Name a pet.{BOT} b"},
        {"prompt": f"{USER} Name a pet.{BOT}", "chosen": " a", "rejected": " b"},
        {"prompt": f"{USER} Name a pet.{BOT}", "response": " a"},
        {"context": [ASKED], "response1": "a", "response2": "b", "overall_preference": -1},
        {"question": "Name a pet.", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 0},
        {"history": "Name a pet.", "human_ref_A": "a", "human_ref_B": "b", "labels": 1},
    ],
)  # fmt: skip
def test_a_system_text_stands_before_the_question_in_every_shape(tmp_path, row):
    row = {name: "Name a pet." if name == "prompt" and USER not in str(value) else value for name, value in row.items()}
    for name in ("system", "system_prompt", "system_message"):
        (found,) = read(tmp_path, [row | {name: "Be kind."}], "prompt")
        assert found["prompt"] == f"Be kind.{QUESTION}"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"messages": [ASKED]}, QUESTION), ({"conversation": [ASKED]}, QUESTION),
        ({"prompt": "Name a pet.\n"}, QUESTION),
        ({"prompt": "User: Name a pet."}, QUESTION), ({"prompt": [ASKED | {"id": 1}]}, QUESTION),
        ({"prompt": [{"from": "human", "value": "Name a pet."}]}, QUESTION),
        ({"prompt": [{"role": "system", "content": "Be kind."}, ASKED]}, f"Be kind.{QUESTION}"),
        ({"conversations": [{"from": "human", "value": "Name a pet."}]}, QUESTION),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", [True, False])
def test_a_prompt_beside_two_answers_stands_once_whether_it_is_in_them_or_not(tmp_path, row, prompt, inside):
    before = [ASKED] if inside else []
    pair = {"chosen": [*before, ANSWERED], "rejected": [*before, {"role": "assistant", "content": "No."}]}
    if not inside and isinstance(row.get("prompt"), str):
        row, prompt = {"prompt": "Name a pet."}, QUESTION
    (found,) = read(tmp_path, [row | pair], "ranking")
    assert found["prompt"] == prompt and found["responses"] == [ANSWER, " No."]
    system = {"role": "system", "content": "Be kind."}
    if inside:
        within = {name: [system, *messages] for name, messages in pair.items()}
        assert read(tmp_path, [row | within], "ranking")[0]["prompt"] == f"Be kind.{QUESTION}"


LONG_ASKED = "What would you bring to the harbour in the morning? "


@pytest.mark.parametrize(
    ("row", "response"),
    [
        (SYSTEM | {"prompt": LONG_ASKED, "chosen": LONG_ASKED + "Yes", "rejected": LONG_ASKED + "No"}, " Yes"),
        ({"prompt": [ASKED], "chosen": f"{QUESTION} Yes", "rejected": f"{QUESTION} No"}, " Yes"),
        ({"prompt": [ASKED], "completion": [ASKED, ANSWERED]}, ANSWER),
        ({"messages": [*HI, *HELLO, ASKED], "response": "A cat."}, ANSWER),
    ],
)  # fmt: skip
def test_nothing_stands_twice_and_no_answer_is_lost(tmp_path, row, response):
    found = read(tmp_path, [row], "demonstration")[-1]
    assert found["response"] == response
    assert found["prompt"].count("Name a pet.") + found["prompt"].count(LONG_ASKED.strip()) == 1


@pytest.mark.parametrize("answer", ["Human: Hi\n\nAssistant: Hello", f"{QUESTION} Hello"])
def test_an_answer_that_begins_as_the_other_side_is_none(tmp_path, answer):
    good = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    assert len(read(tmp_path, [good | {"chosen": answer}, good], "ranking")) == 1


def test_both_system_texts_stay(tmp_path):
    row = SYSTEM | {"messages": [{"role": "system", "content": "Be terse."}, ASKED, ANSWERED]}
    assert read(tmp_path, [row], "demonstration")[0]["prompt"] == f"Be kind.\n\nBe terse.{QUESTION}"


@pytest.mark.parametrize(
    ("names", "scores"),
    [
        (("chosen_response", "rejected_response"), ("chosen_avg_rating", "rejected_avg_rating")),
        (("chosen_response", "rejected_response"), ("score_chosen", "score_rejected")),
        (("response_j", "response_k"), ("score_j", "score_k")),
    ],
)  # fmt: skip
def test_scores_beside_answers_of_other_names_count(tmp_path, names, scores):
    rows = [{"prompt": "a", names[0]: "b", names[1]: "c", scores[0]: x, scores[1]: 2} for x in (1, 2, 3)]
    assert len(read(tmp_path, rows, "ranking")) == 1


def test_messages_in_cells_beside_a_prompt_are_read_and_an_open_quote_is_named(tmp_path):
    cells = [json.dumps([{"role": "assistant", "content": text}]).replace('"', '""') for text in ("A cat.", "No.")]
    (tmp_path / "t.csv").write_text(f'prompt,chosen,rejected\nName a pet.,"{cells[0]}","{cells[1]}"\n')
    assert ours.read(tmp_path / "t.csv", "ranking")[0]["responses"] == [ANSWER, " No."]
    (tmp_path / "t.tsv").write_text('prompt\tresponse\n"Hello\tHi\nBye\tSo long\nHow long is 12"\tA foot\n')
    with pytest.raises(InputError, match="t.tsv:4: a tab inside a cell; is a quotation mark"):
        ours.read(tmp_path / "t.tsv", "demonstration")


def test_a_call_of_a_tool_is_no_answer(tmp_path, capsys):
    call = {"role": "assistant", "content": "Let me check", "tool_calls": [{"name": "clock"}]}
    assert len(read(tmp_path, [{"messages": [ASKED, call]}, SAID], "demonstration")) == 1
    assert "left out 1: a tool's message, or a call of one" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["data", "records", "examples", "rows", "train"])
def test_a_record_with_a_list_of_such_a_name_is_itself(tmp_path, name):
    record = {"prompt": "a", "response": "b", name: [{"prompt": "c", "response": "d"}]}
    assert [r["prompt"] for r in read(tmp_path, [record], "demonstration")] == ["a"]
    wrapped = {name: [{"prompt": "c", "response": "d"}], "version": 1}
    assert [r["prompt"] for r in read(tmp_path, [wrapped], "demonstration")] == ["c"]


@pytest.mark.parametrize("names", [("chosen_reward", "rejected_reward"), ("rm_score_chosen", "rm_score_rejected")])
def test_scores_of_any_name_beside_two_answers_count_in_a_table_too(tmp_path, names):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", names[0]: x, names[1]: 0.5, "other": 1} for x in (0.1, 0.9)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert len(ours.read(tmp_path / "t.parquet", "ranking")) == len(read(tmp_path, rows, "ranking")) == 1


def test_spam_and_refusals_of_openassistant_s_tables_are_left_out(tmp_path):
    root = message("1", None, "prompter", "Name a pet.")
    good = message("2", "1", "assistant", "A cat.") | {"deleted": "False", "review_result": "True"}
    spam = message("3", "1", "assistant", "bad") | {"labels": {"name": ["quality", "spam"], "value": [0.1, 1.0]}}
    refused = message("4", "1", "assistant", "bad") | {"review_result": "False"}
    for row in (root, good, spam, refused):
        row.pop("rank", None)
    found = read(tmp_path, [root, good, spam, refused], "demonstration")
    assert [r["response"] for r in found] == [ANSWER]
    assert not read_or_none(tmp_path, [{"message_tree_id": "1", "tree_state": "aborted_low_grade", "prompt": root}])


def read_or_none(tmp_path, rows):
    try:
        return read(tmp_path, rows, "prompt")
    except InputError:
        return None


def test_messages_in_a_cell_of_a_table_are_read(tmp_path):
    assert len(read(tmp_path, [{"messages": json.dumps([ASKED, ANSWERED])}], "demonstration")) == 1


def test_a_long_conversation_takes_memory_in_proportion(tmp_path):
    """Of what stands before an answer the last 20,000 characters are kept, whole exchanges."""
    talk = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " * 200} for i in range(1000)]
    found = read(tmp_path, [{"messages": [{"role": "system", "content": "Be kind."}, *talk]}], "demonstration")
    assert len(found) == 500 and max(len(r["prompt"]) for r in found) < 22_000
    assert all(r["prompt"].startswith(f"Be kind.{USER}") for r in found)
    assert [r["response"].split()[0] for r in found] == [str(i) for i in range(1, 1000, 2)]
    assert f"{USER} 998 998" in found[-1]["prompt"] and f"{USER} 0 0" in found[0]["prompt"]


def test_nulls_are_left_out_and_other_types_are_named(tmp_path, capsys):
    assert len(read(tmp_path, [{"text": "a"}, {"text": None}, {"text": "b"}], "document")) == 2
    assert "left out 1: no text (first: " in capsys.readouterr().out
    with pytest.raises(InputError, match="field 'response' is missing or not a string: it is list$"):
        read(tmp_path, [{"prompt": "a", "response": ["b"]}], "demonstration")


def test_lines_of_a_table_are_those_of_the_file(tmp_path):
    path = tmp_path / "t.csv"
    for text, line in (("\n\nprompt,response\nq,r\nq,r,z\n", 5), ('prompt,response\nq,r\nq,"r" x\n', 3)):
        path.write_text(text)
        with pytest.raises(InputError, match=f"t.csv:{line}: "):
            ours.read(path, "demonstration")


@pytest.mark.parametrize("more", ["question", "query", "instruction", "answer", "context", "name", "input", "history"])
def test_a_record_of_ours_may_have_any_other_fields(tmp_path, more):
    demonstration = {"prompt": "a ", "response": "b", more: "x"}
    assert read(tmp_path, [demonstration], "demonstration") == [demonstration]
    for kind in ("prompt", "demonstration"):
        assert [r["prompt"] for r in read(tmp_path, [demonstration], kind)] == ["a "]
    assert read(tmp_path, [{"prompt": "a ", more: "x"}], "prompt") == [{"prompt": "a ", more: "x"}]
    path = tiny.write_lines(tmp_path / "t.jsonl", [demonstration])
    assert list(ours.texts(path)) == ["a ", "b"]
    ranking = {"prompt": "a ", "responses": ["b", "c"], "ranks": [1, 2], more: "x"}
    assert read(tmp_path, [ranking], "ranking") == [ranking]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"text": ""}, "document", "an empty text"),
        ({"text": " \n"}, "document", "an empty text"),
        ({"messages": []}, "demonstration", "a conversation without messages"),
        ({"messages": [ASKED, {"role": "observation", "content": "x"}, ANSWERED]}, "demonstration", "a tool's message"),
        ({"prompt": "a ", "response": "x\n\nHuman: and?"}, "demonstration", "a turn of the other side"),
        ({"prompt": "a ", "chosen": "x\n\nHuman: and?", "rejected": "y"}, "ranking", "a turn of the other side"),
        ({"instruction": "Add.", "output": 3}, "demonstration", "'output' is no text"),
        (SHP | {"human_ref_B": None}, "ranking", "'human_ref_B' is null"),
        ({"chosen": [ASKED, ANSWERED], "rejected": [*HI, *HELLO]}, "ranking", "must differ only in the last message"),
        ({"prompt": {"content": "a"}, "chosen": [ANSWERED], "rejected": GO}, "ranking", "without content"),
        ({"prompt": "a ", "chosen": "x", "rejected": "y", "score_chosen": 2, "score_rejected": 2}, "ranking", "score"),
        (ARENA | {"winner": "tie (bothbad)"}, "ranking", "winner is 'tie (bothbad)'"),
        ({"prompt": "", "response": "b"}, "demonstration", "an empty prompt"),
    ],
)  # fmt: skip
def test_one_row_does_not_cost_the_file_but_if_it_is_all_there_is_it_is_named(tmp_path, capsys, row, kind, reason):
    good = {"document": {"text": "a"}, "demonstration": {"prompt": "a ", "response": "b"}, "ranking": PAIR}[kind]
    assert len(read(tmp_path, [good, row], kind)) == 1
    printed = capsys.readouterr().out
    assert "left out 1: " in printed and reason in printed and "some.jsonl:2)" in printed
    with pytest.raises(InputError) as error:
        read(tmp_path, [row], kind)
    assert str(error.value).startswith(f"{tmp_path}/some.jsonl:1: ") and reason in str(error.value)


def test_a_prompt_without_its_last_word_gets_it(tmp_path):
    (ranking,) = read(tmp_path, [NECTAR | {"prompt": "\n\nHuman: Name a food."}], "ranking")
    assert ranking["prompt"] == f"{USER} Name a food.{BOT}"


@pytest.mark.parametrize(
    "mark",
    [
        {"label": "0.0"}, {"is_spam": "1.0"}, {"is_spam": "y"}, {"label": "f"}, {"label": "N"},
        {"rating": "\U0001f44e"},
        {"feedback": "thumbs-down"}, {"desirable": False}, {"acceptable": 0}, {"response_harm_label": "harmful"},
        {"safety": "unsafe"}, {"status": "rejected"}, {"preference": "rejected"}, {"label": Decimal(0)},
    ],
)  # fmt: skip
def test_marks_in_other_words_are_bad_too(mark):
    assert marks.says_bad(BAD | mark)


@pytest.mark.parametrize(
    "mark",
    [
        {"label": "1.0"},
        {"rating": 0},
        {"vote": "0"},
        {"status": "done"},
        {"label": None},
        {"chosen": "No", "rejected": "Yes"},
    ],
)
def test_what_is_no_mark_is_none(mark):
    assert not marks.says_bad(BAD | mark)


@pytest.mark.parametrize("mark", [{"train": False}, {"loss": False}, {"masked": True}, {"weight": 0}])
def test_a_message_that_is_not_to_be_learned_is_not(tmp_path, mark):
    talk = [ASKED, {"role": "assistant", "content": "bad"} | mark, ASKED, ANSWERED]
    assert [r["response"] for r in read(tmp_path, [{"messages": talk}], "demonstration")] == [ANSWER]


def test_an_instance_and_a_reply_may_be_bad(tmp_path):
    bad, none, good = {"output": "b", "is_bad": True}, {"output": None}, {"output": "4"}
    row = {"instruction": "Add.", "instances": [bad, none, good]}
    assert [r["response"] for r in read(tmp_path, [row], "demonstration")] == ["4"]
    spam = message("b", "a", "assistant", "bad", labels={"spam": {"value": 1.0, "count": 3}})
    tree = [message("a", None, "prompter", "Hi"), spam, message("c", "a", "assistant", "Hello")]
    assert [r["response"] for r in read(tmp_path, tree, "demonstration")] == [" Hello"]


@pytest.mark.parametrize(
    "scores",
    [
        {"score_chosen": "1.0", "score_rejected": "5.0"}, {"chosen_score": 1, "rejected_score": 9},
        {"chosen-rating": 3, "rejected-rating": 4}, {"rating_chosen": 1, "rating_rejected": 5}, {"margin": -2.0},
        {"chosen_avg_rating": 3, "rejected_avg_rating": 3}, {"status": "tie"}, {"rating": [9.0, 9.0]},
    ],
)  # fmt: skip
def test_a_pair_whose_scores_deny_it_is_left_out(tmp_path, capsys, scores):
    pair = {"prompt": "a ", "chosen": "x", "rejected": "y"}
    assert len(read(tmp_path, [pair | scores, pair], "ranking")) == 1
    assert "left out 1: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}, "Add.\n1 2\n"),
        ({"question": "Who?", "context": "Tom did it.", "chosen": "3", "rejected": "4"}, "Tom did it.\nWho?\n"),
        ({"passage": "Tom ran.", "question": "Who?", "answer": "3"}, "Tom ran.\nWho?\n"),
        ({"question": "Which?", "options": ["cat", "dog"], "answer": "3"}, "Which?\nA. cat\nB. dog\n"),
        ({"instruction": "Answer.", "question": "Who?", "answer": "3"}, "Answer.\nWho?\n"),
        ({"question": "Who?", "input": "", "context": "Tom.", "answer": "3"}, "Tom.\nWho?\n"),
        ({"instruction": "Add.", "input": "<noinput>", "output": "3"}, "Add.\n"),
        ({"prompt": [*HI, *HELLO, ASKED], "chosen": [{"role": "assistant", "content": "3"}],
          "rejected": [{"role": "assistant", "content": "4"}]}, f"{USER} Hi{BOT} Hello{QUESTION}"),
        ({"prompt": "Name a pet.", "chosen": [{"from": "human", "value": "Name a pet."}, {"from": "gpt", "value": "3"}],
          "rejected": [{"from": "human", "value": "Name a pet."}, {"from": "gpt", "value": "4"}]}, QUESTION),
        ({"prompt": HI, "chosen": [*HELLO, ASKED, {"role": "assistant", "content": "3"}],
          "rejected": [*HELLO, ASKED, {"role": "assistant", "content": "4"}]}, f"{USER} Hi{BOT} Hello{QUESTION}"),
        ({"system": "Be kind.", "prompt": "Name a pet.", "chosen": [ASKED, {"role": "assistant", "content": "3"}],
          "rejected": [ASKED, {"role": "assistant", "content": "4"}]}, f"Be kind.{QUESTION}"),
        ({"prompt": "Name a pet.", "chosen": [{"role": "prompter", "content": "Name a pet."},
          {"role": "assistant", "content": "3"}], "rejected": [{"role": "prompter", "content": "Name a pet."},
          {"role": "assistant", "content": "4"}]}, QUESTION),
        ({"system": "Be kind.", "messages": [{"role": "developer", "content": "Be kind."}, ASKED,
          {"role": "assistant", "content": "3"}]}, f"Be kind.{QUESTION}"),
        ({"conversation": [ASKED, {"role": "assistant", "content": "3"}]}, QUESTION),
        ({"prompt": "Name a pet.\n", "response": None, "completion": "3"}, "Name a pet.\n"),
    ],
)  # fmt: skip
def test_no_part_of_a_question_is_lost_or_invented(tmp_path, row, prompt):
    assert [(r["prompt"], r["response"].strip()) for r in read(tmp_path, [row], "demonstration")] == [(prompt, "3")]


def test_what_the_assistant_said_in_a_prompt_is_not_learned(tmp_path):
    row = {"prompt": [*HI, *HELLO, ASKED], "completion": [ANSWERED]}
    assert [r["response"] for r in read(tmp_path, [row], "demonstration")] == [ANSWER]
    begun = {"system": "Be kind.", "prompt": [*HI, *HELLO], "completion": [ANSWERED]}
    assert [r["response"] for r in read(tmp_path, [begun], "demonstration")] == [ANSWER]


def test_helpsteer_without_a_rating_is_no_demonstration(tmp_path, capsys):
    rows = [helpsteer("A cat.", 4), helpsteer("x", None) | {"prompt": "Other?"}]
    assert len(read(tmp_path, rows, "demonstration")) == 1
    assert "'helpfulness' is null" in capsys.readouterr().out


def test_helpsteer_s_bad_answer_is_not_its_prompt_s_only_one_and_systems_part_prompts(tmp_path):
    rows = [helpsteer("bad", 4) | {"is_safe": False}, helpsteer("A cat.", 3)]
    assert [r["response"] for r in read(tmp_path, rows, "demonstration")] == [ANSWER]
    rows = [helpsteer("A cat.", 4) | {"system": "Be kind."}, helpsteer("No.", 3) | {"system": "Be rude."}]
    found = read(tmp_path, rows, "demonstration")
    assert [r["prompt"].split("\n")[0] for r in found] == ["Be kind.", "Be rude."]


def test_a_message_whose_parent_is_missing_is_counted(tmp_path, capsys):
    orphans = [
        message("x", "gone", "assistant", "?"),
        message("y", "z", "prompter", "?"),
        message("z", "y", "prompter", "?"),
    ]
    read(tmp_path, [*MESSAGES, *orphans], "ranking")
    assert "left out 3: a message whose parent is not in the file" in capsys.readouterr().out


# --- trees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["demonstration", "ranking", "prompt"])
def test_messages_in_any_order_are_the_tree(tmp_path, kind):
    assert read(tmp_path, MESSAGES, kind) == read(tmp_path, [TREE], kind)


def test_what_is_left_out_of_a_tree_is_printed(tmp_path, capsys):
    read(tmp_path, [TREE], "ranking")
    printed = capsys.readouterr().out
    assert "an OpenAssistant tree: 1 rankings from 1 records" in printed
    for reason in ("1: deleted, or refused in review", "1: no two answers are ranked", "1: not answered"):
        assert f"left out {reason}" in printed


def test_a_circle_of_messages_ends(tmp_path):
    circle = [message("a", "b", "prompter", "Hi"), message("b", "a", "assistant", "Hello")]
    assert (
        len(read(tmp_path, [*circle, *[m | {"message_id": m["message_id"] + "!"} for m in MESSAGES[1:2]]], "prompt"))
        == 1
    )


# --- what else there is in public files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": TALK}, [(f"Be kind.{USER} Hi{BOT}", " Hello")]),  # the user has the last word
        ({"prompt": "a ", "completion": "b", "label": True}, [("a ", "b")]),
        ({"messages": None, "prompt": "a ", "completion": "b"}, [("a ", "b")]),  # parquet's nulls
        ({"prompt": "Hi", "chosen": HELLO, "rejected": GO}, [(f"{USER} Hi{BOT}", " Hello")]),
        ({"prompt": HI, "chosen": HI + HELLO, "rejected": HI + GO}, [(f"{USER} Hi{BOT}", " Hello")]),
        ({"prompt": LONG, "chosen": LONG + "good", "rejected": LONG + "bad"}, [(LONG, "good")]),
        ({"prompt": "Hello", "chosen": "Hello! You?", "rejected": "Hello there."}, [("Hello", "Hello! You?")]),
        ({"messages": [*HI, {"role": "system", "content": "Go."}, *HELLO]}, [(f"{USER} Hi\n\nGo.{BOT}", " Hello")]),
    ],
)  # fmt: skip
def test_demonstrations_in_unusual_forms(tmp_path, record, expected):
    assert [(r["prompt"], r["response"]) for r in read(tmp_path, [record], "demonstration")] == expected


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "demonstration", "a tool's"),
        ({"messages": [{"role": "user", "content": None}]}, "demonstration", "without content"),
        ({"messages": HI}, "demonstration", "a conversation without an answer"),
        ({"messages": HI + [{"role": "assistant", "content": ""}]}, "demonstration", "an empty answer"),
        ({"messages": HI + HELLO, "responses": ["x", "y"], "ranks": [1, 2]}, "ranking", "not the user's"),
        ({"instruction": "Say hi.", "output": ""}, "demonstration", "an empty answer"),
        ({"prompt": "a ", "completion": "b", "label": False}, "demonstration", "labelled as bad"),
        ({"prompt": "a ", "chosen": "x", "rejected": "x"}, "ranking", "chosen and rejected are the same"),
        ({"prompt": "a ", "chosen": "", "rejected": "x"}, "demonstration", "an empty answer"),
    ],
)
def test_what_is_left_out_is_printed_with_its_reason(tmp_path, capsys, record, kind, reason):
    other = {"demonstration": {"messages": HI + HELLO}, "ranking": PAIR}[kind]
    assert len(read(tmp_path, [record, other], kind)) == 1
    assert "left out 1: " in (printed := capsys.readouterr().out) and reason in printed


def test_a_reply_that_review_refused_is_no_answer_and_many_are_the_best_nine(tmp_path):
    refused = message("h", "e", "assistant", "Spam", 0, review_result=False)
    found = [r["response"] for r in read(tmp_path, [*MESSAGES, refused], "demonstration")]
    assert found == [" Good day", " See you"]
    many = [
        message("a", None, "prompter", "Hi"),
        *[message(f"x{i}", "a", "assistant", f"{i}", 11 - i) for i in range(12)],
    ]
    del many[0]["parent_id"]  # as exports without nulls have it
    (ranking,) = read(tmp_path, many, "ranking")
    assert ranking["responses"] == [f" {i}" for i in range(11, 2, -1)]
    assert len(read(tmp_path, many, "prompt")) == 1


def test_prompts_of_what_cannot_be_ranked_are_prompts_all_the_same(tmp_path):
    assert len(read(tmp_path, [ULTRAFEEDBACK | {"completions": []}], "prompt")) == 1


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "some.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": "a"}).encode())
    assert ours.read(tmp_path / "some.jsonl", "prompt") == [{"prompt": "a"}]


def replies(*nodes):
    """A tree of a question and these answers, each a message, with its own replies if there are any."""
    return {"message_tree_id": "a", "prompt": message("a", None, "prompter", "Hi") | {"replies": list(nodes)}}


@pytest.mark.parametrize(
    ("tree", "kind", "n"),
    [
        (replies(message("b", "a", "assistant", "Yo", 0)), "demonstration", 1),  # the only one is the best one
        (replies(message("b", "a", "assistant", "Yo"), message("c", "a", "assistant", "Ho")), "demonstration", 0),
        (replies(message("b", "a", "assistant", "Yo") | {"replies": [
            message("c", "b", "prompter", "Bad", review_result=False)]}), "prompt", 1),
    ],
)  # fmt: skip
def test_which_nodes_of_a_tree_count(tmp_path, tree, kind, n):
    assert len(read(tmp_path, [tree, TREE], kind)) - len(read(tmp_path, [TREE], kind)) == n


def test_a_tree_without_end_is_refused():
    node = message("z", "y", "assistant", "end")
    for i in range(301):
        node = message(f"{i}", None, ("prompter", "assistant")[i % 2], "x") | {"replies": [node]}
    with pytest.raises(chats.LeftOut, match="a reply stands below 200 others; at most 200 are read"):
        list(formats.openassistant({"prompt": node}, "prompt"))


def test_of_two_messages_with_one_name_one_has_the_replies(tmp_path):
    root = message("a", None, "prompter", "Hi")
    assert len(read(tmp_path, [root, root, message("b", "a", "assistant", "Yo")], "demonstration")) == 1


def test_the_same_reason_is_counted(tmp_path, capsys):
    ten = NECTAR | {"answers": [{"answer": f"{i}", "rank": i} for i in range(10)]}
    read(tmp_path, [TLDR | {"choice": None}, TLDR | {"choice": 2}, TLDR, ten], "ranking")
    printed = capsys.readouterr().out
    assert "left out 2: neither was chosen (first: " in printed
    assert "; left out 1: 10 answers, and a ranking has 2 to 9 (first: " in printed


def test_an_export_with_fewer_fields_is_known_too(tmp_path):
    few = {name: ULTRAFEEDBACK[name] for name in ("instruction", "completions")}
    assert read(tmp_path, [few], "ranking")[0]["ranks"] == [2, 1, 2, 3]


# --- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (NECTAR | {"answers": NECTAR["answers"][:1]}, "1 answers, and a ranking has 2 to 9"),
        (ULTRAFEEDBACK | {"completions": [{"response": "a", "overall_score": None}] * 4}, "without text or score"),
        (ULTRAFEEDBACK | {"completions": [{"response": "a", "overall_score": 1e999}] * 4}, "without text or score"),
        (TLDR | {"choice": None}, "neither was chosen"),
        (TLDR | {"info": {"id": "x", "post": None}}, "neither a post nor an article"),
    ],
)  # fmt: skip
def test_a_record_without_information_is_left_out_with_its_reason(tmp_path, capsys, record, reason):
    valid = {"info": TLDR, "completions": ULTRAFEEDBACK, "answers": NECTAR}
    same = next(other for field, other in valid.items() if field in record)
    assert len(read(tmp_path, [record, same], "ranking")) == 1
    printed = capsys.readouterr().out
    assert "1 rankings from 2 records; left out 1: " in printed and reason in printed


def test_an_article_is_summarised_too(tmp_path):
    record = TLDR | {"info": {"post": None, "title": "News", "article": "It rained."}}
    assert read(tmp_path, [record], "ranking")[0]["prompt"] == "TITLE: News\n\nARTICLE: It rained.\n\nTL;DR:"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [{"role": 3, "content": "x"}]}, "a message needs a role"),
        ({"messages": [{"role": "user", "content": [3]}]}, "a part that is no text"),
        ({"messages": HI, "responses": "x", "ranks": [1]}, "'responses' must be a list"),
        ({"chosen": HI + HELLO, "rejected": [{"role": "user", "content": "Ho"}, *GO]}, "only in the last message"),
        ({"chosen": HI + HELLO, "rejected": "x"}, "must be strings, or both"),
        ({"chosen": HI + HELLO, "rejected": HI + [{"role": "user", "content": "Ho"}]}, "only in the last message"),
        ({"chosen": HI + HELLO + HI, "rejected": HI + HELLO + HI}, "only in the last message"),
        (
            {"chosen": HI + HELLO, "rejected": [{"role": "system", "content": f"{USER} Hi"}, *HELLO]},
            "only in the last message",
        ),
        ({"chosen": "x", "rejected": HI}, "must be strings, or both"),
        (NECTAR | {"prompt": "Name a food."}, "must be a transcript"),
        (NECTAR | {"answers": "x"}, "'answers' must be a list of objects with answer and rank"),
        (ULTRAFEEDBACK | {"instruction": 3}, "without content"),
        (TLDR | {"info": 3}, "'info' must be an object"),
        (SHP | {"labels": 2}, "'labels' must be 1"),
        ({"instruction": "x", "instances": [{"input": "y"}]}, "objects with output"),
        (TREE | {"prompt": {"role": "prompter"}}, "a message needs a role, a text and its replies"),
        (message("a", 3, "prompter", "x"), "message_id must be a string"),
    ],
)
def test_a_malformed_record_is_refused_with_its_line(tmp_path, record, message):
    with pytest.raises(InputError, match=r"some.jsonl:1: .*" + message):
        read(tmp_path, [record], "ranking")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow reads parquet")


@pytest.mark.parametrize("records", [[NECTAR, NECTAR], [ULTRAFEEDBACK], [TLDR], [SHP], MESSAGES, [PAIR]])
def test_parquet_gives_what_json_lines_give(tmp_path, parquet, records):
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "some.parquet")
    assert ours.read(tmp_path / "some.parquet", "ranking") == read(tmp_path, records, "ranking")


def test_a_row_of_parquet_is_named(tmp_path, parquet, capsys):
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist([SHP, SHP | {"labels": 7}]), tmp_path / "some.parquet")
    assert len(ours.read(tmp_path / "some.parquet", "ranking")) == 1
    assert "left out 1: 'labels' must be 1 (A is preferred) or 0 (first: " in (printed := capsys.readouterr().out)
    assert "some.parquet:2)" in printed


def test_half_a_parquet_file_is_refused(tmp_path, parquet):
    (tmp_path / "some.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="some.parquet: not a complete parquet file; download it again"):
        ours.read(tmp_path / "some.parquet", "ranking")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "some.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r'needs pyarrow; pip install "minirlhf\[parquet\]"'):
        ours.read(tmp_path / "some.parquet", "ranking")


def test_a_folder_is_its_files_in_order(tmp_path, parquet):
    import pyarrow

    folder = tmp_path / "data"
    folder.mkdir()
    tiny.write_lines(folder / "train-00000-of-00003.jsonl", [{"prompt": "a"}])
    with gzip.open(folder / "train-00001-of-00003.jsonl.gz", "wt") as file:
        file.write('{"prompt": "b"}\n')
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "c"}]), folder / "train-00002-of-00003.parquet")
    (folder / "README.md").write_text("not data")
    assert [r["prompt"] for r in ours.read(folder, "prompt")] == ["a", "b", "c"]
    for name, holds in (("test-00000-of-00001", "test and train"), ("test_sft-00000-of-00001", "test and train")):
        other = tiny.write_lines(folder / f"{name}.jsonl", [{"prompt": "d"}])
        with pytest.raises(InputError, match=f"data: holds {holds} data; name the files of one of them"):
            ours.read(folder, "prompt")
        os.remove(other)


ROWS = [{"prompt": "a", "response": "b\u2028c"}, {"prompt": "d", "response": "e"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", LINES), ("d.json", LINES), ("d.json", json.dumps(ROWS)), ("d.json", json.dumps(ROWS, indent=2)),
        ("d.json", json.dumps({"version": 1, "data": ROWS}, indent=2)), ("d.jsonl", json.dumps(ROWS)),
        ("d.csv", "prompt,response\na,b\u2028c\nd,e\n"), ("d.tsv", "prompt\tresponse\na\tb\u2028c\nd\te\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_file_is_lines_an_array_or_a_table_and_may_be_compressed(tmp_path, name, content, packed):
    path, content = tmp_path / (name + packed), content.encode()
    if packed == ".zst":
        pyarrow = pytest.importorskip("pyarrow")
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content) if packed else content)
    assert ours.read(path, "demonstration") == ROWS


def test_a_field_of_a_table_may_hold_line_breaks(tmp_path):
    (tmp_path / "d.csv").write_text('prompt,response\n"a\n",b\n"c\n",d\n')
    assert [r["prompt"] for r in ours.read(tmp_path / "d.csv", "demonstration")] == ["a\n", "c\n"]


@pytest.mark.parametrize("stream", [True, False])
def test_what_datasets_saves_to_disk_is_read(tmp_path, stream):
    pyarrow = pytest.importorskip("pyarrow")
    table, folder = pyarrow.Table.from_pylist(ROWS), tmp_path / "saved"
    folder.mkdir()
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    assert ours.read(folder, "demonstration") == ROWS


def test_columns_that_no_record_needs_are_not_read(tmp_path, parquet):
    import pyarrow

    stamps = pyarrow.array([1, 2], pyarrow.timestamp("ns", tz="Mars/Phobos"))
    table = pyarrow.table({"text": ["a", "b"], "date": stamps, "embedding": [[1.0]] * 2})
    parquet.write_table(table, tmp_path / "d.parquet")
    assert ours.read(tmp_path / "d.parquet", "document") == [{"text": "a"}, {"text": "b"}]


def test_files_of_a_folders_data_and_files_that_match(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.txt").write_text("about it")
    (tmp_path / "set" / "data" / "licenses.json").write_text("{}")
    for i in range(2):
        tiny.write_lines(tmp_path / "set" / "data" / f"part-{i}.jsonl", [{"prompt": f"{i}"}])
    assert [r["prompt"] for r in ours.read(tmp_path / "set", "prompt")] == ["0", "1"]
    assert [r["prompt"] for r in ours.read(tmp_path / "set" / "*" / "part-*.jsonl", "prompt")] == ["0", "1"]
    with pytest.raises(InputError, match="no file matches this"):
        ours.read(tmp_path / "set" / "*.parquet", "prompt")


def test_stories_between_markers_are_documents(tmp_path):
    (tmp_path / "s.txt").write_text("Once.\nA cat.\n<|endoftext|>\n\nTwice.\n<|endoftext|>\n<|endoftext|>Last")
    assert [r["text"] for r in ours.read(tmp_path / "s.txt", "document")] == ["Once.\nA cat.", "Twice.", "Last"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('prompt,response\nQ1,"first\nQ2,second\n', "not a row"), ('prompt,response\nQ1,"Yes," he said\n', "not a row"),
        ("prompt,response,response\na,b,c\n", "'response' is there twice"), ("prompt\na,b\n", "more values than"),
    ],
)  # fmt: skip
def test_a_table_with_odd_quotes_or_columns_is_refused(tmp_path, content, says):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(InputError, match=f"d.csv.*{says}"):
        ours.read(tmp_path / "d.csv", "demonstration")


def test_tables_hold_numbers_as_texts_and_null_as_nothing(tmp_path, capsys):
    (tmp_path / "d.csv").write_text("\nprompt,chosen,rejected\na,b,c\nprompt,chosen,rejected\nd,,e\n")
    assert len(ours.read(tmp_path / "d.csv", "ranking")) == 1
    assert "left out 1: 'chosen' is null" in capsys.readouterr().out
    (tmp_path / "p.csv").write_text("prompt,response_0,response_1,better_response_id\na,b,c,1\n")
    assert ours.read(tmp_path / "p.csv", "ranking")[0]["ranks"] == [2, 1]


def test_a_record_with_a_list_in_it_is_not_that_list(tmp_path):
    record = {"text": "A page.", "tags": [{"text": "sport"}]}
    (tmp_path / "d.json").write_text(json.dumps(record, indent=1))
    assert [r["text"] for r in ours.read(tmp_path / "d.json", "document")] == ["A page."]
    (tmp_path / "d.json").write_text(json.dumps({"data": ROWS}))
    assert ours.read(tmp_path / "d.json", "demonstration") == ROWS


@pytest.mark.parametrize(
    "names", [("train.jsonl", "eval.jsonl"), ("myTrain.jsonl", "myTest.jsonl"), ("trainset.csv", "testset.csv"),
              ("train1.jsonl", "test1.jsonl"), ("train.jsonl", "held_out.jsonl"),
              ("my-train.jsonl", "my-test.jsonl"), ("Train.csv", "Test.csv"),
              ("alpaca.train.jsonl", "alpaca.test.jsonl"), ("a.jsonl", "a.jsonl.gz")],
)  # fmt: skip
def test_a_folder_of_several_splits_or_of_one_file_twice_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match="name the files of one of them|twice, packed and unpacked"):
        ours.read(tmp_path, "prompt")


def test_a_missing_part_is_noticed_and_a_cache_is_no_part(tmp_path):
    for i in (0, 2):
        (tmp_path / f"train-0000{i}-of-00003.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match="holds 2 of the 3 parts of train; add the others"):
        ours.read(tmp_path, "prompt")
    (tmp_path / "train-00001-of-00003.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "cache-1a2b.arrow").write_text("")
    assert len(ours.read(tmp_path, "prompt")) == 3
    (tmp_path / "train-00001-of-00003.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n'))
    with pytest.raises(InputError, match="twice, packed and unpacked"):
        ours.read(f"{tmp_path}/train*", "prompt")


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, capsys):
    for name in ("a.jsonl", "B.JSONL", "c.ndjson"):
        (tmp_path / name).write_text('{"prompt": "a"}\n')
    for name in ("war.txt", "samples.jsonl", ".hidden.jsonl"):
        (tmp_path / name).write_text("x")
    assert len(ours.read(tmp_path, "prompt")) == 3
    assert ".hidden.jsonl, samples.jsonl, war.txt not read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04", "a zip archive"),
        (gzip.compress(b"{}", mtime=0), "packed by gzip"), (b"\xff\xfe{\x00", "UTF-16"),
        ("Ahoj".encode("utf-16-le"), "has null bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"%PDF-1.4", "a PDF"), (b"BZh9", "packed by bzip2"), (b"x" * 257 + b"ustar", "a tar archive"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_named_for_what_they_are(tmp_path, content, says):
    for name, packed in (
        ("d.jsonl", content),
        ("d.jsonl.gz", gzip.compress(content)),
        ("D.JSONL.GZ", gzip.compress(content)),
    ):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(InputError, match=f"{name}: {says}"):
            ours.read(tmp_path / name, "demonstration")


@pytest.mark.parametrize("at", [12, 40, -3])
def test_a_damaged_archive_is_a_line(tmp_path, at):
    content = bytearray(gzip.compress("".join(f'{{"text": "page {i * i}"}}\n' for i in range(400)).encode()))
    content[at] ^= 0xFF
    (tmp_path / "d.jsonl.gz").write_bytes(content)
    with pytest.raises(InputError, match="d.jsonl.gz"):
        ours.read(tmp_path / "d.jsonl.gz", "document")


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file in this folder ends in one of .jsonl"):
        ours.read(tmp_path, "prompt")


def test_the_oldest_turn_goes_first_and_the_system_s_words_stay():
    prompt = f"Be kind.{USER} a{BOT} b{USER} c{BOT} d{USER} e{BOT}"
    shorter = chats.without_turns(prompt, 1)
    assert shorter == f"Be kind.{USER} c{BOT} d{USER} e{BOT}"
    assert chats.without_turns(shorter, 1) == f"Be kind.{USER} e{BOT}"
    assert chats.without_turns(f"Be kind.{USER} e{BOT}", 1) is None
    assert chats.without_turns("Who built the church?\n", 1) is None


class Counted:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.eos, self.n_vocab, self.characters = tokenizer, tokenizer.eos, tokenizer.n_vocab, 0

    def encode(self, text):
        self.characters += len(text)
        return self.tokenizer.encode(text)


def talk(n):
    words = "the cat sat on the mat and the dog sat on the log ".split()
    return [{"role": ("user", "assistant")[i % 2], "content": " ".join(words[: 1 + i * 7 % 12])} for i in range(n)]


@pytest.mark.parametrize("limit", [50, 64, 100, 1000])
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be kind."}]])
def test_a_conversation_loses_no_more_turns_than_it_must(tmp_path, tokenizer, limit, system):
    records = read(tmp_path, [{"messages": system + talk(30)}], "demonstration")
    kept, sequences = [], ours.encode_demonstrations(records, tokenizer, limit)
    for record in records:
        for n in range(30):
            prompt = chats.without_turns(record["prompt"], n)
            sequence = prompt and ours.encode_response(prompt, record["response"], tokenizer)
            if prompt and sequence.length <= limit:
                kept.append(sequence.tokens.tolist())
                break
    assert [s.tokens.tolist() for s in sequences] == kept and len(kept) > 5


@pytest.mark.parametrize("error", [-2, -1, 1, 2])
def test_how_many_turns_are_dropped_does_not_depend_on_the_estimate(tmp_path, tokenizer, monkeypatch, error):
    records = read(tmp_path, [{"messages": talk(30)}], "demonstration")
    exact, estimate = ours.encode_demonstrations(records, tokenizer, 150), ours.turns_to_drop
    off = lambda prompt, *rest: min(prompt.count(USER) - 1, max(0, estimate(prompt, *rest) + error))  # noqa: E731
    monkeypatch.setattr(ours, "turns_to_drop", off)
    found = ours.encode_demonstrations(records, tokenizer, 150)
    assert [s.tokens.tolist() for s in found] == [s.tokens.tolist() for s in exact]


def test_a_long_conversation_costs_as_much_as_its_length(tmp_path, tokenizer):
    """Each of its answers is encoded with as much before it as fits, and not with all that is before it."""
    cost = []
    for n in (200, 800):
        counted = Counted(tokenizer)
        ours.encode_demonstrations(read(tmp_path, [{"messages": talk(n)}], "demonstration"), counted, 64)
        cost.append(counted.characters)
    assert cost[1] < 5 * cost[0]
