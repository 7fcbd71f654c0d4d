"""OpenAI's embeddings, from the served model: the mean of a text's last hidden states."""
