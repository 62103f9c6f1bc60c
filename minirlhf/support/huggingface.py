"""Reads GPT-2 as Hugging Face stores it, wherever a checkpoint is asked for, and writes it (tools/export.py).

A folder holds config.json, model.safetensors, and a tokenizer: tokenizer.json, or vocab.json with merges.txt. Names are
GPT-2's on both sides; its matrices are stored transposed there (x W, here x W^T)."""

from pathlib import Path

from .errors import InputError, require, reraise
from .files import read_json, write_atomically, write_json
from .tokenizer import EOS, GPT2_PATTERN, PATTERNS, Tokenizer

ADVICE = "copy it from where the weights came from"
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
SIZES = dict(n_vocab="vocab_size", n_ctx="n_positions", n_layer="n_layer", n_head="n_head", n_embd="n_embd")
# Which GPT-2 this GPT can be: key of config.json -> the values it may have, the default first.
ARCHITECTURE = {
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}  # fmt: skip


# What chats.transcript writes, in transformers' template language.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ message['content'] }}"
    "{% else %}{{ '\\n\\nHuman:' if message['role'] == 'user' else '\\n\\nAssistant:' }}"
    "{% if message['content'] %}{{ ' ' + message['content'] }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)


def holds(folder):
    """Whether a folder is Hugging Face's, rather than a run's."""
    return any(Path(folder).glob("[!.]*.safetensors"))


def read(folder):
    """The folder as a checkpoint's dict: kind, config, tokenizer (hash), model (state_dict)."""
    config, tokenizer = read_json(Path(folder) / "config.json", ADVICE), read_tokenizer(folder)
    for key, known in ARCHITECTURE.items():
        value = config.get(key, known[0])
        require(value in known, f"{folder}/config.json: {key} is {value}; only {known[0]} can be read")
    sizes = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
    inner, width, vocab = config.get("n_inner"), sizes["n_embd"], sizes["n_vocab"]
    if inner is not None and not (type(width) is int and inner == 4 * width):
        raise InputError(f"{folder}/config.json: n_inner is {inner}; only 4 x n_embd can be read")
    fault = f"its model knows {vocab!r} tokens, its tokenizer {tokenizer.n_vocab}; they must agree"
    require(vocab == tokenizer.n_vocab, f"{folder}: {fault}")
    return {"kind": "gpt", "config": sizes, "tokenizer": tokenizer.hash, "model": read_weights(folder)}


def read_weights(folder):
    torch_format, weights = import_safetensors(), {}
    adapter = f"{folder}: an adapter (LoRA) stands beside the weights, and is not read; merge them first"
    require(not (Path(folder) / "adapter_config.json").exists(), adapter)
    paths = [path for path in sorted(Path(folder).glob("[!.]*.safetensors")) if path.is_file()]  # a pipe might block
    for path in paths:
        with reraise(f"{path}: truncated, or not a safetensors file; download it again"):
            stored = torch_format.load_file(path)
        head, embedding = stored.get("lm_head.weight"), stored.get("transformer.wte.weight", stored.get("wte.weight"))
        if head is not None and embedding is not None and not head.equal(embedding):
            raise InputError(f"{path}: lm_head.weight is not the token embedding; here they are one, as in GPT-2")
        for name, tensor in stored.items():
            floating = f"{path}: {name} is {tensor.dtype}; quantized weights can't be read, take the original ones"
            require(tensor.is_floating_point() or name.endswith((".attn.bias", ".masked_bias")), floating)
            name = name.removeprefix("transformer.")
            if name.startswith(("wte.", "wpe.", "h.", "ln_f.")) and not name.endswith((".attn.bias", ".masked_bias")):
                require(f"transformer.{name}" not in weights, f"{path}: {name} is in another file, too; remove one")
                transpose = name.endswith(TRANSPOSED) and tensor.ndim == 2
                weights[f"transformer.{name}"] = tensor.float().T.contiguous() if transpose else tensor.float()
    return weights


def read_tokenizer(folder):
    """A Tokenizer of the same ids. It must be byte-level BPE whose ids rise in the order of its merges, as GPT-2's."""
    pattern, path = GPT2_PATTERN, Path(folder) / "tokenizer.json"
    if path.exists():
        description = read_json(path, ADVICE)
        with reraise(f"{path}: not a byte-level BPE like GPT-2's; no other kind can be read"):
            vocabulary, merges = description["model"]["vocab"], description["model"]["merges"]
            merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
            pattern = read_pattern(description["pre_tokenizer"])
            for name in ("end_of_word_suffix", "continuing_subword_prefix"):
                require(not description["model"].get(name), f"{path}: has {name}; only GPT-2's kind can be read")
            added = [str(token["content"]) for token in description.get("added_tokens") or []]
        require(set(added) <= {EOS}, f"{path}: has added tokens ({', '.join(added[:3])}); only {EOS} can be read")
        require(not description.get("normalizer"), f"{path}: has a normalizer; only one without it can be read")
    else:
        path, merges_path = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        if not path.exists() or not merges_path.exists():
            raise InputError(f"{folder}: no tokenizer.json there, nor vocab.json and merges.txt; add them")
        vocabulary = read_json(path, ADVICE)
        with reraise(f"{merges_path}: cannot be read; {ADVICE}"):
            lines = merges_path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    with reraise(f"{path}: its tokens are not made of GPT-2's alphabet of bytes, or of its merges"):
        ranks = {bytes(byte_of[c] for c in token): i for token, i in vocabulary.items() if token != EOS}
        ids = [vocabulary[first + second] for first, second in merges]
        rising = ids == sorted(set(ids)) and len(ids) + 256 == len(ranks) and all(type(i) is int for i in ids)
        rising = rising and sorted(ranks.values()) == list(range(len(ranks)))
    require(rising, f"{path}: ids do not rise with the merges, as GPT-2's do; no other kind can be read")
    return Tokenizer(ranks, pattern)


def read_pattern(splitter):
    """The pattern that splits a text into words: GPT-2's, or one of ours in the form that write() gives it."""
    if splitter["type"] == "ByteLevel" and splitter.get("use_regex", True) and not splitter["add_prefix_space"]:
        return GPT2_PATTERN
    split, byte_level = splitter["pretokenizers"]
    pattern = split["pattern"]["Regex"]
    expected = (split["type"], split["behavior"], byte_level["type"]) == ("Split", "Isolated", "ByteLevel")
    changed = split.get("invert") or byte_level.get("add_prefix_space") or byte_level.get("use_regex")
    if not expected or changed or pattern not in PATTERNS:
        raise ValueError
    return pattern


def write(folder, model, tokenizer):
    """Writes a GPT and its tokenizer as a folder that transformers opens: AutoModelForCausalLM, AutoTokenizer."""
    weights = {
        name: (tensor.T if name.endswith(TRANSPOSED) else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_json(Path(folder) / "config.json", {
        **{key: known[0] for key, known in ARCHITECTURE.items()}, "architectures": ["GPT2LMHeadModel"],
        **{theirs: getattr(model.config, ours) for ours, theirs in SIZES.items()}, "torch_dtype": "float32",
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": tokenizer.eos,
        "eos_token_id": tokenizer.eos,
    })  # fmt: skip
    write_json(Path(folder) / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "unk_token": EOS,
        "pad_token": EOS, "model_max_length": model.config.n_ctx, "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    })  # fmt: skip
    write_json(Path(folder) / "tokenizer.json", describe_tokenizer(tokenizer))
    write_atomically(Path(folder) / "model.safetensors", import_safetensors().save(weights, {"format": "pt"}))


def describe_tokenizer(tokenizer):
    """The content of tokenizer.json."""
    letters, ranks = byte_letters(), tokenizer.ranks
    spelled = {token: "".join(letters[byte] for byte in token) for token in sorted(ranks, key=ranks.get)}
    vocabulary = {name: ranks[token] for token, name in spelled.items()} | {EOS: tokenizer.eos}
    merges = [" ".join(spelled[part] for part in halves(token, ranks)) for token in spelled if len(token) > 1]
    to_bytes = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    words = dict(type="Split", pattern={"Regex": tokenizer.pattern}, behavior="Isolated", invert=False)
    end = dict(id=tokenizer.eos, content=EOS, special=True)
    end |= dict(normalized=False, single_word=False, lstrip=False, rstrip=False)
    splitter = dict(type="Sequence", pretokenizers=[words, to_bytes])
    model = dict(type="BPE", vocab=vocabulary, merges=merges)
    return dict(version="1.0", added_tokens=[end], pre_tokenizer=splitter, decoder=to_bytes, model=model)


def halves(token, ranks):
    """The two tokens whose merge makes `token`: what is left of its bytes when all earlier merges are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        made = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]
        i = made.index(min(made))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def byte_letters():
    """GPT-2's letter for each byte: the byte's own if that is visible, else the next letter from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in visible else next(others) for byte in range(256)]


def import_safetensors():
    with reraise('Hugging Face folders need safetensors: pip install "minirlhf[huggingface]"'):
        import safetensors.torch
    return safetensors.torch
