// Put into the page. Before the first paint: the choice of dark or light, if one was made. After it: what the page does.
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* no storage: as the system is set */ }
// All at once: one that is found in another would be asked for a round later.
const modules = ["app", "agent", "api", "thread", "markdown", "dom", "tree", "store", "vendor/marked.esm", "vendor/purify.min"];
const folder = document.querySelector("link[rel=icon]").href;
requestAnimationFrame(() => setTimeout(() => modules.forEach((name) => import(new URL(`${name}.js`, folder)))));
