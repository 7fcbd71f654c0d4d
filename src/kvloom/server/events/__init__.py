"""Events about stored KV for other programs, in the schema that vLLM publishes them in."""
