"""GPT-2's folders: the same logits here and in transformers, the same ids, and clear words where one is broken."""

import json
import os
import random

import pytest
import torch

import tiny
from minirlhf.model import GPT, RewardModel
from minirlhf.support import huggingface
from minirlhf.support import tokenizer as tokenizers
from minirlhf.support.chats import prompt_of
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import InputError
from tools import export

pytest.importorskip("safetensors")
os.environ["HF_HUB_OFFLINE"] = "1"
SHAPES = (dict(n_layer=2, n_head=2, n_embd=16), dict(n_layer=3, n_head=4, n_embd=32))


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(params=SHAPES, ids=str)
def exported(request, tokenizer, tmp_path):
    model = tiny.make(GPT, tokenizer.n_vocab, **request.param)
    huggingface.write(tmp_path / "out", model, tokenizer)
    return model, tmp_path / "out"


# --- with transformers as the oracle ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]], ids=str)
def test_a_folder_of_transformers_gives_the_same_logits_here(transformers, tokenizer, tmp_path, shape, files):
    ends = dict(bos_token_id=tokenizer.eos, eos_token_id=tokenizer.eos)
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=tokenizer.n_vocab, n_positions=64, **shape, **ends)
    )
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.2 * torch.randn_like(p)
    theirs.eval().save_pretrained(tmp_path)
    write_tokenizer(tmp_path, tokenizer, files)
    ours = load_model(tmp_path, GPT, load_tokenizer(tmp_path)).eval()
    tokens = torch.randint(tokenizer.n_vocab, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def write_tokenizer(folder, tokenizer, files):
    """The tokenizer as GPT-2's is published."""
    described = huggingface.describe_tokenizer(tokenizer)
    described["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if files == ["tokenizer.json"]:
        (folder / "tokenizer.json").write_text(json.dumps(described))
    else:
        (folder / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
        merges = "".join(f"{pair}\n" for pair in described["model"]["merges"])
        (folder / "merges.txt").write_text("#version: 0.2\n" + merges)


def test_an_exported_folder_gives_the_same_logits_there(transformers, exported, tokenizer):
    model, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.randint(tokenizer.n_vocab, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=0)
    assert theirs.config.vocab_size == tokenizer.n_vocab
    assert theirs.config.eos_token_id == tokenizer.eos


def test_an_exported_tokenizer_gives_the_same_ids_there_and_has_no_token_more(transformers, exported, tokenizer):
    theirs = transformers.AutoTokenizer.from_pretrained(exported[1])
    assert len(theirs) == theirs.vocab_size == tokenizer.n_vocab
    assert theirs.eos_token_id == tokenizer.eos
    rng = random.Random(0)
    words = " ".join(tiny.TEXTS).split()
    alphabets = ("ab ", "the catson ", "aäß€漢字🙂 \n\t'123_-.,!?", "'s 're 12 ٣ ²½ \u00a0\u2003 x_y __ a\n\n b")
    texts = [" ".join(rng.choices(words, k=8)) for _ in range(50)]
    texts += ["".join(rng.choices(alphabet, k=30)) for alphabet in alphabets for _ in range(100)]
    for text in texts:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == text


def test_an_exported_tokenizer_pads_and_writes_conversations_as_the_scripts_do(transformers, exported):
    pytest.importorskip("jinja2")
    theirs = transformers.AutoTokenizer.from_pretrained(exported[1])
    assert theirs.pad_token == "<|endoftext|>"
    talk = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("assistant", ""), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in talk]
    for part in (messages, messages[1:], messages[:2]):
        shown = theirs.apply_chat_template(part, tokenize=False, add_generation_prompt=True)
        assert shown == prompt_of(part)


def test_a_head_of_its_own_is_refused(exported):
    stored = huggingface.import_safetensors().load_file(exported[1] / "model.safetensors")
    head = stored["transformer.wte.weight"].clone()
    huggingface.import_safetensors().save_file(stored | {"lm_head.weight": head}, exported[1] / "model.safetensors")
    load_model(exported[1], GPT, load_tokenizer(exported[1]))
    stored["lm_head.weight"] = head + 1
    huggingface.import_safetensors().save_file(stored, exported[1] / "model.safetensors")
    with pytest.raises(InputError, match="lm_head.weight is not the token embedding"):
        load_model(exported[1], GPT, load_tokenizer(exported[1]))


WTE = "transformer.wte.weight"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f, w, s: s({WTE: w[WTE]}, f / "old.safetensors"), "another file"),
        (lambda f, w, s: s(w | {WTE: w[WTE].to(torch.int8)}, f / "model.safetensors"), "quantized weights can't be"),
        (lambda f, w, s: edit(f, "tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"})), "a normalizer"),
        (lambda f, w, s: edit(f, "tokenizer.json", lambda c: c["model"].update(end_of_word_suffix="x")), "of_word"),
        (lambda f, w, s: edit(f, "tokenizer.json", lambda c: c["added_tokens"].append({"id": 5, "content": "Ben"})),
         "has added tokens .*Ben"),
        (
            lambda f, w, s: edit(
                f, "tokenizer.json", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(invert=True)
            ),
            "not a byte-level BPE like",
        ),
        (lambda f, w, s: edit(f, "tokenizer.json",
                              lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)),
         "not a byte-level BPE like"),
        (lambda f, w, s: (f / "adapter_config.json").write_text("{}"), "an adapter .* merge them first"),
        (lambda f, w, s: s(w | {WTE: w[WTE] * float("nan")}, f / "model.safetensors"), "values that are not finite in"),
    ],
)  # fmt: skip
def test_what_would_be_read_as_another_model_is_refused(exported, harm, says):
    library = huggingface.import_safetensors()
    harm(exported[1], library.load_file(exported[1] / "model.safetensors"), library.save_file)
    with pytest.raises(InputError, match=says):
        load_model(exported[1], GPT, load_tokenizer(exported[1]))


def test_a_file_that_macos_left_is_no_weights(exported):
    (exported[1] / "._model.safetensors").write_bytes(b"x")
    load_model(exported[1], GPT, load_tokenizer(exported[1]))


def test_weights_that_may_hold_code_are_named_with_what_to_do(exported):
    (exported[1] / "model.safetensors").rename(exported[1] / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin: may hold code, and is not opened; save it by"):
        load_model(exported[1], GPT)


def test_gpt2s_own_tokenizer_is_exported_as_it_is(transformers, real_data, tmp_path):
    tokenizer = tokenizers.load(real_data / "gpt2.tiktoken")
    huggingface.write(tmp_path, tiny.make(GPT, tokenizer.n_vocab, n_layer=1, n_embd=2, n_head=1), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 50257
    for text in ("Hello world! It's 2 o'clock.\n\n  Don't   panic", "naïve café — ¿qué? 漢字 🙂", " a\tb\r\n"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert load_tokenizer(tmp_path).hash == tokenizer.hash


# --- round trips --------------------------------------------------------------------------------------------


def test_what_is_exported_is_read_back_bit_by_bit(exported, tokenizer):
    model, folder = exported
    back = load_tokenizer(folder)
    assert back.hash == tokenizer.hash
    loaded = load_model(folder, GPT, back)
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))


def test_a_folder_starts_a_reward_model_too(exported, tokenizer):
    model, folder = exported
    trunk = load_model(folder, RewardModel, tokenizer, new_head=True).transformer
    assert torch.equal(trunk.h[1].mlp.c_fc.weight, model.transformer.h[1].mlp.c_fc.weight)


def test_sft_starts_from_a_folder_and_the_command_exports_what_it_made(exported, world, tokenizer, tmp_path):
    import train_sft

    out = tmp_path / "sft"
    flags = f"--init {exported[1]} --data {world.demonstrations} --epochs 1 --batch_size 2 --lr 1e-3 --out {out}"
    tiny.run(train_sft, flags.split())
    tiny.run(export, ["--checkpoint", str(out), "--out", str(tmp_path / "again")])
    sft, again = load_model(out, GPT, tokenizer), load_model(tmp_path / "again", GPT, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(sft.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(sft.transformer.wte.weight, exported[0].transformer.wte.weight)


# --- broken folders -----------------------------------------------------------------------------------------


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def edit_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


WTE, FC = "transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: edit_weights(f, lambda w: w.pop(WTE)), "tensor transformer.wte.weight: no model of the sizes"),
        (
            lambda f: edit_weights(f, lambda w: w.update({FC: w[FC].T.contiguous()})),
            "tensor transformer.h.0.mlp.c_fc.weight: no model of the sizes",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors: truncated, or not"),
        (lambda f: (f / "config.json").unlink(), "config.json: missing or not a JSON object"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: missing or not a JSON object"),
        (
            lambda f: edit(f, "config.json", lambda c: c.update(n_layer=1)),
            "tensor transformer.h.1.attn.c_attn.bias",
        ),
        (lambda f: edit(f, "config.json", lambda c: c.update(n_head="2")), "no model of the sizes"),
        (
            lambda f: edit(f, "config.json", lambda c: c.update(vocab_size="290")),
            "knows '290' tokens",
        ),
        (lambda f: edit(f, "tokenizer.json", lambda c: c.update(pre_tokenizer=[])), "not a byte-level BPE like"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c["model"].update(merges=5)), "not a byte-level BPE like"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c["model"].update(vocab=[])), "not made of"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c["model"]["vocab"].update(a="x")), "not made of"),
        (lambda f: edit(f, "config.json", lambda c: c.pop("n_layer")), "no model of the sizes .*'n_layer': None"),
        (lambda f: edit(f, "config.json", lambda c: c.update(model_type="llama")), "model_type is llama; only gpt2"),
        (lambda f: edit(f, "config.json", lambda c: c.update(n_inner=8)), "n_inner is 8; only 4 x n_embd"),
        (lambda f: edit(f, "config.json", lambda c: c.update(vocab_size=300)), "knows 300 tokens, its tokenizer 290"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json there, nor vocab.json"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c.pop("model")), "tokenizer.json: not a byte-level BPE"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c["model"]["merges"].reverse()), "do not rise with the merges"),
        (lambda f: edit(f, "tokenizer.json", lambda c: c["model"]["merges"].append("q q")), "not made of"),
    ],
)
def test_a_broken_folder_is_one_clear_line(exported, harm, message):
    folder = exported[1]
    harm(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder, GPT, load_tokenizer(folder))


def test_nothing_is_exported_over_what_is_there(world, tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(InputError, match="is not empty; choose another --out"):
        tiny.run(export, ["--checkpoint", world.gpt, "--out", str(tmp_path)])
    with pytest.raises(InputError, match="a file is in the way; choose another --out"):
        tiny.run(export, ["--checkpoint", world.gpt, "--out", str(tmp_path / "precious")])
