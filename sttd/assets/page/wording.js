// What the page says in plain words: times, sizes, how far behind the text is, why a file failed. Pure functions.

const BEHIND_S = 3;  // chosen: less than that is how live text is anyway
const UNSENT_S = 2;  // the daemon acknowledges every half second of sound
const WARNED_S = 8;  // the daemon warns every 5 s while it is behind

/** 65.2 -> "1:05". */
export function clockWords(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A length: "42 s", "3 min 5 s". */
export function lengthWords(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return whole % 60 && whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.round(whole / 60)} min`;
}

export function sizeWords(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  return bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}

export const countWords = (count, one, several = `${one}s`) => `${count} ${count === 1 ? one : several}`;

/**
 * How far behind the text is and why; "" while it is as live as it should be.
 * behind_s: of the sound that somebody speaks in, so much has no text; unsent_s: so much has not reached the daemon;
 * warned: {lag_s, ago_s}, the daemon's last warning; slow_model: it is known to be too slow for this machine.
 */
export function lagWords({ behind_s = 0, unsent_s = 0, warned = null, slow_model = false }) {
  const told_s = warned && warned.ago_s <= WARNED_S ? warned.lag_s : 0;
  const behind = Math.max(behind_s, told_s, unsent_s);
  if (behind < BEHIND_S) return "";
  const by = `Text is ${Math.round(behind)} s behind`;
  if (unsent_s >= UNSENT_S && unsent_s > told_s) return `${by}: the connection is slow.`;
  if (slow_model) return `${by}: this model is too slow for this machine. A smaller one keeps up.`;
  return `${by}: the machine is busy.`;
}

/** What is said while the connection is gone. */
export const AWAY_WORDS = "The connection is lost. What is said is kept, and the page keeps trying.";

export const backWords = (away_s) => `Connected again after ${lengthWords(Math.max(1, away_s))}; nothing is missing.`;

/** What is said once the daemon is there again but no longer has the session. */
export const anewWords = (again_s) => `The daemon was started anew. The last ${lengthWords(Math.max(1, again_s))} are heard again.`;

const FILE_ERRORS = {
  bad_audio: "This is no sound that can be read.",
  too_large: "This file is too large.",
  overloaded: "The machine has too much to do. Try again later.",
  too_many_requests: "The machine has too much to do. Try again later.",
  out_of_memory: "There is not enough memory for this model. A smaller one may do.",
  model_not_local: "The model is not on disk yet. “More models” says how to get it.",
  model_load_failed: "The model cannot be loaded.",
  decode_failed: "A part of it could not be decoded.",
  shutting_down: "The daemon stopped before the file was done. Try again.",
  idle_timeout: "The connection was idle for too long. Try again.",
};

/** Why a file failed, from the daemon's `error`; its own words stand behind where they say more. */
export function fileError({ code, message }) {
  const plain = FILE_ERRORS[code];
  if (!plain) return message;
  return ["overloaded", "too_many_requests", "shutting_down", "model_not_local"].includes(code) ? plain : `${plain} The daemon says: ${message}.`;
}

/** How far a file is. */
export function fileWords({ state, size_bytes, sent_bytes = 0, done_s = 0, total_s = null, error = "" }) {
  const sent = size_bytes ? Math.floor((100 * sent_bytes) / size_bytes) : 100;
  switch (state) {
    case "waiting": return "Waiting for its turn";
    case "sending":
    case "reading":
      if (done_s && total_s) return `${clockWords(Math.min(done_s, total_s))} of ${clockWords(total_s)} done`;
      if (done_s) return `${clockWords(done_s)} done, ${sent} % sent`;
      return sent < 100 ? `${sent} % of ${sizeWords(size_bytes)} sent` : "Sent; the first words are on their way";
    case "done": return done_s ? `Done: ${lengthWords(done_s)}` : "Done";
    case "cancelled": return "Cancelled";
    default: return error;
  }
}

/** The part of a file that is done, 0 to 1: by time once that is known, by bytes while it is sent; null: nobody knows. */
export function fileShare({ state, size_bytes, sent_bytes = 0, done_s = 0, total_s = null }) {
  if (done_s && total_s) return Math.min(1, done_s / total_s);
  return state === "sending" && size_bytes ? Math.min(1, sent_bytes / size_bytes) : null;
}
