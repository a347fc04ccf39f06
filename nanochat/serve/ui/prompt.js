// The prompt as the model read it, token by token: the format's special tokens, and what did not fit.
import { explain, scores, server, tokenize } from "./api.js";
import { prompt, session } from "./chat.js";
import { h } from "./dom.js";
import { read, view } from "./tokens.js";
import { parentOf, textOf } from "./tree.js";

const shown = new WeakMap(); // answer → the element that shows its prompt

export const canShowPrompt = () => Boolean(server.tokenize?.has("messages") && server.text?.has("echo"));

/** What the model read before it wrote `answer`; it fills itself. */
export function promptView(answer) {
  if (!shown.has(answer)) {
    const box = h("section", { className: "prompt", "aria-label": "What the model read" });
    shown.set(answer, box);
    fill(box, answer).catch((error) => {
      shown.delete(answer); // the next time it is tried again
      box.replaceChildren(h("p", { className: "wrong" }, explain(error)));
    });
  }
  return shown.get(answer);
}

async function fill(box, answer) {
  const { sent, messages } = prompt(session.chat, parentOf(session.chat, answer), answer.stats?.system ?? "");
  const first = Math.max(sent.findIndex((node) => node.id === answer.stats?.remembers), 0);
  const system = messages.length - sent.length; // 0 or 1
  box.append(h("p", { className: "fine", role: "status" }, "Reading it again …"));
  const using = answer.stats?.model;
  const ids = await tokenize({ model: using, messages: [...messages.slice(0, system), ...messages.slice(system + first)] });
  const tokens = read(await scores(using, ids));
  box.replaceChildren(
    first ? h("details", {}, h("summary", { className: "fine" }, `${first} earlier messages were forgotten`),
      sent.slice(0, first).map((node) => h("p", { className: "forgotten", dir: "auto" }, textOf(node)))) : "",
    ...view(tokens, () => null, null));
}
