// Runs on the audio thread: 20 ms of mono 16-bit samples a message. The AudioContext has resampled to 16 kHz already.

registerProcessor("tap", class extends AudioWorkletProcessor {
  constructor() { super(); this.samples = new Int16Array(320); this.filled = 0; this.peak = 0; }

  process([channels]) {
    const count = channels.length;
    for (let i = 0; count && i < channels[0].length; i++) {
      let value = 0;
      for (const channel of channels) value += channel[i] / count;
      this.peak = Math.max(this.peak, Math.abs(value));
      this.samples[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (this.filled === 320) {
        this.port.postMessage({ audio: this.samples.buffer, peak: this.peak }, [this.samples.buffer]);
        this.samples = new Int16Array(320); this.filled = 0; this.peak = 0;
      }
    }
    return true;
  }
});
