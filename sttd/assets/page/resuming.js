// One listening, over as many connections as it takes. Decides and does nothing: no socket, no clock, no timer.
//
// The sound is in a recording whose samples are counted; a session of the daemon has its own clock, which begins at the
// sample `base`. Rules (docs/how-to/resume.md has those of the protocol):
//
// 1. Cursor. What lies before it was written to this connection. `resumed` turns it back to where the daemon goes on.
// 2. Once. An event whose `event_seq` was heard before is not heard again.
// 3. Loss. A connection that ends without `stopped` and without a fatal error is followed by another, with the newest
//    token. The first try is at once, the next ones later and later, each by a chance of its own.
// 4. Anew. A daemon that has the session no longer (it was started again) gets a new one, which hears the sound once
//    more from the end of the last final on. That one waits rather than drop sound, since it has to catch up.
// 5. Ends. Tries end TRY_S after the loss; sound is kept for longer than that.
// 6. Stop is said once all sound is written, and again where the daemon did not count it.

import { RATE_HZ } from "./recording.js";

const DELAYS_MS = [0, 200, 500, 1000, 2000, 5000];
export const TRY_S = 120;  // chosen: a daemon that is updated and loads its model is back by then

export class Resuming {
  /** `options` of `start`; `base`: the first sample that is to be heard; `chance` gives 0 to 1. */
  constructor(options, base, chance = Math.random) {
    this.phase = "opening";  // opening, open, away, over
    this.error = null;  // once it is over: why, as {code, message}; null after one in good order
    this.base = this.cursor = this.acked = base;
    this.settled = base;  // up to here there are finals
    this.stopping = false;
    this.stopSaid = false;
    this.awayMs = 0;  // of the last loss that was made good
    this._options = options;
    this._chance = chance;
    this._token = null;
    this._begun = false;  // there was a session
    this._lastSeq = 0;
    this._lostAt = null;
    this._attempts = 0;
    this.dueAt = 0;  // of the next try, while away
  }

  /** The first op on a new connection. */
  greeting() {
    if (this._token) return { op: "resume", token: this._token, last_seq: this._lastSeq };
    return { ...this._options, resumable: true, ...(this._begun ? { overflow: "wait" } : {}) };
  }

  /** Whether that is to resume a session. */
  get keeps() { return Boolean(this._token); }

  sampleOf(seconds) { return this.base + Math.round(seconds * RATE_HZ); }

  /** Seconds of the recording, from those of the session. */
  clock(seconds) { return this.base / RATE_HZ + seconds; }

  /**
   * Take what the daemon says; `now` in ms. What the program does next:
   * "show" the event; "go" on writing; "went" on after a cut; "anew": a session in place of one that is lost, whose open
   * lines are heard again; "skip" it; "leave" this connection for another one; "end".
   */
  hear(event, now) {
    switch (event.type) {
      case "hello": return "show";
      case "started": {
        const anew = this._begun;
        this._token = event.resume_token || null;
        this._begun = true;
        this._lastSeq = 0;
        this.acked = this.cursor = this.base;
        this.phase = "open";
        this._back();
        return anew ? "anew" : "go";
      }
      case "resumed":
        this._token = event.resume_token;
        this.cursor = this.acked = this.sampleOf(event.position_s);
        this.stopSaid = event.ops > 0;
        this.phase = "open";
        this.awayMs = now - this._lostAt;
        this._back();
        return "went";
      case "ack":
        this.acked = Math.max(this.acked, this.sampleOf(event.position_s));
        return "skip";
      case "error":
        if (this.phase !== "open") return this._refused(event, now);
    }
    if (event.event_seq !== undefined) {
      if (event.event_seq <= this._lastSeq) return "skip";
      this._lastSeq = event.event_seq;
    }
    if (event.type === "final") this.settled = Math.max(this.settled, this.sampleOf(event.end_s));
    if (event.type === "stopped") this.phase = "over";
    if (event.type === "error" && event.fatal) return this._end(event);
    return "show";
  }

  /** Samples from the cursor on were written. */
  wrote(count) { this.cursor += count; }

  /** The recording has forgotten what lies before `tail`: what was not written yet is lost. Returns how many samples. */
  forgotten(tail) {
    const lost = Math.max(0, tail - this.cursor);
    this.base += lost;
    this.cursor += lost;
    return lost;
  }

  /** The connection ended; `now` in ms. */
  lost(now) {
    if (this.phase === "over") return;
    if (!this._begun) { this._end({ code: "lost", message: "The daemon closed the connection." }); return; }
    this._lostAt ??= now;
    this.phase = "away";
    this._later(now);
  }

  /** A try came to nothing. */
  failed(now) {
    if (this.phase === "away") this._later(now);
  }

  /** Nobody waits for it any longer. */
  abandon() { this._end({ code: "abandoned", message: "Stopped; the last words were not heard." }); }

  _refused(event, now) {
    if (this._begun && (event.code === "not_found" || event.retryable)) {
      if (event.code === "not_found") {  // rule 4
        this._token = null;
        this.base = this.cursor = this.acked = this.settled;
        this.stopSaid = false;
        this._attempts = 0;
      }
      this._lostAt ??= now;
      this.phase = "away";
      this._later(now, 1000 * ((event.data && event.data.retry_after_s) || 0));
      return this.phase === "over" ? "end" : "leave";
    }
    return this._end(event);
  }

  _back() { this._lostAt = null; this._attempts = 0; }

  _later(now, leastMs = 0) {
    const delay = DELAYS_MS[Math.min(this._attempts, DELAYS_MS.length - 1)] * (1 + this._chance() / 2);
    this._attempts += 1;
    this.dueAt = now + Math.max(leastMs, delay);
    if (this.dueAt > this._lostAt + TRY_S * 1000) {
      this._end({ code: "lost", message: `The connection was lost and did not come back within ${TRY_S / 60} minutes.` });
    }
  }

  _end(error) {
    this.phase = "over";
    this.error = error;
    return "end";
  }
}
