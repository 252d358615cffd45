// Where the sound comes from: a microphone, or a tab or screen that is shared with its sound. And whether any comes:
// a microphone is unplugged, a browser pauses a page, and no error comes of it.

import { RATE_HZ } from "./recording.js";

// Audio comes 50 times a second. Without any for so long, the page says that it hears nothing.
const DEAF_MS = 2000;

const ENDED = {
  microphone: "The microphone has stopped. Connect it or allow it again, then press Listen.",
  tab: "The sharing has ended. Press Listen to share again.",
};
const NO_SOUND = "The browser gives this page no sound. Click into the page to go on; if nothing changes, look for a "
  + "sound device that works.";
const MUTED = "The microphone is muted. Switch it on at the device or in the settings of the system.";

/** What this browser can listen to: for each source "" where it can, otherwise why not; and what to know about it. */
export function supported() {
  const devices = navigator.mediaDevices;
  if (!devices) {
    const why = "Browsers give sound to pages of https and of this machine (localhost) only.";
    return { microphone: why, tab: why, note: "" };
  }
  if (!devices.getDisplayMedia) {
    return { microphone: "", tab: "This browser cannot share the sound of a tab; Chrome and Edge on a computer can.", note: "" };
  }
  // Only Chromium knows this word, and only Chromium gives the sound of a tab.
  const sounds = devices.getSupportedConstraints().suppressLocalAudioPlayback;
  return {
    microphone: "",
    tab: "",
    note: sounds
      ? "You will be asked which tab or screen. Tick “Also share audio” there."
      : "This browser may share the picture alone, without sound; Chrome and Edge share both.",
  };
}

/** A stream of the chosen source. Raises Error with plain words. */
export async function openStream(kind) {
  const can = supported();
  if (can[kind]) throw new Error(can[kind]);
  try {
    if (kind === "microphone") {
      return await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
      });
    }
    // A picture must be asked for, as small as can be; nobody looks at it.
    const stream = await navigator.mediaDevices.getDisplayMedia({
      video: { frameRate: 1 }, audio: { suppressLocalAudioPlayback: false }, systemAudio: "include", selfBrowserSurface: "exclude",
    });
    if (!stream.getAudioTracks().length) {
      stream.getTracks().forEach((track) => track.stop());
      throw new Error("No sound was shared. Choose a tab and tick “Also share audio”.");
    }
    return stream;
  } catch (failure) {
    throw new Error(why(failure, kind));
  }
}

function why(failure, kind) {
  switch (failure.name) {
    case "NotAllowedError":
      if (kind === "tab") return "Nothing was shared.";
      return "This page may not use the microphone. Allow it beside the address, then press Listen.";
    case "NotFoundError": return "No microphone was found. Connect one, then press Listen.";
    case "NotReadableError": return "Another program holds the microphone.";
    default: return failure.message;
  }
}

/** The sound of a stream in pieces of 20 ms. */
export class Source {
  /** `heard` gets an Int16Array and the peak (0 to 1) of each piece; `changed` is called when something may be said. */
  constructor(stream, { kind, heard, changed }) {
    this.stream = stream;
    this.kind = kind;
    this.audio = null;
    this.heardAt = performance.now();
    this.closed = false;
    this._heard = heard;
    this._changed = changed;
  }

  async open() {
    let node;
    this.audio = new AudioContext({ sampleRate: RATE_HZ });
    try {
      node = this.audio.createMediaStreamSource(this.stream);
    } catch {  // Firefox: not at another rate than the microphone's; tap.js sees to it
      this.audio.close();
      this.audio = new AudioContext();
      node = this.audio.createMediaStreamSource(this.stream);
    }
    await this.audio.audioWorklet.addModule("/page/tap.js");
    const tap = new AudioWorkletNode(this.audio, "tap", { numberOfOutputs: 0 });
    tap.port.onmessage = ({ data }) => {
      if (this.closed) return;
      this.heardAt = performance.now();
      this._heard(new Int16Array(data.audio), data.peak);
    };
    node.connect(tap);
    this.track.onended = this.track.onmute = this.track.onunmute = this._changed;
    this.audio.onstatechange = () => {
      if (!this.closed && this.audio.state !== "running") this.heardAt = -Infinity;
      this._changed();
    };
  }

  get track() { return this.stream.getAudioTracks()[0]; }

  get ended() { return this.track.readyState === "ended"; }

  /** Why nothing is heard; "" while something is. */
  get deaf() {
    if (this.ended) return ENDED[this.kind];
    if (performance.now() - this.heardAt > DEAF_MS) return NO_SOUND;
    return this.track.muted && this.kind === "microphone" ? MUTED : "";
  }

  /** A browser may refuse until somebody has clicked, or never answer. */
  wake() {
    if (!this.closed && this.audio.state !== "running") this.audio.resume().catch(() => {});
  }

  close() {
    this.closed = true;
    this.stream.getTracks().forEach((track) => track.stop());
    if (this.audio && this.audio.state !== "closed") this.audio.close();
  }
}
