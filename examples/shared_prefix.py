"""One document, several questions: its KV is computed once, and every answer says what was reused and why not the rest.

Before the first run: ``kvloom pull smollm2-135m-instruct``.
"""

from pathlib import Path

from kvloom import LLM, SamplingParams

DOCUMENT = (Path(__file__).parent / "data" / "observatory.md").read_text(encoding="utf-8").split("## 3.")[0]
QUESTIONS = ["In which year was the observatory founded?", "How many buildings are there?"]


def main() -> None:
    llm = LLM("smollm2-135m-instruct", kv_bytes="256MiB")
    params = SamplingParams(temperature=0, max_tokens=16)
    for question in QUESTIONS:
        messages = [{"role": "system", "content": DOCUMENT}, {"role": "user", "content": question}]
        output = llm.chat(messages, params)[0]
        metrics = output.metrics
        print(f"{question}\n  {output.outputs[0].text.strip()}")
        print(f"  {metrics.cached_tokens} of {len(output.prompt_token_ids)} prompt tokens reused, ", end="")
        print(f"first token after {metrics.ttft_s:.2f} s")
        for miss in metrics.misses:
            print(f"  computed [{miss.span.start}, {miss.span.stop}): {miss.why}")


if __name__ == "__main__":
    main()
