"""Dictation into the focused window: what is said is typed where the cursor is. `sttctl dictate` is its command."""
