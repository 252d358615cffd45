"""Whisper on CTranslate2: a backend of the engine."""
