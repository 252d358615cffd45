// The sound of this page, in memory and nowhere else: the last half hour, 16 kHz, 16 bits, mono.
//
// It is what a word is heard from when somebody clicks it, and what is sent again when a connection was lost. Samples are
// counted from the first one on, over all that was listened to; the older ones are forgotten.

export const RATE_HZ = 16000;
const BLOCK = 60 * RATE_HZ;
const BLOCKS = 30;  // chosen: half an hour, 58 MB

export class Recording {
  /** `begin`: the number of its first sample; what lies before is known by its text alone. */
  constructor(begin = 0) {
    this.begin = begin;
    this.head = begin;  // the number of the next sample
    this._blocks = new Map();  // number -> Int16Array
  }

  /** The oldest sample that is still there. */
  get tail() {
    return Math.max(this.begin, (Math.floor(this.head / BLOCK) - BLOCKS + 1) * BLOCK);
  }

  append(samples) {
    for (let at = 0; at < samples.length;) {
      const number = Math.floor(this.head / BLOCK), place = this.head % BLOCK;
      if (!this._blocks.has(number)) {
        this._blocks.set(number, new Int16Array(BLOCK));
        this._blocks.delete(number - BLOCKS);
      }
      const some = samples.subarray(at, at + BLOCK - place);
      this._blocks.get(number).set(some, place);
      at += some.length;
      this.head += some.length;
    }
  }

  /** The samples from one number to another, as far as they are there. */
  slice(from, to) {
    from = Math.max(from, this.tail);
    to = Math.min(to, this.head);
    const samples = new Int16Array(Math.max(0, to - from));
    for (let at = from; at < to;) {
      const place = at % BLOCK, some = Math.min(BLOCK - place, to - at);
      samples.set(this._blocks.get(Math.floor(at / BLOCK)).subarray(place, place + some), at - from);
      at += some;
    }
    return samples;
  }

  /** Forget what lies before a sample. */
  forget(before) {
    this.begin = Math.max(this.begin, Math.min(before, this.head));
    for (const number of this._blocks.keys()) if ((number + 1) * BLOCK <= this.begin) this._blocks.delete(number);
  }

  /** Whether there is sound at a time. */
  holds(seconds) {
    const sample = Math.round(seconds * RATE_HZ);
    return sample >= this.tail && sample < this.head;
  }
}
