// Plays a piece of a transcript's own sound. It stays in the browser: live sound is in the Recording, a file is the File.

import { RATE_HZ } from "./recording.js";

const MARGIN_S = 0.3;  // chosen: times of words are a little off, and a cut word is worse than a breath

let context = null;  // for live sound; made by the first click, as browsers want it
let stopPlaying = () => {};
let turn = 0;  // what is asked for while a browser still begins to play takes its place
const urls = new WeakMap();  // File -> its address in this page

/**
 * Play from one time to another; what was playing stops. `moved` is told the time while it plays, null at the end.
 * Returns "" or why it cannot.
 */
export async function play(sound, from_s, to_s, moved) {
  stop();
  if (!sound) return "The sound of this line is gone: only the text outlives a reload.";
  if (sound instanceof File) return playFile(sound, from_s, to_s, moved);
  if (!sound.holds(from_s)) return "The sound of this line is gone: the page keeps the last half hour.";
  return playRecording(sound, from_s, to_s, moved);
}

/** Stop what plays. */
export function stop() {
  turn += 1;
  stopPlaying();
}

/** Tell the time until it ends, as often as the screen is drawn. Returns what ends it. */
function follow(time_s, to_s, moved, end) {
  let over = false;
  const step = () => {
    if (over) return;
    if (time_s() >= to_s) return finish();
    moved(time_s());
    requestAnimationFrame(step);
  };
  const finish = () => {
    if (over) return;
    over = true;
    end();
    moved(null);
  };
  stopPlaying = finish;
  requestAnimationFrame(step);
  return finish;
}

async function playRecording(recording, from_s, to_s, moved) {
  const own = turn;
  context ??= new AudioContext();
  if (context.state !== "running") await context.resume().catch(() => {});
  if (own !== turn) return "";
  const begin = Math.max(recording.tail, Math.round((from_s - MARGIN_S) * RATE_HZ));
  const samples = recording.slice(begin, Math.round((to_s + MARGIN_S) * RATE_HZ));
  const buffer = context.createBuffer(1, samples.length, RATE_HZ);
  buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
  const node = new AudioBufferSourceNode(context, { buffer });
  node.connect(context.destination);
  const offset_s = Math.max(0, from_s - begin / RATE_HZ);
  const started = context.currentTime;
  node.start(0, offset_s);
  node.onended = follow(() => from_s + context.currentTime - started, to_s + MARGIN_S, moved, () => node.stop());
  return "";
}

async function playFile(file, from_s, to_s, moved) {
  if (!urls.has(file)) urls.set(file, URL.createObjectURL(file));
  const own = turn, audio = new Audio(urls.get(file));
  audio.currentTime = from_s;
  try {
    await audio.play();
  } catch {
    return "This browser cannot play this kind of file.";
  }
  if (own !== turn) {
    audio.pause();
    return "";
  }
  audio.onended = follow(() => audio.currentTime, to_s + MARGIN_S, moved, () => audio.pause());
  return "";
}

/** A file's sound is not wanted any longer. */
export function forget(sound) {
  if (urls.has(sound)) URL.revokeObjectURL(urls.get(sound));
  urls.delete(sound);
}
