"""What a configuration means here: presets, backends, limits, the token, checked before anything is built from it.

A start and a reload make a plan; one that does not hold raises and changes nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from sttd.config.reader import Loaded, load
from sttd.config.tree import Config, parse_networks, parse_tcp, parse_wyoming
from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.engine.contract import Backend, IsolableBackend, Preset
from sttd.engine.fake import FakeBackend
from sttd.engine.preset_config import configured_presets
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from sttd.engine.remote import backend as remote
from sttd.engine.store.ledger import Ledger
from sttd.engine.store.models import ModelStore, default_own_dir
from sttd.engine.whisper.backend import WhisperBackend
from sttd.errors import ConfigError
from sttd.fields import suggestion
from sttd.host.rundir import SYSTEM_DIR, runtime_dir
from sttd.host.systemd import InheritedSocket
from sttd.host.tls import server_context
from sttd.wire.access import browsers_can_show


@attrs.frozen(kw_only=True)
class Sources:
    """Where the configuration comes from; a reload reads the same again."""

    config_file: Path | None
    environ: Mapping[str, str]
    flags: Mapping[str, str]

    def read(self) -> Loaded:
        """Read everything. Raises ConfigError."""
        return load(config_file=self.config_file, environ=self.environ, flags=self.flags)


@attrs.frozen(kw_only=True)
class Plan:
    """A configuration that holds: read, and checked against the presets and this machine."""

    loaded: Loaded
    store: ModelStore
    backends: Mapping[str, Backend]
    crew: Crew
    presets: Mapping[str, Preset]
    tls: ssl.SSLContext | None  # of the TCP plane
    warnings: tuple[str, ...] = ()  # of presets that hold and are worth a word

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.loaded.config


def make_plan(sources: Sources) -> Plan:
    """Read the configuration and check all of it. Raises ConfigError; changes nothing."""
    loaded = sources.read()
    config = loaded.config
    # Unlike `Path.expanduser` this one has no exception for a `~somebody` whom nobody knows.
    models_dir = Path(os.path.expanduser(config.models.models_dir)) if config.models.models_dir else None
    # The system service is denied the network (its unit says so); downloads are a unit of their own.
    network = sources.environ.get("HF_HUB_OFFLINE", "0") not in ("1", "true", "yes", "on")
    ledger = Ledger(default_own_dir().parent / "models.json")
    store = ModelStore(models_dir=models_dir, network=network, ledger=ledger)
    crew = Crew(spare_ttl_s=config.engine.spare_ttl_s, log_format=config.log.format)
    whisper, fake = WhisperBackend(store=store, ledger=ledger), FakeBackend()
    backends: dict[str, Backend] = {"whisper": whisper, "fake": fake}
    if config.engine.isolation != "thread":
        isolated: tuple[IsolableBackend, ...] = (whisper, fake)
        backends = {
            inner.name: IsolatedBackend(inner=inner, crew=crew, isolation=config.engine.isolation) for inner in isolated
        }
    backends[remote.NAME] = remote.RemoteBackend(local=dict(backends))
    try:
        presets, tls = _presets(config, backends), read_tls(config)
    except ConfigError as error:
        raise loaded.located(error) from None
    return Plan(
        loaded=loaded,
        store=store,
        backends=backends,
        crew=crew,
        presets=presets,
        tls=tls,
        warnings=remote.warnings(presets),
    )


def _presets(config: Config, backends: Mapping[str, Backend]) -> dict[str, Preset]:
    """All presets; those that the configuration names are checked. Raises ConfigError."""
    presets = configured_presets(
        config.presets,
        backends=backends,
        device=config.models.device,
        compute_type=config.models.compute_type,
        cpu_threads=config.models.cpu_threads,
    )
    defaults = dict.fromkeys((config.models.model, config.models.interim_model or config.models.model))
    for name in (*defaults, *config.presets):
        if name not in presets:
            known = ", ".join(sorted(presets))
            raise ConfigError(f"unknown preset {name!r}{suggestion(name, list(presets)) or '.'} There are: {known}.")
        presets[name] = backends[presets[name].backend].resolve(presets[name])
    return remote.with_fallbacks(presets, backends)


def pool_limits(config: Config) -> PoolLimits:
    """The pool's part of the configuration."""
    models = config.models
    return PoolLimits(
        max_loaded_models=models.max_loaded_models,
        idle_ttl_s=models.model_idle_ttl_seconds,
        parked_ttl_s=models.parked_ttl_seconds,
        load_wait_s=models.load_wait_s,
        allow_smaller=models.allow_smaller,
    )


def policy_options(config: Config) -> PolicyOptions:
    """The scheduler's part of the configuration."""
    scheduler = config.scheduler
    return PolicyOptions(
        final_hold_s=scheduler.final_hold_s,
        final_workers=scheduler.final_workers,
        interim_hold_s=scheduler.interim_hold_s,
        file_hold_s=scheduler.file_hold_s,
        file_share=scheduler.file_share,
    )


def read_token(config: Config) -> str:
    """The token of the TCP plane, or "". Raises ConfigError."""
    if not config.server.token_file:
        return config.server.token
    try:
        token = Path(os.path.expanduser(config.server.token_file)).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as exc:  # ValueError: no UTF-8, or a path that cannot be one
        raise ConfigError(f"`server.token_file`: {config.server.token_file}: {exc}") from None
    if not token:
        raise ConfigError(f"`server.token_file`: {config.server.token_file} is empty")
    return token


def read_tls(config: Config) -> ssl.SSLContext | None:
    """The certificate of the TCP plane, or None where it has none. Raises ConfigError."""
    server = config.server
    if not server.tls_cert:
        return None
    return server_context(Path(os.path.expanduser(server.tls_cert)), Path(os.path.expanduser(server.tls_key)))


@attrs.frozen(kw_only=True)
class Place:
    """Where a daemon of this configuration listens, besides what systemd passes to it."""

    directory: Path
    tcp: str
    tcp_is_default: bool
    wyoming: tuple[str, ...]
    wyoming_is_default: bool
    warnings: tuple[str, ...]


def place(loaded: Loaded, *, environ: Mapping[str, str], inherited: Sequence[InheritedSocket] = ()) -> Place:
    """Say where to listen.

    Raises ConfigError where a daemon would not start: no directory, TCP without a token, or Wyoming open to everybody.
    """
    server = loaded.config.server
    directory = runtime_dir(server.runtime_dir, environ)
    tcp_is_default = loaded.origins.get("server.tcp", "default") == "default"
    for_all = directory == SYSTEM_DIR
    # Every local user reaches TCP, so the system service opens it only when told to.
    tcp = "off" if tcp_is_default and for_all else server.tcp
    _check_token(loaded.config, tcp, inherited=inherited, for_all=for_all)
    wyoming_is_default = loaded.origins.get("server.wyoming", "default") == "default"
    # It knows no token: it is open to nobody who would need one, unless somebody says so.
    wyoming = () if wyoming_is_default and (for_all or read_token(loaded.config)) else server.wyoming
    warnings = (
        *_warn_of_open_secrets(loaded.config),
        *_warn_of_odd_token(read_token(loaded.config)),
        *_warn_of_plain_text(loaded.config, tcp, inherited=inherited),
        *_check_wyoming(loaded.config, wyoming, inherited=inherited, for_all=for_all),
    )
    return Place(
        directory=directory,
        tcp=tcp,
        tcp_is_default=tcp_is_default,
        wyoming=wyoming,
        wyoming_is_default=wyoming_is_default,
        warnings=warnings,
    )


def _check_token(config: Config, tcp: str, *, inherited: Sequence[InheritedSocket], for_all: bool) -> None:
    """TCP does not tell who is there, so beyond one person's own machine a token does."""
    hosts = _inherited_hosts(inherited, "audio-tcp")
    if address := parse_tcp(tcp):
        hosts.append(address[0])
    token = read_token(config)
    if not hosts or token:
        return
    if not all(map(_is_loopback, hosts)):
        raise ConfigError("TCP is open to other machines; set `server.token_file`, or bind to 127.0.0.1")
    if for_all:
        raise ConfigError("TCP is open to every user of this machine; set `server.token_file`, or close it")


def _warn_of_open_secrets(config: Config) -> tuple[str, ...]:
    """A secret that every user of the machine can read keeps nobody out."""
    named = [config.server.token_file, config.server.tls_key]
    named += [str(table.get("token_file") or "") for table in config.presets.values()]
    files = [os.path.expanduser(name) for name in named if name]
    return tuple(f"{file} can be read by everybody: chmod o-r {file}" for file in files if _is_open(file))


def _warn_of_odd_token(token: str) -> tuple[str, ...]:
    if not token or browsers_can_show(token):
        return ()
    return (
        "a browser cannot show this token, so no page gets in with it; in `server.token_file` put letters and digits "
        "alone, such as `openssl rand -hex 32` makes",
    )


def _is_open(file: str) -> bool:
    try:
        return bool(os.stat(file).st_mode & stat.S_IROTH)
    except OSError:
        return False  # it was there when it was read


def _warn_of_plain_text(config: Config, tcp: str, *, inherited: Sequence[InheritedSocket]) -> tuple[str, ...]:
    """What goes over a network without TLS is read by whoever is on the way, and so is the token."""
    hosts = [*_inherited_hosts(inherited, "audio-tcp"), *([address[0]] if (address := parse_tcp(tcp)) else [])]
    if config.server.tls_cert or all(map(_is_loopback, hosts)):
        return ()
    return ("TCP is open to other machines without TLS: set `server.tls_cert`, or put a proxy that has it in front",)


def _check_wyoming(
    config: Config, addresses: Sequence[str], *, inherited: Sequence[InheritedSocket], for_all: bool
) -> tuple[str, ...]:
    """Wyoming does not tell who is there either, so beyond this machine addresses do. Returns what to warn of."""
    hosts = _inherited_hosts(inherited, "wyoming")
    hosts += [parsed[0] for address in addresses if not isinstance(parsed := parse_wyoming(address), str)]
    if not hosts:
        return ()
    if not all(map(_is_loopback, hosts)) and not parse_networks(config.server.wyoming_allowed):
        raise ConfigError(
            "Wyoming is open to other machines; say in `server.wyoming_allowed` from which addresses and networks its "
            "clients come, or bind to 127.0.0.1"
        )
    if read_token(config):
        return ("Wyoming knows no token: whoever reaches its port needs none",)
    return ("Wyoming is open to every user of this machine",) if for_all else ()


def _inherited_hosts(inherited: Sequence[InheritedSocket], name: str) -> list[str]:
    """Where the TCP sockets of this name that systemd passed are bound."""
    sockets = (passed.socket for passed in inherited if passed.name == name)
    return [sock.getsockname()[0] for sock in sockets if sock.family != socket.AF_UNIX]


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
