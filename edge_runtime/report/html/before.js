// Before anything is shown: the theme asked for, by ?theme=dark or by an earlier visit.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  let theme = new URLSearchParams(location.search).get("theme");
  try { theme = theme || localStorage.getItem("edge-theme"); } catch { /* nothing was kept */ }
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
})();
