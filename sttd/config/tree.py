"""The configuration: one typed tree, declared once.

What an option declares (bounds, default, unit, summary, when a change takes effect) feeds the TOML files, the `STTD_…`
variables, `--set`, `sttctl config`, `sttd check-config`, the example file, the manual and the reference page.
`reader.py` fills the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal

import attrs

from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.errors import ConfigError
from sttd.fields import Rule, flag, integer, number, rules_of, same, string, strings
from sttd.options import COMPUTE_TYPES, MAX_CPU_THREADS, MAX_UTTERANCE_S, Endpointing, Tuning


def _of_sessions(declared: type[Any], name: str) -> Any:
    """What every session starts with, as it is declared there. A change of it holds from the next session on."""
    return same(declared, name, changes="session")


@attrs.frozen(kw_only=True)
class ServerConfig:
    """Where the daemon listens, and how it ends."""

    runtime_dir: str = string(
        "directory of control.sock and audio.sock; "
        "empty: $XDG_RUNTIME_DIR/sttd, else /run/sttd for root and /run/user/UID/sttd for others",
        default="",
        changes="restart",
    )
    tcp: str = string(
        "HOST:PORT for HTTP and WebSocket over TCP, or `off`", default="127.0.0.1:7788", changes="restart"
    )
    token: str = string("bearer token that TCP clients must show", default="", changes="restart", secret=True)
    token_file: str = string("file with the token, read at start", default="", changes="restart")
    tls_cert: str = string(
        "file with the certificate chain (PEM) for HTTPS and wss:// over TCP; empty: without TLS. "
        "Files are read again by `reload`",
        default="",
        changes="restart",
    )
    tls_key: str = string("file with the key of `tls_cert` (PEM, without a passphrase)", default="", changes="restart")
    allowed_hosts: tuple[str, ...] = strings(
        "names besides loopback that a TCP request's Host header may carry", default=(), changes="restart"
    )
    allowed_origins: tuple[str, ...] = strings(
        "origins of web pages that may connect, besides the daemon's own", default=(), changes="restart"
    )
    openai: bool = flag(
        "answer OpenAI's transcription API under /v1 (REST, and Realtime over WebSocket)",
        default=True,
        changes="restart",
    )
    deepgram: bool = flag("answer Deepgram's live API at /v1/listen", default=True, changes="restart")
    wyoming: tuple[str, ...] = strings(
        "where Wyoming clients (Home Assistant) connect: HOST:PORT, tcp://HOST:PORT or unix://PATH; "
        "the default is for a user's own daemon alone",
        default=("127.0.0.1:10300",),
        changes="restart",
    )
    wyoming_allowed: tuple[str, ...] = strings(
        "addresses and networks that Wyoming clients may come from; needed beyond loopback, for Wyoming knows no token",
        default=(),
        changes="restart",
    )
    wyoming_streaming: bool = flag("tell Wyoming clients the text while it is spoken", default=True, changes="restart")
    traceable: bool = flag(
        "let debuggers of the daemon's own user attach and cores be written: both can hold what was said",
        default=False,
        changes="restart",
    )
    drain_s: float = number(
        "how long SIGTERM waits for open utterances; keep it below TimeoutStopSec",
        minimum=0,
        maximum=600,
        default=10.0,
        unit="s",
    )
    idle_exit_s: float = number(
        "exit after so long without sessions and downloads, if systemd holds the sockets; 0: never",
        minimum=0,
        default=0.0,
        unit="s",
    )


@attrs.frozen(kw_only=True)
class LogConfig:
    """What is logged, and how. Audio and transcripts never are, above debug."""

    level: Literal["debug", "info", "warning", "error"] = string(
        "least severe level that is logged", choices=("debug", "info", "warning", "error"), default="info"
    )
    format: Literal["auto", "text", "json", "journal"] = string(
        "`auto`: the journal's native protocol under systemd, text elsewhere",
        choices=("auto", "text", "json", "journal"),
        default="auto",
        changes="restart",
    )


@attrs.frozen(kw_only=True)
class ModelsConfig:
    """Which models are used, and how long they stay in memory."""

    model: str = string("preset that decodes finals", default="auto", changes="session")
    interim_model: str = string("preset that decodes interims; empty: the same", default="", changes="session")
    device: str = string("`auto`, `cpu`, `cuda` or `cuda:N`, for presets that do not say", default="auto")
    compute_type: str = string(
        "`auto`: float16 on CUDA, int8 on CPU; int8_float16 for small GPUs; `default`: as the model was saved",
        choices=COMPUTE_TYPES,
        default="auto",
    )
    cpu_threads: int = integer(
        "threads a call uses on CPU; 0: from the machine", minimum=0, maximum=MAX_CPU_THREADS, default=0
    )
    max_loaded_models: int = same(PoolLimits, "max_loaded_models")
    model_idle_ttl_seconds: float = same(PoolLimits, "idle_ttl_s")
    parked_ttl_seconds: float = same(PoolLimits, "parked_ttl_s")
    load_wait_s: float = same(PoolLimits, "load_wait_s")
    models_dir: str = string("directory with more models, one folder each", default="", changes="restart")
    allow_smaller: bool = same(PoolLimits, "allow_smaller")
    selectable: tuple[str, ...] = strings(
        "presets that sessions may name; `*` allows all", default=("*",), changes="session"
    )


@attrs.frozen(kw_only=True)
class VadConfig:
    """How speech is told from other sound."""

    aggressiveness: int = _of_sessions(Endpointing, "aggressiveness")
    silero: bool = flag("let Silero confirm what WebRTC VAD finds", default=True, changes="session")


@attrs.frozen(kw_only=True)
class EndpointingConfig:
    """When an utterance ends by itself."""

    silence_ms_min: int = _of_sessions(Endpointing, "silence_ms_min")
    silence_ms_max: int = _of_sessions(Endpointing, "silence_ms_max")
    max_utterance_s: float = _of_sessions(Endpointing, "max_utterance_s")
    speculate_ms: int = _of_sessions(Tuning, "speculate_ms")
    pre_roll_ms: int = _of_sessions(Tuning, "pre_roll_ms")


@attrs.frozen(kw_only=True)
class InterimConfig:
    """How live the live text is."""

    interim_min_ms: int = _of_sessions(Tuning, "interim_min_ms")
    hold_back_ms: int = _of_sessions(Tuning, "hold_back_ms")


@attrs.frozen(kw_only=True)
class SchedulerConfig:
    """How worker time is shared."""

    file_share: float = same(PolicyOptions, "file_share")
    final_hold_s: float = same(PolicyOptions, "final_hold_s")
    final_workers: int = same(PolicyOptions, "final_workers")
    interim_hold_s: float = same(PolicyOptions, "interim_hold_s")
    file_hold_s: float = same(PolicyOptions, "file_hold_s")
    admission_wait_s: float = number(
        "refuse new sessions while a final would wait longer than this",
        minimum=0.1,
        maximum=600,
        default=2.0,
        unit="s",
    )
    decode_timeout_s: float = number(
        "a decode that takes longer is written off, and its model loaded afresh; in a process, the first try may "
        "take three quarters of it",
        minimum=5,
        default=120.0,
        unit="s",
    )


@attrs.frozen(kw_only=True)
class EngineConfig:
    """Where models decode."""

    isolation: Literal["auto", "process", "thread"] = string(
        "`process`: each model in a process of its own, whose crash or hang costs the daemon nothing; `thread`: in the "
        "daemon; `auto`: in a process, but for `demo` and `fake`",
        choices=("auto", "process", "thread"),
        default="auto",
        changes="restart",
    )
    spare_ttl_s: float = number(
        "keep a process with the libraries and without a model ready for so long after the last model has gone; "
        "0: none, also not while there is a model",
        minimum=0,
        default=600.0,
        unit="s",
        changes="restart",
    )


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """Bounds on what clients may take."""

    sessions: int = integer("sessions at the same time", minimum=1, maximum=100_000, default=256)
    sessions_per_uid: int = integer("sessions of one user at the same time", minimum=1, maximum=100_000, default=64)
    connections: int = integer(
        "connections a plane holds at the same time", minimum=1, maximum=100_000, default=512, changes="restart"
    )
    start_timeout_s: float = number(
        "close a connection that sends no `start` for so long", minimum=1, default=30.0, unit="s", changes="restart"
    )
    idle_timeout_s: float = number(
        "close a session that sends nothing for so long", minimum=1, default=300.0, unit="s", changes="restart"
    )
    resume_s: float = number(
        "how long a resumable session whose connection dropped waits for its client",
        minimum=0,
        maximum=3600,
        default=30.0,
        unit="s",
    )
    lag_warning_s: float = _of_sessions(Tuning, "lag_warning_s")
    upload_bytes: int = integer(
        "largest body of an upload",
        minimum=1024,
        maximum=10**13,
        default=512 * 1024**2,
        unit="bytes",
        changes="restart",
    )
    upload_spool_bytes: int = integer(
        "all uploads together that are held on disk; beyond, new ones are refused",
        minimum=0,
        maximum=10**14,
        default=2 * 1024**3,
        unit="bytes",
        changes="restart",
    )
    upload_spool_bytes_per_uid: int = integer(
        "those of one user",
        minimum=0,
        maximum=10**14,
        default=1024**3,
        unit="bytes",
        changes="restart",
    )
    bytes_per_s_per_uid: int = integer(
        "audio and uploads are read at this speed from all connections of a user together; 0: as fast as they come",
        minimum=0,
        maximum=10**12,
        default=64 * 1024**2,
        unit="bytes",
    )
    upload_stall_s: float = number(
        "give up an upload of which nothing came for so long", minimum=1, default=30.0, unit="s", changes="restart"
    )
    final_upload_s: float = number(
        "longest upload that is decoded like the final of a live session; longer ones are files",
        minimum=0,
        maximum=MAX_UTTERANCE_S + 1,
        default=30.0,
        unit="s",
        changes="restart",
    )
    final_uploads: int = integer(
        "uploads of one user that are finals at the same time; further ones are files",
        minimum=0,
        maximum=100_000,
        default=4,
        changes="restart",
    )
    keepalive_s: float = number(
        "close a Deepgram connection on which nothing is said for so long",
        minimum=1,
        default=10.0,
        unit="s",
        changes="restart",
    )
    adapter_idle_s: float = number(
        "close a Realtime or Wyoming connection on which nothing is said for so long",
        minimum=1,
        default=3600.0,
        unit="s",
        changes="restart",
    )
    memory_reserve_bytes: int = integer(
        "refuse new sessions while less memory than this is free; 0: never",
        minimum=0,
        maximum=10**15,
        default=64 * 1024**2,
        unit="bytes",
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
    engine: EngineConfig = attrs.field(factory=EngineConfig)
    limits: LimitsConfig = attrs.field(factory=LimitsConfig)
    presets: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


def sections() -> Iterator[tuple[str, type[Any]]]:
    """The sections with options of their own, in the order of the tree."""
    for field in attrs.fields(Config):
        if field.name != "presets":
            yield field.name, type(getattr(Config(), field.name))


def options() -> Iterator[tuple[str, Rule]]:
    """Every option as (dotted key, its declaration)."""
    for section, kind in sections():
        for leaf, rule in rules_of(kind).items():
            yield f"{section}.{leaf}", rule


def walk(config: Config) -> Iterator[tuple[str, Rule, Any]]:
    """Every option with its value in this configuration."""
    for key, rule in options():
        section, leaf = key.split(".")
        yield key, rule, getattr(getattr(config, section), leaf)


def changed(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Dotted keys that differ: (take effect now or with the next session, need a restart)."""
    now: list[str] = []
    restart: list[str] = []
    before = {key: value for key, _, value in walk(old)}
    for key, rule, value in walk(new):
        if value != before[key]:
            (restart if rule.changes == "restart" else now).append(key)
    names = sorted(old.presets.keys() | new.presets.keys())
    now += [f"presets.{name}" for name in names if old.presets.get(name) != new.presets.get(name)]
    return now, restart


def parse_tcp(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` as a pair, `[::1]:PORT` too; None for `off`. Raises ConfigError."""
    if text == "off":
        return None
    address = _host_and_port(text)
    if address is None:
        raise ConfigError(f"`server.tcp` must be HOST:PORT or `off`, not {text!r}")
    return address


def parse_wyoming(text: str) -> tuple[str, int] | str:
    """One of `server.wyoming`: a host and a port, or the path of a Unix socket. Raises ConfigError."""
    if text.startswith("unix://") and (path := text.removeprefix("unix://")):
        return path
    address = _host_and_port(text.removeprefix("tcp://"))
    if address is None:
        raise ConfigError(f"`server.wyoming` must list HOST:PORT, tcp://HOST:PORT or unix://PATH, not {text!r}")
    return address


def parse_networks(texts: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """`server.wyoming_allowed`: an address is a network of one. Raises ConfigError."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigError(f"`server.wyoming_allowed` must list addresses and networks: {error}") from None


def _host_and_port(text: str) -> tuple[str, int] | None:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or "/" in host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        return None
    return host, int(port)
