"""Presets that a server of OpenAI's transcription API decodes."""
