// The models of minirlhf/model.py in plain JavaScript: tokenizer, forward pass with cached attention, sampling.
"use strict";

// ---- weights --------------------------------------------------------------------------------------------------------
// A matrix is stored as whole numbers of 8 or 12 bits and a scale for each row, so that w = number * scale. All models
// but the first are stored as the difference from another, which is small, and so exact enough in 8 bits.

// The weights of all models: {name: {tensor's name: {shape, values: Float32Array}}}. description: see pack.py; bytes:
// Uint8Array.
function unpackModels(description, bytes) {
  const models = {};
  let at = 0;
  for (const {name, base, bits} of description.models) {
    const tensors = {};
    for (const [tensor, shape] of description.shapes) {
      if (tensor.startsWith("head") && !description.heads.includes(name)) continue;
      const size = shape.reduce((a, b) => a * b, 1), rows = shape.length > 1 ? shape[0] : 0;
      const values = new Float32Array(size);
      if (rows) {
        const scales = new Float32Array(bytes.slice(at, at + 4 * rows).buffer), width = size / rows;
        at += 4 * rows;
        at = bits === 8 ? unpack8(bytes, at, values) : unpack12(bytes, at, values);
        for (let i = 0; i < size; i++) values[i] *= scales[Math.floor(i / width)];
      } else {
        values.set(new Float32Array(bytes.slice(at, at + 4 * size).buffer));
        at += 4 * size;
      }
      const before = base && models[base][tensor];
      if (before) for (let i = 0; i < size; i++) values[i] += before.values[i];
      tensors[tensor] = {shape, values};
    }
    models[name] = tensors;
  }
  if (at !== bytes.length) throw new Error("the weights in this page are damaged; make the page again");
  return models;
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

  // Takes back the last token that was read.
  forget() {
    this.length -= 1;
    for (const {keys, values} of this.cache) {
      keys.pop();
      values.pop();
    }
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
      const weights = fits.map((fit) => Math.exp(fit - Math.max(...fits)));
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

// A response to a prompt (ids): its ids, with end-of-text if it came. choose(logProbs) gives the next token.
function generate(tensors, config, prompt, limit, eos, choose, temperature = 1) {
  const reader = new Reader(tensors, config), response = [];
  let hidden;
  for (const id of prompt) hidden = reader.read(id);
  while (response.length < limit && reader.length < config.n_ctx) {
    const id = choose(reader.logProbs(hidden, temperature));
    response.push(id);
    if (id === eos) break;
    hidden = reader.read(id);
  }
  return response;
}

// The log-prob of each token of a response.
function responseLogps(tensors, config, prompt, response) {
  const reader = new Reader(tensors, config);
  let hidden;
  for (const id of prompt) hidden = reader.read(id);
  return response.map((id, i) => {
    const logp = reader.logProbs(hidden)[id];
    if (i + 1 < response.length) hidden = reader.read(id);
    return logp;
  });
}

// A reward model's score of a response, if it ended before its first token, and after each (R + 1,). Scores are read at
// end-of-text; that of the whole response is read at its last token, whatever this is.
function scoresAlong(tensors, config, prompt, response, eos) {
  const reader = new Reader(tensors, config), scores = [];
  let hidden;
  for (const id of prompt) hidden = reader.read(id);
  for (const id of response) {
    scores.push(reader.number(reader.read(eos)));
    reader.forget();
    hidden = reader.read(id);
  }
  return [...scores, reader.number(hidden)];
}

// What a value network says after the prompt and after each token of the response (R + 1,).
function numbersAlong(tensors, config, prompt, response) {
  const reader = new Reader(tensors, config);
  let hidden;
  for (const id of prompt) hidden = reader.read(id);
  return [reader.number(hidden), ...response.map((id) => reader.number(reader.read(id)))];
}
