// The models of minirlhf/model.py in plain JavaScript: tokenizer, forward pass with cached attention, sampling.
"use strict";

// ---- weights --------------------------------------------------------------------------------------------------------
// A matrix is stored as whole numbers of 8 or 12 bits and a scale for each row, so that w = number * scale. All models
// but the first are stored as the difference from another, which is small, and so exact enough in 8 bits.

// The bytes (Uint8Array) of a text in base64.
function fromBase64(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

// The weights of all models: {name: {tensor's name: {shape, values: Float32Array}}}. Each model is unpacked when it is
// first asked for. description: see pack.py; bytes: Uint8Array.
function unpackModels(description, bytes) {
  const models = {};
  let at = 0;
  for (const {name, base, bits} of description.models) {
    const shapes = description.shapes.filter(([tensor]) => !tensor.startsWith("head") || description.heads.includes(name));
    const from = at;
    let tensors;
    Object.defineProperty(models, name, {get: () => tensors ??= unpack(shapes, bits, bytes, from, base ? models[base] : {})});
    for (const [, [rows, width]] of shapes) at += width ? 4 * rows + (rows * width * bits) / 8 : 4 * rows;
  }
  if (at !== bytes.length) throw new Error("the weights in this page are damaged; make the page again");
  return models;
}

// The tensors of one model, which begin at `at`. before: the tensors from which these are stored as the difference.
function unpack(shapes, bits, bytes, at, before) {
  const tensors = {}, floats = (n) => new Float32Array(bytes.slice(at, at += 4 * n).buffer);
  for (const [name, shape] of shapes) {
    const [rows, width] = shape, scales = floats(rows);
    const values = width ? new Float32Array(rows * width) : scales;
    if (width) {
      at = bits === 8 ? unpack8(bytes, at, values) : unpack12(bytes, at, values);
      for (let r = 0, i = 0; r < rows; r++) for (const end = i + width; i < end; i++) values[i] *= scales[r];
    }
    const start = before[name];
    if (start) for (let i = 0; i < values.length; i++) values[i] += start.values[i];
    tensors[name] = {shape, values};
  }
  return tensors;
}

function unpack8(bytes, at, values) {
  for (let i = 0; i < values.length; i++) values[i] = (bytes[at + i] << 24) >> 24;
  return at + values.length;
}

// Two numbers in three bytes.
function unpack12(bytes, at, values) {
  for (let i = 0; i < values.length; i += 2, at += 3) {
    const both = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
    values[i] = (both << 20) >> 20;
    values[i + 1] = (both << 8) >> 20;
  }
  return at;
}

// ---- tokenizer ------------------------------------------------------------------------------------------------------

// Byte-level BPE. tokens: a string for each id, with a character for each byte (Latin-1).
class Tokenizer {
  constructor(tokens) {
    this.tokens = tokens;
    this.rank = new Map(tokens.map((token, id) => [token, id]));
    this.eos = tokens.length;
    // Letters, digits and the rest, each with the space before it, as minirlhf/support/tokenizer.py splits text.
    this.words = /'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+| ?\p{Nd}+| ?[^\s\p{L}\p{M}\p{Nd}]+|\s+(?!\S)|\s+/gu;
  }

  encode(text) {
    const ids = [];
    for (const [word] of text.matchAll(this.words)) {
      let parts = [...String.fromCharCode(...new TextEncoder().encode(word))];
      for (;;) { // merge the pair of the lowest rank until no pair is a token
        let best = Infinity, where = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.rank.get(parts[i] + parts[i + 1]) ?? Infinity;
          if (rank < best) [best, where] = [rank, i];
        }
        if (where < 0) break;
        parts.splice(where, 2, parts[where] + parts[where + 1]);
      }
      ids.push(...parts.map((part) => this.rank.get(part)));
    }
    return ids;
  }

  decode(ids) {
    const bytes = ids.filter((id) => id < this.eos).map((id) => this.tokens[id]).join("");
    return new TextDecoder().decode(Uint8Array.from(bytes, (c) => c.charCodeAt(0)));
  }

  // One token as text to be shown.
  show(id) {
    return id === this.eos ? "<|endoftext|>" : this.decode([id]);
  }
}

// ---- the network ----------------------------------------------------------------------------------------------------

// y = W x + b for a matrix W of `rows` rows.
function linear(weight, bias, x) {
  const rows = weight.shape[0], width = weight.shape[1], w = weight.values, y = new Float32Array(rows);
  for (let r = 0, at = 0; r < rows; r++, at += width) {
    let sum = bias ? bias.values[r] : 0;
    for (let i = 0; i < width; i++) sum += w[at + i] * x[i];
    y[r] = sum;
  }
  return y;
}

function layerNorm(weight, bias, x) {
  const n = x.length, mean = x.reduce((a, b) => a + b, 0) / n;
  const scale = 1 / Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / n + 1e-5);
  return x.map((value, i) => (value - mean) * scale * weight.values[i] + bias.values[i]);
}

function gelu(x) {
  return x.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
}

function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

// A model that reads a text token by token. It keeps the keys and values of all tokens so far.
class Reader {
  constructor(tensors, config) {
    this.tensors = tensors;
    this.config = config;
    this.length = 0;
    this.cache = Array.from({length: config.n_layer}, () => ({keys: [], values: []}));
  }

  // Reads a token, and returns its last hidden state (D,).
  read(id) {
    const t = this.tensors, D = this.config.n_embd;
    if (this.length >= this.config.n_ctx) throw new Error("too long for the model's context");
    const token = t["wte.weight"].values.subarray(id * D, (id + 1) * D);
    const position = t["wpe.weight"].values.subarray(this.length * D, (this.length + 1) * D);
    let x = add(Float32Array.from(token), position);
    for (let i = 0; i < this.config.n_layer; i++) {
      const of = (name) => t[`h.${i}.${name}`];
      const attended = this.attend(i, layerNorm(of("ln_1.weight"), of("ln_1.bias"), x), of);
      x = add(x, linear(of("attn.c_proj.weight"), of("attn.c_proj.bias"), attended));
      const inner = gelu(linear(of("mlp.c_fc.weight"), of("mlp.c_fc.bias"), layerNorm(of("ln_2.weight"), of("ln_2.bias"), x)));
      x = add(x, linear(of("mlp.c_proj.weight"), of("mlp.c_proj.bias"), inner));
    }
    this.length += 1;
    return layerNorm(t["ln_f.weight"], t["ln_f.bias"], x);
  }

  // Takes back all tokens but the first `length`.
  forget(length) {
    this.length = length;
    for (const {keys, values} of this.cache) keys.length = values.length = length;
  }

  // For each head the mean of the values of all tokens so far, weighted by how their keys fit this token's query.
  attend(layer, x, of) {
    const D = this.config.n_embd, H = this.config.n_head, size = D / H, {keys, values} = this.cache[layer];
    const qkv = linear(of("attn.c_attn.weight"), of("attn.c_attn.bias"), x), y = new Float32Array(D);
    keys.push(qkv.subarray(D, 2 * D));
    values.push(qkv.subarray(2 * D));
    for (let head = 0; head < H; head++) {
      const from = head * size;
      const fits = keys.map((key) => {
        let sum = 0;
        for (let i = from; i < from + size; i++) sum += qkv[i] * key[i];
        return sum / Math.sqrt(size);
      });
      const most = Math.max(...fits), weights = fits.map((fit) => Math.exp(fit - most));
      const total = weights.reduce((a, b) => a + b, 0);
      weights.forEach((weight, j) => {
        for (let i = from; i < from + size; i++) y[i] += (weight / total) * values[j][i];
      });
    }
    return y;
  }

  // The log-probs of the next token, from a hidden state (V,).
  logProbs(hidden, temperature = 1) {
    const logits = linear(this.tensors["wte.weight"], null, hidden).map((logit) => logit / temperature);
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const total = Math.log(logits.reduce((a, b) => a + Math.exp(b - most), 0)) + most;
    return logits.map((logit) => logit - total);
  }

  // The number of a reward model or a value network, from a hidden state.
  number(hidden) {
    return linear(this.tensors["head.weight"], this.tensors["head.bias"], hidden)[0];
  }
}

// ---- what the page asks of models -----------------------------------------------------------------------------------

// Random numbers in [0, 1) from a seed (the generator mulberry32).
function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Inverse-CDF sampling, as minirlhf/rollout.py does it: the first token whose cumulative probability exceeds the noise.
function sampleToken(logProbs, noise) {
  let sum = 0;
  const most = noise * logProbs.reduce((a, b) => a + Math.exp(b), 0);
  for (let id = 0; id < logProbs.length; id++) if ((sum += Math.exp(logProbs[id])) > most) return id;
  return logProbs.length - 1;
}

function mostLikely(logProbs) {
  return logProbs.reduce((best, value, id) => (value > logProbs[best] ? id : best), 0);
}

// A model that has read a prompt (ids). It reads each response from there, and forgets it again.
class Prompted {
  constructor(tensors, config, prompt) {
    this.reader = new Reader(tensors, config);
    this.prompt = prompt;
    for (const id of prompt) this.hidden = this.reader.read(id);
  }

  // A response: its ids, with end-of-text if it came. choose(logProbs) gives the next token.
  generate(limit, eos, choose) {
    const reader = this.reader, response = [];
    let hidden = this.hidden;
    while (response.length < limit && reader.length < reader.config.n_ctx) {
      const id = choose(reader.logProbs(hidden));
      response.push(id);
      if (id === eos) break;
      hidden = reader.read(id);
    }
    reader.forget(this.prompt.length);
    return response;
  }

  // The last hidden states after the prompt and after each token of a response (R + 1, D).
  along(response) {
    const states = [this.hidden, ...response.map((id) => this.reader.read(id))];
    this.reader.forget(this.prompt.length);
    return states;
  }

  // The log-probs (V,) of what might follow the prompt and some tokens.
  next(tokens) {
    return this.reader.logProbs(this.along(tokens).at(-1));
  }

  // The log-prob of each token of a response (R,).
  logps(response) {
    const states = this.along(response.slice(0, -1));
    return response.map((id, i) => this.reader.logProbs(states[i])[id]);
  }

  // What a value network says after the prompt and after each token of a response (R + 1,). A reward model's last number
  // is the score of the whole response.
  numbers(response) {
    return this.along(response).map((hidden) => this.reader.number(hidden));
  }

  // A reward model's score of a response, if it ended before its first token, and after each (R + 1,). Scores are read at
  // end-of-text; that of the whole response is read at its last token, whatever this is.
  scores(response, eos) {
    const reader = this.reader, scores = [];
    let hidden = this.hidden;
    for (const id of response) {
      const length = reader.length;
      scores.push(reader.number(reader.read(eos)));
      reader.forget(length);
      hidden = reader.read(id);
    }
    reader.forget(this.prompt.length);
    return [...scores, reader.number(hidden)];
  }
}
