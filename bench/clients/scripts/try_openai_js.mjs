// OpenAI's own library for JavaScript. Runs beside its node_modules: node try_openai_js.mjs URL MODEL
import assert from "node:assert/strict";
import OpenAI, { BadRequestError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { about, isWeather, model, question, run, tooLong, url, weather, words } from "./trying.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const City = z.object({ name: z.enum(["Paris", "Rome"]), people: z.number().int() });
const tool = { type: "function", function: { name: "get_weather", parameters: weather } };

const ask = (more = {}) => client.chat.completions.create({ model, messages, max_tokens: 64, temperature: 0, ...more });

async function chat() {
  return words((await ask()).choices[0].message.content);
}

async function stream() {
  let text = "";
  for await (const chunk of await ask({ stream: true })) text += chunk.choices[0]?.delta.content ?? "";
  return words(text);
}

async function turns() {
  const said = (await ask()).choices[0].message;
  return words((await ask({ messages: [...messages, said, ...messages] })).choices[0].message.content);
}

async function tools() {
  const [choice] = (await ask({ tools: [tool], tool_choice: "required", max_tokens: 512 })).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  return isWeather(choice.message.tool_calls[0].function.arguments);
}

async function named_tool() {
  const tool_choice = { type: "function", function: { name: "get_weather" } };
  const [choice] = (await ask({ tools: [tool], tool_choice })).choices;
  return isWeather(choice.message.tool_calls[0].function.arguments);
}

async function tool_stream() {
  const asked = { model, messages, max_tokens: 512, tools: [tool], tool_choice: "required" };
  const message = await client.chat.completions.stream(asked).finalMessage();
  return isWeather(message.tool_calls[0].function.arguments);
}

async function tool_result() {
  const said = (await ask({ tools: [tool], tool_choice: "required", parallel_tool_calls: false })).choices[0].message;
  const result = { role: "tool", tool_call_id: said.tool_calls[0].id, content: "It is sunny." };
  const again = await ask({ messages: [...messages, said, result], tools: [tool], tool_choice: "none" });
  return words(again.choices[0].message.content);
}

async function schema() {
  const response_format = zodResponseFormat(City, "city");
  const found = await client.chat.completions.parse({ model, messages, max_tokens: 64, response_format });
  return JSON.stringify(City.parse(found.choices[0].message.parsed));
}

async function json_object() {
  const { content } = (await ask({ response_format: { type: "json_object" } })).choices[0].message;
  assert.ok(content.trimStart().startsWith("{"));
  return words(content);
}

async function completions() {
  return words((await client.completions.create({ model, prompt: "Paris is", max_tokens: 16 })).choices[0].text);
}

async function embeddings() {
  const { data } = await client.embeddings.create({ model, input: ["one", "two"] });
  assert.equal(data.length, 2);
  assert.ok(data[1].embedding.length > 100 && data[1].embedding.some((value) => value !== 0));
  return `${data[1].embedding.length} numbers`;
}

async function responses() {
  const first = await client.responses.create({ model, input: question, max_output_tokens: 24 });
  const asked = { model, input: "And of Italy?", previous_response_id: first.id, max_output_tokens: 24 };
  return words((await client.responses.stream(asked).finalResponse()).output_text);
}

async function logprobs() {
  const { content } = (await ask({ logprobs: true, top_logprobs: 2 })).choices[0].logprobs;
  assert.ok(content.every((each) => each.logprob <= 0 && each.top_logprobs.length === 2));
  return `${content.length} tokens`;
}

async function cached_usage() {
  const asked = { messages: [{ role: "user", content: about }], max_tokens: 1 };
  await ask(asked);
  const { usage } = await ask(asked);
  assert.ok(usage.prompt_tokens_details.cached_tokens > 64);
  return `${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens}`;
}

async function overflow() {
  const asked = ask({ messages: [{ role: "user", content: tooLong }] });
  await assert.rejects(asked, (error) => error instanceof BadRequestError && error.code === "context_length_exceeded");
  return "BadRequestError";
}

async function n() {
  assert.equal((await ask({ n: 3, temperature: 1 })).choices.length, 3);
  return "3 answers";
}

async function stop() {
  const [choice] = (await ask({ messages: [{ role: "user", content: "Count: 1, 2, 3" }], stop: ["2"] })).choices;
  assert.ok(!choice.message.content.includes("2"));
  return `ended by ${choice.finish_reason}`;
}

async function models() {
  const names = (await client.models.list()).data.map((each) => each.id);
  assert.ok(names.includes(model));
  return names.join(", ");
}

const features = [chat, stream, turns, tools, named_tool, tool_stream, tool_result, schema, json_object, completions];
features.push(embeddings, responses, logprobs, cached_usage, overflow, n, stop, models);
await run(features);
