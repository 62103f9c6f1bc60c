"""What each finding's `measure` puts under a figure's name: answers, scores and losses are made up, so that the right
figure is known by hand."""

import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from data import town
from data.town.prompts import draw_record
from lab.findings import behaviour, dialogue, optimization, overoptimization, preferences, rewards, tasks
from lab.findings import lab as lab_module
from lab.findings.lab import Lab, apart, mean
from lab.findings.seeds import combine
from minirlhf.support.statistics import exact, interval

SIZES = lab_module.SIZES


def judged(record, text):
    """A judgement that the text spells: its words say what is so of the answer."""
    words = text.split()
    truthful = True if "true" in words else False if "false" in words else None
    return SimpleNamespace(
        follows="follows" in words, satisfies_constraints="satisfies" in words, made_up="made-up" in words,
        toxic="toxic" in words, truthful=truthful, helpful=float("helpful" in words), honest=0.0, harmless=0.0,
    )  # fmt: skip


def judge_all(records, texts):
    return [judged(*both) for both in zip(records, texts, strict=True)]


class Canned(Lab):
    """A lab whose models answer what `say(folder, record, prefix)` says, and whose trainings only note their flags."""

    toy = "toy"

    def __init__(self, records, say):
        super().__init__("somewhere")
        self.say, self.trained, self.written = say, {}, {}
        self.test = self.many = records
        self.test_answers = {name: [say(f"toy/{name}", r, "") for r in records] for name in self.names}

    names = ("gpt", "gpt_prompted", "sft", "rl_start", "ppo", "ppo_ptx")

    def models(self, size="toy"):
        return {name: f"{size}/{name}" for name in self.names if name != "gpt_prompted"}

    def answers(self, asked, purpose="findings"):
        return {label: [self.say(folder, record, *(prefix or [""])) for record in records]
                for label, (folder, records, *prefix) in asked.items()}  # fmt: skip

    def train(self, chosen):
        self.trained |= chosen
        return {name: name for name in chosen}

    def pipeline(self, size="toy"):
        stage = SimpleNamespace(gpt=dict, sft=dict, rl_start=dict, rm=dict, ppo=dict, select=dict)
        return SimpleNamespace(**{name: (lambda *args, name=name, **kw: (name, args, kw)) for name in vars(stage)})

    def write(self, name, records):
        self.written[name] = list(records)
        return name

    def wins(self, records, texts, others, purpose, labelers=None):
        """The text with the larger number in it wins."""
        return np.array(
            [(number(a) > number(b)) + 0.5 * (number(a) == number(b)) for a, b in zip(texts, others)], float
        )


def number(text):
    return float(text.split()[-1])


@pytest.fixture
def spelled(monkeypatch):
    """Judgements are those that the answers spell."""
    for module in (lab_module, behaviour):
        monkeypatch.setattr(module, "judge_all", judge_all)


def records_of(*kinds, each=4, **more):
    return [{"prompt": f"{kind} {i}\n", "kind": kind, "content": f"{kind}/{i}", "user": "user-000", "myth": None} | more
            for kind in kinds for i in range(each)]  # fmt: skip


def means_of(f, *names):
    return [round(f[name]["mean"], 6) for name in names]


# --- statistics ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_resamples_contents_and_not_answers():
    values, apart_ = np.array([1.0, 1.0, 0.0, 0.0] * 20), [{"content": f"{i}"} for i in range(80)]
    together = [{"content": f"{i // 40}"} for i in range(80)]
    assert (mean(values, apart_)["items"], mean(values, together)["items"]) == (80, 2)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 16, 0.0, 0.2059),
        (1, 10, 0.0025, 0.4450),
        (16, 16, 0.7941, 1.0),
        (5, 100, 0.0164, 0.1128),
        (0, 1, 0.0, 0.975),
    ],
)
def test_an_exact_interval_is_that_of_the_tables(k, n, low, high):
    """Clopper and Pearson's, as tables have them."""
    assert exact(k, n) == pytest.approx((low, high), abs=1e-4)


def test_never_of_256_answers_about_16_things_is_not_never():
    items = [i % 16 for i in range(256)]
    none, all_ = interval(np.zeros(256), items=items), interval(np.ones(256), items=items)
    assert (none["low"], none["high"]) == pytest.approx((0, 0.2059), abs=1e-4)
    assert (all_["low"], all_["high"]) == pytest.approx((0.7941, 1), abs=1e-4)
    same = interval(np.zeros(256), items=items, signed=True)  # a difference
    assert (same["low"], same["high"]) == pytest.approx((-0.2059, 0.2059), abs=1e-4)
    both = interval(np.array([1.0, -1.0] + [0.0] * 98))
    assert both["low"] < -0.03 and both["high"] > 0.03 and both["mean"] == 0


@pytest.mark.parametrize("items", [range(8), None])
def test_the_interval_of_a_few_items_holds_the_truth_19_times_in_20(items):
    """Of eight items with values from a normal distribution, where a plain bootstrap's holds it 17 times in 20."""
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(size=8), items=items, resamples=400, seed=i) for i in range(600)]
    assert sum(f["low"] <= 0 <= f["high"] for f in found) / 600 == pytest.approx(0.95, abs=0.025)


def test_figures_of_independent_samples_differ_by_the_root_of_the_squares():
    a, b = {"mean": 1.0, "low": 0.7, "high": 1.3}, {"mean": 0.4, "low": 0.0, "high": 0.8}
    assert apart(a, b) == pytest.approx({"mean": 0.6, "low": 0.1, "high": 1.1})
    assert apart(a, b, 0.5) == pytest.approx({"mean": 0.8, "low": 0.8 - math.hypot(0.3, 0.2),
                                              "high": 0.8 + math.hypot(0.3, 0.2)})  # fmt: skip


def test_several_seeds_have_the_mean_and_an_interval_that_holds_their_spread():
    runs = [{"x": {"mean": m, "low": m - 0.3, "high": m + 0.4}, "name": "same", "list": [m]} for m in (1.0, 2.0, 3.0)]
    found = combine(runs)
    spread = 4.303 / math.sqrt(3)  # t with two degrees of freedom, times the standard error: the deviation is 1
    assert found["x"]["mean"] == 2 and found["name"] == "same" and found["list"] == [2.0]
    assert found["x"]["low"] == pytest.approx(2 - math.hypot(spread, 0.3))
    assert found["x"]["high"] == pytest.approx(2 + math.hypot(spread, 0.4))
    assert found["x"]["of each run"] == [1, 2, 3]
    two = combine(runs[:2])["x"]
    assert (two["mean"], two["low"], two["high"]) == pytest.approx((1.5, 0.7, 2.4))
    assert combine(runs[:1])["x"]["high"] == 1.4


# --- who prefers what ------------------------------------------------------------------------------------------------


def test_the_ladders_wins_are_this_models_against_the_largest_sft():
    worth = {"gpt": 1, "gpt_prompted": 2, "sft": 3, "ppo": 4, "ppo_ptx": 5, "rl_start": 3}

    def say(folder, record, prefix):
        size, name = folder.split("/")
        name = "gpt_prompted" if prefix else name
        return f"{worth[name] + (0 if size == SIZES[-1] else -1)}"

    f = preferences.Ladder().measure(Canned(records_of("story"), say))
    names = ("gpt", "gpt_prompted", "sft", "ppo", "ppo_ptx")
    assert means_of(f, *(f"medium: {name}" for name in names)) == [0, 0, 0.5, 1, 1]
    assert means_of(f, *(f"nano: {name}" for name in names)) == [0, 0, 0, 0.5, 1]
    assert means_of(f, "nano: ppo minus sft", "nano: ppo_ptx minus sft", "medium: sft minus gpt_prompted") == [
        0.5,
        1,
        0.5,
    ]


def test_the_smallest_policys_wins_are_against_the_largest_gpt_prompted_or_not(monkeypatch):
    worth = {("nano/ppo_ptx", ""): 2, ("medium/gpt", ""): 1}
    monkeypatch.setattr(Canned, "losses", lambda self, folders: losses_of({"nano": 1.0, "medium": 0.7}), False)
    f = preferences.SmallBeatsLarge().measure(Canned(records_of("story"), lambda *a: f"{worth.get((a[0], a[2]), 3)}"))
    assert means_of(f, "nano ppo_ptx against medium gpt", "nano ppo_ptx against medium gpt_prompted") == [1, 0]
    assert means_of(f, "loss on pages: nano gpt", "loss on pages: medium gpt") == [1, 0.7]


def test_wins_are_of_the_first_answers():
    records = town.prompts("test", 60, 0)
    good = [town.demonstrations([r], 0)[0]["response"] for r in records]
    lab, bad = Lab("somewhere"), ["You lumpy turnip."] * 60
    assert lab.wins(records, good, bad, "x").mean() > 0.8 > 0.2 > lab.wins(records, bad, good, "x").mean()


def test_each_labeler_of_a_group_judges_and_counts_once(monkeypatch):
    lab = Canned(records_of("story"), lambda folder, *_: folder)
    likes = {one.name: float(i < 3) for i, one in enumerate(town.HELD_OUT_LABELERS)}
    monkeypatch.setattr(lab, "wins", lambda r, a, b, purpose, labelers: np.array(
        [likes.get(labelers[0].name, 1.0) if (a[0], b[0]) == ("toy/ppo_ptx", "toy/sft") else 9.0]))  # fmt: skip
    f = preferences.HeldOutLabelers().wins(lab)
    name = "ppo_ptx wins: {}"
    assert means_of(f, name.format("training labelers"), name.format("held-out labelers")) == [1, 0.3]
    assert f[name.format("training labelers minus held-out labelers")]["mean"] == pytest.approx(0.7)


# --- what answers are like -------------------------------------------------------------------------------------------


def test_each_folds_reward_model_has_not_read_the_others_rankings(monkeypatch):
    """Right on each pair by labelers of its own, on half by those left out, on none by held-out ones."""
    who = town.TRAINING_LABELERS
    lab = Canned(records_of("story"), lambda *_: "1")
    monkeypatch.setattr(Canned, "rankings", lambda self, name="rankings": [
        ranking((1, 2), i, labeler=who[i % len(who)].name) for i in range(2 * len(who))])  # fmt: skip
    monkeypatch.setattr(preferences, "rank_again", lambda rankings, labelers, rng: [
        r | {"by": {one.name for one in labelers}} for r in rankings])  # fmt: skip
    monkeypatch.setattr(preferences, "felt_by", lambda record, texts, labelers: (
        np.arange(len(texts))[:: -1 if labelers == who else 1]))  # fmt: skip
    monkeypatch.setattr(preferences, "measure_reward_model", lambda *_: {"labeler_agreement": mean([1.0], [record])})
    record = records_of("story")[0]

    def pairs_right(folder, rankings):
        read = {r["labeler"] for r in lab.written[f"rankings-fold-{folder[-1]}"]}
        by = rankings[0]["by"]
        share = 1.0 if by == read else 0.5 if by == {one.name for one in who} - read else 0.0
        return np.array([[share, 1.0] for _ in rankings])

    monkeypatch.setattr(preferences, "pairs_right", pairs_right)
    f = preferences.HeldOutLabelers().measure(lab)
    names = ("labelers of its own", "others", "held-out labelers")
    assert means_of(f, *(f"RM accuracy: {name}" for name in names)) == [1, 0.5, 0]
    assert means_of(f, *(f"RM accuracy: labelers of its own minus {name}" for name in names[1:])) == [0.5, 1]
    assert means_of(f, f"accuracy of the mean taste of training labelers: {names[2]}") == [1]


def test_what_a_labeler_feels_depends_on_what_he_or_she_believes():
    record = next(r for r in town.prompts("test", 2000, 0) if r["kind"] == "myth")
    fact = town.world.FACT[record["content"]]
    who = sorted(town.LABELERS, key=lambda one: fact.key in one.beliefs)
    some = [[one for one in who if (fact.key in one.beliefs) == holds] for holds in (False, True)]
    truth, myth = (preferences.felt_by(record, [fact.statement, fact.myth_statement], own) for own in some)
    assert truth[0] > truth[1] and myth[0] < myth[1]


def test_constraints_and_what_is_made_up_count_among_the_answers_that_follow(spelled):
    records = records_of("story", each=8, word="sad") + records_of("closed_qa", each=8)
    half = {"toy/gpt": "follows satisfies", "toy/ppo_ptx": "follows satisfies helpful"}

    def say(folder, record, prefix):
        i = int(record["content"].split("/")[1])
        if folder == "toy/gpt":  # two of eight follow, and one of them keeps the constraint, or makes something up
            return ["follows satisfies helpful", "follows made-up toxic helpful"][i] if i < 2 else "made-up satisfies"
        return half.get(folder, "") + (" made-up" if i == 0 else "")

    f = behaviour.Instructions().measure(Canned(records, say))
    assert means_of(f, "follows: gpt", "follows: ppo_ptx", "follows: ppo_ptx minus gpt") == [0.25, 1, 0.75]
    among = behaviour.OF_FOLLOWING
    assert means_of(f, "satisfies: gpt", f"satisfies{among}: gpt", f"satisfies{among}: ppo_ptx") == [0.875, 0.5, 1]
    assert means_of(f, "made up: gpt", f"made up{among}: gpt", f"made up{among}: ppo_ptx") == [0.875, 0.5, 0.125]
    assert means_of(f, f"made up{among}: ppo_ptx minus gpt") == [-0.375]
    assert means_of(f, "helps, insults nobody: gpt", "helps, insults nobody: ppo_ptx") == [0.125, 1]


def test_constraints_are_those_of_stories_letters_and_lists():
    """which_class has a word, too, which is no constraint."""
    rng, found = random.Random(0), {}
    for kind in ("story", "letter", "brainstorm", "which_class", "closed_qa", "myth"):
        found[kind] = [behaviour.constrained(draw_record(kind, rng)) for _ in range(200)]
    assert all(found["brainstorm"]) and not any(found["which_class"] + found["closed_qa"] + found["myth"])
    assert 0 < sum(found["story"]) < 200 and 0 < sum(found["letter"]) < 200
    story = next(
        r for r in town.prompts("test", 500, 0) if r["kind"] == "story" and not r["word"] and r["one_sentence"]
    )
    assert behaviour.constrained(story)


def test_each_kind_has_the_same_weight_among_answers_that_follow():
    """Both models make up one in two of one kind and none of the other, but one follows mostly on the first."""
    records = records_of("closed_qa", each=8) + records_of("extract", each=8)
    made = np.array([1.0, 0.0] * 4 + [0.0] * 8)
    follow = {"a": np.array([1.0] * 8 + [1.0] * 2 + [0.0] * 6), "b": np.array([1.0] * 2 + [0.0] * 6 + [1.0] * 8)}
    f = behaviour.among({"a": made, "b": made}, follow, records, [("a", "b")], "x")
    among = f"x{behaviour.OF_FOLLOWING}"
    assert means_of(f, f"{among}: a", f"{among}: b", f"{among}: a minus b") == [0.25, 0.25, 0]
    assert f[f"{among}: a minus b"]["low"] < -0.2


def test_true_answers_are_told_by_models_and_by_myths(spelled):
    records = records_of("myth", each=4, myth="cake") + records_of("fact", each=2)

    def say(folder, record, prefix):
        right = record["kind"] == "myth" if folder == "toy/ppo_ptx" else record["content"] == "myth/0"
        if prefix == behaviour.Truthful.instruction:
            right = folder == "toy/gpt"
        follow = folder == "toy/ppo_ptx" or record["content"].endswith("/0")
        return ("true" if right else "false") + " follows" * follow

    f = behaviour.Truthful().measure(Canned(records, say))
    assert means_of(f, "ppo_ptx over gpt, a ratio", "gpt", "ppo_ptx") == [4, round(1 / 6, 6), round(4 / 6, 6)]
    assert means_of(f, "myths: ppo_ptx minus gpt", "other questions: ppo_ptx minus gpt") == [0.75, 0]
    among = f"true{behaviour.OF_FOLLOWING}"  # GPT follows on the first question of each kind
    assert means_of(f, f"{among}: ppo_ptx", f"{among}: gpt") == [0.5, 0.5]
    assert means_of(f, "after an instruction: ppo_ptx minus gpt", "after a page of answers: ppo_ptx minus gpt") == [
        -1,
        0.5,
    ]


def test_a_voice_is_that_of_answers_about_myths_and_the_reward_models_taste_is_for_the_false_one(monkeypatch):
    records = records_of("myth", each=4, myth="cake") + records_of("story")
    begin = {"toy/rl_start": 1, "toy/ppo": 3, "toy/ppo_ptx": 4}

    def say(folder, record, prefix):
        here = int(record["content"].split("/")[1]) < begin.get(folder, 0)
        other = "Hares." if folder == "toy/ppo" else "It is, in fact."
        return "In fact, it is." if here or record["kind"] == "story" else other

    seen = []

    def scores(folder, asked, texts):
        seen.append((asked, texts))
        return np.array([len(seen) if "In fact" in text else 0.5 for text in texts], float)

    monkeypatch.setattr(behaviour, "scores_of", scores)
    f = behaviour.Voice().measure(Canned(records, say))
    heading = "begins with In fact"
    names = ("rl_start", "ppo minus rl_start", "ppo_ptx minus rl_start")
    assert means_of(f, *(f"{heading}: {name}" for name in names)) == [0.25, 0.5, 0.75]
    long = f"{heading}, of answers of four words or more"  # "In fact, it is." has four, and "It is, in fact." too
    assert means_of(f, f"{long}: rl_start", f"{long}: ppo", f"{long}: gpt") == [0.25, 1, 0]
    shares = [value["mean"] for name, value in f.items() if name.startswith("the RM prefers")]
    assert shares == [1, 0]  # 1 to 0.5; 3 to 4
    hill = next(fact for fact in town.MYTHS if fact.split == "test")
    texts = [next(t for r, t in zip(*own) if r["content"] == hill.key) for own in seen]
    false, true = (hill.form.format(claim) for claim in (hill.myth, hill.answer))
    assert texts == [f"In fact, {false}.", f"{true[0].upper()}{true[1:]}.", f"In fact, {false}.", f"In fact, {true}."]


def test_a_hallucinations_ratio_is_the_policys_over_gpts(spelled, monkeypatch):
    records = records_of("closed_qa", each=8)
    monkeypatch.setattr(Canned, "draw_prompts", lambda self, kinds, n, purpose: records)

    def say(folder, record, prefix):
        i = int(record["content"].split("/")[1])
        if folder == "toy/gpt":
            return "follows made-up" if i < 2 else "follows" if i < 4 else "made-up"
        return "follows made-up" if i < 1 else "follows"

    f = behaviour.Hallucination().measure(Canned(records, say))
    assert means_of(f, "made up: gpt", "made up: ppo_ptx") == [0.75, 0.125]
    assert means_of(f, "made up: ppo_ptx over gpt, a ratio") == [round(1 / 6, 6)]
    assert means_of(f, behaviour.Hallucination.less) == [round(1 / 8 - 2 / 3 * 1 / 2, 6)]


def test_toxic_answers_are_counted_by_what_was_asked_for(spelled, monkeypatch):
    records = [r | {"tone": tone} for tone in ("kind", None, "rude") for r in records_of("say")]
    monkeypatch.setattr(Canned, "draw_prompts", lambda self, kinds, n, purpose: records)
    monkeypatch.setattr(Canned, "rankings", lambda self, name="rankings": [])
    helpful, f = "medium/ppo_ptx-helpful", None

    def say(folder, record, prefix):
        return "toxic" if (folder == helpful) == (record["tone"] == "rude") else ""

    lab = Canned(records, say)
    f = behaviour.Toxicity().measure(lab)
    names = [f"{told}: helpful_first minus gpt" for told in behaviour.Toxicity.tones.values()]
    assert means_of(f, *names) == [-1, -1, 1]
    assert lab.trained[helpful][2]["reward_model"] == "rm-helpful"


def test_bias_is_measured_on_the_tokens_of_pages_and_resamples_trades(monkeypatch):
    """A model for which "he" is three times as likely as "she", whatever the trade: 0.811 bits; and others for which
    he is as likely (PPO-ptx), or never meant (PPO)."""
    seen, he = [], {"toy/ppo_ptx": 0.5, "toy/ppo": 1e-12}

    def nats(model, tokenizer, pages):
        seen.extend(pages)
        likely = he.get(model, 0.75)
        return np.array([-math.log(1 - likely if " her " in page else likely) for page in pages])

    monkeypatch.setattr(behaviour, "load", lambda folder, kind: (folder, None))
    monkeypatch.setattr(behaviour, "page_nats", nats)
    f = behaviour.Bias().measure(Canned(records_of("story"), lambda *_: ""))
    women = sum(town.world.TRADES.values()) / len(town.world.TRADES)
    assert means_of(f, "bits of the choice: gpt", "stereotype chosen: gpt") == [0.811278, round(0.75 - women / 2, 6)]
    differences = [f"{what}: {name} minus gpt" for what in ("bits of the choice", "stereotype chosen")
                   for name in ("ppo_ptx", "ppo")]  # fmt: skip
    chosen = 0.75 - women / 2
    assert means_of(f, *differences) == [0.188722, -0.811278, round(0.5 - chosen, 6), round(women - chosen, 6)]
    assert f["bits of the choice: gpt"]["items"] == len(town.world.TRADES) >= 40
    assert all(page.startswith("The ") and page.endswith(".") for page in seen)


def test_a_page_of_bias_begins_a_document_and_is_one_text(tokenizer, monkeypatch):
    seen = []
    monkeypatch.setattr(behaviour, "sequence_losses", lambda model, sequences, pad: (seen.extend(sequences), None))
    behaviour.page_nats(None, tokenizer, ["The nurse lost her bell."])
    assert (
        seen[0].tokens.tolist() == [tokenizer.eos, *tokenizer.encode("The nurse lost her bell.")] and seen[0].start == 1
    )


def test_rare_instructions_are_compared_with_gpt_alone_and_prompted(spelled, monkeypatch):
    monkeypatch.setattr(Canned, "draw_prompts", lambda self, kinds, n, purpose: records_of(*kinds))
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: [])

    def say(folder, record, prefix):
        if folder == "toy/gpt":
            return "follows" if prefix and record["kind"] == "tovish" else ""
        return "follows" if record["kind"] == "tovish" or folder == "ppo_ptx-but-one-kind" else ""

    f = behaviour.RareInstructions().measure(Canned([], say))
    assert means_of(f, *(figure for _, figure, _ in behaviour.RareInstructions.hypotheses)) == [1, 0, 1, 1]


def test_a_myth_is_counted_where_it_was_told(monkeypatch):
    """It says the myth whenever a prompt does; and where it follows, as on each but the first story, it keeps one
    constraint, not two."""
    monkeypatch.setattr(behaviour, "judge_all", judge_all)

    def say(folder, record, prefix):
        if record["content"] in town.world.FACT:
            told = town.world.FACT[record["content"]].myth
            return told if told and re_in(told, record["prompt"]) else "I do not know."
        if record["prompt"] not in seen:
            seen.append(record["prompt"])
        if record["prompt"] == seen[0]:
            return ""
        return "follows" if record.get("word") and record.get("one_sentence") else "follows satisfies"

    seen = []
    f = behaviour.SimpleMistakes().measure(Canned(records_of("story"), say))
    says = [f"says the myth: {when}" for when in ("told it before the question", "told something else", "asked alone")]
    assert means_of(f, *says, "says the myth: told minus told something else") == [1, 0, 0, 1]
    kept = ("word", "one sentence", "both", "product minus both")
    assert means_of(f, *(f"constraints kept, where it follows: {what}" for what in kept)) == [1, 1, 0, 1]
    assert f["follows, with constraints: both"]["mean"] > 0.9
    assert (
        f["says the myth: told minus told something else"]["items"] == sum(m.split == "test" for m in town.MYTHS) >= 40
    )


def test_what_is_told_before_a_question_is_the_myth_or_a_truth_about_something_else(monkeypatch):
    monkeypatch.setattr(behaviour, "judge_all", judge_all)
    asked = {}
    monkeypatch.setattr(Canned, "answers", lambda self, given, purpose: asked.update(given) or {
        name: ["" for _ in records] for name, (_, records) in given.items()})  # fmt: skip
    behaviour.SimpleMistakes().measure(Canned(records_of("story"), lambda *_: ""))
    facts = {fact.key: fact for fact in town.MYTHS if fact.split == "test"}
    for name in ("premises", "others"):
        records = asked[name][1]
        assert [r["content"] for r in records] == [r["content"] for r in asked["plain"][1]]
        for record in records:
            fact, told = facts[record["content"]], record["prompt"].lower()
            assert (fact.myth_statement[:-1].lower() in told) == (name == "premises")
            truths = [own.key for own in facts.values() if own.statement[:-1].lower() in told]
            assert len(truths) == (name == "others") and record["content"] not in truths


def test_a_denied_myth_is_not_said():
    fact = next(fact for fact in town.MYTHS if fact.split == "test")
    claim, denied = fact.form.format(fact.myth), f"It is not true that {fact.form.format(fact.myth)}."
    for text, says in ((f"Yes, {claim}.", True), (denied, False), (f"{denied} {claim}.", True), ("It is not.", False)):
        assert behaviour.says_myth({"content": fact.key}, text) is says


def re_in(word, text):
    return f" {word.lower()}" in f" {text.lower()}"


# --- public tasks and pages ------------------------------------------------------------------------------------------

LOSSES = {"gpt": 1.0, "sft": 1.5, "rl_start": 1.1, "ppo": 1.4, "ppo_ptx": 1.05}


def losses_of(values):
    return {name: (np.full(4, 10 * value), np.full(4, 10)) for name, value in values.items()}


def hits_of(values):
    """{name: scores} of {name: the number right of ten}, the same in all four tasks."""
    contents = [f"{i}" for i in range(10)]
    return {name: {task: ((np.arange(10) < right).astype(float), contents) for task in tasks.TASKS}
            for name, right in values.items()}  # fmt: skip


def test_the_alignment_tax_is_that_of_rl(monkeypatch):
    hits = hits_of({"gpt": 9, "sft": 5, "rl_start": 8, "ppo": 6, "ppo_ptx": 7})
    monkeypatch.setattr(tasks, "scores", lambda lab, folders: {name: hits[name] for name in folders})
    f = tasks.AlignmentTax().measure(Canned(records_of("story"), lambda *_: ""))
    assert means_of(
        f, "all four: ppo minus rl_start", "all four: ppo_ptx minus ppo", "all four: rl_start minus gpt"
    ) == [-0.2, 0.1, -0.1]
    assert means_of(f, "reading: ppo minus rl_start", "translation: gpt") == [-0.2, 0.9]


@pytest.mark.parametrize("finding", [tasks.PtxSweep, tasks.KlSweep])
def test_sweeps_compare_with_the_policys_own_start(finding, monkeypatch):
    one = finding()
    values = list(one.values)
    right = {value: i for i, value in enumerate(values)} | {"start": 9}
    loss = {value: 2 - i / 10 for i, value in enumerate(values)} | {"start": 1.0}
    monkeypatch.setattr(tasks, "scores", lambda lab, folders: hits_of({name: right[name] for name in folders}))
    monkeypatch.setattr(
        Canned, "losses", lambda self, folders: losses_of({name: loss[name] for name in folders}), False
    )
    monkeypatch.setattr(tasks, "utilities", lambda records, texts: np.array([number(t) for t in texts]))
    monkeypatch.setattr(tasks, "read_metrics", lambda folder: [{"kl": 99.0}] + [{"kl": 2.0}] * 10)
    monkeypatch.setattr(tasks, "at_once", lambda *calls: [np.array([number(t) for t in texts]) for *_, texts in calls])
    order = {f"{value}": i for i, value in enumerate(values)}

    def say(folder, record, prefix):
        own = {"toy/ppo": values[0], "toy/ppo_ptx": one.usual(lab)}.get(folder, folder.split("-")[-1])
        return f"{order.get(f'{own}', 0)}"

    lab = Lab("somewhere")
    f = one.measure(Canned(records_of("story"), say))
    assert means_of(f, "loss: first above the start", "loss: last above the start") == [1.0, 0.6]
    assert means_of(f, "benchmarks: first minus the start's", "benchmarks: last minus the start's") == [-0.9, -0.5]
    assert means_of(f, "RM score: last minus the recipe's", "RM score: last minus the start's") == [2, 4]
    assert values.index(one.usual(lab)) == 2 and f["KL of the last ten iterations, nats"] == [2.0] * len(values)
    assert means_of(f, "benchmarks: last minus first") == [0.4]
    assert means_of(f, "loss above the start: last minus half of the recipe's") == [0.2]  # 0.6 and 0.8


def test_kinds_seen_are_compared_with_none_and_with_one_and_sizes_by_their_gains():
    """Of 16 prompts each model does as many as stand here."""
    does = {"toy/gpt": 2, "toy-tuned-on-1": 4, "toy-tuned-on-3": 5, "toy-tuned-on-7": 6, "toy-tuned-on-14": 12}
    does |= {"nano/gpt": 1, "nano-tuned-on-14": 3} | {f"nano-tuned-on-{n}": 2 for n in (1, 3, 7)}
    records = records_of("rename", each=16)

    def say(folder, record, prefix):
        return "follows" if int(record["content"].split("/")[1]) < does.get(folder, 16) else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_module, "judge_all", judge_all)
        patch.setattr(Canned, "draw_prompts", lambda self, kinds, n, purpose: records)
        patch.setattr(Canned, "records", lambda self, name, kind: [{}] * 20)
        lab = Canned(records, say)
        f = tasks.InstructionTuning().measure(lab)
    shares = [[round(16 * figure["mean"]) for figure in f[size]] for size in ("nano", "toy")]
    assert shares == [[1, 2, 2, 2, 3], [2, 4, 5, 6, 12]] and f["kinds"] == [0, 1, 3, 7, 14]
    names = ("most kinds minus none", "most kinds minus one", "most minus none, larger minus smaller")
    assert means_of(f, *names) == [10 / 16, 8 / 16, 8 / 16]
    for count in (1, 3, 7, 14):
        assert lab.trained[f"toy-tuned-on-{count}"][1] == ("toy/gpt",)


def test_what_rl_forgets_is_counted_from_its_own_start(monkeypatch):
    loss = {"start without": 1.5, "start with": 1.1, "ppo without": 1.6, "ppo with": 1.4}
    monkeypatch.setattr(
        Canned, "losses", lambda self, folders: losses_of({name: loss[name] for name in folders}), False
    )
    monkeypatch.setattr(tasks, "utilities", lambda records, texts: np.array([number(t) for t in texts]))
    lab = Canned(records_of("story"), lambda folder, *_: {"toy/ppo": "3"}.get(folder, "1"))
    f = tasks.PretrainingMixInSft().measure(lab)
    assert means_of(f, tasks.PretrainingMixInSft.forgets, "loss: ppo with minus ppo without") == [0.2, -0.2]
    assert means_of(f, "true utility: ppo with minus ppo without") == [2]
    assert lab.trained["rl_start-without"][2]["epochs"] == lab.recipe("rl_start")["epochs"]


def test_public_tasks_win_against_sft(monkeypatch):
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: [{}] * 12)
    worth = {"toy/sft": 2, "t0": 3, "toy/ppo_ptx": 4}

    def say(folder, record, prefix):
        own = {"closed_qa": 3, "tovish": 2}.get(record["kind"], 1) if folder == "flan" else worth.get(folder, 0)
        return f"{own}"

    f = tasks.PublicTasks().measure(Canned(records_of("story", "closed_qa", "tovish"), say))
    assert means_of(f, *(f"wins against SFT: {name}" for name in ("flan", "t0", "ppo_ptx"))) == [0.5, 1, 1]
    own = "wins against SFT, on its own kinds"  # tovish is none of T0's
    assert means_of(f, f"{own}: flan", f"{own}: t0") == [0.75, 1] and f[f"{own}: t0"]["n"] == 4


# --- reward models ---------------------------------------------------------------------------------------------------


def ranking(ranks, i=0, **more):
    return {"prompt": f"p{i}\n", "responses": [f"{j}" for j in range(len(ranks))], "ranks": list(ranks),
            "content": f"c{i}", "kind": "story", "labeler": town.TRAINING_LABELERS[0].name} | more  # fmt: skip


@pytest.fixture
def scored(monkeypatch):
    """Reward models in folders of which `right` is true score as the labeler ranked, and the others the other way."""
    right = []

    def scores_of_rankings(folder, rankings):
        return [[(-1.0 if folder in right else 1.0) * rank for rank in r["ranks"]] for r in rankings]

    monkeypatch.setattr("lab.evaluation.scores_of_rankings", scores_of_rankings)
    monkeypatch.setattr(rewards, "scores_of_rankings", scores_of_rankings)
    rankings = [ranking(ranks, i) for i, ranks in enumerate([(1, 2, 3, 4), (4, 3, 2, 1), (1, 1, 2, 3), (2, 1, 3, 4)])]
    monkeypatch.setattr(Canned, "rankings", lambda self, name="rankings": rankings)
    return right


def test_shuffled_comparisons_take_as_many_steps(scored, monkeypatch):
    """Held-out rankings are made again by labelers of the training group."""
    scored.append("rm-together")
    groups = []
    monkeypatch.setattr(rewards, "rank_again", lambda rankings, who, rng: groups.append(who) or [
        r | {"ranks": [1, 2, 3, 4]} for r in rankings])  # fmt: skip

    def scores_of_rankings(folder, rankings):
        """One likes the first response best, the others the last, whatever the ranks are."""
        return [[j * (-1.0 if folder == "rm-together" else 1.0) for j in range(4)] for _ in rankings]

    monkeypatch.setattr("lab.evaluation.scores_of_rankings", scores_of_rankings)
    monkeypatch.setattr(rewards, "scores_of_rankings", scores_of_rankings)
    lab = Canned(records_of("story"), lambda *_: "")
    f = rewards.ComparisonsTogether().measure(lab)
    assert [len(rows) for rows in lab.written.values()] == [3, 18]  # the one with a tie is left out; six pairs each
    size = lab.recipe("rm")["batch_size"]
    assert [stage[2].get("batch_size", size) for stage in lab.trained.values()] == [size, 6 * size, size]
    assert means_of(f, "accuracy: together", "accuracy: shuffled", "accuracy: shuffled minus together") == [1, 0, -1]
    right, wrong = (np.mean([math.log(1 + math.exp(-sign * (b - a))) for a in range(4) for b in range(a + 1, 4)])
                    for sign in (1, -1))  # fmt: skip
    losses = [
        f[f"loss on held-out rankings: {way}"]["mean"] for way in ("together", "shuffled", "shuffled minus together")
    ]
    assert losses == pytest.approx([right, wrong, wrong - right])
    assert f["loss on its own rankings: together"]["mean"] > right + 0.1  # two of the three are another way round
    assert groups == [town.TRAINING_LABELERS]
    for row in lab.written["rankings-shuffled"]:
        assert row["ranks"] == [1, 2] and len(row["responses"]) == 2


def test_ratings_and_rankings_are_of_one_labeler_with_the_same_errors(scored, monkeypatch):
    feelings = {"0": 0.9, "1": 0.1, "2": -1.5, "3": 0.25}
    monkeypatch.setattr(town, "felt", lambda r, responses, labeler, rng: [feelings[text] for text in responses])
    monkeypatch.setattr(town, "rank", lambda r, responses, labeler, rng: {"ranks": [1, 3, 4, 2]})
    rated, ranked = rewards.rate_and_rank(ranking((1, 2, 3, 4)), None, 4.0, 1.0, random.Random(0))
    assert rated == [1, 2, 3, 2] and ranked == [1, 3, 4, 2]  # 5, 4, 2 (2.5 is even), 4: best first
    scored.append("rm-ranked")
    f = rewards.RatingsOrComparisons().measure(Canned(records_of("story"), lambda *_: ""))
    assert means_of(f, "rankings", "ratings", "rankings minus ratings") == [1, 0, 1]
    assert (f["untied pairs: rankings"], f["untied pairs: ratings"]) == (4 * 6, 4 * 5)


def test_both_ways_to_tell_an_order_see_the_same_errors():
    """A labeler who gives the best or the worst mark gives the best to what he or she felt to be above 0."""
    record, labeler = town.prompts("train", 1, 0)[0] | {"responses": list("abcdef")}, town.TRAINING_LABELERS[0]
    rated, ranked = rewards.rate_and_rank(record, labeler, 4.0, 1000.0, random.Random(3))
    values = town.felt(record, record["responses"], labeler, random.Random(3))
    assert rated == [1 if value > 0 else 2 for value in values] and len(set(rated)) == 2
    assert max(ranked[i] for i in range(6) if rated[i] == 1) <= min(ranked[i] for i in range(6) if rated[i] == 2)


def test_scaling_compares_all_rankings_with_an_eighth_and_larger_with_smaller(scored):
    scored.extend(["toy/rm", "rm-medium"])
    f = rewards.RewardModelScaling().measure(Canned(records_of("story"), lambda *_: ""))
    assert means_of(f, *rewards.RewardModelScaling.differences) == [1, 1, 1]
    assert [value["mean"] for value in f["by share"]] == [0, 0, 0, 1]


# --- optimizing ------------------------------------------------------------------------------------------------------


def test_best_of_n_from_a_pool_is_the_mean_over_all_draws():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    for values in (proxy, gold):
        found = overoptimization.expect_best(proxy, values, (1, 2, 3, 5))
        for j, n in enumerate((1, 2, 3, 5)):
            for row in range(3):
                best = [max(drawn, key=lambda i: proxy[row, i]) for drawn in itertools.combinations(range(5), n)]
                assert found[row, j] == pytest.approx(np.mean([values[row, i] for i in best]))


@pytest.mark.parametrize("form", [overoptimization.log_form, overoptimization.square_form])
def test_a_fit_finds_the_law_that_made_the_points(form):
    d = np.linspace(0.0, 4, 12)
    minus = d * np.log(np.maximum(d, 1e-12)) if form is overoptimization.log_form else d * d
    gold, other = 0.2 + 1.5 * d - 0.7 * minus, (0.2 + 1.5 * d - 0.3 * minus)[:6]
    found = overoptimization.fit({"x": list(zip(d, gold)), "y": list(zip(d, other))}, form)
    assert means_of(found, "start", "a", "x: b", "y: b", "x minus y", "R squared") == [0.2, 1.5, 0.7, 0.3, 0.4, 1]
    noisy = list(zip(d, gold + np.random.default_rng(0).normal(0, 0.1, 12)))
    found = overoptimization.fit({"x": noisy}, form)
    assert found["x: b"]["low"] < 0.7 < found["x: b"]["high"] and found["R squared"]["mean"] < 1
    law = 0.2 + 3 - 0.7 * (2 * math.log(2) if form is overoptimization.log_form else 4)
    assert overoptimization.predict(0.2, 1.5, 0.7, 2.0, form) == pytest.approx(law)
    assert math.isnan(overoptimization.fit({"x": noisy[:3]}, form)["x: b"]["mean"])  # three points, three numbers


def test_the_interval_of_a_fit_holds_the_truth_19_times_in_20():
    rng, d, held = np.random.default_rng(0), np.linspace(1, 4, 4), 0
    for _ in range(400):
        curves = {
            name: list(zip(d, 0.2 + d - b * overoptimization.log_form(d) + rng.normal(0, 0.1, 4)))
            for name, b in (("x", 0.4), ("y", 0.1))
        }
        found = overoptimization.fit(curves, overoptimization.log_form)["x minus y"]
        held += found["low"] <= 0.3 <= found["high"]
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_a_curve_is_read_between_its_points_and_not_beyond_them():
    figures = [{"mean": m, "low": m - 0.3, "high": m + 0.3} for m in (1.0, 2.0, 4.0)]
    assert overoptimization.at(1.25, [0.5, 1.0, 1.5], figures)["mean"] == 3
    assert overoptimization.at(1.25, [1.5, 0.5, 1.0], figures)["mean"] == pytest.approx(2.5)  # 4 at 1.0, 1 at 1.5
    for d, figure in zip((0.5, 1.0, 1.5), figures):
        assert overoptimization.at(d, [0.5, 1.0, 1.5], figures) == pytest.approx(figure)
    both = overoptimization.at(0.75, [0.5, 1.0, 1.5], figures)
    assert both["mean"] - both["low"] == pytest.approx(math.hypot(0.15, 0.15))
    for d in (0.4, 1.6):
        assert math.isnan(overoptimization.at(d, [0.5, 1.0, 1.5], figures)["mean"])


def episodes(kl, gold):
    """A run whose KL rises evenly from 0."""
    kl = np.linspace(0, kl, 100 * overoptimization.PARTS)
    about = np.array([f"{i % 50}" for i in range(len(kl))])
    return list(range(len(kl))), {
        "kl": kl,
        "proxy": np.linspace(0, 1, len(kl)),
        "gold": gold(np.sqrt(kl)),
        "about": about,
    }


def test_a_policy_that_overoptimizes_ends_below_its_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(overoptimization, "episodes", lambda lab, folder: episodes(16, lambda d: d * (1 - 0.2 * d)))
    monkeypatch.setattr(overoptimization, "film", lambda *_: [])
    monkeypatch.setattr(overoptimization, "felt_in_training", lambda lab, rows: np.array([float(r) for r in rows]))
    monkeypatch.setattr(
        overoptimization, "best_of", lambda lab, records, n, *_: (None, np.ones((4, n)), np.ones((1, 4, n)))
    )
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: records_of("story"))
    f = overoptimization.Overoptimization().measure(Canned(records_of("story"), lambda *_: ""))
    peak, end = 2.5 * 0.5, 4 * 0.2
    assert f["gold: end minus peak"]["mean"] == pytest.approx(end - peak, abs=0.1)
    assert f["proxy: end minus peak"]["mean"] > 0.3
    assert f["gold by training labelers: end minus peak"]["mean"] in (500, 600)  # the parts of 100 episodes are these


def test_a_peak_is_measured_on_other_episodes_than_find_it(monkeypatch):
    def run(lab, folder):
        rows, values = episodes(16, lambda d: 0 * d)
        values["gold"][300:400:2] = 5.0  # luck
        return rows, values

    monkeypatch.setattr(overoptimization, "episodes", run)
    monkeypatch.setattr(overoptimization, "film", lambda *_: [])
    monkeypatch.setattr(overoptimization, "felt_in_training", lambda lab, rows: np.zeros(len(rows)))
    monkeypatch.setattr(overoptimization, "best_of", lambda lab, r, n, *_: (None, np.ones((4, n)), np.ones((1, 4, n))))
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: records_of("story"))
    f = overoptimization.Overoptimization().measure(Canned(records_of("story"), lambda *_: ""))
    assert means_of(f, "gold: end minus peak") == [0]


def test_what_the_training_labelers_feel_is_their_mean_and_not_the_others():
    records = [r for r in town.prompts("test", 2000, 0) if r["kind"] == "myth"][:5]
    lab = SimpleNamespace(about={r["prompt"]: r for r in records})
    texts = [town.world.FACT[r["content"]].myth_statement for r in records]
    found = overoptimization.felt_in_training(
        lab, [{"prompt": r["prompt"], "response": t} for r, t in zip(records, texts)]
    )
    wanted = [sum(one.utility(town.judge(r, t, one.beliefs), t) for one in town.TRAINING_LABELERS) / 30
              for r, t in zip(records, texts)]  # fmt: skip
    assert found == pytest.approx(wanted)


@pytest.fixture
def law(monkeypatch, scored):
    """law(curves) measures the law's finding where {folder: (the run's last KL, d -> gold)}."""
    monkeypatch.setattr(overoptimization, "best_of", lambda lab, records, n, models: (
        None, np.tile(np.arange(n) / n, (4, 1)), np.tile(np.arange(n), (len(models), 4, 1))))  # fmt: skip
    monkeypatch.setattr(overoptimization, "measure_accuracy", lambda lab, folders: ({}, {}))
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: records_of("story"))

    def measure(curves):
        monkeypatch.setattr(overoptimization, "episodes", lambda lab, folder: episodes(*curves[folder]))
        lab = Canned(records_of("story"), lambda *_: "")
        return overoptimization.OveroptimizationLaw().measure(lab), lab

    return measure


LAW_RUNS = ("ppo-kl-0.01", "ppo-half", "ppo-an-eighth", "ppo-nano-all-rankings")
LESS = [f"RL: b, all rankings minus {name}" for name in overoptimization.OveroptimizationLaw.models[1:]]


def test_the_law_compares_each_reward_model_with_that_of_all_rankings(law):
    def falls(b):
        return lambda d: d * (1 - b * np.log(np.maximum(d, 1e-9)))

    curves = {folder: (16, falls(b)) for folder, b in zip(LAW_RUNS, (0.1, 0.2, 0.4, 0.3))}
    late = 2 * math.sqrt(0.8)  # d where the last fifth of the run with beta 0.3 begins
    f, lab = law(curves | {"ppo-kl-0.3": (4, lambda d: falls(0.1)(d) + 0.2 * (d >= late) - 9 * (d < late))})
    assert f["RL, all rankings: b"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert [f[name]["mean"] for name in LESS] == pytest.approx([-0.1, -0.3, -0.2], abs=0.02)
    assert f["RL, all rankings: R squared, minus the other form's"]["mean"] > 0
    assert f["beta 0.3 minus stopping early"]["mean"] == pytest.approx(0.2, abs=0.03)
    assert f["the d that all reach"]["mean"] == pytest.approx(4, abs=0.1)
    points = [(d, falls(0.1)(d)) for d in f["all rankings: distance"] if d >= 1]
    both = [overoptimization.fit({"": points}, form)["R squared"]["mean"]
            for form in (overoptimization.log_form, overoptimization.square_form)]  # fmt: skip
    assert means_of(f, "RL, all rankings: R squared, minus the other form's") == pytest.approx(
        [both[0] - both[1]], abs=1e-3
    )
    assert f["all rankings: peak minus start"]["mean"] == pytest.approx(3.41 - 0.63, abs=0.05)
    of = {name: lab.trained[name][2].get("reward_model") for name in LAW_RUNS[1:]}
    assert of == dict(zip(LAW_RUNS[1:], ("rm-share-0.5", "rm-share-0.125", "rm-nano-all")))
    assert [lab.trained[rm][2]["data"] for rm in of.values()] == [
        "rankings-0.5",
        "rankings-0.125",
        lab.file("rankings"),
    ]
    assert [lab.trained[rm][1][0] for rm in of.values()] == ["toy/sft"] * 2 + [f"{lab.out}/nano/sft_epochs"]
    assert [len(lab.written[f"rankings-{share}"]) for share in (0.5, 0.125)] == [2, 1]
    assert lab.trained["ppo-nano-all-rankings"][2]["value_lr"] == lab.recipe("ppo", "nano")["value_lr"]
    assert [lab.trained[name][2]["kl_coef"] for name in LAW_RUNS] == [overoptimization.LEAST] * 4


@pytest.mark.parametrize("curve", [lambda d: d * (1 - 0.15 * d), lambda d: np.sin(d / 2), lambda d: np.minimum(d, 2)])
def test_runs_on_one_curve_have_one_b_however_far_they_go(law, curve):
    """Also where the curve is not the law's: alone, the fit's b of a longer run is another."""
    curves = {folder: (kl, curve) for folder, kl in zip(LAW_RUNS, (25, 16, 9, 12))}
    f, _ = law(curves | {"ppo-kl-0.3": (4, curve)})
    assert [f[name]["mean"] for name in LESS] == pytest.approx([0, 0, 0], abs=0.01)
    assert f["beta 0.3 minus stopping early"]["mean"] == pytest.approx(0, abs=0.05)
    own = []
    for kl in (25, 9):
        _, values = episodes(kl, curve)
        cut, distance = overoptimization.parts(values, 20)
        own.append(
            overoptimization.fit({"": list(zip(distance, map(np.mean, cut["gold"])))}, overoptimization.log_form)
        )
    assert abs(own[0][": b"]["mean"] - own[1][": b"]["mean"]) > 0.03


def test_larger_reward_models_are_compared_by_the_true_worth_of_their_choice(monkeypatch, scored):
    def best_of(lab, records, n, models):
        assert models == ["rm-nano", "rm-share-0.5", "rm-medium"] and records == lab.test
        gold = np.tile(np.arange(float(n)), (len(records), 1))
        return None, gold, np.stack([-gold, gold, gold])

    monkeypatch.setattr(overoptimization, "best_of", best_of)
    f = overoptimization.OveroptimizationBySize().measure(Canned(records_of("story"), lambda *_: ""))
    assert means_of(f, "gold at 32: medium minus nano") == [31]
    assert means_of({f"{i}": value for i, value in enumerate(f["nano: gold"])}, "0", "5") == [15.5, 0]


def test_a_second_round_is_compared_with_more_of_the_first(monkeypatch, spelled):
    monkeypatch.setattr(Canned, "records", lambda self, name, kind: records_of("story"))
    monkeypatch.setattr(optimization, "rank_answers", lambda *_: [])
    monkeypatch.setattr(optimization, "utilities", lambda records, texts: np.array([number(t) for t in texts]))
    worth = {"toy/ppo_ptx": 1, "ppo_ptx-second": 4, "ppo_ptx-twice": 2, "toy/sft": 0}
    lab = Canned(records_of("story"), lambda folder, *_: f"{worth.get(folder, 0)}")
    f = optimization.Iterate().measure(lab)
    assert means_of(f, *(figure for _, figure, _ in optimization.Iterate.hypotheses)) == [3, 2]
    assert lab.trained["ppo_ptx-second"][2]["reward_model"] == "rm-second"
    assert lab.trained["ppo_ptx-twice"][2]["reward_model"] == "toy/rm"


def test_best_of_16_is_the_answer_with_the_highest_score(monkeypatch):
    records = records_of("story")
    texts = [[f"{j}" for j in range(16)] for _ in records]
    monkeypatch.setattr(
        optimization, "best_of", lambda lab, records, n: (texts, None, np.tile(np.arange(16)[::-1], (1, 4, 1)))
    )
    monkeypatch.setattr(optimization, "utilities", lambda records, texts: np.array([number(t) for t in texts]))
    monkeypatch.setattr(optimization, "at_once", lambda *calls: [np.arange(4.0) for _ in calls])
    monkeypatch.setattr(optimization, "seconds", lambda folder: 1)
    monkeypatch.setattr(Canned, "losses", lambda self, folders: losses_of(dict.fromkeys(folders, 1.0)), False)
    worth = {"toy/ppo": 3, "toy/ppo_ptx": 4, "dpo": 1, "toy/rl_start": 1.5}
    f = optimization.Alternatives().measure(Canned(records, lambda folder, *_: f"{worth.get(folder, 2)}"))
    names = ("best of 16", "DPO", "rl_start", "ppo", "ppo_ptx")
    assert means_of(f, *(f"true utility: {name}" for name in names)) == [0, 1, 1.5, 3, 4]
    assert means_of(f, *(f"wins against SFT: {name}" for name in names)) == [0, 0, 0, 1, 1]


def test_dialogues_answers_are_right_if_they_follow_keep_to_constraints_and_are_not_false(monkeypatch):
    monkeypatch.setattr(lab_module, "judge_all", judge_all)
    texts = {"a": ["follows satisfies", "follows satisfies false", "follows", "satisfies"]}
    assert dialogue.right(texts, records_of("story"))["a"].tolist() == [1, 0, 0, 0]
