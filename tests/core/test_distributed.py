"""Several processes take the steps that one would: gradients, weights and metrics, in float64."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import tiny
from harmed import CLOCK
from minirlhf.model import GPT
from minirlhf.support import distributed, folder
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from ranks import RANKS, launch, torchrun
from tiny import to_flags
from tools import encode

JOBS = ("gpt", "muon", "sft", "mixed", "rm", "ppo", "ppo_ptx")


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    """More records than batches of 8 can hold evenly, of unlike lengths: the last batch leaves ranks without a row."""
    folder = tmp_path_factory.mktemp("inputs")
    answers = ("five.", "on the mat and the log and the hill", "red", "the kite is on the hill.", "a cat", "two plus")
    demonstrations, rankings = [], []
    for i in range(18):
        prompt, k = tiny.PROMPTS[i % 4]["prompt"], 2 + i % 5
        demonstrations.append({"prompt": prompt, "response": " ".join(answers[: k - 1])})
        ranks = [1 + (i * j) % 3 for j in range(k)]
        rankings.append({"prompt": prompt, "responses": answers[:k], "ranks": ranks})
    documents = [{"text": " ".join(tiny.TEXTS[: 1 + i % 3])} for i in range(20)]
    tokenizer = load_tokenizer(world.gpt)
    policy = load_model(world.gpt, GPT, tokenizer)
    with torch.no_grad():  # one that ends its responses now and then, so that their lengths differ
        end = policy.transformer.wte.weight[tokenizer.eos]
        policy.transformer.ln_f.bias += 4 * end / end.square().sum()
    save_model(folder / "model.pt", policy, tokenizer)
    named = dict(demonstrations=demonstrations, rankings=rankings, documents=documents)
    files = {name: tiny.write_lines(folder / f"{name}.jsonl", records) for name, records in named.items()}
    return files | {"policy": str(folder)}


@pytest.fixture(scope="module")
def outcome(world, inputs, tmp_path_factory):
    """What each job leaves when n processes do it. flags: other ones. told_to_end: they are, in their third step."""

    def jobs(folder, **others):
        common = dict(max_tokens=90, batch_size=8, lr=1e-2, seed=3)
        further = dict(init=world.gpt, data=[inputs["documents"]], validation=[inputs["documents"]]) | common
        further |= dict(epochs=5)
        tuned = dict(init=world.gpt, data=[inputs["demonstrations"]], validation=[inputs["demonstrations"]]) | common
        tuned |= dict(epochs=2, dropout=0.0)
        ppo = dict(policy=inputs["policy"], reward_model=world.rm, prompts=[world.prompts]) | common
        ppo |= dict(max_response=12, episodes=24, minibatch_size=8, inner_epochs=2, value_lr=1e-2, max_tokens=30)
        ptx = dict(documents=[inputs["documents"]], ptx_coef=2.0, documents_per_episode=0.5)
        rm = dict(init=world.gpt, data=[inputs["rankings"]], validation=[inputs["rankings"]], epochs=2)
        every = {
            "gpt": ("pretrain", further | dict(optimizer="adam")),
            "muon": ("pretrain", further),
            "sft": ("train_sft", tuned),
            "mixed": ("train_sft", tuned | dict(documents=[inputs["documents"]], document_share=0.3)),
            "rm": ("train_rm", common | rm | dict(demonstrations=[inputs["demonstrations"]])),
            "ppo": ("train_ppo", ppo | dict(ptx_coef=0.0)),
            "ppo_ptx": ("train_ppo", ppo | ptx),
        }
        return [(script, to_flags(flags | dict(out=str(folder / name)) | others))
                for name, (script, flags) in every.items()]  # fmt: skip

    done = {}

    def of(n, folder=None, told_to_end=False, **flags):
        if folder or n not in done:
            folder = folder or done.setdefault(n, tmp_path_factory.mktemp(f"ranks-{n}"))
            (folder / "jobs.json").write_text(json.dumps(jobs(folder, **flags)))
            launch(n, folder / "jobs.json", *(["term"] if told_to_end else []))
        return folder or done[n]

    return of


def seen(folder, job, rank=0):
    return torch.load(folder / job / f"seen-{rank}.pt")


def rows(folder, job):
    lines = (folder / job / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", JOBS)
def test_gradients_are_those_of_one_process(outcome, job, n):
    for (one, _), (many, _) in zip(seen(outcome(1), job), seen(outcome(n), job), strict=True):
        scale = max(g.norm() for g in one[0])
        for a, b in zip(one[0], many[0], strict=True):
            assert (a - b).norm() <= 1e-10 * max(a.norm(), 1e-3 * scale)  # some are zero but for rounding


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", JOBS)
def test_weights_are_those_of_one_process_after_five_steps_and_more(outcome, job, n):
    for (gradients, one), (_, many) in zip(seen(outcome(1), job), seen(outcome(n), job), strict=True):
        assert len(gradients) >= 5
        for a, b in zip(one, many, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("job", JOBS)
def test_those_steps_moved_the_weights(outcome, world, inputs, job):
    starts = [inputs["policy"], world.rm] if "ppo" in job else [world.gpt]
    for (_, weights), start in zip(seen(outcome(1), job), starts, strict=True):
        old = torch.load(Path(start) / "model.pt")["model"]["transformer.wte.weight"]
        new = next(w for w in weights if w.shape == old.shape)
        assert (new - old).abs().max() >= 1e-3


def test_the_responses_of_ppo_differ_in_length(outcome):
    assert any(0 < row["ended"] < 1 for row in rows(outcome(1), "ppo"))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", JOBS)
def test_ranks_stay_bitwise_equal(outcome, job, n):
    first = seen(outcome(n), job)
    for rank in range(1, n):
        for (_, a), (_, b) in zip(first, seen(outcome(n), job, rank), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", JOBS)
def test_metrics_are_those_of_one_process(outcome, job, n):
    one, many = rows(outcome(1), job), rows(outcome(n), job)
    assert len(one) == len(many)
    for a, b in zip(one, many):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("job", ["ppo", "ppo_ptx"])
def test_the_tokens_that_are_shown_are_those_of_one_process(outcome, job, n):
    """Also their ratios, of which each process knows a part; in two passes not the same part."""
    one, many = ([json.loads(line) for line in open(outcome(k) / job / "tokens.jsonl")] for k in (1, n))
    assert len(one) == len(many) >= 32 and any("again" in row for row in one)
    for a, b in zip(one, many):
        assert a.keys() == b.keys() and (a["prompt"], a["tokens"]) == (b["prompt"], b["tokens"])
        for name in a.keys() - {"prompt", "tokens"}:
            assert a[name] == pytest.approx(b[name], abs=1.1e-4), name


# --- runs that are ended and go on, with states that are shared out ----------------------------------------


def assert_same_models(one, other, **how):
    for job in JOBS:
        a, b = (torch.load(folder / job / "model.pt")["model"] for folder in (one, other))
        for name in a:
            torch.testing.assert_close(a[name], b[name], **how, msg=lambda text, job=job: f"{job}: {text}")


@pytest.mark.parametrize(("n", "shard"), [(1, False), (2, False), (2, True), (4, False), (4, True)])
def test_ended_by_sigterm_and_gone_on_ranks_leave_the_same_model_bit_by_bit(outcome, tmp_path, n, shard):
    """With --shard also the same as without."""
    outcome(n, tmp_path, told_to_end=True, shard=shard)
    for job in JOBS:
        assert [path.name for path in (tmp_path / job).glob("state-*")] and not (tmp_path / job / "model.pt").exists()
    outcome(n, tmp_path, resume=True, shard=shard)
    assert_same_models(tmp_path, outcome(n), rtol=0, atol=0)


@pytest.mark.parametrize("numbers", [(2, 4), (4, 2), (1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on_but_for_rounding(outcome, tmp_path, numbers):
    begun, ended = numbers
    outcome(begun, tmp_path, told_to_end=True, shard=begun > 1)
    outcome(ended, tmp_path, resume=True, shard=ended > 1)
    assert_same_models(tmp_path, outcome(1), rtol=0, atol=1e-9)


def test_dropout_differs_between_ranks_steps_and_seeds(monkeypatch):
    seeds = set()
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        seeds |= {distributed.seed_of(seed, step) for seed in (0, 1) for step in range(3)}
    assert len(seeds) == 12


def test_ranks_with_more_parts_than_others_do_not_wait_for_each_other(world, tmp_path):
    """Minibatches of which one rank's share fits into one forward and the other's does not, from the first on."""
    flags = dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], documents=[world.documents],
                 documents_per_episode=0.5, episodes=16, batch_size=8, minibatch_size=4, max_response=12,
                 max_tokens=40, out=str(tmp_path / "out"))  # fmt: skip
    (tmp_path / "jobs.json").write_text(json.dumps([("train_ppo", to_flags(flags))]))
    launch(2, tmp_path / "jobs.json")


# --- faults -------------------------------------------------------------------------------------------------


def sft(world, out, **flags):
    settings = dict(init=world.gpt, data=[world.demonstrations], out=out, batch_size=2, epochs=40, dropout=0.0, lr=1e-3)
    return to_flags(settings | flags)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (dict(data=["{folder}/{rank}.jsonl"]), "process 1 has another --data, or another file of that name"),
        (dict(seed="{rank}"), "process 1 has another --seed"),
        (dict(save_every="1{rank}"), "process 1 has another --save_every"),
        (dict(init="{folder}/gpt-{rank}"), "process 1 has another --init, or another file of that name"),
        (dict(data=["{folder}/{rank}.tokens"]), "process 1 has another --data, or another file of that name"),
    ],
)
def test_ranks_with_other_files_or_flags_end_in_one_line(world, tmp_path, flags, says):
    tokenizer = load_tokenizer(world.gpt)
    for rank in range(2):
        data = tiny.write_lines(tmp_path / f"{rank}.jsonl", tiny.DEMONSTRATIONS[rank:])
        save_model(tmp_path / f"gpt-{rank}" / "model.pt", tiny.make(GPT, tokenizer.n_vocab, seed=rank), tokenizer)
        encoded = dict(data=(data,), kind="demonstration", limit=64, tokenizer=world.gpt, processes=1)
        encode.main(encode.Config(**encoded, out=str(tmp_path / f"{rank}.tokens")))
        folder.release_locks()
    words = [word.replace("{folder}", str(tmp_path)) for word in sft(world, str(tmp_path / "out"), **flags)]
    (tmp_path / "jobs.json").write_text(json.dumps([("train_sft", words)]))
    result = torchrun(2, RANKS, str(tmp_path / "jobs.json"))
    assert result.returncode != 0 and result.stderr.count("error: process 1 has another") == 1
    assert says in result.stderr and not (tmp_path / "out").exists()


def test_what_only_another_rank_finds_is_said_too(world, tmp_path):
    tiny.write_lines(tmp_path / "0.jsonl", tiny.DEMONSTRATIONS)
    words = sft(world, str(tmp_path / "out"), data=[f"{tmp_path}/{{rank}}.jsonl"])
    (tmp_path / "jobs.json").write_text(json.dumps([("train_sft", words)]))
    result = torchrun(2, RANKS, str(tmp_path / "jobs.json"))
    assert result.returncode != 0 and result.stderr.count("error: ") == 1
    assert f"error: {tmp_path}/1.jsonl: no such file" in result.stderr


def test_ranks_wait_for_each_other_as_long_as_the_flag_says(monkeypatch):
    asked = {}
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **options: asked.update(options))
    for name, value in dict(RANK=0, WORLD_SIZE=1, MASTER_PORT=1, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    distributed.start("cpu", 2.5)
    assert asked == {"timeout": timedelta(seconds=150)}


def test_a_nan_on_one_rank_stops_all_with_one_message(world, tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps([("train_sft", sft(world, str(tmp_path / "out")))]))
    result = torchrun(2, RANKS, str(tmp_path / "jobs.json"), "nan")
    assert result.returncode != 0
    assert result.stderr.count("error: step 3: loss is nan") == 1
    assert len(rows(tmp_path, "out")) == 3
    for rank in range(2):
        assert (tmp_path / f"stopped-{rank}").exists()


def test_a_rank_that_dies_ends_the_job(world, tmp_path):
    (tmp_path / "jobs.json").write_text(json.dumps([("train_sft", sft(world, str(tmp_path / "out")))]))
    start = time.perf_counter()
    result = torchrun(2, RANKS, str(tmp_path / "jobs.json"), "die")
    assert result.returncode != 0
    assert "SIGKILL" in result.stderr
    assert time.perf_counter() - start < 60
