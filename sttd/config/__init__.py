"""The configuration: what can be set (`tree`), and where it is read from (`reader`)."""
