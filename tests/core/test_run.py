"""A run's folder is its own; its states, metrics and picture let it be stopped anywhere, and be looked at."""

import dataclasses
import os
import signal
import weakref
from types import SimpleNamespace

import pytest
import torch

import tiny
from minirlhf.support import clock, distributed, run
from minirlhf.support.curves import draw_curves
from minirlhf.support.errors import InputError
from minirlhf.support.logs import read_metrics
from minirlhf.support.muon import Both
from minirlhf.support.optim import take_step
from minirlhf.support.progress import progress
from minirlhf.support.run import Run, RunConfig, start_run


@pytest.fixture
def config(tmp_path):
    return RunConfig(out=str(tmp_path / "run"), save_every=2)


def change(config, **changes):
    return dataclasses.replace(config, **changes)


class Learner:
    """A model and its optimizer, which take a step towards `target`."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self, target=1.0):
        self.model(torch.ones(1, 2)).sub(target).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self

    def run(self, config):
        return Run(config, self.model, self.optimizer)


def go(config, steps, learner=None, stop=None):
    """A run of so many steps; with `stop`, killed after that step's line was written."""
    learner = learner or Learner()
    run = learner.run(config)
    for step, _ in run.steps(range(steps)):
        learner.step()
        run.log(loss=float(step))
        if step == stop:
            break
    return learner


def after(steps):
    learner = Learner()
    for _ in range(steps):
        learner.step()
    return learner


def states(config):
    return sorted(path.name for path in run.Path(config.out).glob("state-*"))


def logged(config):
    return [row["step"] for row in read_metrics(config.out)]


# --- whose folder it is -------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone_and_an_unfinished_one_starts_again(config, tmp_path, capsys):
    assert start_run(config)
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert start_run(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    torch.save({}, tmp_path / "run" / "model.pt")
    assert not start_run(config)
    assert "finished already" in capsys.readouterr().out


def test_a_run_that_left_a_state_is_not_thrown_away_unasked(config):
    start_run(config)
    go(config, 3)
    with pytest.raises(InputError, match="stopped and has saved states; add --resume"):
        start_run(config)
    assert logged(config) == [0, 1, 2]
    assert start_run(change(config, resume=True))
    assert logged(config) == [0, 1, 2]


def test_resume_does_not_make_another_run_this_one(config):
    start_run(config)
    with pytest.raises(InputError, match="seed was 0, now 1"):
        start_run(change(config, seed=1, resume=True))


def test_what_a_killed_process_half_wrote_is_swept_away(config, tmp_path):
    """Killed in its very first write, and again while it wrote others."""
    folder = tmp_path / "run"
    folder.mkdir()
    for names in ([".config.json.x_y1z2.half"], [".state-00000001.pt.a_b.half", ".tokenizer.tiktoken.c_d.half"]):
        for name in names:
            (folder / name).write_bytes(b"ha")
        start_run(config)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.json"]


def test_states_that_a_kill_left_beside_the_finished_model_are_dropped(config, tmp_path):
    """Between the model and the removal of the states nothing may be left for good."""
    start_run(config)
    go(config, 4)
    assert states(config)
    torch.save({}, tmp_path / "run" / "model.pt")
    assert not start_run(config)
    assert not states(config)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("content", [b"", b"cut", None])
def test_a_model_that_is_truncated_is_no_finished_run_and_costs_no_state(config, capsys, content, resume):
    start_run(config)
    go(config, 4)
    model, before = run.Path(config.out) / "model.pt", states(config)
    if content is None:
        torch.save({"a": torch.zeros(100)}, model)
        content = bytearray(model.read_bytes())
        content[-300] ^= 1
    model.write_bytes(content)
    assert start_run(change(config, resume=resume))
    assert "truncated or corrupt; it is trained again" in capsys.readouterr().out
    assert states(config) == before and logged(config) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["model.pt", "metrics.jsonl"])
def test_a_folder_where_a_file_belongs_is_named(config, name):
    start_run(config)
    (run.Path(config.out) / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: no file"):
        start_run(config)


def test_where_and_how_fast_may_change_when_a_run_goes_on(six):
    changed = change(six, max_tokens=8, recompute=True, save_every=1, compile=True, device="cpu")
    assert start_run(changed)
    with pytest.raises(InputError, match="max_grad_norm was"):
        start_run(change(six, max_grad_norm=2.0))


def test_a_state_that_cannot_be_read_back_replaces_none(six, monkeypatch):
    before, write = states(six), run.write_atomically
    monkeypatch.setattr(run, "write_atomically", lambda path, content: write(path, b"lost by the disk"))
    with pytest.raises(InputError, match="state-00000008.pt: cannot be read back; the older state is kept"):
        go(six, 9)
    assert set(before) <= set(states(six))


@pytest.mark.parametrize("mine", [None, "others"])
def test_ranks_that_have_other_states_than_rank_0_end_in_a_line(six, monkeypatch, mine):
    """This process stands for one whose folder lacks the state that rank 0 has chosen, or holds another."""
    name = states(six)[-1] if mine else "state-00000099.pt"
    monkeypatch.setattr(run, "from_rank_0", lambda function: (name, [("archive/data.pkl", 1)]))
    monkeypatch.setattr(run, "of_all_ranks", lambda value: [True, value])
    with pytest.raises(
        InputError, match=f"{name}: process 1 does not find it, or another; all processes need the same"
    ):
        Learner().run(six)


# --- states -------------------------------------------------------------------------------------------------


@pytest.fixture
def six(config):
    """A run that has saved states after 2, 4 and 6 steps, and was killed in its seventh."""
    start_run(config)
    go(config, 9, stop=6)
    return change(config, resume=True)


def test_the_newest_two_states_are_kept(six):
    assert states(six) == ["state-00000004.pt", "state-00000006.pt"]


def test_a_run_goes_on_from_the_newest_state_bit_by_bit(six, capsys):
    learner = Learner(seed=9)
    assert learner.run(six).first == 6 and tiny.same_weights(learner.model, after(6).model)
    assert tiny.same_weights(learner.step(3.0).model, after(6).step(3.0).model)  # Adam's moments are back too
    assert logged(six) == [0, 1, 2, 3, 4, 5]
    assert "going on after step 6" in capsys.readouterr().out
    assert tiny.same_weights(go(six, 9, Learner(seed=9)).model, after(9).model)
    assert logged(six) == list(range(9))


def test_where_there_is_no_state_nothing_changes(config):
    start_run(config)
    go(config, 1)
    learner = Learner(seed=0)
    assert learner.run(config).first == 0 and tiny.same_weights(learner.model, Learner().model)
    assert logged(config) == []


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_state_is_named_and_the_one_before_it_used(six, share, capsys):
    newest = run.Path(six.out) / "state-00000006.pt"
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    learner = Learner(seed=9)
    assert learner.run(six).first == 4 and tiny.same_weights(learner.model, after(4).model)
    assert "state-00000006.pt: truncated or corrupt" in capsys.readouterr().out
    assert logged(six) == [0, 1, 2, 3]


def test_one_wrong_bit_in_a_state_is_noticed(six, capsys):
    newest = run.Path(six.out) / "state-00000006.pt"
    content, weight = newest.read_bytes(), after(6).model.bias.detach().numpy().tobytes()
    at = content.index(weight)
    newest.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert Learner().run(six).first == 4
    assert "state-00000006.pt: truncated or corrupt" in capsys.readouterr().out


def test_a_state_whose_members_have_no_names_is_passed_over(six, capsys):
    newest = run.Path(six.out) / "state-00000006.pt"
    content = bytearray(newest.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # an entry of the zip's directory: flags at 8, the name at 46
    content[at + 9] |= 8  # names are UTF-8
    content[at + 46] = 0xB3  # which this is not
    newest.write_bytes(content)
    assert Learner().run(six).first == 4
    assert "state-00000006.pt: truncated or corrupt" in capsys.readouterr().out


def test_another_number_of_processes_may_go_on_with_a_state(six, monkeypatch, capsys):
    monkeypatch.setattr(run, "world_size", lambda: 2)
    learner = Learner()
    assert learner.run(six).first == 6 and tiny.same_weights(learner.model, after(6).model)
    assert "state-00000006.pt: made by 1 processes, and there are 2 now: sums are" in capsys.readouterr().out


def test_a_state_is_read_part_by_part(six, monkeypatch):
    """What was read for one network is out of memory when the next is read."""
    tensors, alive, read = [], [], run.read_pt

    def watched(path, **how):
        alive.append(sum(tensor() is not None for tensor in tensors))
        state = read(path, **how)
        tensors.extend(weakref.ref(tensor) for tensor in state["parts"][0].values())
        return state

    monkeypatch.setattr(run, "read_pt", watched)
    Learner().run(six)
    assert len(tensors) == 2 * len(alive) >= 6 and max(alive) == 0


# --- the end by SIGTERM, and states by the clock ------------------------------------------------------------


def test_at_sigterm_a_run_saves_a_state_after_its_step_and_ends(config, capsys):
    start_run(config)
    learner, begun = Learner(), 0
    own, before = learner.run(config), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        for step, _ in own.steps(range(9)):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            learner.step()
            own.log(loss=float(step))
            begun += 1
    assert ended.value.code == 143 and begun == 3 and states(config)[-1] == "state-00000003.pt"
    assert "ended by SIGTERM after step 3; go on with --resume" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    again = Learner(seed=1)
    assert again.run(change(config, resume=True)).first == 3 and tiny.same_weights(again.model, after(3).model)


def test_at_sigterm_in_its_last_step_a_run_saves_a_state_too(config):
    """What comes after the last step, such as validation, may take longer than there is time."""
    start_run(config)
    own, learner = Learner().run(config), Learner()
    with pytest.raises(SystemExit):
        for step, _ in own.steps(range(3)):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            learner.step()
    assert states(config)[-1] == "state-00000003.pt"
    assert not [*Learner().run(change(config, resume=True)).steps(range(3))]


def test_a_signal_that_another_process_got_ends_this_one_too(config, monkeypatch):
    start_run(config)
    monkeypatch.setattr(run, "all_reduce", lambda stop, late, *ready: [stop + 1, late, *ready])
    own, learner = Learner().run(config), Learner()
    with pytest.raises(SystemExit):
        for _ in own.steps(range(3)):
            learner.step()
    assert states(config) == ["state-00000001.pt"]


def test_states_are_saved_by_the_clock_too(config, monkeypatch):
    config = change(config, save_every=100, save_minutes=1.0)
    start_run(config)
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr(run, "time", clock)
    own, learner, saved = Learner().run(config), Learner(), []
    for step, _ in own.steps(range(9)):
        clock.now += 25
        learner.step()
        saved.append((step, states(config)))
    assert saved[3][1] == ["state-00000003.pt"] and saved[8][1] == ["state-00000003.pt", "state-00000006.pt"]


@pytest.mark.parametrize(("seconds", "saved"), [(19, []), (21, ["state-00000003.pt"])])
def test_a_state_is_saved_after_the_last_step_if_a_minute_would_be_lost(config, monkeypatch, seconds, saved):
    config = change(config, save_every=100)
    start_run(config)
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=0.0)
    monkeypatch.setattr(run, "time", clock)
    own, learner = Learner().run(config), Learner()
    for _ in own.steps(range(3)):
        clock.now += seconds
        learner.step()
    assert states(config) == saved


def test_optimizers_let_go_of_copies_after_each_save_and_load(config, monkeypatch):
    released = []
    monkeypatch.setattr(run, "drop_copies", lambda *optimizers: released.append(len(optimizers)))
    start_run(config)
    own, learner = Learner().run(config), Learner()
    for _ in own.steps(range(4)):
        learner.step()
    assert len(released) == len(states(config)) == 2 and all(released)
    Learner().run(change(config, resume=True))
    assert len(released) == 3


@pytest.mark.parametrize("rule", ["code", "list", "lacking", "step", "less"])
def test_a_newest_state_that_is_none_is_named_never_run_as_code_and_the_one_before_it_used(rule, six, tmp_path, capsys):
    intruder = tiny.Intruder(tmp_path / "intruded")
    valid = {"step": 8, "world": 1, "parts": [{}, {}]}
    states = {"code": valid | {"step": intruder}, "list": [], "lacking": {"step": 8}, "step": valid | {"step": "8"}}
    states |= {"less": valid | {"step": -1}}
    torch.save(states[rule], run.Path(six.out) / "state-00000008.pt")
    assert Learner().run(six).first == 6
    assert "state-00000008.pt: truncated or corrupt; trying the one before it" in capsys.readouterr().out
    assert not (tmp_path / "intruded").exists()


def test_a_state_that_lacks_a_parameter_s_moments_is_named(six):
    path = run.Path(six.out) / "state-00000006.pt"
    state = torch.load(path)
    del state["parts"][1]["state"][0]["exp_avg"]
    torch.save(state, path)
    with pytest.raises(InputError, match="state-00000006.pt: not a state of this run; remove it to go on from the one"):
        Learner().run(six)


@pytest.mark.parametrize("parts", [[], [{}, {}], [None, None], [{"weight": 1}, {}]])
def test_a_state_of_other_networks_is_named(parts, six):
    torch.save({"step": 8, "world": 1, "parts": parts}, run.Path(six.out) / "state-00000008.pt")
    with pytest.raises(InputError, match="state-00000008.pt: not a state of this run; remove it to go on from the one"):
        Learner().run(six)


@pytest.mark.parametrize("line", ["{", "[]", '{"step": "x"}', '{"loss": 1}', "\udcff", "[" * 100_000])
def test_metrics_that_are_none_are_named_before_a_step_is_taken(line, six):
    path = run.Path(six.out) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match="metrics.jsonl(:3: not a row of a run's metrics|: cannot be read); remove"):
        Learner().run(six)
    assert path.read_bytes() == before


def test_weights_that_are_not_finite_leave_no_state(config):
    start_run(config)
    learner = Learner()
    with torch.no_grad():
        learner.model.weight[0, 0] = float("nan")
    running = learner.run(config)
    with pytest.raises(InputError, match="step 1: weights is nan; last good checkpoint: none was saved yet"):
        for _ in running.steps(range(4)):
            pass
    assert not states(config)


def test_a_finished_runs_states_are_dropped_and_its_curves_drawn(six):
    pytest.importorskip("matplotlib")
    learner = Learner()
    finished = Run(six, learner.model, learner.optimizer, loss="loss")
    (run.Path(six.out) / "model.pt").write_bytes(b"cut")
    with pytest.raises(InputError, match="model.pt: cannot be read back; the states are kept"):
        finished.finish()
    assert states(six)
    torch.save({}, run.Path(six.out) / "model.pt")
    finished.finish()
    assert not states(six)
    assert (run.Path(six.out) / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_at_its_end_a_run_says_in_a_line_whether_its_log_looks_healthy(six, capsys, monkeypatch):
    learner = Learner()
    finished = Run(six, learner.model, learner.optimizer)
    torch.save({}, run.Path(six.out) / "model.pt")
    monkeypatch.setattr(run.diagnosis, "line", lambda log: f"{len(log.rows)} rows")
    finished.finish()
    assert capsys.readouterr().out.splitlines()[-1] == f"{six.out}: 6 rows (python -m tools.doctor {six.out})"
    for line in (lambda log: {}["missing"], lambda log: None):
        monkeypatch.setattr(run.diagnosis, "line", line)
        finished.finish()
        assert not capsys.readouterr().out


def test_only_rank_0_writes(config, tmp_path, monkeypatch):
    for module in (run, distributed):
        monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(run, "from_rank_0", lambda function: (None, None))  # rank 0 is elsewhere
    start_run(config)
    go(config, 5)
    assert not list(tmp_path.iterdir())


# --- metrics and progress -----------------------------------------------------------------------------------


def test_metrics_come_back_row_by_row(config):
    start_run(config)
    metrics = Learner().run(config)
    for _ in metrics.steps("ab"):
        metrics.log(loss=1.5, other=None)
    metrics.log(step=2, bias=1)
    rows = read_metrics(config.out)
    assert all(0.01 < row.pop("memory_gb") < 100 and 0 <= row.pop("seconds") < 60 for row in rows)
    assert rows == [
        {"step": 0, "loss": 1.5, "other": None, "steps": 2},
        {"step": 1, "loss": 1.5, "other": None, "steps": 2},
        {"step": 2, "bias": 1, "steps": 2},
    ]


def test_learning_rates_and_norms_are_logged_under_their_flags_names(tmp_path):
    """Of two optimizers beside each other, and of two that are used as one, whose gradients have one norm."""
    config = SimpleNamespace(out=str(tmp_path), save_every=9, save_minutes=None, lr=0.1, value_lr=0.2, muon_lr=0.3)
    for names, join in ((("lr", "value_lr"), False), (("lr", "muon_lr"), True)):
        own = SimpleNamespace(
            **{name: value for name, value in vars(config).items() if name[-2:] != "lr" or name in names}
        )
        learners = [Learner(), Learner()]
        optimizers = [learner.optimizer for learner in learners]
        for rate, (optimizer, learner) in enumerate(zip(optimizers, learners), 1):
            learner.model.weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
            optimizer.param_groups[0]["lr"] = rate
            if not join:
                take_step(learner.model, optimizer, 100 if rate == 1 else 0.1)
        if join:
            optimizers = [Both(*optimizers)]
            take_step(torch.nn.ModuleList([learner.model for learner in learners]), optimizers[0], 1.0)
        found = Run(own, *[learner.model for learner in learners], *optimizers)._figures()
        del found["memory_gb"], found["seconds"]
        norms = {"grad_norm": pytest.approx(50**0.5)} if join else {"grad_norm": 5, "value_grad_norm": 5}
        assert found == dict(zip(names, (1, 2))) | norms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_last_good_checkpoint(config, value):
    assert start_run(config)
    checked = Run(config, last_good="epoch-2.pt")
    checked.step = 7
    checked.log(other=1.0)
    with pytest.raises(InputError, match=r"step 7: loss is .*; last good checkpoint: epoch-2.pt"):
        checked.log(other=1.0, loss=value)


def test_a_run_that_goes_back_forgets_the_rows_that_will_come_again(six):
    """And the one that it was killed in, half written; twice, if it was killed again at once."""
    with open(run.Path(six.out) / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    for _ in range(2):
        Learner().run(six)
        assert logged(six) == [0, 1, 2, 3, 4, 5]


def test_a_steps_rate_is_what_it_handled_by_the_seconds_it_took(config, monkeypatch):
    start_run(config)
    clocked, now = Learner().run(config), iter([10.0, 12.0, 20.0])
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    for _ in clocked.steps("a"):
        assert clocked.rate(100) == 50


def test_progress_yields_every_item_and_says_when_it_is_done(capsys):
    assert list(progress("abc", "work")) == [(0, "a"), (1, "b"), (2, "c")]
    assert capsys.readouterr().out.startswith("work: 3/3")


def test_progress_says_the_newest_metrics_and_now_and_then_an_answer(config, capsys, monkeypatch):
    start_run(config)
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr("minirlhf.support.progress.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    talking = Run(config, score="RM score", kl="KL", entropy="entropy")
    for step, _ in talking.steps(range(12)):
        talking.log(dict(prompt="Hi\n", response=f" answer\t{step}"), entropy=1.0, score=step / 10, kl=None)
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if "->" in line]
    assert lines[0].startswith(f"{config.out}: 3/12, ") and lines[0].endswith(" s left, score 0.20")
    assert lines[-1].endswith("score 1.10") and told == ['    "Hi" -> "answer\\t8"']


def test_curves_are_drawn_again_while_a_run_goes_on_at_a_hundredth_of_its_time(config, monkeypatch):
    start_run(config)
    now, drawn = [0.0], []

    def draw(out, curves):
        drawn.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(run, "draw_curves", draw)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    going = Run(config, loss="loss")
    for _ in going.steps(range(100)):
        now[0] += 3
        going.log(loss=1.0)
    assert len(drawn) == 6 and drawn[0] == 33  # then every 50 seconds
    assert all(50 <= b - a <= 55 for a, b in zip(drawn, drawn[1:]))


def test_progress_goes_on_where_a_run_was_stopped(capsys):
    assert list(progress("abc", "work", start=2)) == [(2, "c")]
    assert capsys.readouterr().out.startswith("work: 3/3")


def test_curves_are_drawn_from_the_metrics_also_where_a_column_has_gaps(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [dict(step=0, loss=2.0, validation_loss=None), dict(step=1, loss=1.0, validation_loss=1.5), dict(step=2)]
    tiny.write_lines(tmp_path / "metrics.jsonl", rows)
    draw_curves(tmp_path, {"loss": "loss", "validation_loss": "validation", "absent": "absent"})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "curves.png").unlink()
    draw_curves(tmp_path, {"absent": "absent"})  # there is nothing to show
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("name", run.LOGS)
def test_metrics_that_are_no_file_are_refused_before_a_step_is_taken(name, six):
    path = run.Path(six.out) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"{name}: not a file that rows can be written to; remove it"):
        Learner().run(six)


def test_a_row_says_where_the_time_went_and_who_was_waited_for(config, monkeypatch):
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now.at))
    start_run(config)
    own, rows = Learner().run(config), []
    monkeypatch.setattr(run, "world_size", lambda: 2)
    monkeypatch.setattr(run, "all_reduce", lambda stop, late, mine, other: [stop, late, mine, 5.0])
    for _ in own.steps(range(3)):
        for phase, seconds in (("sampling", 1), ("learning", 2), ("sampling", 3)):
            with clock.spent(phase):
                now.at += seconds
            if phase == "learning":
                clock.waits()
        now.at += 10
        rows.append(own._figures())
    assert all((row["seconds"], row["sampling_seconds"], row["learning_seconds"]) == (16, 4, 2) for row in rows)
    assert "slowest_rank" not in rows[0]
    assert all((row["slowest_rank"], row["others_wait"]) == (1, 2.0) for row in rows[1:])  # this one was ready after 3
