"""The names of the ways to type, for who parses a command line and types nothing."""

NAMES = (
    "wayland",
    "x11",
    "portal",
    "wtype",
    "dotool",
    "ydotool",
    "xdotool",
    "clipboard",
)  # as `--type` takes them, best first
