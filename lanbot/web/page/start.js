// Before the first paint: the choice of dark or light, if one was made. After it: what the page does.
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* no storage: as the system is set */ }
requestAnimationFrame(() => setTimeout(() => import("./app.js")));
