"""Rankings are saved completely and once; requests that the page does not send change nothing; agreement is right."""

import dataclasses
import http.client
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import asking
import numpy as np
import pytest
from asking import ask, labelling, serving

import tiny
from data import town
from forked import PYTHON
from minirlhf.losses import ranked_above
from minirlhf.model import RewardModel
from minirlhf.rollout import per_sequence, response_scores
from minirlhf.support import folder, records
from minirlhf.support.chats import ASSISTANT
from minirlhf.support.checkpoint import load_model
from minirlhf.support.errors import InputError
from tools import label
from tools.web import agreement, labels, server
from tools.web.answers import Answers, Speaker
from tools.web.labels import Task, beside
from train_rm import score_rankings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rankings.jsonl"


def saved(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rank(asked, labeler="Ada", ranks=(1, 2, 3, 4), **more):
    return asked.rank(labeler, asked.next(labeler).id, list(ranks), 5.0, **more)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_ranking_is_a_line_that_the_reward_model_s_script_reads(out):
    asked = asking.labels(out)
    task = asked.next("Ada")
    assert rank(asked, ranks=(2, 1, 4, 2)) == 1
    (record,) = records.read(out, "ranking")
    assert record["prompt"] == "question 0\n" and record["responses"] == task.responses
    assert record["ranks"] == [2, 1, 3, 2]  # the same order, without a gap
    assert record["labeler"] == "Ada" and record["models"] == [["sft"], ["gpt"], ["gpt"], ["gpt"]]
    assert record["seconds"] == 5.0 and record["about"] == {"use_case": "chat"}


def test_what_was_ranked_is_what_the_ranking_loss_compares(out, tokenizer, reward_model):
    asked = asking.labels(out)
    rank(asked, ranks=(2, 1, 3, 2))
    (ranking,) = records.load_rankings([out], tokenizer, 64)
    _, ranks = score_rankings(reward_model, [ranking], tokenizer.pad)
    texts = [tokenizer.decode(s.tokens[s.start : -1]) for s in ranking.sequences]
    compared = {(texts[a], texts[b]) for a, b in ranked_above(ranks)[0].nonzero().tolist()}
    a, b, c, d = (f" answer {letter} to 0" for letter in "abcd")
    assert compared == {(b, a), (b, c), (b, d), (a, c), (d, c)}  # a and d tie


def test_ratings_and_flags_are_kept_beside_the_ranks(out):
    asked = asking.labels(out, rate=True)
    rank(asked, ratings=[1, 7, 4, 4], flags=[["harmful", "fails the task"], [], [], []])
    (record,) = saved(out)
    assert record["ratings"] == [1, 7, 4, 4] and record["flags"] == [["fails the task", "harmful"], [], [], []]


@pytest.mark.parametrize(
    "said",
    [
        dict(ranks=[1, 2, 3]), dict(ranks=[1, 2, 3, 5]), dict(ranks=[0, 1, 2, 3]), dict(ranks=[1, 2, 3, True]),
        dict(ranks="1234"), dict(ranks=None), dict(ranks=[1.0, 2, 3, 4]), dict(ratings=None), dict(ratings=[1, 2, 3]),
        dict(ratings=[0, 1, 2, 3]), dict(ratings=[1, 2, 3, 8]), dict(flags=[[], [], [], ["bad"]]), dict(flags=[[]]),
        dict(flags=[{}, [], [], []]), dict(flags=None), dict(flags=[[["x"]], [], [], []]), dict(id="0" * 32),
    ],
)  # fmt: skip
def test_what_is_no_ranking_is_refused_and_changes_nothing(out, said):
    asked = asking.labels(out, rate=True)
    usual = dict(id=asked.next("Ada").id, ranks=[1, 2, 3, 4], seconds=1, ratings=[1, 2, 3, 4], flags=[[], [], [], []])
    with pytest.raises(InputError):
        asked.rank("Ada", **usual | said)
    assert not out.exists() and asked.next("Ada").id == usual["id"]


def test_the_same_ranking_twice_is_saved_once(out):
    asked = asking.labels(out)
    task = asked.next("Ada")
    asked.rank("Ada", task.id, [1, 2, 3, 4], 1)
    with pytest.raises(InputError, match="not open any more"):
        asked.rank("Ada", task.id, [1, 2, 3, 4], 1)
    assert len(saved(out)) == 1


def test_a_better_answer_is_a_demonstration(out):
    asked = asking.labels(out)
    asked.demonstrate("Ada", asked.next("Ada").id, " The best one. ")
    (record,) = records.read(beside(out, "demonstrations"), "demonstration")
    assert (record["prompt"], record["response"], record["labeler"]) == ("question 0\n", "The best one.", "Ada")
    for nothing in ("", "  ", 3, None, "x" * 9000):
        with pytest.raises(InputError):
            asked.demonstrate("Ada", asked.next("Ada").id, nothing)
    assert len(saved(beside(out, "demonstrations"))) == 1


def test_a_skipped_prompt_does_not_come_again_also_after_a_restart(out):
    asked = asking.labels(out)
    asked.skip("Ada", asked.next("Ada").id)
    assert asked.next("Ada").prompt == "question 1\n"
    assert asking.labels(out).next("Ada").prompt == "question 1\n"
    assert asking.labels(out).next("Ben").prompt == "question 0\n"  # who has not seen it
    assert records.read(beside(out, "skipped"), "prompt")[0]["prompt"] == "question 0\n"


def test_back_corrects_a_ranking_in_its_place(out):
    asked = asking.labels(out)
    for _ in range(3):
        rank(asked)
    asked.back("Ada", asked.next("Ada").id)
    asked.back("Ada", asked.next("Ada").id)
    task = asked.next("Ada")
    assert task.prompt == "question 1\n" and task.before["ranks"] == [1, 2, 3, 4]
    assert rank(asked, ranks=(4, 3, 2, 1)) == 3
    assert [record["ranks"][0] for record in saved(out)] == [1, 4, 1]
    assert asked.next("Ada").prompt == "question 3\n"
    assert rank(asked) == 4
    assert [r["prompt"] for r in saved(out)] == [f"question {i}\n" for i in range(4)]


def test_before_the_first_there_is_nothing_to_go_back_to(out):
    asked = asking.labels(out)
    with pytest.raises(InputError, match="none before"):
        asked.back("Ada", asked.next("Ada").id)


# --- who is asked what -----------------------------------------------------------------------------------------------


def test_after_a_restart_the_same_answers_come_to_the_same_prompt(out, world):
    def start():
        folder.release_locks()
        speakers = [Speaker(world.gpt, 8)]
        records = [{"prompt": text} for text in ("name a dog\n", "where is the cat?\n", "what is two plus three?\n")]
        return labels.Labels(out, records, Answers(speakers, [r["prompt"] for r in records], 4))

    asked = start()
    rank(asked, ranks=range(1, len(asked.next("Ada").responses) + 1))
    task = asked.next("Ada")
    again = start()
    assert again.next("Ada") == task
    again.rank("Ada", task.id, [1] * len(task.responses), 1)  # sent by the page of before the restart
    assert len(saved(out)) == 2


def test_of_twenty_rankings_one_is_asked_again_with_the_same_answers_in_another_order(out):
    asked = asking.labels(out, n=100)
    for _ in range(60):
        rank(asked)
    records = saved(out)
    again = [i for i, record in enumerate(records) if record.get("again")]
    assert again == [19, 39, 59]
    for i, place in zip(again, (0, 1, 2)):
        assert records[i]["prompt"] == records[place]["prompt"]
        assert sorted(records[i]["responses"]) == sorted(records[place]["responses"])
    assert any(records[i]["responses"] != records[place]["responses"] for i, place in zip(again, (0, 1, 2)))
    assert len({r["prompt"] for r in records}) == 57


def test_two_labelers_have_prompts_of_their_own_and_now_and_then_the_same(out):
    asked = asking.labels(out, n=100)
    for _ in range(20):
        rank(asked, "Ada")
        rank(asked, "Ben")
    by = {name: [r["prompt"] for r in saved(out) if r["labeler"] == name] for name in ("Ada", "Ben")}
    shared = set(by["Ada"]) & set(by["Ben"])
    assert len(shared) == 2  # one each of ten
    for prompt in shared:
        one, other = (next(r for r in saved(out) if r["labeler"] == n and r["prompt"] == prompt) for n in by)
        assert sorted(one["responses"]) == sorted(other["responses"])


def test_when_nothing_is_new_others_prompts_come_and_then_nothing(out):
    asked = asking.labels(out, n=3)
    for _ in range(3):
        rank(asked, "Ada")
    assert asked.next("Ada") is None
    prompts = []
    while asked.next("Ben"):
        prompts.append(asked.next("Ben").prompt)
        rank(asked, "Ben")
    assert prompts == ["question 0\n", "question 1\n", "question 2\n"]


def test_a_prompt_that_comes_twice_is_asked_once_and_one_without_two_answers_never(out):
    records = [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]
    asked = labels.Labels(out, records, asking.QuickAnswers(texts={2: ["same"]}))
    assert asked.next("Ada").prompt == "a"
    rank(asked)
    assert asked.next("Ada").prompt == "c"


def test_a_thousand_labels_more_take_no_more_memory_than_their_places_in_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    asked = asking.labels(tmp_path / "r.jsonl", n=2100)
    asked.answers.asked = type("Nothing", (), {"append": lambda self, i: None})()
    sizes = []
    tracemalloc.start()
    for _ in range(2):
        for _ in range(1000):
            rank(asked)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert (sizes[1] - sizes[0]) / 1000 < 500


def test_a_task_s_name_is_all_that_it_is():
    one = Task("Ada", "p", ["a", "b"], [], {})
    changes = dict(labeler="Ben"), dict(prompt="q"), dict(responses=["b", "a"]), dict(again=True), dict(replaces=0)
    assert len({one.id, *(dataclasses.replace(one, **change).id for change in changes)}) == 6


def test_a_page_of_other_answers_is_refused(out):
    old = asking.labels(out).next("Ada").id
    folder.release_locks()
    now = asking.labels(out, texts={0: ["x", "y", "z", "w"]})
    with pytest.raises(InputError):
        now.rank("Ada", old, [1, 2, 3, 4], 1)


def test_more_than_a_thousand_labelers_are_too_many(out):
    asked = asking.labels(out, n=1100)
    asked.tasks = {f"{i}": Task(f"{i}", f"p{i}", [], [], {}) for i in range(1000)}
    with pytest.raises(InputError, match="too many"):
        asked.next("Ada")


def test_what_comes_again_can_be_skipped_for_good(out):
    asked = asking.labels(out, n=100)
    for _ in range(19):
        rank(asked)
    assert asked.next("Ada").again and asked.next("Ada").prompt == "question 0\n"
    asked.skip("Ada", asked.next("Ada").id)
    assert asked.next("Ada").prompt == "question 1\n"


def test_somebody_else_s_can_be_skipped_too(out):
    asked = asking.labels(out, n=2)
    rank(asked), rank(asked)
    asked.skip("Ben", asked.next("Ben").id)
    assert asked.next("Ben").prompt == "question 1\n"


def test_in_another_order_answers_keep_their_models_and_orders_differ(out):
    asked, orders = asking.labels(out, n=30), set()
    for _ in range(30):
        rank(asked)
    while task := asked.next("Ben"):
        orders.add(tuple(text[8] for text in task.responses))
        rank(asked, "Ben")
    assert len(orders) > 5
    assert all(
        [m == ["sft"] for m in r["models"]] == [" answer a" in text for text in r["responses"]] for r in saved(out)
    )


def test_two_labelers_are_not_at_the_same_prompt_and_the_next_three_are_prepared(out):
    asked, soon = asking.labels(out), []
    asked.answers.prepare = soon.extend
    assert asked.next("Ada").prompt != asked.next("Ben").prompt and soon == [1, 2, 3, 2, 3, 4]


def test_a_prompt_to_which_all_say_the_same_is_sampled_once(out):
    asked = asking.labels(out, n=3, texts={0: ["same"]})
    rank(asked), rank(asked)
    assert asked.answers.asked.count(0) == 1


def test_a_correction_that_is_skipped_changes_nothing(out):
    asked = asking.labels(out)
    rank(asked)
    asked.back("Ada", asked.next("Ada").id)
    asked.skip("Ada", asked.next("Ada").id)
    assert not beside(out, "skipped").exists() and len(saved(out)) == 1


def test_after_a_longer_line_all_others_are_found_again(out):
    asked = asking.labels(out, n=4)
    for _ in range(3):
        rank(asked)
    for _ in range(3):
        asked.back("Ada", asked.next("Ada").id)
    asked.rank("Ada", asked.next("Ada").id, [1, 2, 3, 4], 123456.7)
    asked.back("Ada", asked.next("Ada").id)
    assert asked.next("Ada").prompt == "question 2\n"
    assert [rank(asked, "Ben") for _ in range(4)] == [1, 2, 3, 4]


def test_a_repeat_that_is_corrected_stays_one(out):
    asked = asking.labels(out, n=40)
    for _ in range(20):
        rank(asked)
    asked.back("Ada", asked.next("Ada").id)
    rank(asked)
    assert saved(out)[19]["again"] is True


def test_a_better_answer_to_a_transcript_begins_as_its_answers_do(out):
    asked = labels.Labels(out, [{"prompt": f"\n\nHuman: Hi{ASSISTANT}"}], asking.QuickAnswers())
    asked.demonstrate("Ada", asked.next("Ada").id, "Hello")
    assert saved(beside(out, "demonstrations"))[0]["response"] == " Hello"


@pytest.mark.parametrize(
    ("seconds", "kept"), [(-1, None), ("x", None), (float("nan"), None), (1e9, None), (float("inf"), None), (2.34, 2.3)]
)
def test_a_time_is_one_that_can_be(out, seconds, kept):
    asked = asking.labels(out)
    asked.rank("Ada", asked.next("Ada").id, [1, 2, 3, 4], seconds)
    assert saved(out)[0]["seconds"] == kept


def test_what_cannot_be_written_as_utf8_is_written_without_it(out):
    rank(asking.labels(out, texts={0: ["a\ud800", "b"]}), ranks=(1, 2))
    assert len(records.read(out, "ranking")) == 1


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_last_line_that_is_not_whole_is_set_aside_and_one_without_its_end_gets_it(out, capsys):
    rank(asking.labels(out))
    whole = out.read_bytes()
    out.write_bytes(whole + whole[:50])
    folder.release_locks()
    asking.labels(out)
    assert out.read_bytes() == whole and "is incomplete" in capsys.readouterr().out
    (aside,) = out.parent.glob(f"{out.name}.*.half")
    assert aside.read_bytes() == whole[:50]


def test_a_last_line_that_lacks_only_its_end_is_kept(out):
    rank(asking.labels(out))
    whole = out.read_bytes()
    out.write_bytes(whole.rstrip(b"\n"))
    folder.release_locks()
    asking.labels(out)
    assert out.read_bytes() == whole


def test_a_line_that_cannot_be_synced_is_not_left_behind(out, monkeypatch):
    asked = asking.labels(out)
    rank(asked)
    before, sync = out.read_bytes(), os.fsync

    def broken(handle):
        raise OSError("no quota")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InputError, match="cannot be written"):
        rank(asked)
    monkeypatch.setattr(os, "fsync", sync)
    assert out.read_bytes() == before and rank(asked) == 2


def test_every_line_is_synced_before_it_is_acknowledged(out, monkeypatch):
    asked, synced = asking.labels(out), []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(out.read_bytes()))
    rank(asked)
    assert synced[-1] == out.read_bytes() != b""


def test_a_correction_keeps_ratings_that_are_not_asked_for_any_more(out):
    rank(asking.labels(out, rate=True), ratings=[1, 2, 3, 4], flags=[[], [], [], ["harmful"]])
    folder.release_locks()
    asked = asking.labels(out)
    asked.back("Ada", asked.next("Ada").id)
    rank(asked, ranks=(4, 3, 2, 1))
    (record,) = saved(out)
    assert record["ranks"] == [4, 3, 2, 1] and record["ratings"] == [1, 2, 3, 4] and record["flags"][3] == ["harmful"]


def test_the_last_ranking_can_be_corrected_when_nothing_is_left(out):
    asked = asking.labels(out, n=1)
    rank(asked)
    assert asked.next("Ada") is None
    asked.back("Ada", None)
    rank(asked, ranks=(4, 3, 2, 1))
    assert [record["ranks"] for record in saved(out)] == [[4, 3, 2, 1]] and asked.next("Ada") is None


def test_dates_in_a_prompt_s_record_become_text(out):
    import datetime

    asked = labels.Labels(out, [{"prompt": "a", "when": datetime.date(2022, 3, 4)}], asking.QuickAnswers())
    rank(asked)
    assert saved(out)[0]["about"] == {"when": "2022-03-04"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense\n", ":1: no record that tools/label.py wrote"),
        (json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n", ":1: no record that"),
        ('{"prompt": "a"}\n', ":1: no record that"), ('{"chosen": "a", "rejected": 1}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": 5, "ranks": "x"}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": ["a", "b"], "ranks": [1]}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": ["a", "b"], "ranks": [1, "2"]}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": ["a", "b"], "ranks": [1, 2], "models": "q"}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": ["a", "b"], "ranks": [1, 2], "models": [["m"]]}\n', ":1: no record that"),
        ('{"prompt": "x", "responses": ["a", "b"], "ranks": [1, 2], "about": 3}\n', ":1: no record that"),
        ("a shopping list", "its last line is none that"), ('{"chosen": "a", "rej', "its last line is none that"),
        ('{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}\nmy notes', "its last line is none that"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_refused_and_left_alone(out, line, says):
    out.write_text(line)
    with pytest.raises(InputError, match=rf"rankings.jsonl{says}|rankings.jsonl: {says}"):
        asking.labels(out)
    assert out.read_text() == line


@pytest.mark.parametrize("how", ["rotated", "edited", "added to"])
def test_a_correction_never_lands_in_a_file_that_somebody_else_changed(out, how):
    asked = asking.labels(out)
    for _ in range(3):
        rank(asked)
    asked.back("Ada", asked.next("Ada").id)
    task, lines = asked.next("Ada"), out.read_text().splitlines(keepends=True)
    if how == "rotated":
        out.rename(out.with_name("old.jsonl"))
        out.write_text("".join(reversed(lines)))
    elif how == "edited":
        out.write_text("".join(lines[1:]))
    else:
        out.write_text("".join(lines) + lines[0])
    before = out.read_bytes()
    with pytest.raises(InputError, match="was changed by somebody else; nothing was saved, start this program again"):
        asked.rank("Ada", task.id, [4, 3, 2, 1], 1)
    assert out.read_bytes() == before


def test_a_correction_checks_the_record_that_it_replaces(out):
    asked = asking.labels(out)
    for _ in range(2):
        rank(asked)
    asked.back("Ada", asked.next("Ada").id)
    task, content = asked.next("Ada"), out.read_bytes().replace(b"answer a", b"answer x")
    out.write_bytes(content)
    asked.rankings.known = asked.rankings._signature()  # as on a file system with coarse times
    with pytest.raises(InputError, match="another record stands there now; nothing was changed"):
        asked.rank("Ada", task.id, [4, 3, 2, 1], 1)
    assert out.read_bytes() == content


def test_a_private_file_stays_private_when_it_is_corrected(out):
    asked = asking.labels(out)
    rank(asked)
    out.chmod(0o600)
    asked.rankings.known = asked.rankings._signature()
    asked.back("Ada", asked.next("Ada").id)
    rank(asked)
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_saves_nothing_and_says_so(out):
    asked = asking.labels(out)
    rank(asked)
    before, task = out.read_bytes(), asked.next("Ada")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, limits[1]))  # bytes; then a write is cut short
    try:
        with pytest.raises(InputError, match="cannot be written"):
            rank(asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == before and asked.next("Ada") == task
    rank(asked)


def test_a_second_process_is_told_who_is_at_work(out):
    asking.labels(out)
    code = "import sys; from minirlhf.support import folder; folder.PATIENCE = 0.3; "
    code += f"sys.path[:0] = ['tests', 'tests/tools']; import asking; asking.labels({str(out)!r})"
    done = subprocess.run([*PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "is at work in it" in done.stderr


def _serve(out, pipe):
    with labelling(asking.labels(out, n=20_000)) as port:
        pipe.send(port)
        time.sleep(60)


def test_twenty_kills_lose_nothing_that_was_acknowledged(out):
    """After SIGKILL at any moment, every acknowledged ranking is in the file, and records.read accepts it."""
    rng, kept, context = random.Random(0), [], multiprocessing.get_context("fork")
    for _ in range(20):
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(str(out), theirs))
        child.start()
        port = ours.recv()
        kill = f"import os, time; time.sleep({rng.uniform(0.02, 0.25)}); os.kill({child.pid}, {int(signal.SIGKILL)})"
        killer = subprocess.Popen([sys.executable, "-S", "-c", kill])
        while child.is_alive():
            try:
                _, (told,) = ask(port, "/next", {"labeler": "Ada"})
                task = told["task"]
                status, _ = ask(
                    port, "/rank", {"labeler": "Ada", "id": task["id"], "ranks": [1, 2, 2, 3], "seconds": 1}
                )
                if status == 200:
                    kept.append((task["prompt"], task["answers"]))
            except (OSError, ValueError):
                pass
        child.join()
        killer.wait()
        found = [(r["prompt"], r["responses"]) for r in records.read(out, "ranking")] if kept else []
        missing = [each for each in kept if each not in found]
        assert not missing and len(found) - len(kept) <= 20
    assert len(kept) > 20


@pytest.mark.parametrize("value", [None, 0, "x", [], {}, [1], [[1]], ["x"], [None], [{}], float("nan"), 1e999, True])
@pytest.mark.parametrize("field", ["labeler", "seconds", "ratings", "flags", "about", "models"])
def test_a_report_leaves_out_what_it_cannot_count(out, field, value):
    record = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "labeler": "Ada", "seconds": 2.0}
    out.write_text("".join(json.dumps(each) + "\n" for each in (record, record | {field: value})))
    assert "2 rankings of 1 prompts" in agreement.report(out)


# --- requests --------------------------------------------------------------------------------------------------------


def refusals(port, task):
    """Requests that our pages never send, as arguments of asking.ask."""
    good = {"labeler": "Ada", "id": task["id"], "ranks": [1, 2, 3, 4], "seconds": 1}
    home = f"http://127.0.0.1:{port}"
    paths = ("/rank", "/skip", "/back", "/demonstrate", "/next")
    for path in paths:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "",
                     "127.0.0.1@evil.example", "[::1]:80", "0.0.0.0", "127.0.0.1:99999999", "127.0.0.1\t.evil",
                     None):  # fmt: skip
            yield dict(path=path, question=good, Host=host, Origin=f"http://{host}")
        for origin in ("http://evil.example", "null", None, home + "/", home.replace("http", "https"), home + "0", "",
                       f"http://localhost:{port}", "http://127.0.0.1", home + ".evil.example"):  # fmt: skip
            yield dict(path=path, question=good, Origin=origin)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
            yield dict(path=path, question=good, Content_Type=kind)
        for body in (b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"[" * 30_000, b'{"labeler": "Ada"'):
            yield dict(path=path, body=body)
        for length in ("-1", "x", "99999999999999", "65537", "1e3", "+5", None):
            yield dict(path=path, body=b"{}", Content_Length=length)
        yield dict(path=path, body=b'{"labeler": "' + b"x" * 65_536 + b'"}')
        yield dict(path=path, question=good, Transfer_Encoding="chunked")
        yield dict(path=path, question=good | {"more": 1})
        for labeler in (None, 3, "", " ", "x" * 41, "a\nb", ["Ada"], {"a": 1}, "\x1b[2J"):
            yield dict(path=path, question=good | {"labeler": labeler})
    for path in ("/../label.py", "/etc/passwd", "/rank/", "/rank?x=1", "/RANK", "/%2e%2e/", "/label.html", "/__class__",
                 "/rank#x", "http://evil.example/rank", "*", "/_open"):  # fmt: skip
        yield dict(path=path, question=good)
        yield dict(path=path, method="GET")
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "CONNECT"):
        yield dict(path="/rank", question=good, method=method)
    for bad in (
        {"ranks": [9, 9, 9, 9]},
        {"ranks": "<script>"},
        {"ranks": []},
        {"id": "x"},
        {"id": None},
        {"id": ["a"]},
    ):
        yield dict(path="/rank", question=good | bad)


def test_hundreds_of_requests_that_should_be_refused_change_nothing(out):
    asked = asking.labels(out)
    with labelling(asked) as port:
        _, (told,) = ask(port, "/next", {"labeler": "Ada"})
        requests = list(refusals(port, told["task"]))
        assert len(requests) > 200
        for request in requests:
            status, said = ask(port, **request)
            assert status == 0 or status >= 400, request
            if isinstance(said, bytes):  # what is no HTTP, uvicorn refuses
                assert (status, said) == (400, b"Invalid HTTP request received."), request
            else:
                assert all(set(line) == {"error"} for line in said), request
        assert ask(port, "/next", {"labeler": "Ada"}) == (200, [told])
        assert not any(path.suffix == ".jsonl" for path in out.parent.iterdir())
        good = {"labeler": "Ada", "id": told["task"]["id"], "ranks": [1, 2, 3, 4], "seconds": 1}
        assert ask(port, "/rank", good)[0] == 200  # and so it would have been saved
        assert ask(port, "/rank", good)[0] == 409
    assert len(saved(out)) == 1


@pytest.mark.parametrize("name", [None, 3, "", " ", "x" * 41, "a\nb", ["Ada"], {"a": 1}, "\x1b[2J", "\u202eAda"])
def test_a_name_is_a_few_letters(out, name):
    with labelling(asking.labels(out)) as port:
        assert ask(port, "/next", {"labeler": name})[0] == 409
        assert ask(port, "/next", {"labeler": " Ada "})[0] == 200
    assert labels.named(" Ada ") == "Ada"


def test_each_refusal_has_its_reason(out):
    with labelling(asking.labels(out)) as port:
        for body in (b"[]", b"3", b"null", b"[" * 30_000):
            assert ask(port, "/next", body=body)[0] == 400
        assert ask(port, "/", method="GET", Host="evil.example")[0] == 403 and ask(port, "/", method="GET")[0] == 200
        status, (told,) = ask(port, "/next", {"labeler": "Ada", "more": 1})
        assert status == 409 and "not those that the page sends" in told["error"]


@pytest.mark.parametrize(
    ("status", "says", "request_"),
    [
        (403, "name is 127.0.0.1 or localhost", dict(Host="evil.example", Origin="http://evil.example")),
        (403, "another page than this server's own", dict(Origin="http://evil.example")),
        (403, "another page than this server's own", dict(Origin=None)),
        (404, "no such request", dict(path="/nothing")), (404, "no such request", dict(path="/next?x=1")),
        (404, "no such request", dict(path="/%6eext")), (404, "only page here", dict(path="/next", method="GET")),
        (401, "token is missing or wrong", dict(Authorization=None)),
        (415, "must be JSON", dict(Content_Type="text/plain")),
        (411, "must have a Content-Length", dict(Content_Length=None)),
        (411, "must have a Content-Length", dict(Content_Length="1" * 10)),
        (411, "must have a Content-Length", dict(Transfer_Encoding="chunked")),
        (413, "65,536", dict(Content_Length="65537")),
        (400, "not a JSON object", dict(body=b"{")), (405, "Method Not Allowed", dict(method="PUT")),
    ],
)  # fmt: skip
def test_a_refusal_s_status_and_words(status, says, request_):
    asked, token = [], "secret" if status == 401 else None
    with serving("", {"/next": asked.append}, token) as port:
        found, (told,) = ask(port, **dict(path="/next", question={}) | request_)
    assert (found, set(told), asked) == (status, {"error"}, []) and says in told["error"]


def test_every_answer_tells_the_browser_what_the_page_may_do(out):
    with labelling(asking.labels(out)) as port:
        for path in ("/", "/nothing"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            headers = connection.getresponse().headers
            connection.close()
            assert headers["Content-Security-Policy"] == server.policy(server.page("label"))
            assert headers["Content-Security-Policy"].endswith("form-action 'none'; frame-ancestors 'none'")
            named = [headers[name] for name in ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control")]
            assert named == ["nosniff", "no-referrer", "no-store"]
            assert headers["Connection"] == "close"  # the time limits are for a connection's first request


def test_the_page_is_not_told_whose_answers_they_are(out):
    with labelling(asking.labels(out, rate=True)) as port:
        _, (told,) = ask(port, "/next", {"labeler": "Ada"})
        assert set(told["task"]) == {"id", "prompt", "answers", "again", "before"}
        said = dict(ranks=[1, 2, 3, 4], ratings=[1, 2, 3, 4], flags=[["harmful"], [], [], []])
        _, (told,) = ask(port, "/rank", {"labeler": "Ada", "id": told["task"]["id"], "seconds": 1} | said)
        _, (told,) = ask(port, "/back", {"labeler": "Ada", "id": told["task"]["id"]})
        assert told["task"]["before"] == said


def test_five_at_once_save_once(out, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: time.sleep(0.1))
    with labelling(asking.labels(out)) as port:
        _, (told,) = ask(port, "/next", {"labeler": "Ada"})
        good = {"labeler": "Ada", "id": told["task"]["id"], "ranks": [1, 2, 3, 4], "seconds": 1}
        with ThreadPoolExecutor(5) as pool:
            found = sorted(status for status, _ in pool.map(lambda _: ask(port, "/rank", good), range(5)))
    assert found == [200, 409, 409, 409, 409] and len(saved(out)) == 1


def test_the_address_of_an_open_page_has_a_token_that_nobody_guesses(monkeypatch, capsys):
    tokens, application = [], server.application

    def noted(html, routes, token):
        tokens.append(token)
        return application(html, routes, token)

    def stop(self, sockets):
        sockets[0].close()
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "application", noted)
    monkeypatch.setattr(server.uvicorn.Server, "run", stop)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "0.0.0.0"):
        server.open_page("", {}, host, 0, "x")
    assert tokens[:2] == [None, None] and tokens[2] != tokens[3] and min(map(len, tokens[2:])) >= 16
    assert f"/#{tokens[2]} in a browser" in capsys.readouterr().out


def test_the_command_opens_the_page_with_its_flags(out, world, monkeypatch):
    opened = []
    monkeypatch.setattr(
        server, "open_page", lambda html, routes, *rest: opened.append(routes["/next"]({"labeler": "A"}))
    )
    words = ["--out", str(out), "--models", world.gpt, "--prompts", world.prompts, "--max_response", "8"]
    tiny.run(label, [*words, "--rate"])
    assert opened[0]["rate"] is True and len(opened[0]["task"]["answers"]) >= 2


def test_open_to_others_the_page_wants_its_token(out):
    with pytest.raises(InputError, match="a token is needed"):
        server.prepare("0.0.0.0", 0, "", {})
    with serving(server.page("label"), label.routes(asking.labels(out)), token="secret") as port:
        for header in (None, "Bearer wrong", "secret2", "Bearer "):
            assert ask(port, "/next", {"labeler": "Ada"}, Authorization=header)[0] == 401
        assert ask(port, "/next", {"labeler": "Ada"}, Authorization="Bearer secret")[0] == 200
        named = dict(Host="label.example:80", Origin="http://label.example:80")
        assert ask(port, "/next", {"labeler": "Ada"}, Authorization="Bearer secret", **named)[0] == 200


def test_pages_are_small_and_load_nothing_from_elsewhere():
    for name in ("label", "chat"):
        html = server.page(name)
        assert len(html.encode()) < 100_000 and "<!-- common.html -->" not in html
        assert "http://" not in html and "https://" not in html and "innerHTML" not in html
        assert server.policy(html).startswith("default-src 'none'; script-src 'sha256-")


def cut_off(port, first, then):
    """Sends `first`, then `then` repeatedly, until the server closes the connection. It must not answer."""
    slow, until = socket.create_connection(("127.0.0.1", port)), time.monotonic() + 8
    with slow, pytest.raises(OSError):
        slow.settimeout(0.05)
        slow.sendall(first)
        while time.monotonic() < until:
            slow.sendall(then)
            with suppress(TimeoutError):
                assert not slow.recv(1)
                raise ConnectionError
    assert time.monotonic() < until


@pytest.mark.parametrize("then", [b"", b"G"])
def test_a_question_that_comes_a_letter_at_a_time_or_not_at_all_is_cut_off(out, monkeypatch, then):
    monkeypatch.setattr(server, "TIMEOUT", 0.5)
    with labelling(asking.labels(out)) as port:
        cut_off(port, b"", then)
        cut_off(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", then)
        assert ask(port, "/", method="GET")[0] == 200


@pytest.mark.parametrize("then", [b"", b" "])
def test_a_question_s_body_that_comes_too_slowly_is_cut_off(monkeypatch, capsys, then):
    monkeypatch.setattr(server, "TIMEOUT", 0.5)
    asked = []
    with serving("", {"/ask": asked.append}) as port:
        head = f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
        kind = "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{}"
        cut_off(port, (head + kind).encode(), then)
        time.sleep(0.2)
    assert not asked and capsys.readouterr().err == ""


def test_an_answer_may_take_longer_than_a_question(monkeypatch):
    monkeypatch.setattr(server, "TIMEOUT", 0.2)

    def slow(question):
        for i in range(3):
            time.sleep(0.3)
            yield {"part": i}

    with serving("", {"/slow": slow, "/one": lambda question: time.sleep(0.6) or {"done": True}}) as port:
        assert ask(port, "/slow", {}) == (200, [{"part": i} for i in range(3)])
        assert ask(port, "/one", {}) == (200, [{"done": True}])


@pytest.mark.parametrize("reads", [True, False])
def test_a_stream_whose_window_is_closed_or_does_not_read_on_is_closed(monkeypatch, capsys, reads):
    monkeypatch.setattr(server, "TIMEOUT", 0.5)
    closed = threading.Event()

    def endless(question):
        try:
            while True:
                time.sleep(0.01)
                yield {"text": "x" * (10 if reads else 1_000_000)}
        except GeneratorExit:
            closed.set()
            raise

    with serving("", {"/endless": endless}) as port:
        usual = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/endless", "{}", usual)
        response = connection.getresponse()
        if reads:
            assert [json.loads(response.readline()) for _ in range(3)] == [{"text": "x" * 10}] * 3
            response.close()
            connection.close()
        assert closed.wait(5)
        connection.close()
    assert capsys.readouterr().err == ""


def test_a_fault_in_the_middle_of_a_stream_is_shown_in_the_server_s_own_window(capsys):
    def broken(question):
        yield {"part": 1}
        raise ValueError("a fault")

    with serving("", {"/broken": broken}) as port:
        assert ask(port, "/broken", {}) == (0, {})  # the answer is not whole, and does not look so
        time.sleep(0.2)
    assert "a fault" in capsys.readouterr().err


OPEN = """
import time
from tools.web import server

def slow(question):
    for i in range(1000):
        time.sleep(0.05)
        yield {"part": i}

server.open_page("<p>hello</p>", {"/slow": slow}, "127.0.0.1", 0, "about it")
"""


@pytest.mark.parametrize("asks", [False, True])
def test_ctrl_c_ends_an_open_page_with_one_line(asks):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    own = subprocess.Popen([*PYTHON, "-c", OPEN], cwd=ROOT, **pipes)
    line = own.stdout.readline()
    port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
    assert port > 0 and line == f"open http://127.0.0.1:{port}/ in a browser; about it; Ctrl-C ends\n"
    assert ask(port, "/", method="GET") == (200, b"<p>hello</p>")
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(ask, port, "/slow", {}) if asks else None
        time.sleep(0.3)
        own.send_signal(signal.SIGINT)
        said, faults = own.communicate(timeout=5)
    assert (own.returncode, said, faults) == (0, "ended; everything saved is on the disk\n", "")
    assert not asks or stream.result() == (0, {})


def test_a_port_that_is_taken_or_is_none_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70_000, -1):
            with pytest.raises(InputError, match=f"--host 127.0.0.1 --port {port}: .*; choose others .port 0"):
                server.open_page("", {}, "127.0.0.1", port, "x")


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_only_an_open_page_needs_the_web_s_packages(out, missing):
    rank(asking.labels(out))
    code = f"import sys; sys.modules[{missing!r}] = None; from tools import label; from tools.web import server; "
    code += f"label.main(label.Config({str(out)!r}, report=True)); server.open_page('', {{}}, '127.0.0.1', 0, 'x')"
    done = subprocess.run([*PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "1 rankings of 1 prompts" in done.stdout
    assert 'InputError: the pages need starlette and uvicorn; pip install "minirlhf[web]"' in done.stderr


def test_a_fault_of_ours_is_said_and_shown_in_the_server_s_own_window(capsys):
    def broken(question):
        raise ValueError("a fault")

    with serving("", {"/broken": broken}) as port:
        status, (told,) = ask(port, "/broken", {})
        time.sleep(0.2)
    assert status == 500 and "see the terminal" in told["error"] and "a fault" in capsys.readouterr().err


def test_a_server_takes_only_so_many_connections_at_once(out, monkeypatch):
    monkeypatch.setattr(server, "AT_ONCE", 3)
    with labelling(asking.labels(out)) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        time.sleep(0.3)
        assert ask(port, "/next", {"labeler": "Ada"}) == (503, b"Service Unavailable")
        held += [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one_too_many, suppress(ConnectionError):
            assert one_too_many.recv(1) == b""  # closed at once, though it sends nothing
        held[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            held[-1].recv(1)
        for each in held:
            each.close()
        time.sleep(0.3)
        assert ask(port, "/next", {"labeler": "Ada"})[0] == 200


# --- reports ---------------------------------------------------------------------------------------------------------


def test_agreement_is_over_pairs_that_neither_ties():
    assert agreement.alike([1, 2, 3], [1, 2, 3]) == (3, 3)
    assert agreement.alike([1, 2, 3], [3, 2, 1]) == (0, 3)
    assert agreement.alike([1, 1, 2], [1, 2, 3]) == (2, 2)  # the first two tie in one of them
    assert agreement.alike([1, 2, 3, 4], [2, 1, 3, 4]) == (5, 6)


def ranking(prompt, responses, ranks, labeler, **more):
    return {"prompt": prompt, "responses": responses, "ranks": ranks, "labeler": labeler} | more


def test_the_same_answers_in_another_order_are_the_same_answers():
    first = ranking("p", ["a", "b", "c"], [1, 2, 3], "Ada")
    same, others = agreement.repeats([
        first,
        ranking("p", ["c", "a", "b"], [3, 2, 1], "Ada", again=True), ranking("p", ["b", "a", "c"], [2, 1, 3], "Ben"),
        ranking("p", ["a", "b", "d"], [1, 2, 3], "Ada"),
    ])  # fmt: skip
    assert same == [("p", 2, 3)]  # b above a, the second time
    assert others == [("p", 3, 3), ("p", 2, 3)]


def town_rankings(labeler, n=60):
    """Rankings of the town's demonstrations by one of its labelers."""
    rng, lines = random.Random(0), []
    for record in town.prompts("train", n, 0):
        texts = list({town.demonstrations([record], seed)[0]["response"] for seed in range(4)})
        if len(texts) > 1:
            about = {name: value for name, value in record.items() if name != "prompt"}
            lines.append(town.rank(record, texts, labeler, rng) | {"about": about})
    return lines


def test_in_the_town_rankings_are_compared_with_the_truth_that_its_pool_knows(tmp_path):
    flawless = town.LABELERS[0].__class__(**(vars(town.LABELERS[0]) | {"noise": 0.0}))
    hits = {}
    for name, rankings in (("good", town_rankings(flawless)), ("noisy", town_rankings(town.LABELERS[0]))):
        pool = []
        for r in rankings:
            about = r["about"] | {"prompt": r["prompt"]}
            utilities = [-town.mean_utility(town.judge(about, text), text) for text in r["responses"]]
            pool.append(agreement.alike(r["ranks"], utilities))
        hits[name] = np.sum(pool, 0)
        text = "\n".join(agreement.with_the_town(rankings))
        right, pairs = hits[name]
        assert f"without noise: {100 * right / pairs:.1f} %" in text and f"of {pairs} pairs" in text
    assert hits["good"][0] / hits["good"][1] > 0.9 > hits["noisy"][0] / hits["noisy"][1]


def test_a_report_says_how_many_how_long_and_who_agrees(out, world):
    asked = asking.labels(out, rate=True, n=40, texts={i: [" a dog", " red", " five", " no"] for i in range(40)})
    for i in range(20):
        rank(
            asked, ratings=[7, 4, 2, 1], flags=[[], [], [], ["harmful"]], ranks=(1, 2, 3, 4) if i < 19 else (1, 2, 4, 3)
        )
    asked.skip("Ada", asked.next("Ada").id)
    asked.demonstrate("Ada", asked.next("Ada").id, "better")
    text = agreement.report(out, world.rm)
    for says in ("20 rankings of 19 prompts, by Ada 20", "1 skipped; 1 better answers written", "took 5 seconds",
                 "mean rating 3.5 of 7; flagged: harmful 25 %", "two labelers: no pair yet", f"with {world.rm}: ",
                 "of 6 pairs on 1 prompts"):  # fmt: skip
        assert says in text
    tiny.run(label, ["--out", str(out), "--report"])


@pytest.mark.parametrize("shape", agreement.EXPORTS)
def test_exported_pairs_are_read_back_as_what_was_ranked(out, shape, capsys):
    asked = asking.labels(out)
    rank(asked, ranks=(2, 1, 3, 2))
    tiny.run(label, ["--out", str(out), "--export", shape])
    path = out.with_name(f"rankings-{shape}.jsonl")
    assert "5 pairs" in capsys.readouterr().out
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"{path}: is there already"):
        tiny.run(label, ["--out", str(out), "--export", shape])
    assert path.read_bytes() == before
    found = {tuple(text.strip() for text in r["responses"]) for r in records.read(path, "ranking")}
    a, b, c, d = (f"answer {letter} to 0" for letter in "abcd")
    assert found == {(b, a), (b, c), (b, d), (a, c), (d, c)}
    if shape == "hh":
        assert all(r["prompt"] == "\n\nHuman: question 0\n\nAssistant:" for r in records.read(path, "ranking"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "x.json", "--report"], "ends in .jsonl"), (["--out", "x.jsonl"], "--models: name"),
        (["--out", "x.jsonl", "--models", "m"], "--prompts: name"),
        (["--out", "x.jsonl", "--report"], "x.jsonl: no such file"),
        (["--out", "x.jsonl", "--models", "m", "--prompts", "p", "--answers", "1"], "--answers 1"),
        (["--out", "x.jsonl", "--models", "m", "--prompts", "p", "--answers", "10"], "--answers 10"),
        (["--out", "x.jsonl", "--models", "m", "--prompts", "p", "--port", "70000"], "--port 70000"),
        (["--out", "x.jsonl", "--models", "m", "--prompts", "p"], "m: no checkpoint there"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_are_named(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        tiny.run(label, words)


@pytest.mark.parametrize(("ranks", "others", "expected"), [([2, 1, 3], [1, 1, 2], (2, 2)), ([2, 1], [1, 1], (0, 0))])
def test_a_pair_that_one_of_two_ties_counts_for_neither(ranks, others, expected):
    assert agreement.alike(ranks, others) == agreement.alike(others, ranks) == expected


def test_a_report_s_times_and_prompts(out):
    asked = asking.labels(out)
    for seconds in (10, 20, 300):
        asked.rank("Ada", asked.next("Ada").id, [1, 2, 3, 4], seconds)
    assert "took 20 seconds (median), all took 6 min" in agreement.report(out)
    assert "of 3 pairs on 1 prompts" in agreement.row("x", [("p", 2, 3), ("q", 0, 0)])


def test_agreement_with_a_reward_model_is_with_its_scores(world, tokenizer):
    rankings = [json.loads(line) for line in Path(world.rankings).read_text().splitlines()]
    too_long = {"prompt": "x" * 70, "responses": ["a", "b"], "ranks": [1, 2]}
    found, model = agreement.with_reward_model([too_long, *rankings], world.rm), load_model(world.rm, RewardModel)
    for r, (prompt, right, pairs) in zip(rankings, found, strict=True):
        sequences = [records.encode_response(prompt, text, tokenizer) for text in r["responses"]]
        scores = per_sequence(response_scores, model, sequences, tokenizer.pad)
        assert (right, pairs) == agreement.alike(r["ranks"], (-scores).tolist())
    assert any(2 * right != pairs for _, right, pairs in found)


def test_other_prompts_than_the_town_s_are_not_compared_with_its_labelers():
    assert agreement.with_the_town([ranking("p", ["a"], [1], "Ada", about={"kind": "brainstorm"})]) == []


def test_a_transcript_is_exported_as_it_is():
    prompt = f"\n\nHuman: a{ASSISTANT}"
    assert agreement.as_transcript(prompt, " b", " c") == (prompt, " b", " c")
