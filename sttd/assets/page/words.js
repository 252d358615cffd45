// The words of a text: where each lies in it, how sure the recogniser was, what becomes of them when somebody edits.
// Pure functions; times are seconds.

// Below these a word is shown as doubtful, and as very doubtful. Measured, `base` on 1,036 words of recordings of people:
// 3 % are below the second, of which a third is wrong; 6 % between the two, of which a quarter; 80 % above 0.8, of which
// three in a hundred.
const DOUBTFUL = 0.6, VERY_DOUBTFUL = 0.35;

/** 0: sure; 1: doubtful; 2: very doubtful. A word that a person wrote has no probability, and is sure. */
export function doubt(probability) {
  if (typeof probability !== "number" || probability >= DOUBTFUL) return 0;
  return probability >= VERY_DOUBTFUL ? 1 : 2;
}

/** A text in pieces that together are the text: each has `text` and the `word` that it shows, null for what is none. */
export function pieces(text, words) {
  const found = [];
  let place = 0;
  for (const word of words || []) {
    const [at, shown] = written(text, word.word.trim(), place);
    if (at < 0) continue;
    const between = text.slice(place, at);
    const own = found.length ? between.search(/\s|$/) : 0;  // a comma is the word's that it stands behind
    if (own) found[found.length - 1].text += between.slice(0, own);
    found.push({ text: between.slice(own) + shown, word });
    place = at + shown.length;
  }
  if (place < text.length) {
    const rest = text.slice(place);
    if (found.length && !/[\p{L}\p{N}]/u.test(rest)) found[found.length - 1].text += rest;
    else found.push({ text: rest, word: null });
  }
  return found;
}

const WIDE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u;

/** Whether a character is as wide as two Latin ones, and its script has no spaces. */
export const isWide = (char) => WIDE.test(char) || /[\u3000-\u303f\uff01-\uff60]/.test(char);

/** A text in words; in scripts that have no spaces, in characters. Punctuation stays with what it follows. */
export function tokens(text) {
  const found = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    let part = "";
    for (const char of word) {
      if (part && WIDE.test(char)) { found.push(part); part = ""; }
      part += char;
    }
    found.push(part);
  }
  return found;
}

const AHEAD = 4;  // words of the text in which one that is written otherwise is looked for

/** Where a text has a word from `place` on, and as what; -1: nowhere. A final keeps the form of the stable text: another
    case, or no comma. */
function written(text, shown, place) {
  if (!shown) return [-1, ""];
  const same = text.indexOf(shown, place);
  if (same >= 0 && !/[\p{L}\p{N}]/u.test(text.slice(place, same))) return [same, shown];
  const wanted = plain(shown);
  const near = wanted ? [...text.slice(place).matchAll(/\S+/g)].slice(0, AHEAD) : [];
  const found = near.find(([other]) => plain(other) === wanted);
  return found ? [place + found.index, found[0]] : [same, shown];
}

const plain = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

/** The words of an edited line: those that stayed keep their time, new ones share the time between their neighbours. */
export function realign(line, text) {
  const old = (line.words || []).filter((word) => word.word.trim());
  const written = tokens(text);
  const kept = common(old.map((word) => plain(word.word)), written.map(plain));
  const words = [];
  let at = 0;
  while (at < written.length) {
    if (kept.has(at)) {
      const before = old[kept.get(at)];
      const same = before.word.trim() === written[at];
      words.push({ ...before, word: written[at], probability: same ? before.probability : null });
      at += 1;
      continue;
    }
    let end = at;
    while (end < written.length && !kept.has(end)) end += 1;
    const from = words.length ? words[words.length - 1].end_s : line.start_s;
    const to = Math.max(from, end < written.length ? old[kept.get(end)].start_s : line.end_s);
    words.push(...spread(written.slice(at, end), from, to));
    at = end;
  }
  return words;
}

/** Words without times of their own, in proportion to their characters. */
function spread(written, from, to) {
  const each = (to - from) / written.reduce((sum, word) => sum + word.length, 0);
  let at = from;
  return written.map((word) => {
    const start_s = at;
    at += each * word.length;
    return { word, start_s, end_s: at, probability: null };
  });
}

/** The longest common subsequence: place in `second` -> place in `first`. */
function common(first, second) {
  const longest = Array.from({ length: first.length + 1 }, () => new Uint16Array(second.length + 1));
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      longest[i][j] = first[i] === second[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const found = new Map();
  for (let i = 0, j = 0; i < first.length && j < second.length;) {
    if (first[i] === second[j]) found.set(j++, i++);
    else if (longest[i + 1][j] >= longest[i][j + 1]) i += 1;
    else j += 1;
  }
  return found;
}
