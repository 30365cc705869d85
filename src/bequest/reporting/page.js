(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const key = "bequest-report-theme";
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = isDark() ? "Light page" : "Dark page"; };
  // A browser may keep nothing for a page that was opened from a file.
  try {
    const kept = window.localStorage.getItem(key);
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* the system's theme it is */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { window.localStorage.setItem(key, root.dataset.theme); } catch { /* for this visit only */ }
    name();
  });
  system.addEventListener("change", name);
  button.hidden = false;
  name();
})();
