"""OpenAI's API, with vLLM's extra fields: from bodies to jobs, and from updates to replies."""
