// A reload loses no text: transcripts are kept for as long as the tab is open. Their sound is not kept.

import { Transcript } from "./transcript.js";

const KEY = "sttd.transcripts";
const MOST_CHARS = 2_000_000;  // chosen: browsers give 5 million; some ten hours of speech, with words and times

/** Keep what there is. Returns whether it is kept; otherwise somebody should be asked before the page goes. */
export function keep(transcripts) {
  const all = transcripts.filter((transcript) => transcript.finals.length);
  const bare = () => all.map((transcript) =>
    ({ ...transcript.toJSON(), lines: transcript.finals.map((line) => ({ ...line, words: [] })) }));
  for (const content of [() => all, bare]) {
    const written = JSON.stringify(content());
    if (written.length > MOST_CHARS) continue;
    try {
      sessionStorage.setItem(KEY, written);
      return true;
    } catch { /* it is full */ }
  }
  try { sessionStorage.removeItem(KEY); } catch { /* there is none */ }
  return !all.length;
}

/** What was kept, as Transcripts; none where it cannot be read. */
export function kept() {
  try {
    return (JSON.parse(sessionStorage.getItem(KEY)) || []).map((one) => new Transcript(one));
  } catch {
    return [];
  }
}
