"""What only a GPU can show, and skips where there is none: it takes the steps that a CPU takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_device import gradients, placed

import tiny
import train_ppo
import train_rm
import train_sft
from minirlhf.model import GPT
from minirlhf.rollout import generate, uniforms
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.sampling import decode
from tiny import to_flags

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROOT = Path(__file__).parents[2]


def test_float32_gives_the_gradients_of_a_cpu():
    tokens = torch.randint(290, (4, 20), generator=torch.Generator().manual_seed(0))
    there = gradients(placed(GPT, 290, device="cuda", dtype="float32"), tokens.cuda())
    for a, b in zip(there, gradients(placed(GPT, 290), tokens)):
        torch.testing.assert_close(a.cpu(), b, atol=1e-5, rtol=1e-4)


def test_it_computes_in_bfloat16_unless_it_is_told_otherwise():
    assert placed(GPT, 290, device="cuda")(torch.zeros(1, 5, dtype=torch.long, device="cuda")).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_draw_what_decode_draws(dtype):
    """Rows end at different steps, and prompts differ in length."""
    model = placed(GPT, 290, device="cuda", dtype=dtype)
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]] * 4
    noise = uniforms((0,), len(prompts), 40)
    drawn = {how: generate(model, prompts, noise, eos=17, pad=290, decode=how) for how in (decode, decode_by_graph)}
    (one, logp), (other, logp_by_graph) = drawn.values()
    width = min(one.tokens.shape[1], other.tokens.shape[1])
    same = (one.tokens[:, :width] == other.tokens[:, :width]).all(1)
    assert same.all() if dtype == "float32" else same.float().mean() > 0.5  # one token drawn otherwise changes the rest
    width = min(logp.shape[1], logp_by_graph.shape[1])
    close = dict(atol=1e-4, rtol=1e-4) if dtype == "float32" else dict(atol=0.1, rtol=0)
    torch.testing.assert_close(logp[same, :width], logp_by_graph[same, :width], **close)


def jobs(world, out, **flags):
    """The three scripts' command lines, one after the other."""
    common = dict(batch_size=4, lr=1e-3, seed=3) | flags
    return [
        (train_sft, dict(init=world.gpt, data=[world.demonstrations], epochs=3, dropout=0.0, out=f"{out}/sft")
         | common),
        (train_rm, dict(init=world.gpt, data=[world.rankings], out=f"{out}/rm") | common),
        (train_ppo, dict(policy=world.gpt, reward_model=world.rm, prompts=[world.prompts], documents=[world.documents],
                         documents_per_episode=0.5, episodes=16, minibatch_size=2, max_response=8, value_lr=1e-3,
                         out=f"{out}/ppo") | common),
    ]  # fmt: skip


def metrics(folder):
    """{(step, name): value} of what a training logged, but for the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], name): value for row in rows for name, value in row.items() if "second" not in name}


@pytest.fixture(scope="module")
def on_cpu(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("cpu")
    for script, flags in jobs(world, out, device="cpu"):
        tiny.run(script, to_flags(flags))
    return out


@pytest.mark.parametrize("graph", [False, True])
def test_the_scripts_take_the_steps_of_a_cpu(world, on_cpu, tmp_path, no_pictures, graph):
    for script, flags in jobs(world, tmp_path, device="cuda", dtype="float32"):
        tiny.run(script, to_flags(flags | ({"graph": True} if graph and script is train_ppo else {})))
    for name in ("sft", "rm", "ppo"):
        assert metrics(tmp_path / name) == pytest.approx(metrics(on_cpu / name), rel=2e-3, abs=2e-4), name


def test_the_scripts_run_in_bfloat16_with_graphs(world, tmp_path, no_pictures):
    for script, flags in jobs(world, tmp_path, device="cuda"):
        tiny.run(script, to_flags(flags | ({"graph": True} if script is train_ppo else {})))
    assert metrics(tmp_path / "ppo")


def torchrun(n, script, flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
    command += [str(ROOT / f"{script.__name__}.py"), *to_flags(flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_torchrun_takes_the_same_steps_by_nccl(world, on_cpu, tmp_path):
    for script, flags in jobs(world, tmp_path, device="cuda", dtype="float32"):
        result = torchrun(1, script, flags)
        assert result.returncode == 0, result.stderr[-2000:]
    for name in ("sft", "rm", "ppo"):
        assert metrics(tmp_path / name) == pytest.approx(metrics(on_cpu / name), rel=2e-3, abs=2e-4), name


def test_more_processes_than_gpus_are_refused_in_a_line(world, tmp_path):
    script, flags = jobs(world, tmp_path, device="cuda")[0]
    n = torch.cuda.device_count() + 1
    result = torchrun(n, script, flags)
    assert result.returncode != 0 and f"--nproc_per_node {n}: this machine has {n - 1} GPUs" in result.stderr
