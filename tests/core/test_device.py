"""A device that is not there is named before anything starts; precision, compilation and recomputation change no result
that matters."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
import train_ppo
import train_rm
import train_sft
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, response_logps, uniforms
from minirlhf.support.device import centre_embeddings, pick_device, place
from minirlhf.support.errors import InputError


def test_auto_is_a_device_that_works():
    assert torch.zeros(1, device=pick_device("auto")).item() == 0


def test_the_cpu_can_always_be_asked_for():
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"--device {name}"):
        pick_device(name)


def test_a_device_nobody_knows_is_refused():
    with pytest.raises(InputError, match="--device gpu: choose cpu, cuda, mps or auto"):
        pick_device("gpu")


# --- precision and speed --------------------------------------------------------------------------------------


def placed(kind, n_vocab, n_layer=3, **flags):
    settings = SimpleNamespace(**(dict(device="cpu", dtype="auto", compile=False, recompute=False) | flags))
    return place(tiny.make(kind, n_vocab, n_layer=n_layer), settings)


@pytest.fixture
def tokens():
    return torch.randint(290, (4, 20), generator=torch.Generator().manual_seed(0))


def test_a_cpu_computes_in_float32_unless_it_is_told_otherwise(tokens):
    assert placed(GPT, 290)(tokens).dtype == torch.float32


def test_bfloat16_is_close_and_keeps_weights_and_scores_in_float32(tokens):
    exact, near = placed(GPT, 290)(tokens), placed(GPT, 290, dtype="bfloat16")(tokens)
    assert near.dtype == torch.bfloat16
    exact, near = exact.log_softmax(-1), near.float().log_softmax(-1)
    assert 0 < (near - exact).std() < 0.03 * exact.std()
    rm = placed(RewardModel, 290, dtype="bfloat16")
    assert rm(tokens).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in rm.parameters())


def test_what_is_sampled_in_bfloat16_has_log_probs_in_float32():
    model = placed(GPT, 290, dtype="bfloat16")
    responses, logp = generate(model, [[1, 2, 3], [4]], uniforms((0,), 2, 6), eos=289, pad=290)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(response_logps(model, responses) * responses.mask, logp, atol=0.1, rtol=0)


def test_logits_far_from_0_lose_no_digits_in_bfloat16(tokens):
    """GPT-2's do lie there. Here the tokens' embeddings share a direction that every last state has a part in."""
    models = [tiny.make(GPT, 290, n_layer=3) for _ in range(2)]
    with torch.no_grad():
        for model in models:
            model.transformer.wte.weight[:, 0] += 10
            model.transformer.ln_f.weight[0], model.transformer.ln_f.bias[0] = 0, -10
    settings = SimpleNamespace(device="cpu", dtype="bfloat16")
    exact, near = models[0](tokens), place(models[1], settings)(tokens).float()
    assert exact.mean() < -90
    error = near.log_softmax(-1) - exact.log_softmax(-1)
    assert error.std() < 0.03 * exact.log_softmax(-1).std()


def test_sampling_copies_the_weights_to_bfloat16_once_and_not_for_each_token():
    model, copies = placed(GPT, 290, dtype="bfloat16"), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten._to_copy.default and result.shape == model.transformer.wte.weight.shape:
                copies.append(result)
            return result

    with Watch():
        _, logp = generate(model, [[1, 2, 3], [4]], uniforms((0,), 2, 9), eos=-1, pad=290)
    assert logp.shape == (2, 9)
    assert [copy.dtype for copy in copies] == [torch.bfloat16]


@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_a_model_is_gone_when_its_last_name_is(kind, tokens):
    """Nothing in it leads back to it: else all epochs of a selection would be held in memory."""
    model = placed(kind, 290, dtype="bfloat16")
    model(tokens)
    watch = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert watch() is None
    finally:
        gc.enable()


def gradients(model, tokens):
    model(tokens).float().square().mean().backward()
    return [p.grad for p in model.parameters()]


def test_recomputing_gives_the_same_gradients_and_keeps_less(tokens):
    kept = []

    def hooked(model):
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: count.append(x.numel()) or x, lambda x: x):
            loss = model(tokens).square().mean()
        kept.append(sum(count))
        loss.backward()
        return [p.grad for p in model.parameters()]

    plain, again = hooked(placed(GPT, 290)), hooked(placed(GPT, 290, recompute=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, again))
    assert kept[1] < kept[0] / 2


def test_a_compiled_model_gives_the_same_gradients_and_still_samples(tokens, monkeypatch):
    """Traced as for torch.compile, but run without its code generator, which takes a minute."""
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_(self, backend="aot_eager", **how))
    model = placed(GPT, 290, n_layer=1, compile=True)  # each layer takes seconds
    for a, b in zip(gradients(model, tokens), gradients(placed(GPT, 290, n_layer=1), tokens)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert len(generate(model, [[1, 2], [3]], uniforms((0,), 2, 4), eos=289, pad=290)[1]) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [GPT, RewardModel])
def test_batches_of_all_shapes_and_networks_of_a_kind_share_two_graphs(kind, dtype, monkeypatch):
    """One with gradients and one without, each of the whole forward; one more would be a minute of compiling."""
    graphs, compile_ = [], torch.nn.Module.compile

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_(self, backend=count, **how))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for model in [placed(kind, 290, n_layer=1, dtype=dtype, compile=True) for _ in range(2)]:
        for B, T, R in [(4, 20, 5), (3, 17, 11), (2, 6, 3), (16, 50, 4)]:  # rows of a matrix product from 6 to 800
            for learning in (True, False):
                with torch.set_grad_enabled(learning):
                    model(torch.randint(290, (B, T)), at=torch.randint(T, (B, R)))
    assert not torch._dynamo.utils.counters["graph_break"]
    assert len(graphs) == 2


@pytest.mark.parametrize("flags", ["--dtype bfloat16", "--recompute"])
def test_scripts_run_with_it(world, tmp_path, no_pictures, flags):
    ptx = f"--documents {world.documents} --documents_per_episode 0.5"
    tiny.run(
        train_sft, f"--init {world.gpt} --data {world.demonstrations} --epochs 1 --out {tmp_path}/s {flags}".split()
    )
    tiny.run(train_rm, f"--init {tmp_path}/s --data {world.rankings} --out {tmp_path}/r {flags}".split())
    tiny.run(
        train_ppo,
        f"--policy {tmp_path}/s --reward_model {tmp_path}/r --prompts {world.prompts} {ptx} --episodes 8 --batch_size 4"
        f" --minibatch_size 2 --max_response 8 --out {tmp_path}/p {flags}".split(),
    )
    assert (tmp_path / "p" / "model.pt").exists()


def test_a_precision_nobody_knows_is_refused(world, tmp_path):
    with pytest.raises(InputError, match="--dtype float16: choose auto, float32, bfloat16"):
        tiny.run(train_sft, f"--init {world.gpt} --data x --out {tmp_path}/s --dtype float16".split())


def test_centred_embeddings_change_no_probability_and_bring_the_mean_logit_to_0():
    model = tiny.make(GPT, 50).double()
    tokens = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    centre_embeddings(model.transformer)
    after = model(tokens)
    assert before.mean(-1).abs().max() > 0.1
    torch.testing.assert_close(after.mean(-1), torch.zeros(2, 9).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(after.log_softmax(-1), before.log_softmax(-1))
