// What the scripts in JavaScript share: as trying.py. It is copied beside their node_modules with them.
import assert from "node:assert/strict";

export const [url, model] = process.argv.slice(2);
export const question = "What is the capital of France? Answer in one word.";
const sentence = "The cache keeps what was computed for a prompt, to be found by the next one. ";
export const about = `${crypto.randomUUID()}: ${sentence.repeat(12)}`;
export const tooLong = "word ".repeat(20000);
export const weather = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};

export function words(text) {
  assert.ok(text && text.trim(), "the text is empty");
  return `said '${text.trim().slice(0, 40)}'`;
}

export function isWeather(given) {
  const { city, ...rest } = typeof given === "string" ? JSON.parse(given) : given;
  assert.deepEqual(rest, {});
  assert.ok(["Paris", "Rome"].includes(city), `the city is ${city}`);
  return `get_weather(${city})`;
}

export async function run(features) {
  for (const feature of features) {
    let [ok, detail] = [true, ""];
    try {
      detail = await feature();
    } catch (fault) {
      [ok, detail] = [false, `${fault.name}: ${fault.message}`];
    }
    console.log(JSON.stringify({ feature: feature.name, ok, detail }));
  }
}
