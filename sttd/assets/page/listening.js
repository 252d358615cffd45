// Listening: a source's sound goes into the recording, from there to the daemon, and its text into the live transcript.
// What is to be done when a connection ends is decided in resuming.js.

import { connect } from "./connecting.js";
import * as models from "./models.js";
import { RATE_HZ } from "./recording.js";
import { Resuming } from "./resuming.js";
import { languageOptions, settings } from "./settings.js";
import { openStream, Source } from "./source.js";
import { finalLine, openLine } from "./transcript.js";
import { anewWords, AWAY_WORDS, backWords, lagWords } from "./wording.js";

const LOOK_MS = 500;
const AHEAD_BYTES = 256 * 1024;  // what the browser may hold unsent: 8 s of sound, while it catches up
const PIECE = RATE_HZ;  // the longest message: a second
const PUMP_MS = 50;
const GIVE_UP_MS = 15_000;  // chosen: the last words take seconds; a daemon that hangs, for ever
const NEWS_MS = 6000;  // for so long something that happened is said

const TOO_QUIET = "Somebody speaks too quietly to be heard. Come nearer, or turn the microphone up.";

// {source, resuming, socket, recording, state, deaf, news, warned, open, run}, from the press of Listen to the last word.
export let running = null;
let view = null;  // {say, lag, level, button, transcript, recording, final}: what shows it
let runs = Date.now();  // names lines, also beside those of before a reload

export function show(shown) { view = shown; }

export async function toggle() {
  if (running) return stop();
  view.button("Listen", false);
  view.say("Connecting");
  try {
    await start();
  } catch (failure) {
    end(failure.message, "error");
  }
}

async function start() {
  const recording = view.recording();
  const stream = await openStream(settings.source);
  const source = new Source(stream, {
    kind: settings.source,
    heard: (samples, peak) => { recording.append(samples); view.level(Math.sqrt(peak)); pump(); },
    changed: lookAfter,
  });
  const options = {
    op: "start", sample_rate: RATE_HZ, overflow: "drop", words: true, label: "live captions",
    ...models.chosen(), ...languageOptions(settings.languages),
  };
  running = {
    source, recording, resuming: new Resuming(options, recording.head), socket: null, run: ++runs,
    state: "Connecting", deaf: "", news: null, warned: null, open: new Map(), ended: false,
    timer: setInterval(lookAfter, LOOK_MS), retry: 0,
  };
  const own = running;
  await source.open();
  await connect(ways(own));
  if (running === own && !own.resuming.stopping) view.button("Stop", true);
}

const ways = (own, quietly = false) => ({
  quietly,
  resume: own.resuming.keeps,
  hear: (event, socket) => { if (running === own) hear(event, socket); else socket.close(1000); },
  closed: (close, socket) => { if (running === own && (socket === own.socket || !own.socket)) closed(close); },
});

function hear(event, socket) {
  const { resuming } = running;
  if (event.type !== "hello" && socket !== running.socket) return;
  switch (resuming.hear(event, performance.now())) {
    case "show": return showEvent(event, socket);
    case "go":
      running.state = `Listening · ${event.model}`;
      running.model = event.model;
      view.transcript().model = event.model;
      if (!running.deaf && !resuming.stopping) view.say(running.state);
      return pump();
    case "went":
      tell(backWords(resuming.awayMs / 1000));
      return pump();
    case "anew":
      view.transcript().dropOpen();
      running.open.clear();
      running.run = ++runs;
      tell(anewWords((running.recording.head - resuming.base) / RATE_HZ));
      return pump();
    case "leave":
      running.socket = null;
      socket.onclose = null;  // this is not a loss
      socket.close(1000);
      return later();
    case "end":
      socket.close(1000);
      return end(resuming.error.message, "error");
  }
}

function showEvent(event, socket) {
  const { resuming, open } = running;
  const place = (seconds) => resuming.clock(seconds);
  const key = `${running.run}.${event.utterance}`;
  switch (event.type) {
    case "hello":
      running.socket = socket;
      models.allow(event.presets);
      socket.send(JSON.stringify(resuming.greeting()));
      break;
    case "speech_start": open.set(event.utterance, { text_s: null }); break;
    case "interim":
      open.set(event.utterance, { text_s: place(event.end_s) });
      if (event.text) view.transcript().put(openLine(key, event, place));
      break;
    case "speech_end":
      open.set(event.utterance, { text_s: open.get(event.utterance)?.text_s ?? place(event.at_s) });
      break;
    case "final": {
      open.delete(event.utterance);
      const line = finalLine(key, event, place);
      view.transcript().put(line);
      view.final(line, event.timing);
      break;
    }
    case "gap": tell(`${(event.to_s - event.from_s).toFixed(1)} s were dropped: the machine could not keep up.`, "error"); break;
    case "warning":
      if (event.code === "lagging") running.warned = { lag_s: event.lag_s, at: performance.now() };
      else tell(event.code === "too_quiet" ? TOO_QUIET : event.message);
      break;
    case "error": tell(event.message, "error"); break;
    case "stopped":
      running.ended = true;
      if (!running.deaf) view.say(`Stopped after ${event.audio_s.toFixed(1)} s`);
      break;
  }
}

/** Write what the daemon has not got; `stop` behind the last of it. */
function pump() {
  if (!running || running.resuming.phase !== "open") return;
  const { resuming, socket, recording } = running;
  if (!socket || socket.readyState !== WebSocket.OPEN) return;
  const lost = resuming.forgotten(recording.tail);
  if (lost) tell(`${Math.round(lost / RATE_HZ)} s were lost: the connection was too slow for too long.`, "error");
  while (resuming.cursor < recording.head && socket.bufferedAmount < AHEAD_BYTES) {
    const samples = recording.slice(resuming.cursor, Math.min(recording.head, resuming.cursor + PIECE));
    socket.send(samples.buffer);
    resuming.wrote(samples.length);
  }
  if (!resuming.stopping || resuming.stopSaid) return;
  if (resuming.cursor < recording.head) setTimeout(pump, PUMP_MS);
  else {
    resuming.stopSaid = true;
    socket.send(JSON.stringify({ op: "stop" }));  // the daemon closes after the last final
  }
}

function stop() {
  const { resuming, source } = running;
  if (resuming.stopping) {  // pressed again, while the connection is gone
    resuming.abandon();
    return end(resuming.error.message, "error");
  }
  resuming.stopping = true;
  running.stoppedAt = performance.now();
  running.deaf = source.deaf;  // before it is closed
  source.close();
  view.level(0);
  view.button("Give up", resuming.phase === "away");
  if (!running.deaf) view.say("Waiting for the last words");
  pump();
}

function closed(close) {
  const { resuming } = running;
  running.socket = null;
  resuming.lost(performance.now());
  if (resuming.phase !== "over") return later();
  if (running.ended || running.deaf) return end();
  end(resuming.error?.message || close.reason || `The connection was closed (${close.code}).`, resuming.error ? "error" : "info");
}

/** Try again when it is time. */
function later() {
  const own = running, { resuming } = own;
  if (resuming.stopping) view.button("Give up", true);
  lookAfter();
  clearTimeout(own.retry);
  own.retry = setTimeout(async () => {
    if (running !== own) return;
    try {
      await connect(ways(own, true));
      if (running === own && resuming.stopping) view.button("Give up", false);
    } catch {
      if (running !== own) return;
      resuming.failed(performance.now());
      if (resuming.phase === "over") end(resuming.error.message, "error");
      else later();
    }
  }, Math.max(0, resuming.dueAt - performance.now()));
}

/** It is over. Without words, what is said stays. */
function end(words = null, kind = "info") {
  if (running) {
    clearInterval(running.timer);
    clearTimeout(running.retry);
    running.source.close();
    running.socket?.close(1000);
    running = null;
    view.transcript().keepOpen();
  }
  if (words !== null) view.say(words, kind);
  view.level(0);
  view.lag("");
  view.button("Listen", true);
}

/** Something that happened: it is said for a while. */
function tell(words, kind = "info") {
  running.news = { words, kind, until: performance.now() + NEWS_MS };
  lookAfter();
}

/** Every half second, and when something changed: what there is to say. */
function lookAfter() {
  if (!running) return;
  const { resuming, source } = running, now = performance.now();
  const away = resuming.phase === "away" ? AWAY_WORDS : "";
  if (!resuming.stopping) {
    const deaf = source.audio ? source.deaf : "";
    if (deaf) { source.wake(); view.level(0); }  // each time: sound that was on its way may have moved it since
    running.deaf = deaf;
  }
  if (running.news && running.news.until < now) running.news = null;
  const { words, kind } =
    running.deaf ? { words: running.deaf, kind: "error" } :
    away ? { words: away, kind: "error" } :
    running.news ? running.news :
    { words: resuming.stopping ? "Waiting for the last words" : running.state, kind: "info" };
  if (!running.ended) view.say(words, kind);
  if (resuming.stopping && now - running.stoppedAt > GIVE_UP_MS) view.button("Give up", true);
  view.lag(away || resuming.phase !== "open" ? "" : lag(now));
  if (!resuming.stopping && source.audio && source.ended) stop();  // it does not come back, and the last words are owed
}

function lag(now) {
  const { resuming, recording, open, warned } = running;
  const texts = [...open.values()].map(({ text_s }) => text_s).filter((text_s) => text_s !== null);
  return lagWords({
    behind_s: texts.length ? recording.head / RATE_HZ - Math.min(...texts) : 0,
    unsent_s: (recording.head - resuming.acked) / RATE_HZ,
    warned: warned && { lag_s: warned.lag_s, ago_s: (now - warned.at) / 1000 },
    slow_model: models.isSlow(running.model),
  });
}

/** The page goes: so does its session, which would wait for it otherwise. */
addEventListener("pagehide", () => {
  if (!running) return;
  running.source.close();
  running.socket?.close(1000);
});

for (const sign of ["click", "keydown", "focus"]) addEventListener(sign, () => { if (running?.deaf) running.source.wake(); });
