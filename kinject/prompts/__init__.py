"""Text to token ids: frames, chat templates, and which token masks."""
