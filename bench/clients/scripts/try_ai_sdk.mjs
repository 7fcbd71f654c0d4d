// Vercel's AI SDK, by its provider for servers like OpenAI's. Runs beside its node_modules: node try_ai_sdk.mjs URL MODEL
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { about, isWeather, model, question, run, tooLong, url, words } from "./trying.mjs";

const provider = createOpenAICompatible({
  name: "kvloom",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const short = { model: provider.chatModel(model), prompt: question, maxOutputTokens: 512, maxRetries: 0, temperature: 0 };
const City = z.object({ name: z.enum(["Paris", "Rome"]), people: z.number().int() });
const get_weather = tool({
  description: "Tell the weather in a city",
  inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});

async function chat() {
  return words((await generateText(short)).text);
}

async function stream() {
  let text = "";
  for await (const piece of streamText(short).textStream) text += piece;
  return words(text);
}

async function turns() {
  const ask = { role: "user", content: question };
  const { text } = await generateText(short);
  const messages = [ask, { role: "assistant", content: text }, ask];
  return words((await generateText({ ...short, prompt: undefined, messages })).text);
}

async function tools() {
  const { toolCalls } = await generateText({ ...short, tools: { get_weather }, toolChoice: "required" });
  return isWeather(toolCalls[0].input);
}

async function named_tool() {
  const toolChoice = { type: "tool", toolName: "get_weather" };
  const { toolCalls } = await generateText({ ...short, tools: { get_weather }, toolChoice });
  return isWeather(toolCalls[0].input);
}

async function tool_stream() {
  const calls = await streamText({ ...short, tools: { get_weather }, toolChoice: "required" }).toolCalls;
  return isWeather(calls[0].input);
}

async function agent() {
  const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
  const asked = { ...short, tools: { get_weather }, stopWhen: stepCountIs(3), prepareStep };
  const { steps, text } = await generateText(asked);
  assert.ok(steps[0].toolResults.length > 0);
  return `${words(text)} after ${steps.length - 1} step`;
}

async function schema() {
  return JSON.stringify(City.parse((await generateObject({ ...short, schema: City })).object));
}

async function completions() {
  const asked = { ...short, model: provider.completionModel(model), prompt: "Paris is", maxOutputTokens: 16 };
  return words((await generateText(asked)).text);
}

async function embeddings() {
  const found = await embedMany({ model: provider.textEmbeddingModel(model), values: ["one", "two"], maxRetries: 0 });
  assert.ok(found.embeddings[1].length > 100);
  return `${found.embeddings[1].length} numbers`;
}

async function cached_usage() {
  await generateText({ ...short, prompt: about });
  const { usage } = await generateText({ ...short, prompt: about });
  const cached = usage.inputTokenDetails?.cacheReadTokens ?? usage.cachedInputTokens;
  assert.ok(cached > 64);
  return `${cached} of ${usage.inputTokens}`;
}

async function overflow() {
  const asked = generateText({ ...short, prompt: tooLong });
  await assert.rejects(asked, (e) => APICallError.isInstance(e) && /maximum context length/.test(e.message));
  return "APICallError";
}

async function stop() {
  const { text, finishReason } = await generateText({ ...short, prompt: "Count: 1, 2, 3", stopSequences: ["2"] });
  assert.ok(!text.includes("2"));
  return `ended by ${finishReason}`;
}

const features = [chat, stream, turns, tools, named_tool, tool_stream, agent, schema, completions, embeddings];
features.push(cached_usage, overflow, stop);
await run(features);
