"""The ten lines of the README. Before the first run: ``kvloom pull smollm2-135m-instruct``."""

from kvloom import LLM, SamplingParams

llm = LLM("smollm2-135m-instruct", kv_bytes="256MiB")
params = SamplingParams(temperature=0, max_tokens=24)

for output in llm.generate(["The capital of France is", "Water boils at"], params):
    print(repr(output.outputs[0].text))

again = llm.generate("The capital of France is the city", params)[0]
print(f"{again.metrics.cached_tokens} of {len(again.prompt_token_ids)} prompt tokens came from the cache")
print(f"{llm.cache.stats().cached_bytes} bytes of KV are kept")
