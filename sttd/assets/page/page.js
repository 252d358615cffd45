// Joins the modules: what is pressed, chosen, dropped and typed, and where it shows. See each module for what it does.

import { FORMATS, fileName, text } from "./export.js";
import { enqueue, MOST, Work } from "./files.js";
import { keep, kept } from "./keeping.js";
import { Lines } from "./lines.js";
import * as listening from "./listening.js";
import "./models.js";
import { forget, play, stop as stopPlaying } from "./playing.js";
import { RATE_HZ, Recording } from "./recording.js";
import { set, settings } from "./settings.js";
import { supported } from "./source.js";
import { Transcript } from "./transcript.js";
import { countWords, fileShare, fileWords, lengthWords } from "./wording.js";

const $ = (id) => document.getElementById(id);
const KEEP_MS = 500;  // chosen: text that comes fast is written once

// ---- the transcripts: the live one, and one for each file

const live = { transcript: null, work: null };
const entries = [live];
let current = live;
let safe = true;  // a reload would lose nothing

const lines = new Lines($("lines"), {
  hear: async (line, from_s) => {
    const why = await play(current.transcript.sound, from_s, line.end_s, (time_s) => lines.mark(line, time_s));
    if (why) say(why, "error");
  },
});

function begin() {
  const old = kept();
  live.transcript = old.find((one) => one.kind === "live") || new Transcript({ id: "live", name: "Live", kind: "live" });
  follow(live);
  for (const transcript of old) if (transcript.kind === "file") add({ transcript, work: null });
  select(live);
}

/** The recording of the live transcript; after a reload it begins behind what is known by its text alone. */
function recording() {
  live.transcript.sound ??= new Recording(Math.ceil(live.transcript.end_s * RATE_HZ));
  return live.transcript.sound;
}

function add(entry) {
  entries.push(entry);
  follow(entry);
  list();
}

function follow(entry) {
  entry.transcript.addEventListener("line", ({ detail: key }) => {
    if (!entry.transcript.get(key)?.open) later();
    if (entry === current) about();
  });
  entry.transcript.addEventListener("progress", () => {
    list();
    if (entry === current) about();
    if (!entry.work.lively) announce(`${entry.transcript.name}: ${fileWords(entry.work)}`);
  });
}

function select(entry) {
  current = entry;
  stopPlaying();
  lines.show(entry.transcript);
  list();
  about();
}

/** The list of transcripts; its buttons stay what they are, so that one that has the focus keeps it. */
function list() {
  const items = $("transcripts");
  while (items.children.length > entries.length) items.lastChild.remove();
  entries.forEach((entry, index) => {
    let item = items.children[index];
    if (!item) {
      item = document.createElement("li");
      item.innerHTML = "<button type=button><b></b><small></small></button>";
      items.append(item);
    }
    const button = item.firstChild;
    button.onclick = () => { select(entry); close(); };
    if (entry === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    button.firstChild.textContent = entry.transcript.name;
    button.lastChild.textContent = entry.work ? fileWords(entry.work) : summary(entry.transcript);
  });
}

const summary = ({ finals, end_s }) => finals.length ? `${countWords(finals.length, "line")}, ${lengthWords(end_s)}` : "Nothing yet";

/** What is around the lines. */
function about() {
  const { transcript, work } = current;
  $("title").textContent = transcript.name;
  const some = transcript.finals.length > 0;
  for (const id of ["copy", "remove"]) $(id).disabled = !some && !(id === "remove" && current !== live);
  $("save").toggleAttribute("inert", !some);
  $("save").classList.toggle("off", !some);
  $("undo").hidden = !transcript.canUndo;
  $("remove").textContent = current === live ? "Clear" : "Delete";
  $("empty").hidden = transcript.lines.length > 0 || current !== live;
  $("work").hidden = !work;
  if (!work) return;
  $("share").hidden = !work.lively;
  $("work").dataset.state = work.state;
  const share = fileShare(work);
  if (share === null) $("share").removeAttribute("value");
  else $("share").value = share;
  const silent = work.state === "done" && !some ? "No speech was found." : "";
  $("work-words").textContent = [silent || fileWords(work), work.note].filter(Boolean).join(" ");
  $("cancel").hidden = !work.lively;
  $("again").hidden = !["failed", "cancelled"].includes(work.state);
}

let waiting = 0;
function later() {
  if (waiting) return;
  waiting = setTimeout(() => { waiting = 0; write(); list(); }, KEEP_MS);
}
function write() { safe = keep(entries.map(({ transcript }) => transcript)); }

addEventListener("pagehide", () => { write(); stopPlaying(); });
addEventListener("beforeunload", (event) => {
  write();
  if (!safe || listening.running || entries.some(({ work }) => work?.lively)) event.preventDefault();
});

// ---- files

let numbers = 0;

function take(files) {
  const all = [...files], busy = entries.filter(({ work }) => work?.lively).length;
  const taken = all.slice(0, Math.max(0, MOST - busy));
  if (taken.length < all.length) say(`At most ${MOST} files wait at a time.`, "error");
  taken.forEach((file, index) => {
    const transcript = new Transcript({ id: `file ${Date.now()} ${++numbers}`, name: file.name, kind: "file" });
    transcript.sound = file;
    const entry = { transcript, work: new Work(file, transcript) };
    add(entry);
    enqueue(entry.work);
    if (!index) select(entry);
  });
  if (taken.length) close();
}

$("choose").onclick = () => $("files").click();
$("files").onchange = () => { take($("files").files); $("files").value = ""; };
$("cancel").onclick = () => { current.work?.cancel(); $("again").focus(); };
$("again").onclick = () => {
  current.work.again();
  enqueue(current.work);
  select(current);
  $("cancel").focus();
};

const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragover", (event) => { if (carriesFiles(event)) { event.preventDefault(); $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => {
  $("drop").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});

// ---- listening

function say(words, kind = "info") {
  if ($("state").textContent !== words) $("state").textContent = words;
  $("state").dataset.kind = kind;
}

function lag(words) {
  if ($("lag").textContent === words) return;
  if (words && !$("lag").textContent) announce(words);  // the seconds that follow are to be seen alone
  $("lag").textContent = words;
}

/** For who hears the page: final text, and little else. */
function announce(words, language = "") {
  $("said").append(Object.assign(document.createElement("p"), { textContent: words, lang: language }));
  while ($("said").children.length > 3) $("said").firstChild.remove();
}

listening.show({
  say,
  lag,
  recording,
  transcript: () => live.transcript,
  level: (value) => { $("level").value = value; },
  button: (label, enabled) => {
    $("toggle").textContent = label;
    $("toggle").disabled = !enabled;
    $("toggle").toggleAttribute("data-on", label !== "Listen");
  },
  final: (line, timing) => {
    if (line.text && current === live) announce(line.text, line.language);
    const waited_ms = timing && line.text ? timing.endpoint_ms + (timing.speculative ? 0 : timing.decode_ms) : null;
    $("took").textContent = waited_ms === null ? "" : `${(waited_ms / 1000).toFixed(1)} s after the last word`;
  },
});

$("toggle").onclick = () => {
  if (!listening.running && current !== live) select(live);
  listening.toggle();
};
$("host").textContent = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "this machine" : location.hostname;

// ---- what is done with a transcript

/** Say on a button that it is done, for a moment. */
function done(button, words) {
  button.dataset.label ??= button.textContent;
  button.textContent = words;
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}

async function copy(button, words) {
  try {
    await navigator.clipboard.writeText(words);
    done(button, "Copied");
  } catch {
    say("This browser lets no page copy here. Mark the text and copy it yourself.", "error");
  }
}

$("copy").onclick = () => copy($("copy"), text(current.transcript.finals));

$("undo").onclick = () => {
  current.transcript.undo();
  if ($("undo").hidden) $("copy").focus();
};

for (const [ending, format] of Object.entries(FORMATS)) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: format.name });
  button.dataset.format = ending;
  button.onclick = () => {
    const url = URL.createObjectURL(new Blob([format.write(current.transcript)], { type: `${format.type};charset=utf-8` }));
    const { created } = current.transcript;
    const name = current === live ? `sttd ${created.slice(0, 16).replaceAll(/[T:]/g, "-")}` : current.transcript.name;
    Object.assign(document.createElement("a"), { href: url, download: fileName(name, ending) }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);  // chosen: a download has begun by then
    shut();
  };
  $("save").querySelector(".sheet").append(button);
}
function shut() {
  const inside = $("save").contains(document.activeElement);
  $("save").open = false;
  if (inside) $("save").querySelector("summary").focus();
}
addEventListener("click", (event) => { if (!$("save").contains(event.target)) $("save").open = false; });
$("save").addEventListener("focusout", (event) => { if (event.relatedTarget && !$("save").contains(event.relatedTarget)) $("save").open = false; });

$("remove").onclick = () => {
  $("sure").returnValue = "";
  $("sure").showModal();
};
$("sure").onclose = () => {
  if ($("sure").returnValue !== "ok") return;
  const { transcript, work } = current;
  work?.cancel();
  if (current === live) clear();
  else {
    forget(transcript.sound);
    entries.splice(entries.indexOf(current), 1);
  }
  select(live);
  write();
};

/** The live transcript begins anew; of what is being said, the sound is kept until its text is there. */
function clear() {
  live.transcript.clear();
  if (listening.running) live.transcript.sound.forget(listening.running.resuming.settled);
  else live.transcript.sound = null;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.(".command button");
  if (button) copy(button, button.parentElement.querySelector("code").textContent);
});

// ---- settings

const can = supported();
for (const radio of document.querySelectorAll("[name=source]")) {
  radio.disabled = !!can[radio.value];
  radio.checked = settings.source === radio.value;
  radio.onchange = () => { set("source", radio.value); sourceNote(); };
}
function sourceNote() {
  const note = can.microphone || can.tab || (settings.source === "tab" ? can.note : "");
  $("source-note").textContent = note;
  $("source-note").hidden = !note;
}
if (can[settings.source] && !can.microphone) {
  set("source", "microphone");
  document.querySelector("[name=source][value=microphone]").checked = true;
}
sourceNote();
$("lang").value = settings.languages;
$("lang").oninput = () => set("languages", $("lang").value);
$("theme").value = settings.theme;
$("theme").onchange = () => {
  set("theme", $("theme").value);
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
};
$("dim").checked = settings.dim;
$("dim").onchange = () => { set("dim", $("dim").checked); dim(); };
function dim() { document.documentElement.dataset.dim = settings.dim ? "on" : "off"; }
dim();
$("keys").checked = settings.keys;
$("keys").onchange = () => set("keys", $("keys").checked);
$("shortcuts").onclick = () => $("help").showModal();

// ---- the side on a narrow page

$("menu").onclick = () => {
  const open = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(open));
};
function close() {
  $("side").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
}

// ---- keys

const KEYS = {
  l: () => $("toggle").click(),
  o: () => $("choose").click(),
  t: () => $("lines").querySelector(".word[tabindex='0']")?.focus(),
  e: () => lines.edit(),
  u: () => $("undo").click(),
  c: () => $("copy").click(),
  s: () => { if (!$("save").inert) { $("save").open = true; $("save").querySelector(".sheet button").focus(); } },
  "?": () => $("help").showModal(),
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape") { stopPlaying(); shut(); return; }
  const typing = event.target.closest?.("input:not([type=radio], [type=checkbox]), select, textarea, dialog");
  if (!settings.keys || typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

begin();
