// Before the first paint: the colours that were chosen, so that a dark page does not flash white.
{
  let chosen = null;
  try { chosen = JSON.parse(localStorage.getItem("sttd.settings")).theme; } catch { /* none, or no storage */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
