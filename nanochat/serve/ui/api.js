// The server: what it can do, and its streams.
import { load } from "./store.js";

/** models: of /v1/models; card: whether it has cards; chat, text, tokenize, inside: the fields that these routes take, by
 *  the server's own OpenAPI description (null where there is no such route). The page offers nothing the server would refuse. */
export const server = { models: [], card: false, chat: new Set(), text: null, tokenize: null, inside: null };

export class Refused extends Error {
  constructor(status, { message, code } = {}) {
    super(message ?? `The server answered ${status}.`);
    Object.assign(this, { status, code });
  }
}

/** A response of the server; throws when nobody is there (TypeError) or it refuses (Refused). */
export async function ask(path, options = {}) {
  const key = load("settings", {}).key;
  const headers = {};
  if (options.body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.error);
}
const post = async (path, body) => (await ask(path, { method: "POST", body: JSON.stringify(body) })).json();

/** Fill `server`; throws when nobody is there (TypeError) or a key is wanted (Refused, 401). */
export async function connect() {
  server.models = (await (await ask("v1/models")).json()).data;
  const api = await ask("openapi.json").then((response) => response.json()).catch(() => ({}));
  server.card = "/v1/models/{name}/card" in (api.paths ?? {});
  server.chat = fields(api, "/v1/chat/completions") ?? new Set();
  server.text = fields(api, "/v1/completions");
  server.tokenize = fields(api, "/tokenize");
  server.inside = fields(api, "/v1/inside");
}

function fields(api, path) {
  const schema = api.paths?.[path]?.post?.requestBody?.content?.["application/json"]?.schema;
  const named = api.components?.schemas?.[schema?.$ref?.split("/").at(-1)] ?? schema;
  return named?.properties ? new Set(Object.keys(named.properties)) : null;
}

/** The JSON objects of a server-sent event stream, up to [DONE]. An error event, or a stream that ends without
 *  [DONE], throws. Network chunks end anywhere: what is not a whole event yet waits for the next. */
export async function* stream(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const events = (buffer + read.value).split(/\r?\n\r?\n/);
    buffer = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // a comment that keeps the connection open
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
  throw new Error("The connection broke before the answer was complete.");
}

// ---------------------------------------------------------------- tokens

/** The ids of a conversation as the model would read it, or of a text. */
export const tokenize = async (body) => (await post("tokenize", body)).tokens;

/** `ids` one by one, as the `logprobs` of /v1/completions: what each token is and how likely it was. */
export async function scores(model, ids) {
  const body = { model, prompt: ids, max_tokens: 0, echo: true, logprobs: 5 };
  return (await post("v1/completions", body)).choices[0].logprobs;
}

/** What happened inside the model before one token of an answer (docs/inside.md). */
export const lookInside = (body) => post("v1/inside", body);

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/[^.!?…:]$/, "$&.");

/** What an exception of `ask` or `stream` means to somebody who did not write this page. */
export const explain = (error) => error instanceof TypeError ? "The server can't be reached. Is it still running?"
  : error.status === 401 ? "This server wants its API key."
  : error.status === 429 ? `The server is busy: ${error.message}` : sentence(error.message);
