// The view of one transcript: its lines on the page, the way through its words by keyboard, and a line that is edited.
//
// One word of the list can be reached by Tab, the others from it by arrow keys, as in a grid; so a long transcript is one
// stop and not a thousand. The buttons of the line that it is in are the next stops.

import { doubt, pieces } from "./words.js";
import { clockWords, countWords } from "./wording.js";

const NEAR_PX = 120;  // of the end: who is that near reads along, and is taken along

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

export class Lines {
  /** `list` is the <ol>; `hear(line, word or null)` plays. */
  constructor(list, { hear }) {
    this.list = list;
    this.transcript = null;
    this._hear = hear;
    this._follows = (event) => this._update(event.detail);
    list.addEventListener("click", (event) => this._clicked(event));
    list.addEventListener("keydown", (event) => this._pressed(event));
    list.addEventListener("focusin", (event) => { if (event.target.matches(".word")) this._enter(event.target); });
  }

  show(transcript) {
    this.transcript?.removeEventListener("line", this._follows);
    this.transcript = transcript;
    transcript.addEventListener("line", this._follows);
    this.list.replaceChildren(...transcript.lines.map((line) => this._item(line)));
    this._stop();
  }

  /** Mark the word that is heard at a time; null: none. */
  mark(line, time_s) {
    this.list.querySelector(".playing")?.classList.remove("playing");
    if (time_s === null) return;
    const item = this._of(line.key);
    const words = item ? [...item.querySelectorAll(".word")] : [];
    words.findLast((word) => Number(word.dataset.from) <= time_s)?.classList.add("playing");
  }

  /** Turn a line into a field; the last one where none is named. */
  edit(key = this.transcript.finals.at(-1)?.key) {
    const item = this._of(key), line = item && this.transcript.get(key);
    if (!line || line.open || item.querySelector("textarea")) return;
    const field = make("textarea", { value: line.text, rows: Math.ceil(line.text.length / 60) + 1 });
    field.setAttribute("aria-label", `Text at ${clockWords(line.start_s)}. Enter saves, Escape leaves it as it was.`);
    let done = false;
    const finish = (save) => {
      if (done) return;
      done = true;
      const focused = document.activeElement === field;
      if (save) this.transcript.edit(key, field.value);
      if (item.isConnected) this._update(key);
      if (focused) (this._of(key)?.querySelector(".word") || this.list.querySelector(".word"))?.focus();
    };
    field.onblur = () => finish(true);
    field.onkeydown = (event) => {
      event.stopPropagation();
      if (event.isComposing) return;
      if (event.key === "Enter") { event.preventDefault(); finish(true); }
      if (event.key === "Escape") { event.preventDefault(); finish(false); }
    };
    item.querySelector(".text").replaceWith(field);
    item.classList.add("editing");
    field.focus();
  }

  _of(key) { return key === undefined ? null : this.list.querySelector(`[data-key="${CSS.escape(key)}"]`); }

  _update(key) {
    const line = this.transcript.get(key), old = this._of(key);
    const near = innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR_PX;
    const current = old?.contains(document.activeElement) ? document.activeElement : null;
    if (!line) old?.remove();
    else if (line.open && old) this._fill(old.querySelector(".text"), line);
    else if (old) old.replaceWith(this._item(line));
    else {
      const at = this.transcript.lines.indexOf(line);
      this.list.insertBefore(this._item(line), this.list.children[at] || null);
    }
    if (current && line) this._of(key)?.querySelector(".word")?.focus();
    this._stop();
    if (near) scrollTo({ top: document.documentElement.scrollHeight });
  }

  _item(line) {
    const text = make("p", { className: "text" });
    const item = make("li", { className: line.open ? "line open" : "line" }, make("span", { className: "time" }), text);
    item.dataset.key = line.key;
    const time = clockWords(line.start_s);
    if (line.open) item.firstChild.textContent = time;
    else {
      const hear = make("button", { type: "button", className: "hear", textContent: time, tabIndex: -1 });
      hear.setAttribute("aria-label", `Hear the line at ${time}`);
      const edit = make("button", { type: "button", className: "edit", textContent: "Edit", tabIndex: -1 });
      edit.setAttribute("aria-label", `Edit the line at ${time}`);
      item.firstChild.append(hear);
      item.append(edit);
    }
    this._fill(text, line);
    return item;
  }

  _fill(text, line) {
    if (line.open) {
      // stable_chars counts code points; a JavaScript string counts UTF-16 units.
      const stable = Array.from(line.text).slice(0, line.stable_chars).join("").length;
      const parts = [make("span", { className: "stable" }), make("span", { className: "tail" })];
      let at = 0;
      for (const { text: shown, word } of pieces(line.text, line.words)) {
        const cut = Math.max(0, Math.min(shown.length, stable - at));
        at += shown.length;
        for (const [part, some] of [[parts[0], shown.slice(0, cut)], [parts[1], shown.slice(cut)]]) {
          const space = some.match(/^\s*/)[0];
          part.append(space, make("span", { className: `doubt${doubt(word?.probability)}`, textContent: some.slice(space.length) }));
        }
      }
      text.replaceChildren(...parts);
      return;
    }
    const words = pieces(line.text, line.words).map(({ text: shown, word }) => {
      const space = shown.match(/^\s*/)[0];
      const span = make("span", { textContent: shown.slice(space.length), tabIndex: -1 });
      span.className = `word doubt${doubt(word?.probability)}`;
      const from_s = word ? word.start_s : line.start_s;
      span.dataset.from = from_s;
      const sure = typeof word?.probability === "number" ? ` · ${Math.round(100 * word.probability)} % sure` : "";
      span.title = `${clockWords(from_s)}${sure}`;
      return [space, span];
    });
    const doubtful = (line.words || []).filter((word) => doubt(word.probability)).length;
    const final = make("span", { className: "final" }, ...words.flat());
    // Said once a line and not once a word.
    const note = make("span", { className: "unseen doubtful", textContent: ` (${countWords(doubtful, "word")} not sure)` });
    text.replaceChildren(final, ...(doubtful ? [note] : []));
    text.lang = line.language || "";
  }

  /** See to it that exactly one word can be reached by Tab. */
  _stop() {
    if (!this.list.querySelector(".word[tabindex='0']")) {
      const word = this.list.querySelector(".word");
      if (word) this._enter(word);
    }
  }

  _enter(word) {
    for (const old of this.list.querySelectorAll("[tabindex='0']")) {
      old.tabIndex = -1;
      if (old.matches(".word")) old.removeAttribute("role");
    }
    word.tabIndex = 0;
    word.setAttribute("role", "button");
    for (const button of word.closest(".line").querySelectorAll("button")) button.tabIndex = 0;
  }

  _clicked(event) {
    const item = event.target.closest(".line"), line = item && this.transcript.get(item.dataset.key);
    if (!line || line.open || (event.detail && String(getSelection()))) return;  // it was text that was marked
    if (event.target.matches(".edit")) this.edit(line.key);
    else if (event.target.matches(".hear")) this._hear(line, line.start_s);
    else if (event.target.matches(".word")) {
      this._enter(event.target);
      this._hear(line, Number(event.target.dataset.from));
    }
  }

  _pressed(event) {
    if (!event.target.matches(".word") || event.ctrlKey || event.metaKey || event.altKey) return;
    const words = [...event.target.closest(".line").querySelectorAll(".word")];
    const at = words.indexOf(event.target);
    const beside = (step) => {
      let item = event.target.closest(".line");
      do item = step > 0 ? item.nextElementSibling : item.previousElementSibling; while (item && !item.querySelector(".word"));
      return item ? [...item.querySelectorAll(".word")] : [];
    };
    const next = {
      ArrowRight: () => words[at + 1] || beside(1)[0],
      ArrowLeft: () => words[at - 1] || beside(-1).at(-1),
      ArrowDown: () => beside(1)[0],
      ArrowUp: () => beside(-1)[0],
      Home: () => words[0],
      End: () => words.at(-1),
    }[event.key];
    if (next) next()?.focus();
    else if (event.key === "Enter" || event.key === " ") event.target.click();
    else if (event.key === "F2" || event.key === "e") this.edit(event.target.closest(".line").dataset.key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
