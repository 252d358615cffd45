# ruff: noqa: SIM905 (word lists read better as text)
"""The demo model's words, by category: what the grammar's `<name>` slots are filled with.

The words are common ones, chosen so that a listener can tell them apart: of a group that sounds the same (`see`/`sea`)
one member is listed, unless the sentence around it decides (`to`/`two`), and such words stand in `HOMOPHONES`.
"""

from __future__ import annotations

from typing import Final

_GROUPS: Final = {
    # --- numbers, dates, times
    "digit": "zero one two three four five six seven eight nine",
    "nonzero": "one two three four five six seven eight nine",
    "teen": "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "ordinal": "first second third fourth fifth sixth seventh eighth ninth",
    "late_ordinal": "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth "
    "nineteenth twentieth",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "hour": "one two three four five six seven eight nine ten eleven twelve",
    "short_unit": "second minute hour",
    "long_unit": "day week month year",
    "season": "spring summer autumn winter",
    "daypart": "morning afternoon evening night",
    "when_word": "today tomorrow tonight later soon now yesterday again",
    # --- home and commands
    "room": "kitchen bedroom bathroom office garden garage hall cellar attic balcony",
    "device": "light lamp radio heater fan camera television computer printer oven alarm speaker curtain screen",
    "level": "volume temperature brightness speed pressure",
    "app": "browser calendar calculator terminal editor player mailbox clock",
    "document": "file window document folder page letter message picture program list report table note",
    "file_verb": "open close save delete copy print send move find share rename",
    "edit_unit": "word sentence line paragraph character",
    "direction": "left right up down back forward",
    "media": "music song movie video podcast album",
    # --- people and places
    "person": "mother father brother sister uncle cousin doctor teacher boss friend neighbour husband daughter lawyer "
    "farmer driver singer writer baker nurse soldier captain manager student painter dentist engineer gardener "
    "sailor officer plumber",
    "name": "Alice Peter Martin Sarah Robert Laura Simon Emma Victor Julia Oscar Helen Frank Nora Daniel Sophie Thomas "
    "Maria George Linda Edward Susan Michael Rachel",
    "city": "London Paris Berlin Madrid Vienna Boston Chicago Dublin Oslo Warsaw Sydney Tokyo",
    "country": "France Germany Spain Italy England Canada Japan Brazil India Norway Egypt Poland",
    "place": "school station airport market hospital library museum bridge castle church village city hotel restaurant "
    "theatre factory office park beach forest harbour island mountain river valley field bakery pharmacy bank farm",
    # --- things
    "object": "car house book cat dog bird flag horse chair cup bag hat shirt ball phone coat boat ring basket "
    "bottle bucket button candle carpet coin crown desk doll drum engine envelope guitar hammer helmet jacket "
    "kettle ladder lemon magnet mirror needle newspaper notebook pencil piano pillow pocket pocketbook robot rocket "
    "rope sandwich saddle scarf spoon sword ticket towel trumpet umbrella vase violin wagon wallet wheel whistle "
    "window apple banana carrot tomato potato orange cookie biscuit tunnel tower statue turtle rabbit spider monkey "
    "tiger elephant camel donkey lion eagle parrot penguin dolphin kitten puppy",
    "food": "water coffee tea bread milk cheese rice sugar soup butter pepper honey salad chocolate pasta chicken "
    "yoghurt garlic onion mustard vinegar juice lemonade cake pizza spinach cabbage jam olive oil",
    "clothing": "trousers gloves socks boots sandals pyjamas glasses",
    "material": "wood glass paper metal stone plastic cotton leather silver gold copper rubber",
    "colour": "red green blue yellow purple pink brown black white grey",
    "animal_wild": "fox wolf bear whale shark snake frog crab owl",
    # --- properties
    "adjective": "big small new old good bad long short warm cold fast slow happy quiet heavy empty clean dirty dark "
    "bright cheap expensive strong gentle hungry thirsty tired angry clever brave careful broken beautiful "
    "simple difficult famous foreign fresh friendly golden healthy huge important lucky modern narrow natural "
    "perfect polite popular private proud rapid serious silent similar smooth soft special strange sudden sweet tall "
    "terrible thick thin tiny typical useful usual violent visible wide wild wise wooden wonderful young ancient "
    "calm common curious dangerous deep dry early easy electric exact excellent false final flat formal",
    "weather": "warm cold sunny cloudy rainy windy foggy snowy stormy humid",
    "adverb": "quickly slowly carefully quietly loudly happily suddenly always never often sometimes usually probably "
    "already almost together exactly finally immediately certainly",
    # --- doing things
    "verb": "watch follow visit help believe remember forget answer carry clean catch choose collect "
    "describe discover draw drop explain finish hold imagine improve invite join kick kiss learn leave "
    "love measure notice offer order paint pay plan prepare protect pull push reach receive recommend record "
    "repair replace respect return search serve study support teach thank touch train trust understand use wash "
    "welcome wish admire accept avoid borrow build burn compare count cover cross destroy divide enjoy examine",
    "past_verb": "watched followed visited helped remembered answered carried cleaned caught chose collected described "
    "discovered dropped explained finished held imagined improved invited joined kicked learned lost loved measured "
    "noticed offered ordered painted planned prepared protected pulled pushed reached received recorded repaired "
    "replaced sold served studied taught thanked touched understood used washed found brought bought built broke "
    "took gave made kept left put saw showed",
    "motion": "walk swim travel dance jump climb drive fly hurry return wander sleep work wait stay sing laugh "
    "listen cry smile relax talk argue",
    "subject": "I we they you",
    "abstract": "answer question problem idea reason result story secret promise mistake accident adventure "
    "advantage agreement argument attention balance battle beginning benefit birthday business chance choice "
    "comfort company condition control culture danger decision dream duty education effort energy event evidence "
    "example experience failure family fashion feature feeling festival freedom friendship future game "
    "government habit happiness history holiday honour hope humour industry insurance interest journey "
    "justice kindness knowledge language lesson luck machine marriage medicine memory method minister moment money "
    "nature nation opinion opportunity paragraph passage patience payment people period permission planet pleasure "
    "poetry police politics position power practice president price prize progress project property purpose quality "
    "relationship religion reward rhythm science security service shadow silence situation society solution sound "
    "spirit strategy strength subject success suggestion surprise system talent technology thunder tradition traffic "
    "treasure trouble truth value victory violence vision voice weapon wisdom wonder",
    "function": "about above across after against along among around because before behind below beneath beside "
    "between beyond during either enough every except however inside instead into maybe nearly neither nothing "
    "outside over perhaps quite rather several since something somebody still such though through toward under until "
    "upon very while within without yet",
    "filler": "hello please thanks yes no okay stop start pause continue next previous cancel repeat undo ready done",
}

#: Category name to its words, in the order written above.
CATEGORIES: Final[dict[str, tuple[str, ...]]] = {name: tuple(words.split()) for name, words in _GROUPS.items()}

#: Words that sound like another word of the vocabulary, or like two of them in a row: kept out of random word lists,
#: where nothing would decide.
HOMOPHONES: Final = frozenset(
    "to two too for four write right there their here hear buy by new knew know no one won eight ate see sea hour our "
    "week weak meet meat I eye or a an the of and it is in on at am are you we be been read red passed past "
    "wood would afternoon notebook pocketbook".split()
)
