"""The configuration: one typed tree, declared once.

An option's metadata (unit, summary, bounds, when a change takes effect) feeds the TOML files, the `STTD_…`
variables, `--set`, `sttctl config`, `sttd check-config` and the reference page. `config_reader.py` fills the tree.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import attrs

from sttd.errors import ConfigError

Reload = Literal["live", "session", "restart"]


def option(
    default: Any,
    *,
    summary: str,
    reload: Reload = "live",
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    secret: bool = False,
) -> Any:
    """One option. `reload`: a change is live at once, from the next session on, or needs a restart."""
    meta = {"summary": summary, "reload": reload, "unit": unit, "ge": ge, "le": le, "secret": secret}
    if isinstance(default, list):
        return attrs.field(factory=lambda: tuple(default), metadata=meta)
    return attrs.field(default=default, metadata=meta)


@attrs.frozen(kw_only=True)
class ServerConfig:
    """Where the daemon listens, and how it ends."""

    runtime_dir: str = option(
        "",
        summary="Directory of control.sock and audio.sock; "
        "empty: $XDG_RUNTIME_DIR/sttd, else /run/sttd for root and /run/user/UID/sttd for others.",
        reload="restart",
    )
    tcp: str = option(
        "127.0.0.1:7788", summary="HOST:PORT for HTTP and WebSocket over TCP, or `off`.", reload="restart"
    )
    token: str = option("", summary="Bearer token that TCP clients must show.", reload="restart", secret=True)
    token_file: str = option("", summary="File with the token, read at start.", reload="restart")
    allowed_hosts: tuple[str, ...] = option(
        [], summary="Names besides loopback that a TCP request's Host header may carry.", reload="restart"
    )
    allowed_origins: tuple[str, ...] = option(
        [], summary="Origins of web pages that may connect, besides the daemon's own.", reload="restart"
    )
    drain_s: float = option(
        10.0,
        summary="How long SIGTERM waits for open utterances; keep it below TimeoutStopSec.",
        unit="s",
        ge=0,
        le=600,
    )
    idle_exit_s: float = option(
        0.0,
        summary="Exit after so long without sessions and downloads, if systemd holds the sockets; 0: never.",
        unit="s",
        ge=0,
    )


@attrs.frozen(kw_only=True)
class LogConfig:
    """What is logged, and how. Audio and transcripts never are, above debug."""

    level: Literal["debug", "info", "warning", "error"] = option("info", summary="Least severe level that is logged.")
    format: Literal["auto", "text", "json", "journal"] = option(
        "auto", summary="auto: the journal's native protocol under systemd, text elsewhere.", reload="restart"
    )


@attrs.frozen(kw_only=True)
class ModelsConfig:
    """Which models are used, and how long they stay in memory."""

    model: str = option("auto", summary="Preset that decodes finals.", reload="session")
    interim_model: str = option("", summary="Preset that decodes interims; empty: the same.", reload="session")
    device: str = option("auto", summary="auto, cpu, cuda or cuda:N, for presets that do not say.")
    compute_type: str = option("auto", summary="auto: float16 on CUDA, int8 on CPU; int8_float16 for small GPUs.")
    cpu_threads: int = option(0, summary="Threads a call uses on CPU; 0: from the machine.", ge=0, le=64)
    max_loaded_models: int = option(2, summary="Loaded models at the same time.", ge=1, le=64)
    model_idle_ttl_seconds: float = option(
        300.0, summary="Unload a model that nobody used for so long; 0: never.", unit="s", ge=0
    )
    parked_ttl_seconds: float = option(
        600.0, summary="Keep an idle GPU model's weights in RAM for so long; 0: free them at once.", unit="s", ge=0
    )
    load_wait_s: float = option(
        10.0, summary="How long a load waits for a slot when every one is in use.", unit="s", ge=0, le=600
    )
    models_dir: str = option("", summary="Directory with more models, one folder each.", reload="restart")
    allow_smaller: bool = option(False, summary="Out of memory: fall back to a preset's `smaller` one.")
    selectable: tuple[str, ...] = option(
        ["*"], summary="Presets that sessions may name; `*` allows all.", reload="session"
    )


@attrs.frozen(kw_only=True)
class VadConfig:
    """How speech is told from other sound."""

    aggressiveness: int = option(2, summary="Of WebRTC VAD: 3 calls the least speech.", reload="session", ge=0, le=3)
    silero: bool = option(True, summary="Let Silero confirm what WebRTC VAD finds.", reload="session")


@attrs.frozen(kw_only=True)
class EndpointingConfig:
    """When an utterance ends by itself."""

    silence_ms_min: int = option(
        400, summary="Shortest silence that ends an utterance.", unit="ms", reload="session", ge=100, le=10_000
    )
    silence_ms_max: int = option(
        700, summary="Longest silence within an utterance.", unit="ms", reload="session", ge=100, le=10_000
    )
    max_utterance_s: float = option(
        28.0, summary="Cut longer utterances at their best pause.", unit="s", reload="session", ge=2, le=29
    )
    speculate_ms: int = option(
        180,
        summary="Silence after which the final decode starts, before the endpoint is sure; 0: never.",
        unit="ms",
        reload="session",
        ge=0,
        le=2000,
    )
    pre_roll_ms: int = option(
        400, summary="Audio kept from before the start of speech.", unit="ms", reload="session", ge=0, le=1000
    )


@attrs.frozen(kw_only=True)
class InterimConfig:
    """How live the live text is."""

    interim_min_ms: int = option(
        350, summary="New audio between two interims, at least.", unit="ms", reload="session", ge=50, le=10_000
    )
    hold_back_ms: int = option(
        400,
        summary="Words that end so close to the end of the audio are not stable yet.",
        unit="ms",
        reload="session",
        ge=0,
        le=5000,
    )


@attrs.frozen(kw_only=True)
class SchedulerConfig:
    """How worker time is shared."""

    file_share: float = option(0.10, summary="Share of worker time kept for files by thinning interims.", ge=0, le=0.9)
    final_hold_s: float = option(
        2.0, summary="A batch of finals grows while its call should take no longer.", unit="s", ge=0.05, le=60
    )
    final_workers: int = option(
        1, summary="Workers of a preset with several that take finals alone; one at least takes all.", ge=0, le=8
    )
    interim_hold_s: float = option(0.3, summary="The same for interims.", unit="s", ge=0.05, le=60)
    file_hold_s: float = option(1.0, summary="The same for files, while somebody speaks.", unit="s", ge=0.05, le=60)
    admission_wait_s: float = option(
        2.0, summary="Refuse new sessions while a final would wait longer than this.", unit="s", ge=0.1, le=600
    )
    decode_timeout_s: float = option(
        120.0,
        summary="A decode that takes longer is written off, and its model loaded afresh.",
        unit="s",
        ge=5,
    )


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """Bounds on what clients may take."""

    sessions: int = option(256, summary="Sessions at the same time.", ge=1, le=100_000)
    sessions_per_uid: int = option(64, summary="Sessions of one user at the same time.", ge=1, le=100_000)
    connections: int = option(512, summary="Connections a plane holds at the same time.", ge=1, reload="restart")
    start_timeout_s: float = option(
        30.0, summary="Close a connection that sends no `start` for so long.", unit="s", ge=1, reload="restart"
    )
    idle_timeout_s: float = option(
        300.0, summary="Close a session that sends nothing for so long.", unit="s", ge=1, reload="restart"
    )
    lag_warning_s: float = option(2.0, summary="Tell a session that is this far behind.", unit="s", ge=0.1)
    memory_reserve_bytes: int = option(
        64 * 1024**2, summary="Refuse new sessions while less memory than this is free; 0: never.", unit="bytes", ge=0
    )


@attrs.frozen(kw_only=True)
class Config:
    """The whole tree. `presets` holds the tables of `[presets.NAME]` as they are written; the engine checks them."""

    server: ServerConfig = attrs.field(factory=ServerConfig)
    log: LogConfig = attrs.field(factory=LogConfig)
    models: ModelsConfig = attrs.field(factory=ModelsConfig)
    vad: VadConfig = attrs.field(factory=VadConfig)
    endpointing: EndpointingConfig = attrs.field(factory=EndpointingConfig)
    interim: InterimConfig = attrs.field(factory=InterimConfig)
    scheduler: SchedulerConfig = attrs.field(factory=SchedulerConfig)
    limits: LimitsConfig = attrs.field(factory=LimitsConfig)
    presets: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


def sections() -> Iterator[tuple[str, type[Any]]]:
    """The sections with options of their own, in the order of the tree."""
    for field in attrs.fields(Config):
        if field.name != "presets":
            yield field.name, type(getattr(Config(), field.name))


def options() -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """Every option as (dotted key, attrs field)."""
    for section, kind in sections():
        for field in attrs.fields(attrs.resolve_types(kind)):
            yield f"{section}.{field.name}", field


def walk(config: Config) -> Iterator[tuple[str, attrs.Attribute[Any], Any]]:
    """Every option with its value in this configuration."""
    for key, field in options():
        section, leaf = key.split(".")
        yield key, field, getattr(getattr(config, section), leaf)


def changed(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Dotted keys that differ: (take effect now or with the next session, need a restart)."""
    now: list[str] = []
    restart: list[str] = []
    before = {key: value for key, _, value in walk(old)}
    for key, field, value in walk(new):
        if value != before[key]:
            (restart if field.metadata["reload"] == "restart" else now).append(key)
    names = sorted(old.presets.keys() | new.presets.keys())
    now += [f"presets.{name}" for name in names if old.presets.get(name) != new.presets.get(name)]
    return now, restart


def describe_option(field: attrs.Attribute[Any]) -> str:
    """The type and bounds of an option, in words."""
    kind: Any = field.type
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, "a list of texts")
    low, high = field.metadata["ge"], field.metadata["le"]
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    elif low is not None:
        words += f" of at least {low}"
    return words


def default_text(field: attrs.Attribute[Any]) -> str:
    """The default of an option as TOML."""
    default: Any = field.default
    value = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def suggestion(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?` where something known is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close and "." in word:  # right leaf, wrong section
        leaf = word.rsplit(".", 1)[1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf][:1]
    return f"; did you mean `{close[0]}`?" if close else ""


def parse_tcp(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` as a pair, `[::1]:PORT` too; None for `off`. Raises ConfigError."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"`server.tcp` must be HOST:PORT or `off`, not {text!r}")
    return host, int(port)
