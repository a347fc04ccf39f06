// Talking: which ids the model reads, which it writes, and when the calculator answers in between.
"use strict";

class Chat {
  constructor(model, tokenizer) {
    Object.assign(this, {model, tokenizer, exchanges: [], cached: []});
    model.reset();
  }

  prompt(text) {  // the ids so far, without the oldest exchanges where they leave less than half the context
    const special = this.tokenizer.specials;
    const asked = [special["<|user_start|>"], ...this.tokenizer.encode(text), special["<|user_end|>"],
                   special["<|assistant_start|>"]];
    const room = this.model.config.sequence_len / 2;
    const length = () => 1 + asked.length + this.exchanges.reduce((sum, exchange) => sum + exchange.length, 0);
    while (this.exchanges.length && length() > room) this.exchanges.shift();
    this.asked = asked;
    return [special["<|bos|>"], ...this.exchanges.flat(), ...asked];
  }

  // Yields {kind: "text" | "call" | "result", text} while the answer grows.
  *answer(text, {temperature = 0.6, topK = 50, random = Math.random} = {}) {
    const {model, tokenizer} = this, special = tokenizer.specials, ids = this.prompt(text), written = [];
    const stops = [special["<|assistant_end|>"], special["<|bos|>"], special["<|user_start|>"]];
    const forced = [];
    this.said = {prompt: ids, written};  // for inside.js
    let expression = null, pending = [], logits = this.readAll(ids);
    while (logits && model.length < model.config.sequence_len) {
      logits[special["<|output_start|>"]] = logits[special["<|output_end|>"]] = -Infinity;  // only the tool writes these
      const isForced = forced.length > 0, id = isForced ? forced.shift() : sample(logits, temperature, topK, random);
      written.push(id);
      if (stops.includes(id)) break;
      if (id === special["<|python_start|>"]) {
        expression = [];
      } else if (id === special["<|python_end|>"] && expression) {
        const call = tokenizer.decode(expression), result = calculate(call);
        yield {kind: "call", text: `${call} = ${result}`};
        forced.push(special["<|output_start|>"], ...tokenizer.encode(result), special["<|output_end|>"]);
        expression = null;
      } else if (expression) {
        expression.push(id);
      } else if (!isForced && id < tokenizer.tokens.length) {
        pending.push(id);
        const shown = tokenizer.decode(pending);
        if (!shown.endsWith("\ufffd")) {  // the token may end inside of a character
          yield {kind: "text", text: shown};
          pending = [];
        }
      }
      logits = this.read(id);
    }
    if (written.at(-1) !== stops[0]) written.push(stops[0]);
    this.exchanges.push([...this.asked, ...written]);
  }

  read(id) {
    this.cached.push(id);
    return this.model.read(id);
  }

  readAll(ids) {  // what the cache already holds of the beginning is not read again
    if (!this.cached.every((id, i) => id === ids[i]) || this.cached.length >= ids.length) {
      this.model.reset();
      this.cached = [];
    }
    if (ids.length >= this.model.config.sequence_len) throw new Error("The message is too long for this model.");
    let logits = null;
    for (const id of ids.slice(this.cached.length)) logits = this.read(id);
    return logits;
  }
}

function sample(logits, temperature, topK, random) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  if (!temperature) return order[0];
  const best = order.slice(0, topK), parts = best.map((id) => Math.exp((logits[id] - logits[best[0]]) / temperature));
  let left = random() * parts.reduce((a, b) => a + b);
  return best.find((_, i) => (left -= parts[i]) < 0) ?? best[0];
}
