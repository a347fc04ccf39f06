// The forward pass of nanochat/model/gpt.py for one token at a time, in plain loops over Float32Array.
"use strict";

function multiply(matrix, x) {  // matrix (O, I) · x (I)
  const size = x.length, out = new Float32Array(matrix.length / size);
  for (let o = 0, at = 0; o < out.length; o++) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += matrix[at++] * x[i];
    out[o] = sum;
  }
  return out;
}

function norm(x) {  // RMSNorm without weights
  let sum = 0;
  for (const value of x) sum += value * value;
  const factor = 1 / Math.sqrt(sum / x.length + 1e-6);
  return x.map((value) => value * factor);
}

function sigmoid(x) { return 1 / (1 + Math.exp(-x)); }

class Model {
  // config: the fields of GPTConfig; weights: {name: Float32Array}.
  constructor(config, weights) {
    this.config = config;
    this.weights = weights;
    this.watched = null;  // {states, patterns}: what inside.js wants to see of the next token
    this.reset();
  }

  reset() {  // forget everything that was read
    this.length = 0;
    this.previous = null;  // the normalised embedding of the preceding token
    this.keys = Array.from({length: this.config.n_layer}, () => []);  // per layer, per position: (G · D)
    this.values = Array.from({length: this.config.n_layer}, () => []);
  }

  row(name, index) {  // a row of a table
    const table = this.weights[name], width = table.length / this.config.vocab_size;
    return table.subarray(index * width, (index + 1) * width);
  }

  smear(x) {
    const {config, weights, previous} = this;
    if (!previous) return config.smear ? norm(x) : x;
    if (config.smear) return norm(x.map((value, i) => value + weights["model.smear"][i] * previous[i]));
    if (!config.gated_smear) return x;
    const share = weights["model.smear_share"][0] * sigmoid(multiply(weights["model.smear_gate.weight"], x)[0]);
    return x.map((value, i) => value + share * previous[i]);
  }

  read(id) {  // the logits after this token, and it is remembered
    const {config, weights} = this;
    if (id === config.document_bos) this.previous = null;
    const embedding = norm(this.row("model.embed_tokens.weight", id));
    let x = this.smear(embedding);
    this.previous = embedding;
    const x0 = x;
    let middle = x;
    for (let layer = 0; layer < config.n_layer; layer++) {
      if (config.residual_scalars) {
        const scale = weights["model.residual_scalars"][layer], share = weights["model.embedding_scalars"][layer];
        x = x.map((value, i) => scale * value + share * x0[i]);
      }
      if (!layer) this.watched?.states.push(x);
      const block = `model.layers.${layer}.`;
      const attended = multiply(weights[`${block}self_attn.o_proj.weight`], this.attention(layer, norm(x), id));
      x = x.map((value, i) => value + attended[i]);
      const hidden = multiply(weights[`${block}mlp.fc1.weight`], norm(x)).map((value) => value > 0 ? value * value : 0);
      const projected = multiply(weights[`${block}mlp.fc2.weight`], hidden);
      x = x.map((value, i) => value + projected[i]);
      if (layer === Math.floor(config.n_layer / 2)) middle = x;
      if (layer < config.n_layer - 1) this.watched?.states.push(x);
    }
    this.length++;
    if (config.backout) x = x.map((value, i) => value - weights["model.backout"][0] * middle[i]);
    this.watched?.states.push(x);
    return this.logits(x);
  }

  logits(x) {
    const raw = multiply(this.weights["lm_head.weight"], norm(x)), cap = this.config.softcap;
    return cap ? raw.map((value) => cap * Math.tanh(value / cap)) : raw;
  }

  rotate(heads) {  // RoPE by −θ and the norm of every head, in place
    const {head_dim, rope_base, query_key_scale} = this.config, half = head_dim / 2;
    for (let at = 0; at < heads.length; at += head_dim) {
      for (let i = 0; i < half; i++) {
        const angle = this.length * rope_base ** (-2 * i / head_dim), cos = Math.cos(angle), sin = Math.sin(angle);
        const first = heads[at + i], second = heads[at + i + half];
        heads[at + i] = first * cos + second * sin;
        heads[at + i + half] = second * cos - first * sin;
      }
      heads.set(norm(heads.subarray(at, at + head_dim)).map((value) => value * query_key_scale), at);
    }
    return heads;
  }

  attention(layer, x, id) {
    const {config, weights} = this, width = config.head_dim, block = `model.layers.${layer}.self_attn.`;
    const q = this.rotate(multiply(weights[`${block}q_proj.weight`], x));
    const v = multiply(weights[`${block}v_proj.weight`], x);
    const gate = weights[`${block}gate.weight`];
    if (gate) {
      const gates = multiply(gate, x), table = this.row(`model.value_embeds.${layer}.weight`, id);
      for (let i = 0; i < v.length; i++) v[i] += 2 * sigmoid(gates[Math.floor(i / width)]) * table[i];
    }
    this.keys[layer].push(this.rotate(multiply(weights[`${block}k_proj.weight`], x)));
    this.values[layer].push(v);
    const first = config.windows ? Math.max(0, this.length - config.windows[layer]) : 0;
    const out = new Float32Array(config.n_head * width), shared = config.n_head / config.n_kv_head;
    for (let head = 0; head < config.n_head; head++) {
      const at = Math.floor(head / shared) * width, scores = [];
      for (let t = first; t <= this.length; t++) {
        const key = this.keys[layer][t];
        let sum = 0;
        for (let i = 0; i < width; i++) sum += q[head * width + i] * key[at + i];
        scores.push(sum / Math.sqrt(width));
      }
      const largest = Math.max(...scores), parts = scores.map((score) => Math.exp(score - largest));
      const total = parts.reduce((a, b) => a + b);
      this.watched?.patterns.push({layer, head, first, weights: parts.map((part) => part / total)});
      parts.forEach((part, t) => {
        const value = this.values[layer][first + t];
        for (let i = 0; i < width; i++) out[head * width + i] += part / total * value[at + i];
      });
    }
    return out;
  }
}

function halfToFloat(bits) {  // an IEEE number of 16 bits
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (!exponent) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function unpack(bytes, tensors, dtype) {  // {name: Float32Array} of the numbers that follow each other in `bytes`
  const stored = dtype === "f16" ? new Uint16Array(bytes) : new Float32Array(bytes), weights = {};
  const table = dtype === "f16" ? Float32Array.from({length: 65536}, (_, bits) => halfToFloat(bits)) : null;
  let at = 0;
  for (const [name, size] of tensors) {
    const part = stored.subarray(at, at + size);
    weights[name] = table ? Float32Array.from(part, (bits) => table[bits]) : part;
    at += size;
  }
  return weights;
}
