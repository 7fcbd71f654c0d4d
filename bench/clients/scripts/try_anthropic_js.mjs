// Anthropic's own library for JavaScript. Runs beside its node_modules: node try_anthropic_js.mjs URL MODEL
import assert from "node:assert/strict";
import Anthropic, { BadRequestError } from "@anthropic-ai/sdk";
import { about, isWeather, model, question, run, tooLong, url, weather, words } from "./trying.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const opening = [{ role: "user", content: question }];
const tool = { name: "get_weather", input_schema: weather };
const any = { type: "any" };

const ask = (more = {}) => client.messages.create({ model, messages: opening, max_tokens: 512, temperature: 0, ...more });

async function messages() {
  return words((await ask({ max_tokens: 24, system: "Be brief." })).content[0].text);
}

async function stream() {
  return words(await client.messages.stream({ model, messages: opening, max_tokens: 24 }).finalText());
}

async function turns() {
  const { content } = await ask({ max_tokens: 24 });
  return words((await ask({ messages: [...opening, { role: "assistant", content }, ...opening], max_tokens: 24 })).content[0].text);
}

async function tools() {
  const said = await ask({ tools: [tool], tool_choice: any });
  assert.equal(said.stop_reason, "tool_use");
  return isWeather(said.content[0].input);
}

async function named_tool() {
  return isWeather((await ask({ tools: [tool], tool_choice: { type: "tool", name: "get_weather" } })).content[0].input);
}

async function tool_stream() {
  const asked = { model, messages: opening, max_tokens: 512, tools: [tool], tool_choice: any };
  return isWeather((await client.messages.stream(asked).finalMessage()).content[0].input);
}

async function tool_result() {
  const content = (await ask({ tools: [tool], tool_choice: any })).content.slice(0, 1);
  const result = { type: "tool_result", tool_use_id: content[0].id, content: "It is sunny." };
  const turns = [...opening, { role: "assistant", content }, { role: "user", content: [result] }];
  return words((await ask({ messages: turns, tools: [tool], tool_choice: { type: "none" }, max_tokens: 24 })).content[0].text);
}

async function cached_usage() {
  const block = { type: "text", text: about, cache_control: { type: "ephemeral" } };
  const asked = { messages: [{ role: "user", content: [block] }], max_tokens: 1 };
  await ask(asked);
  const { usage } = await ask(asked);
  assert.ok(usage.cache_read_input_tokens > 64);
  return `${usage.cache_read_input_tokens} read`;
}

async function overflow() {
  const asked = ask({ messages: [{ role: "user", content: tooLong }] });
  await assert.rejects(asked, (error) => error instanceof BadRequestError && /maximum context length/.test(error));
  return "BadRequestError";
}

async function stop() {
  const said = await ask({ messages: [{ role: "user", content: "Count: 1, 2, 3" }], stop_sequences: ["2"], max_tokens: 64 });
  assert.ok(!said.content[0].text.includes("2"));
  return `ended by ${said.stop_reason}`;
}

async function models() {
  const names = (await client.models.list()).data.map((each) => each.id);
  assert.ok(names.includes(model));
  return names.join(", ");
}

async function count_tokens() {
  const { input_tokens } = await client.messages.countTokens({ model, messages: opening });
  const { usage } = await ask({ max_tokens: 1 });
  const cached = usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
  assert.equal(input_tokens, usage.input_tokens + cached);
  return `${input_tokens} tokens`;
}

const features = [messages, stream, turns, tools, named_tool, tool_stream, tool_result, cached_usage, overflow, stop];
features.push(models, count_tokens);
await run(features);
