// Runs on the audio thread: 20 ms of mono 16-bit samples at 16 kHz a message.
//
// Where the browser has resampled already there is nothing to do. One that cannot (Firefox gives a microphone at its own
// rate alone) has its sound thinned out here: a windowed sinc of 16 periods that passes 7.2 kHz.

const RATE_HZ = 16000;
const PIECE = 320;
const PERIODS = 16, STEPS = 256;  // chosen: the table is fine enough that the next entry will do

class Thinner {
  constructor(ratio) {
    this.ratio = ratio;
    this.half = Math.ceil(PERIODS * ratio);
    const pass = 0.9 / ratio;  // of the half of the rate that comes in
    this.table = Float32Array.from({ length: this.half * STEPS + 1 }, (_, index) => {
      const x = index / STEPS, sinc = x ? Math.sin(Math.PI * pass * x) / (Math.PI * pass * x) : 1;
      return pass * sinc * Math.cos((Math.PI * x) / (2 * this.half)) ** 2;
    });
    this.held = new Float32Array(2 * this.half);  // silence before the first sample
    this.at = this.half;  // of the next sample, in what is held
  }

  push(samples) {
    const held = new Float32Array(this.held.length + samples.length);
    held.set(this.held);
    held.set(samples, this.held.length);
    const thinned = [];
    for (; this.at + this.half < held.length; this.at += this.ratio) {
      let sum = 0;
      for (let i = Math.ceil(this.at - this.half); i <= this.at + this.half; i++) {
        sum += held[i] * this.table[Math.round(Math.abs(i - this.at) * STEPS)];
      }
      thinned.push(sum);
    }
    const done = Math.floor(this.at - this.half);
    this.held = held.slice(done);
    this.at -= done;
    return thinned;
  }
}

registerProcessor("tap", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.thinner = sampleRate === RATE_HZ ? null : new Thinner(sampleRate / RATE_HZ);
    this.begin();
  }

  begin() { this.samples = new Int16Array(PIECE); this.filled = 0; this.peak = 0; }

  process([channels]) {
    if (!channels.length) return true;
    const mono = Float32Array.from(channels[0], (_, i) =>
      channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
    for (const value of this.thinner ? this.thinner.push(mono) : mono) {
      this.peak = Math.max(this.peak, Math.abs(value));
      this.samples[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (this.filled === PIECE) {
        this.port.postMessage({ audio: this.samples.buffer, peak: this.peak }, [this.samples.buffer]);
        this.begin();
      }
    }
    return true;
  }
});
