"""Reads the configuration: every source in its order, every value checked, nothing applied by halves.

    defaults → /etc/sttd/sttd.toml → $XDG_CONFIG_HOME/sttd/sttd.toml → STTD_SECTION__KEY → flags

Later sources win, and each value remembers where it came from. With `--config FILE` only that file is read. An
unknown key is an error with a suggestion; one bad value refuses the whole configuration. A variable `STTD_…` without
the two underscores may be somebody else's: it is an error where it can only mean an option, else a warning.
"""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from sttd.config.tree import Config, options, parse_networks, parse_tcp, parse_wyoming, sections, walk
from sttd.errors import ConfigError, SttdError
from sttd.fields import FieldError, Rule, clip, suggestion

Origin = Literal["default", "file", "environment", "flag"]
Scalar = str | int | float | bool | list[Any] | dict[str, Any] | None

SYSTEM_CONFIG = Path("/etc/sttd/sttd.toml")
_OF_CLIENTS = ("STTD_SOCKET",)  # variables that are none of the daemon's


@attrs.frozen(kw_only=True)
class Setting:
    """A value as it was found: what it is, where it came from."""

    value: Scalar
    origin: Origin
    source: str  # for the message: a path, a variable, `--set`


@attrs.frozen(kw_only=True)
class Loaded:
    """A configuration together with where each value came from."""

    config: Config
    origins: Mapping[str, Origin]
    path: str  # of the file that set something, or ""
    sources: Mapping[str, str] = attrs.field(factory=dict)  # as in `Setting`; without the defaults
    warnings: tuple[str, ...] = ()  # what was ignored, a sentence each without its full stop

    def values(self) -> dict[str, tuple[Any, str]]:
        """Every option, as (value, origin); secrets are masked."""
        rows: dict[str, tuple[Any, str]] = {}
        for key, rule, value in walk(self.config):
            shown: Any = "***" if rule.secret and value else value
            rows[key] = list(shown) if isinstance(shown, tuple) else shown, self.origins.get(key, "default")
        for name, table in self.config.presets.items():
            for leaf, value in table.items():
                key = f"presets.{name}.{leaf}"
                rows[key] = value, self.origins.get(key, "default")
        return rows

    def located(self, error: ConfigError) -> ConfigError:
        """An error in an option (`data["option"]`), with the file, variable or flag that it is in."""
        option = str(error.data.get("option", "")).partition("[")[0]  # of a list the item is named, too
        source = self.sources.get(option)
        return error if source is None else ConfigError(f"{source}: {error.message}", data=error.data)


def load(
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
) -> Loaded:
    """Read all sources and check everything. Reads files, changes nothing.

    Raises:
        ConfigError: whatever is wrong with them. Somebody else wrote these files, and a running daemon reads them
            again: nothing that can be put into one may end it.
    """
    try:
        return _load(config_file=config_file, environ=environ, flags=flags or {})
    except SttdError:
        raise
    except Exception as exc:
        raise ConfigError(f"the configuration cannot be read: {str(exc) or type(exc).__name__}") from exc


def _load(*, config_file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    found: dict[str, Setting] = {}
    used = ""
    for path in config_files(config_file, environ):
        table = _read_toml(path, required=config_file is not None)
        if table is not None:
            used = str(path)
            found |= {key: Setting(value=value, origin="file", source=str(path)) for key, value in _flatten(table)}
    warnings = []
    for name, text in environ.items():
        if name.startswith("STTD_") and "__" in name:
            key = name.removeprefix("STTD_").lower().replace("__", ".")
            found[key] = Setting(value=text, origin="environment", source=name)
        elif name.startswith("STTD_") and name not in _OF_CLIENTS:
            warnings.append(_no_option(name))
    for key, text in flags.items():
        found[key] = Setting(value=text, origin="flag", source=f"--set {key}")
    return Loaded(
        config=_build(found),
        origins={_as_shown(key): setting.origin for key, setting in found.items()},
        path=used,
        sources={_as_shown(key): setting.source for key, setting in found.items()},
        warnings=tuple(warnings),
    )


def _no_option(name: str) -> str:
    """The warning about a variable that is ignored. Raises ConfigError where it can only have been meant for sttd."""
    variables = [variable_of(key) for key, _ in options()]
    meant = next((each for each in variables if each.replace("__", "_") == name.upper()), None)
    if meant is not None:
        raise ConfigError(f"{name}: section and option are parted by two underscores; did you mean `{meant}`?")
    hint = suggestion(name.upper(), variables) or "; options are STTD_SECTION__OPTION, with two underscores"
    return f"the variable {clip(name)} is no option and ignored{hint}"


def variable_of(key: str) -> str:
    """The variable of the environment that sets an option."""
    return f"STTD_{key.upper().replace('.', '__')}"


def _as_shown(key: str) -> str:
    """The key as `values` and errors have it: the options of a preset's backend without the table of their own."""
    path, _, leaf = key.rpartition(".")
    return f"{path.removesuffix('.options')}.{leaf}" if key.startswith("presets.") else key


def config_files(config_file: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """The files that are read, in order; with `--config` just that one."""
    if config_file is not None:
        return [config_file]
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    return [SYSTEM_CONFIG, *([Path(home) / "sttd" / "sttd.toml"] if home else [])]


def parse_set(text: str) -> tuple[str, str]:
    """`section.key=value` of `--set`. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set wants section.key=value, not {text!r}")
    return key.strip(), value.strip()


def _read_toml(path: Path, *, required: bool) -> dict[str, Any] | None:
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{path}: this is UTF-16; save it as UTF-8")
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors put a byte order mark in front
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: there is no such file") from None
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except ValueError as exc:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise ConfigError(f"{path}: not valid TOML: {exc}") from None


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _build(found: Mapping[str, Setting]) -> Config:
    declared = dict(options())
    values: dict[str, dict[str, Any]] = {name: {} for name, _ in sections()}
    presets: dict[str, dict[str, Any]] = {}
    for key, setting in found.items():
        section, _, rest = key.partition(".")
        path, _, leaf = rest.rpartition(".")
        if section == "presets" and (preset := path.removesuffix(".options")):  # whose name may have a dot: `base.en`
            presets.setdefault(preset, {})[leaf] = _plain(setting)
        elif key in declared:
            values[section][leaf] = _checked(key, declared[key], setting)
        else:
            raise ConfigError(f"{setting.source}: unknown option `{key}`{suggestion(key, list(declared))}")
    kinds = dict(sections())
    config = Config(presets=presets, **{name: kinds[name](**values[name]) for name in values})
    _check_whole(config)
    return config


def _plain(setting: Setting) -> Scalar:
    """A value of a free table: text from variables and flags is read as TOML where it is TOML."""
    if setting.origin == "file" or not isinstance(setting.value, str):
        return setting.value
    try:
        return tomllib.loads(f"value = {setting.value}")["value"]  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        return setting.value


def _checked(key: str, rule: Rule, setting: Setting) -> Any:
    value = setting.value if rule.type == "str" else _plain(setting)
    if rule.type == "[str]" and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]  # STTD_…="a,b" is easier than TOML there
    try:
        return rule.check(key, value)
    except FieldError as error:
        raise ConfigError(f"{setting.source}: {error.message}") from None


def _check_whole(config: Config) -> None:
    """What no single option can know."""
    low, high = config.endpointing.silence_ms_min, config.endpointing.silence_ms_max
    if low > high:
        raise ConfigError(f"`endpointing.silence_ms_min` ({low}) is above `endpointing.silence_ms_max` ({high})")
    defaults = {config.models.model, config.models.interim_model or config.models.model}
    if len(defaults) > config.models.max_loaded_models:
        raise ConfigError(
            f"`models.max_loaded_models` is {config.models.max_loaded_models}, "
            f"and the default presets are {len(defaults)}: {', '.join(sorted(defaults))}"
        )
    if config.server.token and config.server.token_file:
        raise ConfigError("`server.token` and `server.token_file` exclude each other")
    if bool(config.server.tls_cert) != bool(config.server.tls_key):
        raise ConfigError("`server.tls_cert` and `server.tls_key` belong together: set both, or neither")
    parse_tcp(config.server.tcp)
    for address in config.server.wyoming:
        parse_wyoming(address)
    parse_networks(config.server.wyoming_allowed)
