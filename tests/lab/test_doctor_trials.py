"""The faults that are put into runs do what their names say, and what is learned and counted of the runs is right."""

import random
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

import health
import tiny
import train_ppo
from lab import provenance, results, stages, tables
from lab.doctor import __main__ as doctor
from lab.doctor import bands, cases, counts, faults, trials
from minirlhf import losses, rollout
from minirlhf.data import Responses
from minirlhf.losses import shaped_rewards
from minirlhf.support import diagnosis, logs, signs
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json, write_json, write_lines
from minirlhf.support.records import read
from minirlhf.support.tokenizer import Tokenizer, train_bpe

MASK = torch.tensor([[True, True, True], [True, False, False]])
CONFIG = SimpleNamespace(lr=1.0, value_lr=2.0, kl_coef=0.3, ptx_coef=0.1, batch_size=2, dropout=0.1)


@pytest.fixture
def fault():
    """Puts a fault until the test ends, and returns its flags."""
    with ExitStack() as stack:

        def make(function, strength=1.0, config=CONFIG):
            put = lambda where, name, new: stack.enter_context(mock.patch.object(where, name, new))  # noqa: E731
            return function(put, config, strength)

        yield make


# --- faults ----------------------------------------------------------------------------------------------------------


def test_faults_in_flags(fault):
    assert fault(faults.learning_rate, 8) == {"lr": 8} and fault(faults.value_learning_rate, 8) == {"value_lr": 16}
    assert fault(faults.learning_rate, 8, SimpleNamespace(lr=1, muon_lr=2)) == {"lr": 8, "muon_lr": 16}
    assert fault(faults.both_learning_rates, 8) == {"lr": 8, "value_lr": 16}
    assert fault(faults.beta, 10) == {"kl_coef": 3.0} and fault(faults.gamma, 30) == {"ptx_coef": 3.0}
    assert fault(faults.short, 0.999) == {"ema_decay": 0.999}
    assert fault(faults.epochs, 6.9) == {"epochs": 6, "dropout": 0.0} and fault(faults.none) is None
    assert fault(faults.epochs, 6.9, SimpleNamespace()) == {"epochs": 6}  # the reward model's script has no dropout


def test_faults_in_rewards(fault):
    scores, logp, ref_logp = tiny.numbers(2), tiny.numbers(2, 3), tiny.numbers(2, 3, seed=1)
    right = shaped_rewards(scores, logp, ref_logp, MASK, 0.3)
    fault(faults.kl_sign, 2.0)
    torch.testing.assert_close(losses.shaped_rewards(scores, logp, ref_logp, MASK, 0.3), shaped_rewards(
        scores, logp, ref_logp, MASK, -0.6))  # fmt: skip
    fault(faults.kl_clamped)
    clamped = losses.shaped_rewards(scores, logp, ref_logp, MASK, 0.3)
    less = (logp < ref_logp) & MASK
    torch.testing.assert_close(clamped[~less], right[~less])
    assert (clamped[less] < right[less]).all() and less.any()


def test_healthy_runs_of_other_settings():
    ppo, sft = SimpleNamespace(lr=1.0, value_lr=2.0, kl_coef=3.0), SimpleNamespace(lr=1.0)
    assert faults.near_learning_rate(None, ppo, 2.0) == dict(lr=2.0, value_lr=4.0)
    assert faults.near_learning_rate(None, sft, 0.5) == dict(lr=0.5)
    assert faults.near_beta(None, ppo, 2.0) == dict(kl_coef=6.0)


def test_the_term_that_lowers_the_entropy_has_its_gradient(fault, float64):
    """The sum over all tokens, weighted by their probability: what it is of samples on average."""
    logits, mask = tiny.numbers(1, 6).double().requires_grad_(), torch.ones(1, 6, dtype=torch.bool)
    logp = logits.log_softmax(-1)
    p = logp.exp().detach()
    (wanted,) = torch.autograd.grad((logp.exp() * logp).sum(), logits, retain_graph=True)
    fault(faults.less_entropy, 2.0)
    with (
        mock.patch.object(faults, "policy_loss", lambda *args: torch.zeros(())),
        mock.patch.object(faults, "masked_mean", lambda x, mask, total=None: (p * x).sum()),
    ):
        loss = losses.policy_loss(logp, logp, None, mask, 0.2, None)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(found, -2.0 * wanted)


def test_faults_in_scores(monkeypatch, fault):
    monkeypatch.setattr(faults, "response_scores", lambda model, responses: torch.tensor([1.0, -2.0]))
    responses = SimpleNamespace(response_lengths=torch.tensor([3, 1]))
    for function, strength, wanted in (
        (faults.scaled, 5.0, [5.0, -10.0]),
        (faults.reversed_scores, 1.0, [-1.0, 2.0]),
        (faults.likes_length, 0.5, [2.5, -1.5]),
    ):
        fault(function, strength)
        assert train_ppo.response_scores(None, responses).tolist() == wanted
    fault(faults.at_padding)
    model = lambda tokens: tokens.float()  # noqa: E731
    assert train_ppo.response_scores(model, SimpleNamespace(tokens=torch.tensor([[1, 9], [2, 0]]))).tolist() == [9, 0]


def test_faults_in_sampling(monkeypatch, fault):
    responses = Responses(torch.tensor([[1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 5, 9]]), torch.tensor([2, 4]), MASK)
    monkeypatch.setattr(rollout, "generate", lambda *args, temperature=1.0, **kwargs: (responses, temperature))
    fault(faults.temperature, 0.7)
    assert rollout.generate("prompts", decode=None)[1] == 0.7
    fault(faults.padding_counts)
    found = rollout.generate("model", "prompts", "noise", 7, 9, decode=None)[0]
    assert found.mask.tolist() == [[True] * 3, [True, True, False]]  # within the batch's width
    assert found.tokens.tolist() == [[1, 2, 3, 4, 5, 7]] * 2


def test_another_policys_answers_have_the_log_probs_of_the_policy(monkeypatch, fault):
    monkeypatch.setattr(
        faults, "in_chunks", lambda function, model, responses, most: (function, model, responses, most)
    )
    monkeypatch.setattr(rollout, "generate", lambda model, prompts, temperature=1.0: (f"{prompts} at {temperature}", 0))
    fault(faults.another_policy, 0.6, SimpleNamespace(max_tokens=7))
    wanted = "x at 0.6", (faults.response_logps, "model", "x at 0.6", 7)
    assert rollout.generate("model", "x") == wanted


def test_ten_public_threads_have_faults_that_are_known():
    assert len(cases.THREADS) == 10 == len({thread.link for thread in cases.THREADS})
    for thread in cases.THREADS:
        known = {fault.name for fault in cases.FAULTS[thread.stage]}
        assert thread.faults and {name for name, _ in thread.faults} <= known


def test_stale_answers_are_those_of_iterations_before(monkeypatch, fault):
    monkeypatch.setattr(train_ppo, "judge_episodes", lambda own, n=2: SimpleNamespace(scores=[0] * n, own=own))
    fault(faults.stale, 2)
    watched = train_ppo.judge_episodes("watched", 1).own
    assert [train_ppo.judge_episodes(i).own for i in range(5)] == [0, 0, 0, 1, 2] and watched == "watched"


# --- cases -----------------------------------------------------------------------------------------------------------


def test_each_fault_is_known_and_its_disease_is_a_row():
    rows = {(disease.name, kind) for disease in diagnosis.DISEASES for kind in disease.kinds}
    for kind, known in cases.FAULTS.items():
        assert known[0].name == "none" and known[0].disease == ""
        assert {(fault.disease, kind) for fault in known[1:]} <= rows
        assert {fault.name for fault in known} <= {*faults.FAULTS, "repeated", "shuffled", "flipped"}
        tried = {fault.disease for fault in known[1:]}
        if kind not in ("ppo_ptx", "gpt", "rl_start"):  # whose other rows are tried in plain PPO and in SFT
            assert {name for name, own in rows if own == kind} <= tried | {"", "it has diverged"}  # our scripts stop


def test_strengths_are_drawn_evenly_on_a_logarithmic_scale():
    rng = random.Random(0)
    for low, high in ((0.01, 1.0), (-0.5, -0.05)):
        found = [cases.strength(cases.Fault("x", low, high, ""), rng) for _ in range(2000)]
        assert low <= min(found) and max(found) <= high
        middle = sorted(map(abs, found))[1000]
        assert middle == pytest.approx((abs(low) * abs(high)) ** 0.5, rel=0.15)


def test_faults_in_data():
    rng, records = random.Random(0), [{"ranks": [1, 2, 2], "n": n} for n in range(100)]
    repeated = cases.changed(records, "repeated", 9.6, rng)
    assert len(repeated) == 100 and len({r["n"] for r in repeated}) == 10
    shuffled = cases.changed(records, "shuffled", 1, rng)
    assert {tuple(r["ranks"]) for r in shuffled} == {(1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert cases.changed(records, "flipped", 1, rng)[0] == {"ranks": [2, 1, 1], "n": 0}


def test_each_base_has_each_fault_once_and_those_who_evaluate_pairs_too():
    own = SimpleNamespace(seed=7)
    trained = doctor.cases_of(own, doctor.TRIED[0], doctor.Config(part="train"))
    healthy = doctor.cases_of(own, "b", doctor.Config(part="train"))
    assert len(healthy) == sum(doctor.HEALTHY.values()) and {given[0][0].name for _, given, _ in healthy} == {"none"}
    judged = doctor.cases_of(own, "a", doctor.Config(part="evaluate"))
    sick = sum(len(known) - 1 for known in cases.FAULTS.values())
    assert len(trained) == sick + sum(doctor.HEALTHY.values())
    assert len(judged) == len(trained) + doctor.PAIRS + len(cases.NEAR) == len(trained) + 4 + 8
    assert len({seed for *_, seed in judged}) == len(judged)
    assert all(len(given) == 2 and given[0] != given[1] for _, given, _ in judged[len(trained) : len(trained) + 4])
    near = [(stage, *given[0]) for stage, given, _ in judged[-8:]]
    named = {(stage, fault.name) for stage, fault, _ in near}
    assert len(named) == 8 and {"near_learning_rate", "near_beta"} == {name for _, name in named}
    assert all(0.5 <= how <= 2 and fault.disease == "" for _, fault, how in near)
    assert doctor.cases_of(own, doctor.TRIED[1], doctor.Config(part="train")) != trained
    both = [doctor.bases(doctor.Config(part=part)) for part in ("train", "evaluate")]
    assert not {base.seed for base in both[0].values()} & {base.seed for base in both[1].values()}


def test_two_faults_of_a_run_are_not_alike():
    rng, groups = random.Random(0), set()
    for _ in range(200):
        one, other = cases.pair(rng)
        assert not any({one.name, other.name} <= group for group in cases.ALIKE)
        groups |= {one.name, other.name}
    names = set.union(*cases.ALIKE)
    assert groups == names == {fault.name for fault in cases.FAULTS["ppo"] if fault.name in faults.FAULTS} - {"none"}


# --- what is learned and counted -------------------------------------------------------------------------------------


def folder_of(path, log):
    write_lines(path / "metrics.jsonl", log.rows)
    write_lines(path / "tokens.jsonl", log.tokens)
    (path / "config.json").write_text(str(log.flags).replace("'", '"'))
    Tokenizer(train_bpe([" the"] * 9, 258)).save(path)  # of the town
    return path


KNOWN = dict(stage="ppo", diseases=[], faults=[["none", 1.0]], ended="finished", alike=True)


def test_bands_hold_all_healthy_runs_with_a_margin(tmp_path):
    found = []
    for i, kl in enumerate((2.0, 3.0, 4.0, 9.0, 9.0)):
        (tmp_path / str(i)).mkdir()
        folder = folder_of(tmp_path / str(i), health.ppo(kl=kl, response_length=10.0))
        states = {3: {"diseases": ["x"]}, 4: {"ended": "step 3: loss is nan"}}
        found.append(trials.signs_of({"folder": str(folder)} | KNOWN | states.get(i, {})))
    learned = bands.bands_of(found)
    for low, high in learned["ppo"]["kl_per_token"][:8]:  # 0.2 to 0.4, a factor of 2, half of which is sqrt(2)
        assert (low, high) == (pytest.approx(0.1414, rel=1e-3), pytest.approx(0.5657, rel=1e-3))
    assert learned["ppo"]["kl_per_token"][8:] == [[None, None]] * 2  # of forty iterations, where fifty are ten tenths
    assert learned["ppo"].keys() == set(diagnosis.names_of("ppo")) - diagnosis.BY_HAND
    assert bands.widened([None, None]) == [None, None]
    assert bands.widened([1.0, None]) == pytest.approx([1 / 1.01, 1.01])
    assert bands.widened([-1.0, 3.0]) == [-3.0, 5.0] and bands.widened([0.0, 0.0]) == [-0.01, 0.01]


def test_it_is_counted_after_which_part_of_a_run_the_disease_was_known(tmp_path):
    own = {"ppo": {"kl_per_token": [[0.0, 1.0]] * 10}}
    jump = torch.where(torch.arange(health.N) >= 20, 40.0, 0.0).numpy()
    folder = folder_of(tmp_path, health.ppo(kl=jump, response_length=10.0))
    found = trials.signs_of({"folder": str(folder)} | KNOWN)
    assert found["rows"] == [*range(5, 41, 5)] and found["steps"] == health.N
    assert found["signs"]["kl_per_token"][-1] == 4.0
    assert found["ranges"]["kl"] == [0.0, 40.0] and "value_loss" not in found["ranges"]
    one = counts.judged(found, own)
    assert one["said"] == "beta is too small" and one["at_any_time"] == ["beta is too small"]
    assert one["detected"] == 30 / 40  # after 25 it is outside for the first time
    assert counts.judged(found, {})["said"] == "" and counts.judged(found, {})["detected"] == 5 / 40
    short = health.ppo(kl=40.0, response_length=10.0)  # which stopped after a half
    (tmp_path / "b").mkdir()
    found = trials.signs_of({"folder": str(folder_of(tmp_path / "b", short.upto(20)))} | KNOWN)
    assert counts.judged(found, own)["detected"] == 5 / 40  # the first KL is not 0
    stopped = counts.judged(found | {"ended": "step 20: loss is nan"}, own)
    assert stopped["said"] == counts.STOPPED and stopped["at_any_time"] == ["sampling and learning differ"]
    assert stopped["detected"] == 0.5 and not counts.is_right(stopped) and counts.precision([stopped]) == {}


def test_a_run_that_stopped_before_its_first_row_has_no_disease_named(tmp_path):
    (tmp_path / "config.json").write_text('{"tokenizer": "x"}')
    found = trials.signs_of({"folder": str(tmp_path)} | KNOWN | {"diseases": ["x"], "ended": "step 0: loss is nan"})
    assert found["rows"] == [] and found["signs"]["late_fall"] == []
    assert counts.judged(found)["said"] == counts.STOPPED and not counts.is_right(counts.judged(found))


def test_only_numbers_that_are_not_finite_may_stop_a_trial(base, monkeypatch):
    given = [(cases.Fault("learning_rate", 9, 9, "the learning rate is too high"), 9.0)]
    for error, ended in ((InputError("step 3: loss is -inf; lower it"), True), (InputError("No space left"), False)):
        monkeypatch.setattr(faults, "train", mock.Mock(side_effect=error))
        if ended:
            assert trials.run_trial(base, "sft", given, 5)["ended"] == str(error)
        else:
            with pytest.raises(InputError, match="No space"):
                trials.run_trial(base, "sft", given, 6)
    monkeypatch.setattr(faults, "train", mock.Mock(side_effect=InputError("step 3: loss is nan")))
    with pytest.raises(InputError, match="nan"):  # a healthy run does not stop
        trials.run_trial(base, "ppo", [(cases.FAULTS["ppo"][0], 1.0)], 7)


def test_the_bands_and_how_often_it_was_right_are_those_of_the_kept_trials():
    learned, train = read_json(doctor.BANDS), counts.kept(doctor.KEPT, "train")
    assert learned["bands"] == bands.bands_of(train) and learned["vocabulary"] == bands.vocabulary_of_town()
    kept = counts.kept(doctor.KEPT, "evaluate")
    others = [counts.judged(one, learned["bands"]) for one in kept]
    for one in kept + counts.kept(doctor.KEPT, "threads"):
        assert one["signs"].keys() == {*diagnosis.names_of(one["stage"])}, one["base"]  # those of today
    assert learned.get("trials", {}) == counts.precision(others)
    assert learned.get("analogies", [0, 0]) == counts.analogies(others)


def test_results_of_an_older_version_are_not_kept(tmp_path):
    made = {"commit": "a" * 40, "changed": [], "command": "x", "claims": provenance.hash_of_claims()}
    write_json(tmp_path / "train-a.json", {"base": "a", "trials": [KNOWN], "made by": made})
    with pytest.raises(InputError, match="of an older version of lab.doctor"):
        results.keep(tmp_path)
    whole = dict.fromkeys(results.TRIAL, 1) | KNOWN | {"signs": {"explained": [1.0]}}  # of which one sign was measured
    write_json(tmp_path / "train-a.json", {"base": "a", "trials": [whole], "made by": made})
    with pytest.raises(InputError, match="of an older version of lab.doctor"):
        results.keep(tmp_path)


def test_runs_are_judged_by_the_bands_of_other_bases():
    def one(base, kl):
        signs = {"kl_per_token": [kl] * 10}
        return KNOWN | {"base": base, "steps": 50, "rows": [*range(5, 51, 5)], "signs": signs}

    found = counts.without_its_base([one("a", 1.0), one("a", 1.001), one("b", 1.002), one("c", 9.0)])
    assert [(own["base"], own["said"]) for own in found] == [
        ("a", ""), ("a", ""), ("b", ""), ("c", "beta is too small")]  # fmt: skip


def trial(said, *diseases, stage="ppo", base="a", detected=1.0):
    ever, faults = [said] * bool(said) + (["x"] if detected == 0.3 else []), [[f"of {own}", 1.0] for own in diseases]
    return {"said": said, "diseases": list(diseases), "stage": stage, "base": base, "detected": detected,
            "at_any_time": ever, "faults": faults or [["none", 1.0]], "alike": True}  # fmt: skip


TRIALS = [
    trial("", detected=0.1), trial("", stage="ppo_ptx", detected=0.3), trial("x", base="b"),
    trial("x", "x", detected=0.2), trial("x", "x", detected=0.6), trial("y", "x"), trial("", "y", base="b"),
    trial("y", "x", "y"), trial("z", "x", "y"), trial("", stage="sft"),
]  # fmt: skip


def test_trials_are_counted_by_disease_and_by_base():
    assert counts.precision(TRIALS) == {"ppo": {"x": [2, 3], "y": [1, 2], "z": [0, 1]}}
    others = trial("x", "x") | {"alike": False}  # whose texts are not the town's
    assert counts.precision([trial("x", "x", stage="rm"), trial("x", stage="ppo_ptx"), others]) == {
        "rm": {"x": [1, 1]}, "ppo": {"x": [0, 1]}}  # fmt: skip
    found = counts.of_diseases(TRIALS)
    names = [("PPO", "healthy"), ("PPO", "x"), ("PPO", "y"), ("SFT", "healthy")]
    assert list(found) == names
    one = {"instead": [("x", 1)], "detected": 0.2, "no_alarm": 1, "faults": ["none"]}
    assert found[names[0]] == {"runs": 3, "right": 2} | one
    one = {"instead": [("y", 1)], "detected": 0.4, "no_alarm": 0, "faults": ["of x"]}
    assert found[names[1]] == {"runs": 3, "right": 2} | one
    one = {"instead": [("healthy", 1)], "detected": None, "no_alarm": 1, "faults": ["of y"]}
    assert found[names[2]] == {"runs": 1, "right": 0} | one
    bases = counts.of_bases(TRIALS)
    assert {name: (own["right"], own["runs"]) for name, own in bases["a"].items()} == {
        "healthy": (3, 3), "sick": (2, 3), "two": (1, 2)}  # fmt: skip
    assert (bases["b"]["healthy"]["right"], bases["b"]["sick"]["right"], bases["b"]["two"]["runs"]) == (0, 0, 0)


def test_a_run_of_other_texts_is_counted_twice_by_base_as_it_is_judged_and_by_analogy():
    signs = {name: [None] * 10 for name in diagnosis.names_of("rm")} | {"gradient": [1e9] * 10}
    own = KNOWN | dict(base="p", stage="rm", steps=50, rows=[*range(5, 51, 5)], signs=signs, alike=False)
    assert diagnosis.learned()["bands"]["rm"]["gradient"][-1][1] < 1e9
    judged = counts.judged(own)
    assert judged["said"] == "" and counts.judged(own | {"alike": True})["said"] == "the learning rate is too low"
    assert counts.analogies([judged, judged | {"diseases": ["x"]}, judged | {"alike": True}]) == [1, 1]
    assert counts.analogies([judged], {}) == [0, 1]
    text = tables.TABLES["doctor_bases"]({"doctor": {"evaluate": [judged]}})
    assert "| p | 1 of 1 | " in text and "| p, by analogy | 0 of 1 | " in text


def test_the_pages_tables_have_these_counts():
    told = {"ranges": {"score": [-1.0, 2.5], "kl": [0.0, 31.4]}}
    other = trial("", "x") | {"alike": False}  # which stands in no row
    threads = [trial("x") | told] * 9 + [trial("") | {"ranges": {}}]
    found = {"doctor": {"evaluate": [*TRIALS, other], "threads": threads}}
    rows = [line.split(" | ") for line in tables.TABLES["doctor"](found).splitlines()[2:]]
    names = [["| SFT", "healthy"], ["| PPO", "healthy"], ["| PPO", "x"], ["| PPO", "y"], ["| all", "healthy"],
             ["| all", "what it has"]]  # fmt: skip
    assert [row[:2] for row in rows] == names
    assert rows[1][2:] == ["2 of 3", "x (1)", "called ill at some time: 2", "none |"]
    assert rows[2][2:] == ["2 of 3", "y (1)", "40 % of the run", "of x |"] and rows[-2][2:4] == ["3 of 4", "x (1)"]
    assert rows[-2][5] == "false alarms: 25.0 % (0.6 to 80.6) |"  # 1 of 4, by tables of Clopper and Pearson
    own = {"doctor": {"evaluate": TRIALS}}
    assert "| a | 3 of 3 | 2 of 3 | 1 of 2 |" in tables.TABLES["doctor_bases"](own)
    assert "analogy" not in tables.TABLES["doctor_bases"](own)
    lines = tables.TABLES["threads"](found).splitlines()[2:]
    assert len(lines) == 10 and lines[0].startswith("| [trl #204](https://github.com/huggingface/trl/issues/204) | The")
    assert "| beta 0.02 | `score` -1 to 2.5, `kl` 0 to 31 | x | nothing |" in lines[0] and "|  | healthy |" in lines[-1]


def test_of_trials_the_outcome_is_kept_base_by_base(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    made = {"commit": "a" * 40, "changed": [], "command": "lab.doctor evaluate", "machine": "x",
            "claims": provenance.hash_of_claims()}  # fmt: skip
    own = dict.fromkeys(diagnosis.names_of("rm"), [None]) | {"pairs_wrong": [0.7]}
    one = KNOWN | dict(stage="rm", seed=3, diseases=["x"], faults=[["of x", 1.0]], steps=9, rows=[9], ranges={},
                       signs=own, folder="f")  # fmt: skip
    for name in ("evaluate-a", "evaluate-b", "train-a", "threads-a"):
        write_json(tmp_path / "run" / f"{name}.json", {"base": name[-1], "trials": [one], "made by": made})
    results.keep(tmp_path / "run")
    first, second = results.load()["doctor"]["evaluate"]
    told = {"said": "the rankings contradict the validation", "detected": 1.0}
    told["at_any_time"] = [told["said"]]
    assert first == {"base": "a"} | {key: value for key, value in one.items() if key != "folder"} | told
    assert second["base"] == "b" and len(results.load()["doctor"]["train"]) == 1


def test_bands_are_learned_from_what_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "KEPT", tmp_path)
    monkeypatch.setattr(doctor, "BANDS", tmp_path / "bands.json")
    with pytest.raises(InputError, match="no results of train"):
        doctor.main(doctor.Config(part="bands"))
    own = KNOWN | dict(steps=50, rows=[5, 45, 50], signs={"kl_per_token": [1.0, 2.0, 2.0], "first_kl": [0.0, 0.0, 0.0]})
    sick = own | dict(diseases=["x"], faults=[["of x", 2.0]], signs={"kl_per_token": [1.0, 9.0, 9.0]})
    write_json(tmp_path / "train-a.json", {"base": "a", "trials": [own]})
    write_json(tmp_path / "train-b.json", {"base": "b", "trials": [own, sick]})
    doctor.main(doctor.Config(part="bands"))
    learned = read_json(tmp_path / "bands.json")
    ends = [pytest.approx([value / 1.01, value * 1.01]) for value in (1, 2)]
    assert learned["bands"] == {"ppo": {"kl_per_token": [ends[0], *[[None, None]] * 7, ends[1], ends[1]]}}
    assert {" the", " and", "ing"} < {*learned["vocabulary"]} and "trials" not in learned
    text = capsys.readouterr().out
    assert "of 2 healthy runs\n" in text and "b ppo, of x 2: beta is too small (at any time: beta is too small)" in text
    write_json(tmp_path / "evaluate-b.json", {"base": "b", "trials": [sick | {"diseases": ["beta is too small"]}]})
    doctor.main(doctor.Config(part="bands"))
    trials_of = {"trials": {"ppo": {"beta is too small": [1, 1]}}}
    assert read_json(tmp_path / "bands.json") == learned | trials_of | {"analogies": [0, 0]}


def test_faults_are_labelled_with_their_direction_where_there_are_two():
    for stage in ("ppo", "ppo_ptx"):  # where one learning rate alone is tried
        assert counts.label(stage, "learning_rate", 20) == "learning rate high"
    assert counts.label("ppo", "learning_rate", 0.05) == "learning rate low"
    assert counts.label("ppo", "likes_length", -0.2) == "likes length low"
    assert counts.label("ppo", "likes_length", 0.2) == "likes length high"
    assert counts.label("ppo", "stale", 3) == "stale" and counts.label("rm", "none", 1) == "none"


def test_threads_are_trials_of_their_faults():
    found = doctor.cases_of(SimpleNamespace(seed=7), "a", doctor.Config(part="threads"))
    wanted = [(one.stage, [(name, how) for name, how in one.faults]) for one in cases.THREADS]
    assert [(stage, [(fault.name, how) for fault, how in given]) for stage, given, _ in found] == wanted


@pytest.fixture
def base(tiny_run, tmp_path, in_one_process):
    """A Pipeline in an own folder, with the models and files of a tiny run."""
    for name in ("gpt", "sft", "rl_start", "rm", "town", "tokenizer"):
        (tmp_path / name).symlink_to(tiny_run / name)
    own = stages.Config(out=str(tmp_path), tiny=True).pipeline
    own.records = str(tmp_path / "files")
    (tmp_path / "files").mkdir()
    for path in (tiny_run / "town").glob("*.jsonl"):
        (tmp_path / "files" / path.name).symlink_to(path)
    with in_one_process():
        yield own


CODE = [fault for fault in cases.FAULTS["ppo"] if fault.name in faults.FAULTS and fault.name not in ("none", "short")]


@pytest.mark.parametrize("fault", CODE, ids=lambda fault: f"{fault.name}-{fault.low}")
def test_each_fault_of_ppo_trains_to_the_end(base, fault):
    found = trials.signs_of(trials.run_trial(base, "ppo", [(fault, fault.low)], 5))
    assert found["ended"] == "finished" and found["rows"]
    if fault.disease in ("padding is not masked", "rewards are wrong", "sampling and learning differ"):
        assert counts.judged(found)["said"] == fault.disease


def test_a_trial_is_trained_with_its_fault_and_kept(base):
    kinds = {fault.disease: fault for fault in cases.FAULTS["ppo"]}
    given = [(kinds["beta is too small"], 0.01), (cases.Fault("kl_sign", 1, 1, "rewards are wrong"), 1.0)]
    found = trials.run_trial(base, "ppo", given, 5)
    log = logs.read_log(found["folder"])
    assert log.flags["kl_coef"] == pytest.approx(0.003) and signs.wrong_rewards(log) > 0
    assert found["diseases"] == ["beta is too small", "rewards are wrong"] and found["ended"] == "finished"
    assert not list((base_of(found)).glob("*.pt"))
    assert [name for name, _ in found["faults"]] == ["beta", "kl_sign"] and found["seed"] == 5
    assert trials.run_trial(base, "ppo", given, 5) == found == read_json(base_of(found) / "trial.json")


def base_of(found):
    return Path(found["folder"])


def test_faults_of_data_reach_the_script(base):
    doctor_files = read(base.file("rankings"), "ranking")
    write_lines(base.file("rankings_training"), doctor_files)
    write_lines(base.file("rankings_validation"), doctor_files)
    found = trials.run_trial(base, "rm", [(cases.Fault("flipped", 1, 1, "x"), 1.0)], 5)
    log = logs.read_log(found["folder"])
    assert log.kind == "rm" and len(log["validation_accuracy"]) and "/data/rm-flipped-1-5" in str(log.flags["data"])
    assert not list((base_of(found).parents[1] / "data").iterdir())


def test_the_healthy_settings_of_each_stage_are_the_recipes(base):
    assert trials.settings_of(base, "ppo")["ptx_coef"] == 0.0
    assert trials.settings_of(base, "ppo_ptx")["ptx_coef"] == base.recipe["ppo"]["ptx_coef"]
    for stage in ("gpt", "sft", "rl_start", "rm"):
        settings = trials.settings_of(base, stage)
        assert "validation" in settings and ("documents" in settings) == (stage == "rl_start")
