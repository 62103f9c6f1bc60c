"""The report's first part: the prompt is chosen by the rule that it states, and what is shown is what was recorded."""

import re

from lab import story

EVIL = "<script>alert(1)</script>"


def sample(prompt, follows, texts=("a", "b", "c"), score=1.0):
    names = ("gpt", "sft", "ppo_ptx")
    return {"prompt": f"{prompt}\n", "follows": dict(zip(names, follows)), "rm_score": dict.fromkeys(names, score),
            **dict(zip(names, texts))}  # fmt: skip


def row(step, prompt, tokens, kl, score=0.5):
    return {"step": step, "prompt": prompt, "tokens": tokens, "logp": kl, "ref_logp": [0.0] * len(kl), "score": score}


def test_the_prompt_is_the_first_that_gpt_fails_and_the_tuned_models_answer_differently():
    samples = [sample("both", (True, True, True)), sample("alike", (False, True, True), ("x", "y", "y")),
               sample("other way", (True, True, False)), sample("this", (False, False, True), (EVIL, "", "z")),
               sample("later", (False, False, True))]  # fmt: skip
    page = story.cards(samples)
    assert "<h2>this</h2>" in page and EVIL not in page and "&lt;script&gt;" in page and "(nothing)" in page
    assert page.count("does not do what was asked") == 2 and page.count(">does what was asked") == 1
    assert "at 60 of 100 prompts, the other way round at 20 of 100 prompts" in " ".join(page.split())
    assert "<h2>both</h2>" in story.cards(samples[:1])  # there is no such prompt


def test_the_ladder_in_words_has_the_win_rates_and_who_does_what_was_asked():
    def figure(mean):
        return {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}

    models = {name: {"win_rate_vs_sft": figure(win), "follows_instruction": figure(follow)}
              for name, win, follow in (("gpt", 0.31, 0.36), ("sft", 0.5, 0.79), ("ppo_ptx", 0.6, 0.87))}  # fmt: skip
    words = " ".join(story.in_words({"models": models}).split())
    assert "prefer PPO-ptx's to SFT's 60 times (58 to 62), and GPT's to SFT's 31 times (29 to 33)" in words
    assert "GPT does what was asked with 36, SFT with 79, and PPO-ptx with 87" in words


def test_the_strip_is_of_the_answer_that_is_furthest_from_the_start_and_its_changes_are_in_order():
    end = "<|endoftext|>"
    rows = [row(0, "near", ["a"], [0.0]), row(0, "far", ["One", " day", end], [0.0, 0.0, 0.0], 1.0)]
    rows += [row(10, "near", ["a"], [0.3]), row(10, "far", [EVIL, " day", end], [1.0, -0.2, 0.0], 2.0)]
    chosen = story.most_changed(rows)
    assert [one["prompt"] for one in chosen] == ["far", "far"]
    strip = story.strip(chosen[-1])
    assert (
        re.findall(r"<small>([+-][\d.]+)</small>", strip) == ["+1.00", "-0.20", "+0.00"]
        and "0.80, is the answer's KL" in strip
    )
    assert EVIL not in strip and "(end)" in strip
    table = story.changes(chosen + chosen[-1:])
    assert re.findall(r"<tr><td>(\d+)</td><td>(.*?)</td><td>(.*?)</td>", table) == [
        ("0", "One day", "+1.00"),
        ("10", "&lt;script&gt;alert(1)&lt;/script&gt; day", "+2.00"),
        ("10", "the same", "+2.00"),
    ]


def test_a_run_is_told_from_its_own_files(tiny_run):
    page = (tiny_run / "report.html").read_text()
    assert (
        page.index("PPO-ptx's to SFT's")
        < page.index("Where PPO changed an answer")
        < page.index("All models, measured")
    )
    assert (tiny_run / "inside.html").exists()
