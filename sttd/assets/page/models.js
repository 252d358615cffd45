// The models: those on disk are chosen from; of the others a dialog says how to get them.

import { bearer } from "./connecting.js";
import { set, settings } from "./settings.js";
import { sizeWords } from "./wording.js";

const $ = (id) => document.getElementById(id);

export let known = null;  // what /models answered; null: this daemon tells nobody, or asks for a token first
let selectable = null;  // the presets that a session may name, once a session has said hello

const forPeople = (row) => row.local && row.backend !== "fake" && row.model !== "demo";

let looks = 0, newest = 0;  // an answer that comes after a later one is out of date

/** Ask the daemon what there is. */
export async function look() {
  const number = ++looks;
  const answer = await fetch("/models", { headers: bearer() }).catch(() => null);
  const models = answer && answer.ok ? await answer.json() : null;
  if (number < newest) return;
  newest = number;
  known = models || known;
  offer();
}

/** A session has said which presets it may name. */
export function allow(presets) {
  selectable = presets;
  offer();
}

/** The preset that was chosen, as an option of `start`; none where it cannot be had. */
export const chosen = () => ($("model").value ? { model: $("model").value } : {});

/** Whether this machine is known to be too slow for a preset. */
export const isSlow = (preset) => !!known && known.presets.some((row) => row.preset === preset && row.realtime === false);

const slow = (row) => (row.realtime === false ? ["slow here"] : []);

/** Show what can be used. */
export function offer() {
  const rows = known ? known.presets : (selectable || []).map((preset) => ({ preset, local: true }));
  const allowed = rows.filter((row) => !selectable || selectable.includes(row.preset));
  const standard = rows.find((row) => (row.default_for || []).includes("final"));
  const meant = !standard ? "" : standard.preset === "auto" && standard.local ? `: auto, now ${standard.model}` : `: ${standard.preset}`;
  $("model").replaceChildren(new Option(`default${meant}`, ""), ...allowed.filter((row) => row.local).map((row) => {
    const notes = [...(row.preset === "auto" ? [`now ${row.model}`] : []), ...slow(row)];
    const option = new Option([row.preset, ...notes].join(" · "), row.preset);
    option.title = row.summary || "";
    return option;
  }));
  $("model").value = settings.model;
  if ($("model").selectedIndex < 0) $("model").value = "";
  const missing = allowed.filter((row) => !row.local && row.preset !== "auto");
  $("more").hidden = !missing.length;
  $("missing").replaceChildren(...missing.map(missingRow));
  $("notice").hidden = !known || known.presets.some(forPeople);
  $("notice").querySelector("code").textContent = command((known && known.recommended) || "base");
}

function missingRow(row) {
  const item = $("missing-row").content.firstElementChild.cloneNode(true);
  item.dataset.preset = row.preset;
  item.querySelector("b").textContent = row.preset;
  const size = row.size_bytes ? [sizeWords(row.size_bytes)] : [];
  item.querySelector(".about").textContent = [...(row.summary ? [row.summary] : []), ...size, ...slow(row)].join(" · ");
  item.querySelector("code").textContent = command(row.preset);
  item.querySelector(".command button").setAttribute("aria-label", `Copy the command for ${row.preset}`);
  return item;
}

/** A service without a network has a unit that downloads for it. */
const command = (preset) => known && known.network === false ? `sudo systemctl start sttd-pull@${preset}` : `sttctl pull ${preset}`;

$("model").onchange = () => set("model", $("model").value);
$("more").onclick = () => $("get").showModal();
addEventListener("focus", look);  // somebody may come back from a terminal, with a new model
addEventListener("token", look);
look();
