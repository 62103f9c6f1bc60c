"""Signs of a run's health, and the diseases that they make: each by hand, and each row of the table once alone."""

import functools
import json

import numpy as np
import pytest

from health import EOS, FALL, FLAGS, HEALTHY, SHOWN, N, T, bands, gpt, losses, ppo, ppo_rows, rm, sft, token_rows  # noqa: F401
from minirlhf.support import diagnosis, signs
from minirlhf.support.errors import InputError
from minirlhf.support.files import write_lines
from minirlhf.support.logs import Log, read_log, vocabulary
from minirlhf.support.tokenizer import Tokenizer, train_bpe

# --- signs by hand ---------------------------------------------------------------------------------------------------

TWO = {"tokens": ["a", EOS, "pad"]}
SEVERAL = {"prompt": "same\n", "score": lambda i, row: 0.5 * (i == 3)}
STALE = {"ratio": lambda i, row: [1.0, 1.0, 1.1 if row["step"] % 2 else 1.0]}
ONE = FLAGS | {"batch_size": 16, "minibatch_size": 16}  # all are learned at once, so each ratio is 1
FAR = {"logp": lambda i, row: [row["ref_logp"][0] + (-1.0) ** i, *row["ref_logp"][1:]]}
PRICEY = {"logp": lambda i, row: [row["ref_logp"][0] + 9 * (-1.0) ** i * (row["step"] > 30), *row["ref_logp"][1:]]}
STEPS = np.arange(400)
ODD = np.where(np.arange(N) % 2, 0.1, -0.1)
NARROW = {"ref_logp": lambda i, row: row["logp"][:-1] + [row["logp"][-1] + 1e-3]}  # rounding, as in bfloat16
TURNED = {"value": lambda i, row: [0.0, -row["score"]]}


def scores(score, value=None):
    """Scores, and the value network's predictions, by what a row has before: 1 and -1 in turn."""
    own = {"score": lambda i, row: score(row)}
    return own | ({"value": lambda i, row: [value(row)] * len(row["ids"])} if value else {})


def length_of(row, by=1.0):
    return by * len(row["ids"])


LONGER, SHORTER = (scores(*[functools.partial(length_of, by=by)] * 2) for by in (1.0, -1.0))
ADDED, TAKEN = ({"score": lambda i, row, by=by: length_of(row, by) + 0.5 * (-1) ** (i // 4)} for by in (1, -1))


@pytest.mark.parametrize(("name", "log", "value"), [
    ("not_finite", ppo(score=np.where(T > 0.9, np.nan, T), kl=np.where(T > 0.9, -np.inf, T)), 8),
    ("not_finite", ppo(), 0),
    ("first_kl_per_token", ppo(kl=-0.3), 0.03),
    ("first_kl_per_token", Log(ppo_rows(kl=0.3)), None),  # another project's, which may be a mean of several
    ("first_kl_per_token", Log(ppo_rows(kl=0.3)[1:], flags=FLAGS), None),  # its beginning is lost
    ("first_ratios", ppo(flags=dict(inner_epochs=1)), None),  # the sizes of batches are not known
    ("first_ratios", ppo(STALE, ONE), 0.5),
    ("first_ratios", ppo(STALE), 20 / (40 * (1 - 0.75**8))),  # a quarter is learned first; eight answers are shown
    ("first_ratios", ppo({"ratio": None}), None),
    ("first_ratios", ppo(flags=FLAGS | {"inner_epochs": 2}), None),
    ("first_ratios", ppo(NARROW | {"ratio": [1.004, 1.0]}, ONE), 1.0),
    ("first_ratios", ppo(NARROW | {"ratio": [1.006, 1.0]}, ONE), 0.0),
    ("own_answers", ppo(kl3=2 * T / (1 - ODD)), 1 / (19 - 1 / 19) ** 0.5),  # of the first the KL is 0
    ("own_answers", ppo(kl3=2 * T / (0.9 - ODD)), (0.1 + 0.1 / 19) / (0.1 * (1 - 1 / 19**2) ** 0.5) * 19**0.5),
    ("own_answers", ppo(kl=5.0, kl3=6.0 + ODD), None),
    ("own_answers", ppo(kl3=2 * T / (0.9 - ODD)).upto(10), None),  # too few to say
    ("own_answers", ppo(), None),  # an older log
    ("first_agreement", ppo(), 1.0),
    ("first_agreement", ppo(scores(lambda row: 5 * length_of(row) - row["score"])), -1.0),
    ("first_agreement", ppo().upto(1), None),  # too few to say
    ("first_agreement", ppo(TURNED), -1.0),
    ("first_agreement", ppo(flags=FLAGS | {"reward_model": None}), None),  # the value network starts as something else
    ("first_spread", ppo(), 1.0),
    ("first_spread", ppo(scores(lambda row: 3 * row["score"] + length_of(row))), 3.0),
    ("first_spread", ppo(scores(lambda row: row["score"], lambda row: 0.5)), None),
    ("first_spread", ppo().upto(1), None),  # too few to say
    ("first_spread", ppo(flags=FLAGS | {"reward_model": None}), None),
    ("score_per_token", ppo(), 0.0),
    ("score_per_token", ppo(ADDED), 1.0),
    ("score_per_token", ppo(scores(lambda row: 0.2 * length_of(row) + 3 * row["score"])), 0.2),
    ("score_per_token", ppo(ADDED | {"tokens": lambda i, row: row["tokens"] if i % 2 else ["a"]}), None),  # cut off
    ("score_per_token", ppo(scores(length_of, length_of)), None),  # equal values are of equal length
    ("score_per_token", ppo(ADDED).upto(1), None),  # too few to say
    ("score_per_token", ppo(ADDED, FLAGS | {"reward_model": None}), None),
    ("score_length", ppo(), 0.0),
    ("score_length", ppo(LONGER), 1.0),
    ("wrong_rewards", ppo(), 0.0),
    ("wrong_rewards", ppo(flags=FLAGS | {"kl_coef": -0.5}), -np.log(0.8)),  # a KL, times the difference of two betas
    ("wrong_rewards", Log(ppo_rows(), [row | {"score": 3.0} for row in ppo().tokens], FLAGS), 4.0),
    ("wrong_rewards", ppo(flags={}), None),  # beta is not known
    ("after_the_end", ppo(TWO), 1),
    ("after_the_end", ppo({"tokens": ["a", "b", "c"]}), None),  # cut off
    ("unequal_scores", ppo(SEVERAL), 0.5),
    ("unequal_scores", ppo(), None),  # no answer comes twice
    ("share_of_start", ppo(), 0.9**160),
    ("score_size", ppo(), 1.0),
    ("score_size", ppo({"score": lambda i, row: (-1.0) ** i * (3.0 if row["step"] > 4 else 2.0)}), 2.0),
    ("kl_penalty", ppo(FAR), 0.5),
    ("kl_penalty", ppo(FAR | {"score": 1.0}), None),
    ("kl_per_token", ppo(kl=6.0, response_length=12.0), 0.5),
    ("clipped_at_first", ppo(clip_fraction=np.arange(N) / 100), 0.09),
    ("clipped_at_first", ppo(flags=FLAGS | {"inner_epochs": 4}), None),  # in later epochs many are clipped
    ("explained", ppo(explained_variance=0.3), 0.3),
    ("ended_ratio", ppo(ended=np.where(np.arange(N) < 3, 0.8, 0.6)), 0.75),
    ("length_ratio", ppo(response_length=np.where(np.arange(N), 5.0, 10.0)), 0.5),
    ("entropy_ratio", ppo(entropy=np.where(np.arange(N), 0.1, 0.4)), 0.25),
    ("ptx_fall", ppo(ptx_loss=np.where(np.arange(N) < 3, 2.0, 1.5)), 0.5),
    ("ptx_fall", ppo(), None),
    ("loss_end", sft(np.where(STEPS < 1, 4.0, 1.0)), 0.25),
    ("loss_peak", Log(sft().rows, flags={"batch_size": 4}), None),  # of so few records the first loss is chance
    ("loss_peak", sft(np.where(STEPS // 10 == 4, 3.0, 2.0)), 1.5),
    ("late_fall", sft(np.where(STEPS < 320, 3.0, 2.0)), 1.5),
    ("late_fall", sft(np.where((STEPS >= 160) & (STEPS < 240), 4.0, 2.0)), 2.0),
    ("slowness", sft(np.linspace(2, 1, 400)), 0.75),
    ("slowness", sft(np.linspace(1, 2, 400)), 1.0),
    ("first_gap", sft(1.0 + 0 * FALL, {99: 5.0, 199: 1.25, 399: 2.0}), 0.2),
    ("first_gap", sft(np.where(STEPS < 150, 1.0, 1.5), {199: 2.0}), 0.25),
    ("first_gap", sft(validation_loss={}), None),
    ("validation_rise", sft(validation_loss={100: 2.0, 200: 1.0, 399: 1.5}), 0.5),
    ("learned", rm(accuracy=0.6), 0.1 / (0.1 / 400**0.5)),
    ("learned", rm(accuracy=0.6).upto(200), 0.1 / (0.1 / 200**0.5)),
    ("learned", rm(accuracy=0.6).upto(199), None),
    ("gradient", rm(accuracy=np.where(STEPS < 100, 0.9, 0.5)), 10.0),
    ("gradient", rm(accuracy=0.6, grad_norm=np.where(STEPS < 320, 9.0, 0.5)), 5.0),
    ("gradient", rm(accuracy=0.4), None),
    ("gradient", rm(accuracy=0.6).upto(99), None),
    ("gradient", Log(losses(FALL, accuracy={i: 0.6 for i in range(400)})), None),  # norms are not logged
    ("pairs_gap", rm(accuracy=0.9, validation=0.6), 0.3),
    ("pairs_gap", Log(losses(FALL, validation_accuracy={399: 0.6})), None),  # without accuracy
    ("pairs_right", rm(validation=0.4), 0.4),
    ("pairs_right", Log(losses(FALL, validation_accuracy={399: 0.6}, validation_pairs={399: 400})), 0.6),
    ("pairs_right", Log(losses(FALL, validation_accuracy={399: 0.6}, validation_pairs={399: 399})), None),
    ("pairs_wrong", rm(validation=0.4), 0.6),
    ("pairs_wrong", rm().upto(9), None),
])  # fmt: skip
def test_a_sign_by_hand(name, log, value):
    found = getattr(signs, name)(log)
    near = 0.026 if name == "slowness" else 1e-9  # its parts are of ten steps
    assert found is None if value is None else found == pytest.approx(value, abs=near)


def test_a_ratio_to_nothing_is_no_sign():
    nothing = rm(0 * FALL, 0.5, 0.5)
    assert {getattr(signs, name)(nothing) for name in ("loss_peak", "loss_end", "late_fall")} == {None}
    assert {getattr(signs, name)(sft(validation_loss={399: 0.0})) for name in ("first_gap", "validation_rise")} == {
        None
    }
    assert signs.kl_per_token(ppo(response_length=0.0)) is None and signs.length_ratio(ppo(response_length=0.0)) is None


def test_curves_that_are_too_short_have_no_sign():
    for name in ("loss_peak", "loss_end", "slowness", "learned", "gradient"):
        assert getattr(signs, name)(Log([{"step": 0, "loss": 1.0, "accuracy": 0.5, "grad_norm": 1.0}])) is None
    assert signs.kl_per_token(Log([{"step": 0, "kl": 1.0}])) is None  # without lengths


# --- diseases --------------------------------------------------------------------------------------------------------

AS_BEFORE = {"ref_logp": lambda i, row: list(row["logp"])}  # the penalty is 0
SICK = [  # disease, kind, a log that has it
    ("it has diverged", "other", Log([{"step": i, "loss": np.nan} for i in range(400)], flags={"beta": 0.1})),
    ("padding is not masked", "ppo", ppo(TWO)),
    ("sampling and learning differ", "ppo", ppo(kl=1 + T)),
    ("answers come from an older policy", "ppo", ppo({"ratio": [1.0, 1.1, 1.0]})),
    ("rewards are wrong", "ppo", ppo(flags=FLAGS | {"kl_coef": 0.3})),
    ("the same answer has several scores", "ppo", ppo({"prompt": "x"})),
    ("scores have the wrong sign", "ppo", ppo(TURNED)),
    ("the EMA decay is too high", "ppo", ppo(flags=FLAGS | {"ema_decay": 0.999})),
    ("the score rises with length", "ppo", ppo(ADDED)),
    ("the score falls with length", "ppo", ppo(TAKEN)),
    ("scores are too large", "ppo", ppo(scores(lambda row: row["score"], lambda row: 0.1 * row["score"]))),
    ("scores hardly differ", "ppo", ppo(scores(lambda row: row["score"], lambda row: 9 * row["score"]))),
    ("scores are too large", "ppo", ppo(scores(*[lambda row: 9 * row["score"]] * 2))),
    ("scores hardly differ", "ppo", ppo(scores(*[lambda row: 0.1 * row["score"]] * 2))),
    ("answers are not sampled from the policy", "ppo", ppo(kl3=2 * T / (0.8 - ODD))),
    ("the score rises with length", "ppo", ppo(LONGER, response_length=10 + 8 * T, kl=4 * T)),
    ("the score falls with length", "ppo", ppo(SHORTER, response_length=10 - 8 * T, kl=0.4 * T)),
    ("the learning rate is too high", "ppo", ppo(clip_fraction=0.3)),
    ("the pretraining weight (gamma) is too large", "ppo_ptx", ppo(ptx_loss=1.3 - 0.6 * T, ended=1 - 0.5 * T)),
    ("beta is too large", "ppo", ppo(PRICEY)),
    ("beta is too small", "ppo", ppo(AS_BEFORE, kl=30 * T, entropy=0.4 - 0.39 * T)),
    ("the entropy collapses", "ppo", ppo(kl=30 * T, entropy=0.4 - 0.39 * T)),
    ("beta is too small", "ppo", ppo(kl=30 * T)),
    ("the value network does not learn", "ppo", ppo(explained_variance=0.0)),
    ("the learning rate is too low", "ppo", ppo(kl=0.0)),
    ("data are repeated", "gpt", gpt(validation_loss={199: 2.0, 399: 2.0})),
    ("it memorises its data", "sft", sft(validation_loss={199: 1.1, 399: 1.5})),
    ("the learning rate is too high", "sft", sft(FALL + np.where((STEPS > 0) & (STEPS < 40), 3, 0))),
    ("the learning rate is too low", "sft", sft(2 - 0.3 * np.linspace(0, 1, 400))),
    (
        "the learning rate is too high",
        "gpt",
        gpt(np.where(STEPS < 300, 1.15 + np.exp(-STEPS / 10), 1)),
    ),
    (
        "the learning rate is too high",
        "gpt",
        gpt(np.where(STEPS < 300, 1 + np.exp(-STEPS / 40), 1.2)),
    ),
    ("the learning rate is too low", "gpt", gpt(np.linspace(2, 1, 400))),
    ("the learning rate is too low", "rm", rm(accuracy=0.52, grad_norm=3.0)),
    ("it memorises its data", "rm", rm(accuracy=0.95)),
    ("it learns nothing", "rm", rm(accuracy=0.5, validation=0.6)),
    ("the rankings contradict the validation", "rm", rm(validation=0.3)),
    ("it learns nothing", "rm", rm(accuracy=0.6, validation=0.51)),
]


@pytest.mark.parametrize(("name", "kind", "log"), SICK, ids=[f"{kind}-{name}" for name, kind, _ in SICK])
def test_each_disease_is_found_and_by_its_own_row_alone(name, kind, log, monkeypatch):
    looks = diagnosis.looks(log)
    found = diagnosis.diagnose(looks)
    assert log.kind == kind and found.disease.name == name
    assert [sign.name for sign in found.evidence] == [*found.disease.needs]
    assert name not in [other.name for other in found.others]
    assert all(sign.side == found.disease.needs[sign.name] for sign in found.evidence)
    others = tuple(row for row in diagnosis.DISEASES if row is not found.disease)
    monkeypatch.setattr(diagnosis, "DISEASES", others)
    without = diagnosis.diagnose(looks).disease
    assert without is None or without.name != name


def test_every_row_of_the_table_has_such_a_log():
    found = [diagnosis.diagnose(diagnosis.looks(log)).disease for _, _, log in SICK]
    assert [row for row in diagnosis.DISEASES if row not in found] == []


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_run_has_no_sign_outside_from_beginning_to_end(kind):
    log = HEALTHY[kind]
    for part in range(1, 21):
        found = diagnosis.diagnose(diagnosis.looks(log.upto(max(1, len(log.rows) * part // 20))))
        assert found.disease is None and not found.also, part


def test_it_says_since_when_and_only_of_what_stays_outside():
    jump = np.where(np.arange(N) >= 20, 30.0, 2 * T)
    log = ppo(kl=jump)
    assert diagnosis.diagnose(diagnosis.looks(log)).disease.name == "beta is too small"
    assert 20 <= diagnosis.since(diagnosis.history(log, "kl_per_token")) <= 23
    rows = [(step, diagnosis.Sign("kl_per_token", value, 0, 1)) for step, value in enumerate((5, 0.5, 5, 6))]
    assert diagnosis.since(rows) == 2 and diagnosis.since(rows[2:]) == 2


def test_a_part_of_a_run_is_compared_with_the_same_part_of_healthy_runs():
    log = ppo()
    places = {n: diagnosis.place_of("ppo", n, N) for n in (4, 5, 9, 20, 40, 60)}
    assert places == {4: None, 5: 1.0, 9: 1.8, 20: 4.0, 40: 8.0, 60: 10.0}  # of 50 iterations
    assert [diagnosis.place_of("sft", n, 400) for n in (39, 40, 400)] == [None, 1.0, 10.0]  # of its own steps
    assert diagnosis.look(Log([{"step": 0, "loss": 1.0, "steps": 40}] * 8)).place == 2  # of those that are planned
    assert log.upto(4).steps == N and len(log.upto(4).tokens) == 4 * SHOWN
    slow = ppo(kl=np.minimum(2 * T, 0.5))  # as in a healthy run at first, and then no more
    said = [diagnosis.diagnose(diagnosis.looks(own)).disease for own in (slow.upto(10), slow)]
    assert not said[0] and said[1].name == "the learning rate is too low"


def test_between_two_tenths_the_band_is_between_theirs():
    own = {"ppo": {"kl_per_token": [[float(i), 2.0 * i] for i in range(9)] + [[None, None]]}}
    assert [diagnosis.band("kl_per_token", "ppo", place, own) for place in (1, 1.25, 8.5, 9)] == [
        (0, 0), (0.25, 0.5), (7.5, 15), (8, 16)]  # fmt: skip
    assert {diagnosis.band("kl_per_token", "ppo", place, own) for place in (None, 9.5, 10)} == {(None, None)}
    assert diagnosis.band("kl_per_token", "rm", 5, own) == (None, None)
    assert diagnosis.band("first_kl_per_token", "x", None)[1] == 2e-3


def test_a_bound_that_is_set_by_hand_holds_where_no_band_was_learned():
    log = rm(accuracy=0.76)  # 0.08 above the validation, where healthy runs are 0.02
    said = [diagnosis.diagnose(diagnosis.looks(log)).disease, diagnosis.diagnose(diagnosis.looks(log), {}).disease]
    assert said[0].name == "it memorises its data" and said[1] is None
    assert diagnosis.diagnose(diagnosis.looks(rm(accuracy=0.9)), {}).disease.name == "it memorises its data"


def test_too_early_it_says_so_and_not_that_a_run_is_healthy():
    for rows in (3, 9):
        early = ppo(kl=30 * T, entropy=0.4 - 0.39 * T).upto(rows)
        found = diagnosis.diagnose(diagnosis.looks(early))
        assert not found.disease and {"kl_per_token", "entropy_ratio"} <= {*found.unseen}
        assert diagnosis.line(early) is None
    assert diagnosis.diagnose(diagnosis.looks(ppo(kl=30 * T).upto(10))).disease.name == "beta is too small"
    assert [diagnosis.cuts(ppo().upto(rows)) for rows in (40, 12, 3)] == [[*range(5, 41, 5)], [2, 7, 12], [3]]


def test_a_curve_is_judged_by_two_looks_and_what_must_be_so_by_one():
    def said(*values, name="kl_per_token"):
        looks = [diagnosis.Look("ppo", 4.0 + i, {name: value}) for i, value in enumerate(values)]
        return [sign.name for sign in diagnosis.diagnose(looks).evidence]

    assert said(9.0, 9.0) == ["kl_per_token"]
    assert said(0.1, 9.0) == said(9.0, 0.1) == said(-9.0, 9.0) == said(None, 9.0) == said(9.0) == []
    assert said(9.0, name="first_kl_per_token") == said(0.0, 9.0, name="first_kl_per_token") == ["first_kl_per_token"]


def test_what_the_log_does_not_have_is_named_and_no_disease_comes_from_it():
    rows = [{"step": row["step"], "score": row["score"], "kl": 0.0} for row in ppo_rows()]
    found = diagnosis.diagnose(diagnosis.looks(Log(rows)))
    assert found.disease is None and {"explained", "wrong_rewards", "kl_penalty"} <= set(found.unseen)


def test_of_a_run_of_a_few_steps_only_what_must_be_so_is_looked_at():
    short = FLAGS | {"episodes": 3 * 16}
    for kl, name in ((0.0, None), (1.0, "sampling and learning differ")):
        found = diagnosis.diagnose(diagnosis.looks(Log(ppo_rows(kl=kl, entropy=9.0)[:3], flags=short)))
        assert (found.disease.name if found.disease else None) == name


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_and_a_broken_line_is_named(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", ppo_rows())
    assert read_log(tmp_path).kind == "ppo" and not read_log(tmp_path).flags  # an older run, without records
    write_lines(tmp_path / "tokens.jsonl", token_rows())
    (tmp_path / "config.json").write_text(json.dumps(FLAGS))
    log = read_log(tmp_path)
    assert log.steps == N and len(log.tokens) == N * SHOWN and len(log.upto(2).rows) == 2
    assert diagnosis.line(log) is None and "its tokenizer is not found" in diagnosis.healthy(diagnosis.looks(log))
    Tokenizer(train_bpe(["ab"] * 9, 258)).save(tmp_path)
    assert (
        diagnosis.line(read_log(tmp_path)) == "healthy, as far as the log shows, compared with small runs of the town"
    )
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "kl"')  # a kill
    assert len(read_log(tmp_path).rows) == N
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "kl": 1}\nnot JSON\n')
    with pytest.raises(InputError, match="metrics.jsonl:2"):
        read_log(tmp_path)


def test_only_numbers_of_a_row_are_read_and_token_records_are_whole(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 0, "loss": "n/a", "kl": None, "steps": "9", "score": 1.0}])
    assert read_log(tmp_path).rows == [{"step": 0, "score": 1.0}] and read_log(tmp_path).steps == 1
    write_lines(tmp_path / "tokens.jsonl", [{"step": 0, "score": 1.0}])
    with pytest.raises(InputError, match="tokens.jsonl: a row lacks a field"):
        read_log(tmp_path)


@pytest.mark.parametrize("log", [
    Log(losses(np.linspace(1, 60, 60), n=60)), Log(losses(FALL, n=90, accuracy=[0.5] * 90)),
    Log([{"step": i, "score": 1.0} for i in range(N)]), Log([{"step": i, "foo": 1.0} for i in range(N)]),
])  # fmt: skip
def test_a_run_of_which_no_curve_was_compared_is_not_called_healthy(log):
    looks = diagnosis.looks(log)
    assert diagnosis.diagnose(looks).disease is None and diagnosis.line(log) is None
    assert diagnosis.healthy(looks).endswith("judged: the log is too short, or lacks the columns")


def test_what_must_be_so_is_not_said_to_be_compared_with_the_town():
    exact, compared = ppo(kl=1 + T), (ppo(TURNED), ppo(kl=30 * T), rm(accuracy=0.95))
    tails = [diagnosis.line(log).partition(", ")[2] for log in (exact, *compared)]
    assert tails == ["", *["compared with small runs of the town"] * 3]


def test_kinds_are_told_by_columns():
    kinds = {kind: log.kind for kind, log in HEALTHY.items()}
    assert kinds == {kind: kind for kind in HEALTHY}
    grpo, dpo = Log(ppo_rows(), flags={"kl_coef": 0.1}), Log(sft().rows, flags={"beta": 0.1})
    assert grpo.kind == dpo.kind == "other" and Log(sft().rows, flags={"document_share": 0.1}).kind == "sft"
    assert diagnosis.healthy(diagnosis.looks(grpo)).startswith("nothing found, and no curve could be judged")
    assert diagnosis.line(grpo) is None


# --- other texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "alike"), [
    ("a b c ab cd xy", True), ("a b c ab xy yz", False), ("ab xy", True), ("a b", False), ("", False)])  # fmt: skip
def test_texts_are_like_the_towns_if_half_of_the_longer_tokens_are(tokens, alike):
    log = Log(ppo().rows, vocabulary={token.encode() for token in tokens.split()})
    assert diagnosis.is_alike(log) == diagnosis.is_alike(log.upto(3)) == alike == diagnosis.look(log).alike
    assert diagnosis.is_alike(ppo())  # it is not known


def test_a_run_of_other_texts_is_judged_by_what_needs_no_healthy_run():
    for sick, name in ((ppo(kl=1 + T), "sampling and learning differ"), (ppo(kl=30 * T), None), (ppo(TURNED), None)):
        sick.vocabulary = {b"xy"}
        looks = diagnosis.looks(sick)
        found = diagnosis.diagnose(looks).disease
        assert (found and found.name) == name
        assert "no curve could be judged" in diagnosis.healthy(looks)
        assert (diagnosis.line(sick) is None) == (name is None)


def test_the_vocabulary_is_that_of_the_run_or_of_the_model_that_it_began_with(tmp_path, monkeypatch):
    for folder, word in (("run", "ab"), ("begun", "cd")):
        Tokenizer(train_bpe([word] * 9, 258)).save(tmp_path / folder)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "run")  # which is no place to look at
    begun = str(tmp_path / "begun")
    for folder, flags, word in (
        ("run", {"policy": begun}, b"ab"), ("empty", {"policy": begun}, b"cd"), ("empty", {"tokenizer": "gpt2"}, None),
        ("empty", {"init": f"{begun}/model.pt"}, b"cd"), ("empty", {}, None),
        ("empty", {"init": "", "tokenizer": begun}, b"cd")):  # fmt: skip
        found = vocabulary(tmp_path / folder, flags)
        assert found == ({word} | {bytes([i]) for i in range(256)} if word else set())
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    assert b"ab" in read_log(tmp_path / "run").vocabulary
