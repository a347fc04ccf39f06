// openai-node: whole answers, streams, tools.
const OpenAI = require("openai");
const assert = require("node:assert");

async function main() {
  const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any", maxRetries: 0 });
  const asked = { model: "m", messages: [{ role: "user", content: "What is 123 * 456?" }] };
  assert.match((await client.chat.completions.create(asked)).choices[0].message.content, /56088\.$/);
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.match(text, /56088\.$/);
  const parameters = { type: "object", properties: { expression: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "calculator", parameters } }];
  const [call] = (await client.chat.completions.create({ ...asked, tools })).choices[0].message.tool_calls;
  assert.equal(call.function.arguments, '{"expression": "123*456"}');
}
main();
