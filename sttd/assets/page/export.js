// Lines of a transcript as text, SubRip, WebVTT and JSON. Pure functions; times are seconds.
//
// Cues have the rules of the daemon's own subtitles (sttd/wire/cues.py): at most two lines of 42 characters and seven
// seconds, cut between words, and rather where a sentence ends.

import { isWide, pieces, tokens } from "./words.js";

const LINE_CHARS = 42, CUE_LINES = 2, CUE_S = 7, SHORTEST_S = 0.1, PAUSE_S = 0.4;
const SENTENCE_END = /[.?!…。？！]$/;

/** What can be saved: the kinds by the ending of their file. */
export const FORMATS = {
  txt: { name: "Text", type: "text/plain", write: (transcript) => text(transcript.finals) },
  srt: { name: "Subtitles (SubRip)", type: "application/x-subrip", write: (transcript) => subrip(transcript.finals) },
  vtt: { name: "Subtitles (WebVTT)", type: "text/vtt", write: (transcript) => webvtt(transcript.finals) },
  json: { name: "JSON, with words and times", type: "application/json", write: (transcript) => json(transcript) },
};

export const text = (lines) => lines.map((line) => line.text + "\n").join("");

export const subrip = (lines) => lines.flatMap(cuesOf).map((cue, index) =>
  `${index + 1}\n${clock(cue.start_s, ",")} --> ${clock(cue.end_s, ",")}\n${cue.lines.join("\n")}\n`).join("\n");

export const webvtt = (lines) => ["WEBVTT\n", ...lines.flatMap(cuesOf).map((cue) =>
  `${clock(cue.start_s, ".")} --> ${clock(cue.end_s, ".")}\n${escape(cue.lines.join("\n"))}\n`)].join("\n");

const escape = (shown) => shown.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("-->", "--&gt;");

/** All that is known of a transcript, for programs. */
export function json(transcript) {
  const lines = transcript.finals.map(({ start_s, end_s, text, language, confidence, edited, words }) => ({
    start_s, end_s, text, language, confidence, edited, words,
  }));
  const { name, kind, created, model } = transcript;
  return JSON.stringify({ name, kind, created, model, lines }, null, 2) + "\n";
}

/** hh:mm:ss and milliseconds behind `point`. */
export function clock(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const whole = Math.floor(ms / 1000);
  const day = [whole / 3600, (whole / 60) % 60, whole % 60].map((value) => two(Math.floor(value))).join(":");
  return `${day}${point}${String(ms % 1000).padStart(3, "0")}`;
}

/** A file's name for a transcript: what systems do not allow is left out. */
export const fileName = (name, ending) =>
  `${name.replace(/[\u0000-\u001f<>:"/\\|?*]+/g, " ").trim().slice(0, 100) || "transcript"}.${ending}`;

/** A line cut into subtitles, in order; none where it says nothing. Each lasts a moment at least. */
export function cuesOf(line) {
  const cues = [];
  let held = [];
  const close = () => {
    const start_s = held[0].start_s;
    cues.push({ start_s, end_s: Math.max(held[held.length - 1].end_s, start_s + SHORTEST_S), lines: broken(held) });
    held = [];
  };
  for (const piece of timed(line)) {
    if (held.length && (!fits([...held, piece]) || endsWell(held, piece))) close();
    held.push(piece);
  }
  if (held.length) close();
  return cues;
}

/** Every word with its time; in proportion to the characters where the words have none. */
function timed(line) {
  if (!line.text.trim()) return [];
  if (line.words && line.words.length) {
    let at = line.words[0].start_s;
    return pieces(line.text, line.words).flatMap(({ text, word }) => {
      const start_s = word ? word.start_s : at, end_s = word ? word.end_s : at;
      // Where words of the text are no words that have a time, several stand in one piece: the last has it.
      const texts = text.match(/\s*\S+/g) || [text];
      const before = texts.slice(0, -1).map((each) => ({ text: each, start_s: Math.min(at, start_s), end_s: start_s }));
      at = end_s;
      return [...before, { text: texts[texts.length - 1], start_s, end_s }];
    });
  }
  const texts = line.text.split(/\s+/).filter(Boolean).flatMap((word) =>
    tokens(word).map((part, index) => (index ? part : ` ${part}`)));
  const length = (text) => [...text].length;
  const each = (line.end_s - line.start_s) / texts.reduce((sum, text) => sum + length(text), 0);
  let at = line.start_s;
  return texts.map((text) => {
    const start_s = at;
    at += each * length(text);
    return { text, start_s, end_s: at };
  });
}

const width = (shown) => [...shown].reduce((sum, char) => sum + (isWide(char) ? 2 : 1), 0);

function broken(held) {
  const lines = [""];
  for (const { text } of held) {
    if (lines[lines.length - 1] && width(lines[lines.length - 1] + text) > LINE_CHARS) lines.push("");
    lines[lines.length - 1] += lines[lines.length - 1] ? text : text.trimStart();
  }
  return lines;
}

const fits = (held) => broken(held).length <= CUE_LINES && held[held.length - 1].end_s - held[0].start_s <= CUE_S;

function endsWell(held, next) {
  const last = held[held.length - 1];
  if (!SENTENCE_END.test(last.text)) return false;
  return next.start_s - last.end_s >= PAUSE_S || held.reduce((sum, { text }) => sum + width(text), 0) >= LINE_CHARS;
}
