// Files: one after the other goes to the daemon as a session of its own, and becomes a transcript of its own.
//
// A file is read and sent piece by piece, as fast as the daemon takes it. It comes back as text while it is sent still.

import { connect } from "./connecting.js";
import * as models from "./models.js";
import { languageOptions, settings } from "./settings.js";
import { finalLine } from "./transcript.js";
import { fileError } from "./wording.js";

const PIECE_BYTES = 128 * 1024;
const AHEAD_BYTES = 512 * 1024;  // what the browser may hold unsent
const PUMP_MS = 50;
export const MOST = 100;  // chosen: files in the queue; the text of each is kept

const LIVELY = ["waiting", "sending", "reading"];

/** A file on its way. Its transcript is told "progress" when something changed. */
export class Work {
  constructor(file, transcript) {
    this.file = file;
    this.transcript = transcript;
    this.again();
  }

  /** As at the beginning. */
  again() {
    Object.assign(this, { state: "waiting", size_bytes: this.file.size, sent_bytes: 0, done_s: 0, total_s: null, error: "", note: "" });
    this.transcript.lines = [];
    this._socket = this._attempt = null;
    this._reading = this._began = false;
  }

  get lively() { return LIVELY.includes(this.state); }

  /** Work until it is done, failed or cancelled; raises nothing. */
  run() {
    const attempt = {};  // what comes of a former one that was cancelled is not this one's
    const own = (act) => { if (this._attempt === attempt) act(); };
    this._attempt = attempt;
    return new Promise((resolve) => {
      this._over = resolve;
      this._set("sending");
      connect({
        hear: (event, socket) => this._attempt === attempt ? this._hear(event, socket) : socket.close(1000),
        closed: () => own(() => this._fail("The daemon closed the connection.")),
      }).catch((failure) => own(() => this._fail(failure.message)));
    });
  }

  cancel() {
    if (this.lively) this._finish("cancelled");
  }

  _hear(event, socket) {
    switch (event.type) {
      case "hello":
        this._socket = socket;
        this._reading = false;  // what an attempt before still reads is not for this one
        models.allow(event.presets);
        socket.send(JSON.stringify({
          op: "start", kind: "file", encoding: "container", words: true, label: "a file of the page",
          ...models.chosen(), ...languageOptions(settings.languages),
        }));
        break;
      case "started":
        this.transcript.model = event.model;
        this._began = true;
        this._pump();
        break;
      case "progress":
        this.done_s = event.done_s;
        this.total_s = event.total_s;
        this._set(this.state);
        break;
      case "final":
        this.transcript.put(finalLine(String(event.utterance), event, (seconds) => seconds));
        break;
      case "warning":
        if (event.code === "damaged_audio") this.note = "A damaged part was skipped.";
        if (event.code === "other_tracks") this.note = `There are several tracks: ${event.message}.`;
        break;
      case "error":
        if (event.fatal || !this._began) this._fail(fileError(event));
        else this.note = fileError(event);
        break;
      case "stopped":
        this.done_s = event.audio_s;
        this._finish("done");
        break;
    }
    this._pump();  // messages come in a hidden tab, too, where timers are slow
  }

  async _pump() {
    if (this._reading || !this._began || this.state !== "sending") return;
    this._reading = true;
    const socket = this._socket;
    try {
      while (this.state === "sending" && this.sent_bytes < this.file.size && socket.bufferedAmount < AHEAD_BYTES) {
        const piece = await this.file.slice(this.sent_bytes, this.sent_bytes + PIECE_BYTES).arrayBuffer();
        if (this.state !== "sending" || socket !== this._socket) return;
        socket.send(piece);
        this.sent_bytes += piece.byteLength;
        this._set("sending");
      }
    } catch {
      if (socket === this._socket) this._fail("The file cannot be read. It may have been moved or changed.");
      return;
    } finally {
      if (socket === this._socket) this._reading = false;  // else it is that of another attempt
    }
    if (this.state !== "sending") return;
    if (this.sent_bytes < this.file.size) setTimeout(() => this._pump(), PUMP_MS);
    else {
      socket.send(JSON.stringify({ op: "stop" }));
      this._set("reading");
    }
  }

  _fail(words) {
    if (!this.lively) return;
    this.error = words;
    this._finish("failed");
  }

  _finish(state) {
    this._set(state);
    this._began = false;
    this._attempt = null;
    this._socket?.close(1000);
    this._over?.();
  }

  _set(state) {
    this.state = state;
    this.transcript.dispatchEvent(new Event("progress"));
  }
}

const queue = [];
let working = false;

/** Put a file into the queue, behind those that wait. */
export async function enqueue(work) {
  queue.push(work);
  if (working) return;
  working = true;
  for (let next; (next = queue.shift());) if (next.state === "waiting") await next.run();
  working = false;
}
