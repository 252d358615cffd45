"""sttd: the speech-to-text daemon of a Linux workstation."""

__version__ = "0.1.0"
