// What somebody chose, kept in this browser: {model, languages, source, dim, theme, keys}.

const KEY = "sttd.settings";
const DEFAULTS = { model: "", languages: "", source: "microphone", dim: true, theme: "system", keys: true };

function read() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(KEY)) || {}; } catch { /* no storage, or not ours */ }
  const known = Object.entries(DEFAULTS).map(([name, usual]) => [name, typeof kept[name] === typeof usual ? kept[name] : usual]);
  return Object.fromEntries(known);
}

export const settings = read();

/** Change a setting and keep it. */
export function set(name, value) {
  settings[name] = value;
  try { localStorage.setItem(KEY, JSON.stringify(settings)); } catch { /* for this visit alone */ }
}

/** `lang` or `languages` of `start`, from "en" or "es, en". */
export function languageOptions(shown) {
  const codes = shown.split(/[\s,]+/).filter(Boolean);
  if (codes.length === 1) return { lang: codes[0] };
  return codes.length ? { languages: codes } : {};
}
