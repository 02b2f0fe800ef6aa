// Before the first paint: the choice of dark or light, if one was made.
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* no storage: as the system is set */ }
