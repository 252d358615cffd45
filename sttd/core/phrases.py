"""Word lists for `core/text.py`, per language. Data alone; short on purpose: each entry must be nearly always right."""

# ruff: noqa: RUF001  (letters of other scripts are meant)

from __future__ import annotations

from collections.abc import Mapping

# What Whisper models answer to noise, music and silence, as whole utterances: mostly the endings of subtitled
# videos. People say some of them too, so they count only where there is doubt that anybody spoke.
INVENTED: Mapping[str, tuple[str, ...]] = {
    "en": (
        "you",
        "bye",
        "bye bye",
        "bye bye bye",
        "oh",
        "okay",
        "so",
        "yeah",
        "the",
        "i",
        "hmm",
        "mm hmm",
        "thank you",
        "thanks",
        "thank you very much",
        "thank you so much",
        "thank you thank you",
        "thank you bye",
        "thank you for watching",
        "thanks for watching",
        "thank you so much for watching",
        "thank you for listening",
        "thanks for listening",
        "thank you for your attention",
        "i'll see you next time",
        "see you next time",
        "i'll see you in the next video",
        "see you in the next video",
        "please subscribe",
        "please subscribe to my channel",
        "like and subscribe",
        "don't forget to like and subscribe",
        "subtitles by the amara.org community",
        "transcription by castingwords",
        "music",
        "♪",
        "♪♪",
        "applause",
        "laughter",
        "silence",
        "the end",
        "i'm sorry",
        "i'm going to go ahead and do that",
        "it's a little bit of a",
        "we'll be right back",
        "shh",
    ),
    "de": (
        "danke",
        "vielen dank",
        "vielen dank fürs zuschauen",
        "danke fürs zuschauen",
        "vielen dank für die aufmerksamkeit",
        "bis zum nächsten mal",
        "bis zum nächsten video",
        "tschüss",
        "ja",
        "musik",
        "untertitel der amara.org-community",
        "untertitel im auftrag des zdf",
        "untertitel im auftrag des zdf für funk 2017",
        "untertitelung des zdf 2020",
        "untertitelung aufgrund der audioqualität nicht möglich",
        "swr 2020",
        "copyright wdr 2021",
        "das war's für heute",
    ),
    "fr": (
        "merci",
        "merci beaucoup",
        "merci d'avoir regardé cette vidéo",
        "merci d'avoir regardé",
        "merci d'avoir regardé la vidéo",
        "au revoir",
        "à bientôt",
        "musique",
        "sous-titres réalisés para la communauté d'amara.org",
        "sous-titres réalisés par la communauté d'amara.org",
        "sous-titrage société radio-canada",
        "sous-titrage st' 501",
        "abonnez-vous",
    ),
    "es": (
        "gracias",
        "muchas gracias",
        "gracias por ver el video",
        "gracias por ver",
        "hasta la próxima",
        "adiós",
        "música",
        "suscríbete",
        "suscríbete al canal",
        "subtítulos realizados por la comunidad de amara.org",
        "subtítulos por la comunidad de amara.org",
    ),
    "it": (
        "grazie",
        "grazie mille",
        "grazie a tutti",
        "grazie per la visione",
        "grazie per aver guardato il video",
        "ciao",
        "alla prossima",
        "musica",
        "sottotitoli creati dalla comunità amara.org",
        "sottotitoli e revisione a cura di qtss",
    ),
    "pt": (
        "obrigado",
        "obrigada",
        "muito obrigado",
        "obrigado por assistir",
        "tchau",
        "até a próxima",
        "música",
        "legendas pela comunidade amara.org",
        "inscreva-se no canal",
    ),
    "nl": (
        "dank je wel",
        "bedankt",
        "bedankt voor het kijken",
        "tot de volgende keer",
        "muziek",
        "ondertiteld door de amara.org gemeenschap",
        "ondertitels ingediend door de amara.org gemeenschap",
        "tv gelderland 2021",
    ),
    "pl": (
        "dziękuję",
        "dziękuję za uwagę",
        "dziękuję za oglądanie",
        "dzięki za oglądanie",
        "muzyka",
        "napisy stworzone przez społeczność amara.org",
    ),
    "ru": (
        "спасибо",
        "спасибо за просмотр",
        "спасибо за внимание",
        "продолжение следует",
        "до свидания",
        "музыка",
        "субтитры сделал dimatorzok",
        "субтитры создавал dimatorzok",
        "редактор субтитров а.семкин корректор а.егорова",
    ),
    "uk": ("дякую", "дякую за перегляд", "дякую за увагу", "до побачення", "музика"),
    "tr": ("teşekkürler", "teşekkür ederim", "izlediğiniz için teşekkürler", "altyazı m.k.", "müzik"),
    "ar": ("شكرا", "شكرا لكم", "شكرا للمشاهدة", "ترجمة نانسي قنقر", "اشتركوا في القناة"),
    "ja": (
        "ありがとうございました",
        "ありがとうございます",
        "ご視聴ありがとうございました",
        "ご視聴ありがとうございます",
        "ご清聴ありがとうございました",
        "チャンネル登録お願いします",
        "おやすみなさい",
        "はい",
    ),
    "zh": (
        "谢谢",
        "谢谢大家",
        "谢谢观看",
        "感谢观看",
        "謝謝",
        "謝謝大家",
        "謝謝觀看",
        "请不吝点赞订阅转发打赏支持明镜与点点栏目",
        "字幕由amara.org社区提供",
        "字幕由amara.org社區提供",
        "字幕志愿者杨茜茜",
        "优优独播剧场",
        "明镜需要您的支持欢迎订阅明镜",
    ),
    "ko": ("감사합니다", "고맙습니다", "시청해주셔서 감사합니다", "구독과 좋아요 부탁드립니다", "한글자막 by 한효정"),
}

SENTENCE_ENDS = frozenset(".!?。！？．؟।۔")
QUESTIONS_AND_CALLS = frozenset("!?！？؟")
OPEN_ENDS = frozenset(",;:-–—…、，；：،")

# A word that shows, as the last one, that the speaker is looking for the next.
FILLERS: Mapping[str, frozenset[str]] = {
    "en": frozenset({"uh", "um", "uhm", "umm", "er", "erm", "ehm", "hm", "hmm"}),
    "de": frozenset({"äh", "ähm", "öh", "öhm", "eh", "ehm", "hm", "hmm", "em"}),
    "fr": frozenset({"euh", "heu", "hum", "hein"}),
    "es": frozenset({"eh", "em", "ehm", "mmm"}),
    "it": frozenset({"eh", "ehm", "uhm", "mmm"}),
    "pt": frozenset({"hum", "ahn", "hã", "eh", "é"}),
    "nl": frozenset({"eh", "uh", "uhm", "ehm", "hm"}),
}

# Words that hardly ever end a sentence, whatever punctuation the model put behind them.
CONTINUING: Mapping[str, frozenset[str]] = {
    "en": frozenset(
        {"and", "or", "but", "because", "although", "if", "than", "the", "a", "an"}
        | {"of", "into", "my", "your", "our", "their", "every", "whose", "i'm", "we're", "they're"}
    ),
    "de": frozenset(
        {"und", "oder", "weil", "dass", "wenn", "obwohl", "sondern", "ein", "eine", "einen", "einem", "einer"}
        | {"mein", "meine", "dein", "deine", "unser", "unsere", "im", "vom", "zum", "zur"}
    ),
    "fr": frozenset(
        {"et", "ou", "mais", "parce", "que", "si", "le", "la", "les", "un", "une", "des", "du", "de"}
        | {"mon", "ma", "mes", "ton", "ta", "votre", "notre", "dans", "chez"}
    ),
    "es": frozenset(
        {"y", "o", "pero", "porque", "si", "que", "el", "los", "las", "un", "una", "de", "del", "mi", "tu"}
    ),
    "it": frozenset({"e", "o", "ma", "il", "lo", "gli", "un", "una", "di", "del", "della", "che", "nel", "nella"}),
    "pt": frozenset({"e", "ou", "mas", "porque", "os", "as", "um", "uma", "de", "do", "da", "que", "no", "na"}),
    "nl": frozenset({"en", "of", "maar", "omdat", "dat", "de", "een", "mijn", "jouw", "onze", "van"}),
}

# Number words that ask for another, and shortened words whose period ends no sentence.
HALF_NUMBERS: Mapping[str, frozenset[str]] = {
    "en": frozenset({"twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "point"}),
    "fr": frozenset({"vingt", "trente", "quarante", "cinquante", "soixante", "virgule"}),
    "de": frozenset({"komma"}),
    "es": frozenset({"treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa", "coma"}),
}
SHORTENED: Mapping[str, frozenset[str]] = {
    "en": frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "eg", "ie", "approx"}),
    "de": frozenset({"dr", "prof", "hr", "fr", "zb", "bzw", "ca", "nr", "str", "dh"}),
    "fr": frozenset({"mme", "dr", "prof"}),
    "es": frozenset({"sr", "sra", "dr", "dra"}),
    "it": frozenset({"sig", "dott", "prof"}),
    "nl": frozenset({"dr", "dhr", "mevr", "prof", "bijv"}),
}
