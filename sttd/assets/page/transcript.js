// A transcript: its lines in the order of their time, and what somebody made of them. It knows nothing of the page.
//
// A line is {key, start_s, end_s, text, words, language, confidence, edited} once it is final; before, it is `open`, and
// its text changes: the first `stable_chars` of its characters do not. Times are those of the transcript's own sound.
// Events: "line" with the key of a line that was added or changed or is gone.

import { realign } from "./words.js";

const UNDO = 100;  // chosen: more than somebody takes back

/** Where a line that begins at `start_s` belongs: behind all that begin no later. */
export function placeOf(lines, start_s) {
  let at = lines.length;
  while (at > 0 && lines[at - 1].start_s > start_s) at -= 1;
  return at;
}

export class Transcript extends EventTarget {
  constructor({ id, name, kind, created = new Date().toISOString(), model = "", lines = [] }) {
    super();
    Object.assign(this, { id, name, kind, created, model, lines });
    this.sound = null;  // a Recording or a File; null: there is none any more
    this._undo = [];
  }

  get finals() { return this.lines.filter((line) => !line.open); }

  get end_s() { return this.lines.reduce((most, line) => Math.max(most, line.end_s), 0); }

  get(key) { return this.lines.find((line) => line.key === key); }

  /** Put a line in, or in the place of the one with its key. Without text it is no line. */
  put(line) {
    const at = this.lines.findIndex((one) => one.key === line.key);
    if (at >= 0) this.lines.splice(at, 1);
    if (line.text) this.lines.splice(at >= 0 ? at : placeOf(this.lines, line.start_s), 0, line);
    if (line.text || at >= 0) this._tell(line.key);
  }

  /** Take all lines out that are final; nobody can undo it. */
  clear() {
    this._undo = [];
    this.created = new Date().toISOString();
    this.lines = this.lines.filter((line) => line.open);
  }

  /** Lines that will get no final, since what they say is heard again. */
  dropOpen() {
    for (const line of this.lines.filter((line) => line.open)) this.put({ ...line, text: "" });
  }

  /** Lines that will get no final, and are all that there will be. */
  keepOpen() {
    for (const { open, ...line } of this.lines.filter((line) => line.open)) this.put({ ...line, words: [], edited: false });
  }

  get canUndo() { return this._undo.length > 0; }

  /** Somebody wrote another text; an empty one takes the line away. */
  edit(key, text) {
    const line = this.get(key), written = text.replace(/\s+/g, " ").trim();
    if (!line || line.open || written === line.text) return;
    this._undo.push(line);
    this._undo.splice(0, this._undo.length - UNDO);
    this.put({ ...line, text: written, words: realign(line, written), edited: true });
  }

  /** Take the last edit back. Returns the key of its line, or null. */
  undo() {
    const line = this._undo.pop();
    if (!line) return null;
    this.put(line);
    return line.key;
  }

  toJSON() {
    const { id, name, kind, created, model } = this;
    return { id, name, kind, created, model, lines: this.finals };
  }

  _tell(key) { this.dispatchEvent(new CustomEvent("line", { detail: key })); }
}

/** The line of an `interim`; `place` turns the session's seconds into those of the sound. */
export function openLine(key, event, place) {
  return {
    key, open: true, text: event.text, stable_chars: event.stable_chars, words: event.words || [],
    start_s: place(event.start_s), end_s: place(event.end_s),
  };
}

/** The line of a `final`. */
export function finalLine(key, event, place) {
  return {
    key, text: event.text.trim(), start_s: place(event.start_s), end_s: place(event.end_s),
    language: event.language, confidence: event.confidence, edited: false,
    words: (event.words || []).map((word) => ({ ...word, word: word.word.trim(), start_s: place(word.start_s), end_s: place(word.end_s) })),
  };
}
