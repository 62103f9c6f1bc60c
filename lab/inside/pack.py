"""Packs models of one shape into bytes that model.js reads: 12 bits for a matrix's numbers, or 8 where a model is
stored as its difference from another; a scale in float32 for each row; vectors in float32."""

import numpy as np
import torch

HEADS = "reward model"  # the kind of model that has a head


def pack(models, plan):
    """(description, bytes) of {name: model}. plan: [(name, base or None, bits)], each base before what is stored as the
    difference from it."""
    shapes, parts, stored = {}, [], {}
    for name, base, bits in plan:
        stored[name] = {}
        for tensor, value in tensors_of(models[name]).items():
            shapes[tensor] = list(value.shape)
            before = stored[base].get(tensor, 0.0) if base else 0.0
            packed, rounded = pack_tensor(value - before, bits)
            parts.append(packed)
            stored[name][tensor] = before + rounded
    config = next(iter(models.values())).config
    description = {
        "config": {key: getattr(config, key) for key in ("n_vocab", "n_ctx", "n_layer", "n_head", "n_embd")},
        "shapes": list(shapes.items()),
        "heads": [name for name, model in models.items() if model.kind == HEADS],
        "models": [{"name": name, "base": base, "bits": bits} for name, base, bits in plan],
    }
    return description, b"".join(parts)


def tensors_of(model):
    """{name as model.js has it: float32 array}, the head's last."""
    state = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    return {name: value.detach().to("cpu", torch.float32).numpy() for name, value in state.items()}


def pack_tensor(values, bits):
    """(bytes, what they stand for) of a float32 array."""
    if values.ndim < 2:
        return values.astype("<f4").tobytes(), values
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(values).max(1, keepdims=True) / most, 1e-12).astype("<f4")
    numbers = np.rint(values / scale).astype(np.int32)
    packed = numbers.astype(np.int8).tobytes() if bits == 8 else pack_12(numbers.ravel())
    return scale.tobytes() + packed, numbers.astype(np.float32) * scale


def pack_12(numbers):
    """Two numbers in three bytes. numbers (an even number of them): within -2048 to 2047."""
    low, high = (numbers & 0xFFF).reshape(-1, 2).T
    both = (low | high << 12).astype("<u4")
    return both.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
