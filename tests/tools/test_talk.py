"""Several answers to a prompt, answers token by token, and conversations on the page and the command line."""

import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import chat
import tiny
from minirlhf.rollout import generate, per_sequence, response_scores
from minirlhf.support import folder, records
from minirlhf.support.chats import prompt_of
from minirlhf.support.errors import InputError
from minirlhf.support.records import encode_response
from tools.web import answers, server, talk
from tools.web.answers import Answers, Speaker, that_fit
from tools.web.talk import PromptFormat, Talks, fitted


@pytest.fixture
def out(tmp_path):
    return tmp_path / "preferences.jsonl"


# --- several answers -------------------------------------------------------------------------------------------------


def test_answers_that_look_alike_are_one_and_know_all_their_models(world, tmp_path):
    speakers = [Speaker(world.gpt, 3), Speaker(world.gpt, 3)]
    speakers[1].name = "other"
    for speaker, texts in zip(speakers, (["a", " a"], ["a ", "b"])):
        speaker.several = lambda prompt, n, seed, texts=texts: texts[:n]
    answers = Answers.sample(type("Four", (), dict(speakers=speakers, prompts=["p"], k=4, seed=0))(), 0)
    assert sorted(answers) == [("a", sorted([world.gpt, "other"])), ("b", ["other"])]


def test_prompts_too_long_for_a_model_are_left_out_aloud(world, capsys):
    records = [{"prompt": "name a dog\n"}, {"prompt": "x" * 60}]
    assert that_fit(records, [Speaker(world.gpt, 8)], "prompts.jsonl") == records[:1]
    assert "prompts.jsonl: left out 1 of 2 prompts, too long for the models" in capsys.readouterr().out


def four(*several, k=4, seed=0):
    """(Answers without its thread, the seeds that were asked for), of models m0, m1, ... that say what these say."""
    seeds = []

    def of(own):
        return lambda prompt, n, seed: seeds.append(seed) or own(n, seed)

    speakers = [SimpleNamespace(name=f"m{j}", several=of(own)) for j, own in enumerate(several)]
    return SimpleNamespace(speakers=speakers, prompts=["p"] * 40, k=k, seed=seed), seeds


def test_no_two_samples_share_their_noise():
    seeds = []
    for seed in (0, 1):
        for i in (0, 1):
            own, used = four(*[lambda n, seed: ["a"] * n] * 2, seed=seed)
            Answers.sample(own, i)
            seeds += used
    assert len(seeds) == len(set(seeds)) == 2 * 2 * answers.ROUNDS * 2


def test_answers_come_in_an_order_that_tells_nothing_and_is_the_same_again():
    own, _ = four(lambda n, seed: ["a", "b"], lambda n, seed: ["c", "d"])
    firsts = [Answers.sample(own, i)[0][0] for i in range(40)]
    assert set(firsts) == set("abcd") and firsts == [Answers.sample(own, i)[0][0] for i in range(40)]


def test_models_are_asked_again_until_answers_are_enough_and_no_longer():
    own, _ = four(lambda n, seed: [f"{seed[2]}"] * n, lambda n, seed: ["x"] * n)
    assert len(Answers.sample(own, 0)) == 4
    own, _ = four(lambda n, seed: [f" {seed[2]}{i}" for i in range(n)], k=3)
    assert len(Answers.sample(own, 0)) == 3
    own, _ = four(lambda n, seed: [" a", " b"], lambda n, seed: ["b ", "c"], k=2)
    assert sorted(Answers.sample(own, 0)) == [(" a", ["m0"]), (" b", ["m0", "m1"])]


def test_few_answers_wait_at_a_time():
    own = Answers([], ["p"] * 30, 4)
    own.sample = lambda i: i
    assert [own.of(i) for i in range(30)] == list(range(30)) and len(own.futures) == answers.KEPT
    own.close()


def test_a_prompt_must_fit_all_models(world):
    able = [Speaker(world.gpt, 8), Speaker(world.gpt, 50)]
    records = [{"prompt": "x"}, {"prompt": "x" * 40}]
    assert that_fit(records, able, "p") == records[:1]
    with pytest.raises(InputError, match="none of its prompts is short enough"):
        that_fit(records[1:], able, "p")


# --- one answer ------------------------------------------------------------------------------------------------------


def always(speaker, token):
    """The speaker, whose model says one token only."""

    def model(*args, **kwargs):
        logits = torch.full((1, 1, speaker.tokenizer.n_vocab), -50.0)
        logits[..., token] = 50
        return logits

    speaker.model = model
    return speaker


def test_a_stream_ends_at_end_of_text_or_at_the_limit(world):
    speaker = Speaker(world.gpt, 8)
    rng = np.random.default_rng(0)
    assert len([*always(speaker, 97).stream("a", 1.0, rng)]) == 8
    assert [*always(speaker, speaker.tokenizer.eos).stream("a", 1.0, rng)] == []


def test_at_a_low_temperature_one_answer_comes_always(world):
    speaker = Speaker(world.gpt, 8)
    assert len({(*speaker.stream("name a dog\n", 0.01, np.random.default_rng(i)), "")[-2] for i in range(6)}) == 1


# --- talking ---------------------------------------------------------------------------------------------------------


def parts(stream):
    *grown, last = list(stream)
    texts = {}
    for part in grown:
        assert part["text"].startswith(texts.get(part["side"], "")) or "\ufffd" in texts[part["side"]]
        texts[part["side"]] = part["text"]
    return texts, last


@pytest.fixture
def talks(world, out):
    able = [Speaker(world.gpt, 8), Speaker(world.gpt, 8)]
    able[1].name = "other"
    kept = []
    own = Talks(able, PromptFormat(dialogue=True), 1.0, scorer=world.rm, keep=kept.append)
    own.kept = kept
    return own


def test_an_answer_that_is_streamed_is_the_one_that_would_be_sampled(world):
    speaker = Speaker(world.gpt, 8)
    *_, text = "", *speaker.stream("name a dog\n", 1.0, np.random.default_rng(3))
    noise = np.random.default_rng(3).random(8, dtype=np.float32)
    responses, _ = generate(speaker.model, [speaker.tokenizer.encode("name a dog\n")], torch.from_numpy(noise[None]),
                            speaker.tokenizer.eos, speaker.tokenizer.pad)  # fmt: skip
    assert text == responses.texts(speaker.tokenizer)[0] and text


def test_two_models_answer_blind_and_a_dialogue_goes_on_from_the_better_answer(talks):
    name = talks.begin({})["talk"]
    texts, last = parts(talks.say({"talk": name, "text": "name a dog"}))
    assert len(last["scores"]) == 2 and "models" not in last
    with pytest.raises(InputError, match="which answer"):
        talks.say({"talk": name, "text": "and a cat"})
    with pytest.raises(InputError, match="not open any more"):
        talks.prefer({"talk": name, "better": 1, "pair": "another"})
    told = talks.prefer({"talk": name, "better": 1, "pair": last["pair"]})
    (record,) = talks.kept
    assert record["responses"] == [texts.get(0, ""), texts.get(1, "")] and record["ranks"] == [2, 1]
    assert record["models"] == told["models"] and sorted(told["models"]) == sorted(s.name for s in talks.speakers)
    first = {"role": "user", "content": "name a dog"}
    assert record["prompt"] == prompt_of([first])
    _, last = parts(talks.say({"talk": name, "text": "cat?"}))
    said = [first, {"role": "assistant", "content": texts.get(1, "").strip()}, {"role": "user", "content": "cat?"}]
    assert talks.talks[name]["prompt"] in prompt_of(said)
    talks.prefer({"talk": name, "better": None, "pair": last["pair"]})
    assert talks.kept[1]["ranks"] == [1, 1]


@pytest.mark.parametrize(
    "question",
    [{"text": ""}, {"text": 3}, {"text": "x" * 500}, {"text": "a", "temperature": 0}, {"text": "a", "talk": None},
     {"text": "a", "temperature": "hot"}, {"text": "a", "temperature": float("nan")}, {"text": "a", "talk": "unknown"}],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_and_remembered_by_nobody(talks, question):
    name = talks.begin({})["talk"]
    with pytest.raises(InputError):
        list(talks.say({"talk": name} | question))
    assert talks.talks[name]["messages"] == []
    for better in (2, -1, "0", True, 0.0, [0]):
        with pytest.raises(InputError):
            talks.prefer({"talk": name, "better": better})
    with pytest.raises(InputError, match="not open any more"):
        talks.prefer({"talk": name, "better": 0})


def test_conversations_are_forgotten_when_there_are_many(talks, monkeypatch):
    monkeypatch.setattr(talk, "MOST", 3)
    names = [talks.begin({})["talk"] for _ in range(5)]
    assert list(talks.talks) == names[2:]


def test_a_chat_with_dialogue_remembers_the_turns_and_says_what_it_forgets(world, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(chat, "reply", lambda speaker, prompt, *rest: (sent.append(prompt), ("yes", 0))[1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    tiny.run(chat, [world.gpt, "--dialogue"])
    assert sent == ["\n\nHuman: one\n\nAssistant:", "\n\nHuman: one\n\nAssistant: yes\n\nHuman: two\n\nAssistant:"]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat\nthe dog\nthe mat\n")))
    tiny.run(chat, [world.gpt, "--dialogue", "--max_response", "10"])
    assert "oldest turns do not fit any more" in capsys.readouterr().out


def test_a_pair_whose_end_was_never_heard_is_not_open(talks):
    name = talks.begin({})["talk"]
    stream = talks.say({"talk": name, "text": "name a dog"})
    while "pair" not in next(stream):
        pass
    stream.close()
    assert talks.talks[name]["answers"] is None and talks.talks[name]["messages"] == []


class Says:
    """A speaker that says one thing, and remembers what it was sent."""

    def __init__(self, name, text, room=1000):
        self.name, self.text, self.room, self.sent = name, text, room, []
        self.tokenizer = SimpleNamespace(encode=list)

    def stream(self, prompt, temperature, rng):
        self.sent.append((prompt, temperature))
        yield self.text


def two(dialogue=False, rooms=(1000, 1000), keep=None):
    able = [Says("A", " a", rooms[0]), Says("B", " b", rooms[1])]
    return Talks(able, PromptFormat(dialogue), 1.0, keep=keep), able


def say(talks, name, text, **more):
    *_, last = talks.say({"talk": name, "text": text} | more)
    return {"talk": name, "pair": last["pair"]}


def test_sides_change_and_what_is_kept_is_what_was_preferred():
    kept, first = [], set()
    talks, _ = two(keep=kept.append)
    for better in [0, 1] * 15:
        told = talks.prefer(say(talks, talks.begin({})["talk"], "hi") | {"better": better})
        record = kept[-1]
        assert [text.strip().upper() for text in record["responses"]] == record["models"] == told["models"]
        assert record["ranks"] == [[1, 2], [2, 1]][better]
        first.add(record["models"][0])
    assert first == {"A", "B"}


def test_answers_that_are_the_same_tie():
    kept = []
    talks = Talks([Says("A", "x"), Says("B", "x")], PromptFormat(False), 1.0, keep=kept.append)
    talks.prefer(say(talks, talks.begin({})["talk"], "hi") | {"better": 1})
    assert kept[0]["ranks"] == [1, 1]


@pytest.mark.parametrize("better", [0, 1, None])
def test_a_dialogue_goes_on_from_what_was_preferred(better):
    kept = []
    talks, able = two(True, keep=kept.append)
    name = talks.begin({})["talk"]
    pair = say(talks, name, "hi")
    talks.prefer(pair | {"better": better})
    with pytest.raises(InputError, match="not open any more"):
        talks.prefer(pair | {"better": better})
    say(talks, name, "more")
    chosen = {"role": "assistant", "content": kept[0]["responses"][better or 0].strip()}
    said = [{"role": "user", "content": "hi"}, chosen, {"role": "user", "content": "more"}]
    assert able[0].sent[-1][0] == able[1].sent[-1][0] == prompt_of(said)


@pytest.mark.parametrize("dialogue", [True, False])
def test_one_model_is_sent_all_that_was_said_or_the_last_line(dialogue):
    talks = Talks([Says("A", " a")], PromptFormat(dialogue), 1.0)
    name = talks.begin({})["talk"]
    for text in ("one", "two"):
        say(talks, name, text)
    first = "\n\nHuman: one\n\nAssistant:"
    expected = [first, f"{first} a\n\nHuman: two\n\nAssistant:"] if dialogue else ["one\n", "two\n"]
    assert [prompt for prompt, _ in talks.speakers[0].sent] == expected
    assert PromptFormat(False, "<", ">").prompt([{"role": "user", "content": "hi"}]) == "<hi>"


@pytest.mark.parametrize("rooms", [(1000, 60), (60, 1000)])
def test_both_read_what_the_smaller_has_room_for(rooms):
    talks, able = two(True, rooms)
    name = talks.begin({})["talk"]
    for text in ("x" * 20, "y" * 20, "z"):
        *_, last = talks.say({"talk": name, "text": text})
        talks.prefer({"talk": name, "pair": last["pair"], "better": 0})
    assert able[0].sent[-1] == able[1].sent[-1] and len(able[0].sent[-1][0]) <= 60 and last["forgotten"] > 0


@pytest.mark.parametrize("n", range(4))
def test_as_few_turns_are_forgotten_as_must_be(n):
    turn, last = "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant:"
    assert fitted(turn * 3 + last, Says("A", "", len(turn) * n + len(last))) == (turn * n + last, 3 - n)


def test_the_question_s_temperature_counts():
    talks, able = two()
    say(talks, talks.begin({})["talk"], "hi", temperature=0.5)
    assert {temperature for speaker in able for _, temperature in speaker.sent} == {0.5}


def test_scores_are_each_answer_s_own(talks):
    tokenizer = talks.speakers[0].tokenizer

    def alone(text):
        sequence = encode_response("name a dog\n", text, tokenizer)
        return round(per_sequence(response_scores, talks.scorer, [sequence], tokenizer.pad).item(), 2)

    assert talks._scores("name a dog\n", [" a dog", " red"]) == [alone(" a dog"), alone(" red")]
    assert alone(" a dog") != alone(" red") and talks._scores("x" * 62, [" a dog", ""])[0] is None


@pytest.mark.parametrize("better", [2, -1, "0", True, 0.0, [0], "missing"])
def test_what_is_no_preference_is_refused(talks, better):
    question = say(talks, talks.begin({})["talk"], "name a dog") | ({} if better == "missing" else {"better": better})
    with pytest.raises(InputError, match="better must be"):
        talks.prefer(question)
    assert not talks.kept


def test_two_windows_prefer_once():
    kept = []
    talks, _ = two(keep=lambda record: time.sleep(0.1) or kept.append(record))
    pair = say(talks, talks.begin({})["talk"], "hi")

    def prefer(better):
        try:
            return talks.prefer(pair | {"better": better})
        except InputError:
            return None

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(prefer, (0, 1)))
    assert len(kept) == 1 and told.count(None) == 1


# --- the command -----------------------------------------------------------------------------------------------------


def test_control_characters_are_shown():
    assert chat.printable("a\x1b[2J\x07\r\u202eb\nc") == "a\\x1b[2J\\x07\\r\\u202eb\nc"


def typed(monkeypatch, *words):
    """What models are sent when two lines are typed; each answers with the number of its answer."""
    sent = []
    monkeypatch.setattr(chat, "reply", lambda speaker, prompt, *rest: (sent.append(prompt), (f"{len(sent)}", 0))[1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    tiny.run(chat, list(words))
    return sent


def test_each_model_remembers_its_own_answers(world, monkeypatch):
    sent = typed(monkeypatch, world.gpt, world.gpt, "--dialogue")
    assert "Assistant: 1\n" in sent[2] and "Assistant: 2\n" in sent[3]


def test_without_dialogue_nothing_is_remembered(world, monkeypatch):
    assert typed(monkeypatch, world.gpt, "--beginning", "<") == ["<one\n", "<two\n"]


def test_in_a_browser_preferences_are_kept_and_the_file_is_locked(world, out, monkeypatch):
    def page(html, routes, *rest):
        name = routes["/begin"]({})["talk"]
        *_, last = routes["/say"]({"talk": name, "text": "hi"})
        assert routes["/prefer"]({"talk": name, "pair": last["pair"], "better": 0})["kept"]
        assert any(out.name in key for key in folder._locks)

    monkeypatch.setattr(server, "open_page", page)
    tiny.run(chat, [world.gpt, world.gpt, "--web", "--out", str(out)])
    assert records.read(out, "ranking")[0]["prompt"] == "hi\n"
    with pytest.raises(InputError, match="3 models: the page shows one, or two"):
        tiny.run(chat, [world.gpt] * 3 + ["--web"])
