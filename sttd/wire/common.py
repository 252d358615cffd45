"""What both planes share: the version, the languages that a client may name."""

from __future__ import annotations

PROTOCOL = 1  # within one version there are only additions

# ISO 639-1 as far as Whisper knows it. Its tokens for Hawaiian and Cantonese have three letters because ISO 639-1 has
# none for them; `jw` is what Whisper calls Javanese, ISO says `jv`.
_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr
ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc
pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue
zh
"""

LANGUAGES = tuple(_CODES.split())
