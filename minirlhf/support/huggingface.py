"""GPT-2 as Hugging Face stores it, in and out.

    python train_sft.py --init gpt2_folder ...                         in: wherever a checkpoint is asked for
    python -m tools.export --checkpoint runs/ppo_ptx --out exported          out: transformers opens the folder

A folder holds config.json, model.safetensors, and a tokenizer: tokenizer.json, or vocab.json with merges.txt. Names are
GPT-2's own on both sides; its matrices are stored the other way round there (x W, here x W^T).
"""

from pathlib import Path

from .errors import require, reraise
from .files import read_json, write_atomically, write_json
from .tokenizer import EOS, GPT2_PATTERN, PATTERNS, Tokenizer

ELSEWHERE = "copy it from where the weights came from"
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# What makes a GPT-2 one that this GPT can be: key of config.json -> the values it may have, the default first.
ARCHITECTURE = {
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}  # fmt: skip


# --- in --------------------------------------------------------------------------------------------------------------


def holds(folder):
    """Whether a folder is Hugging Face's, rather than a run's."""
    return any(Path(folder).glob("*.safetensors"))


def read(folder):
    """The folder as a checkpoint's dict: kind, config, tokenizer (hash), model (state_dict)."""
    description, tokenizer = read_json(Path(folder) / "config.json", ELSEWHERE), read_tokenizer(folder)
    for key, known in ARCHITECTURE.items():
        value = description.get(key, known[0])
        require(value in known, f"{folder}/config.json: {key} is {value}; only {known[0]} can be read")
    names = dict(n_vocab="vocab_size", n_ctx="n_positions", n_layer="n_layer", n_head="n_head", n_embd="n_embd")
    sizes = {own: description.get(name) for own, name in names.items()}
    inner, width = description.get("n_inner"), sizes["n_embd"]
    fits = inner is None or (type(width) is int and inner == 4 * width)
    require(fits, f"{folder}/config.json: n_inner is {inner}; only 4 x n_embd can be read")
    message = f"{folder}: its model knows {sizes['n_vocab']!r} tokens, its tokenizer {tokenizer.n_vocab}"
    require(sizes["n_vocab"] == tokenizer.n_vocab, f"{message}; they must agree")
    return {"kind": "gpt", "config": sizes, "tokenizer": tokenizer.hash, "model": _read_weights(folder)}


def _read_weights(folder):
    safetensors = _library()
    weights = {}
    for path in filter(Path.is_file, sorted(Path(folder).glob("*.safetensors"))):  # a pipe would not end
        with reraise(f"{path}: truncated, or not a safetensors file; fetch it again"):
            stored = safetensors.torch.load_file(path)
        for name, tensor in stored.items():
            name = name.removeprefix("transformer.")
            if name.startswith(("wte.", "wpe.", "h.", "ln_f.")) and not name.endswith((".attn.bias", ".masked_bias")):
                turned = name.endswith(TRANSPOSED) and tensor.ndim == 2
                weights[f"transformer.{name}"] = tensor.float().T.contiguous() if turned else tensor.float()
    return weights


def read_tokenizer(folder):
    """A Tokenizer of the same ids. Byte-level BPE whose ids rise in the order of its merges, as GPT-2's do."""
    folder = Path(folder)
    pattern, path = GPT2_PATTERN, folder / "tokenizer.json"
    if path.exists():
        description = read_json(path, ELSEWHERE)
        with reraise(f"{path}: not a byte-level BPE as GPT-2's is; no other kind can be read"):
            vocabulary, merges = description["model"]["vocab"], description["model"]["merges"]
            merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
            pattern = _pattern(description["pre_tokenizer"])
    else:
        path, merges_path = folder / "vocab.json", folder / "merges.txt"
        both = path.exists() and merges_path.exists()
        require(both, f"{folder}: no tokenizer.json there, nor vocab.json and merges.txt; add them")
        vocabulary = read_json(path, ELSEWHERE)
        with reraise(f"{merges_path}: cannot be read; {ELSEWHERE}"):
            lines = merges_path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    known = {character: byte for byte, character in enumerate(_alphabet())}
    with reraise(f"{path}: its tokens are not made of GPT-2's alphabet of bytes, or of its merges"):
        ranks = {bytes(known[c] for c in token): i for token, i in vocabulary.items() if token != EOS}
        ids = [vocabulary[first + second] for first, second in merges]
        rising = ids == sorted(set(ids)) and len(ids) + 256 == len(ranks)
        whole = sorted(ranks.values()) == list(range(len(ranks))) and all(type(i) is int for i in ids)
    require(rising and whole, f"{path}: ids do not rise with the merges, as GPT-2's do; no other kind can be read")
    return Tokenizer(ranks, pattern)


def _pattern(splitter):
    """What splits a text into words: GPT-2's own pattern, or one spelled out before the bytes, as write() does it."""
    if splitter["type"] == "ByteLevel" and splitter.get("use_regex", True) and not splitter["add_prefix_space"]:
        return GPT2_PATTERN
    first, second = splitter["pretokenizers"]
    right = (first["type"], first["behavior"], second["type"]) == ("Split", "Isolated", "ByteLevel")
    if not right or first["pattern"]["Regex"] not in PATTERNS:
        raise KeyError
    return first["pattern"]["Regex"]


# --- out -------------------------------------------------------------------------------------------------------------


def write(folder, model, tokenizer):
    """Writes a GPT and its tokenizer as a folder that transformers opens: AutoModelForCausalLM, AutoTokenizer."""
    config, folder, end = model.config, Path(folder), tokenizer.eos
    weights = {
        name: (tensor.T if name.endswith(TRANSPOSED) else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    architecture = {key: known[0] for key, known in ARCHITECTURE.items()}
    sizes = dict(vocab_size=config.n_vocab, n_positions=config.n_ctx, n_layer=config.n_layer, n_head=config.n_head)
    no_dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ends = dict(bos_token_id=end, eos_token_id=end)
    named = {"architectures": ["GPT2LMHeadModel"], "n_embd": config.n_embd, "torch_dtype": "float32"}
    write_json(folder / "config.json", architecture | named | sizes | no_dropout | ends)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "unk_token": EOS,
        "model_max_length": config.n_ctx, "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    write_json(folder / "tokenizer.json", _describe(tokenizer))
    write_atomically(folder / "model.safetensors", _library().torch.save(weights, {"format": "pt"}))


def _describe(tokenizer):
    alphabet = _alphabet()

    def spell(token):
        return "".join(alphabet[byte] for byte in token)

    by_rank = sorted(tokenizer.ranks, key=tokenizer.ranks.get)
    vocabulary = {spell(token): tokenizer.ranks[token] for token in by_rank} | {EOS: tokenizer.eos}
    merges = [[spell(part) for part in halves(token, tokenizer.ranks)] for token in by_rank if len(token) > 1]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    end = dict(id=tokenizer.eos, content=EOS, single_word=False, lstrip=False, rstrip=False, normalized=False)
    bpe = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="", end_of_word_suffix="",
               fuse_unk=False, byte_fallback=False, ignore_merges=False, vocab=vocabulary, merges=merges)  # fmt: skip
    return dict(version="1.0", truncation=None, padding=None, added_tokens=[end | {"special": True}], normalizer=None,
                pre_tokenizer={"type": "Sequence", "pretokenizers": [words, to_bytes]}, post_processor=None,
                decoder=to_bytes, model=bpe)  # fmt: skip


def halves(token, ranks):
    """The two tokens whose merge makes `token`: what is left of its bytes when all earlier merges are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        made = [ranks.get(a + b, len(ranks)) for a, b in zip(parts, parts[1:])]
        i = made.index(min(made))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _alphabet():
    """GPT-2's letter for each byte: itself where that can be seen, else the next letter from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    unseen = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in visible else next(unseen) for byte in range(256)]


def _library():
    with reraise('Hugging Face folders need safetensors: pip install "minirlhf[huggingface]"'):
        import safetensors.torch
    return safetensors
