// What a model wrote, as elements. It is hostile until DOMPurify has been over it; nothing here sets HTML directly.

import { marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";
import { copyButton, el } from "./dom.js";

const purify = globalThis.DOMPurify;
const TAGS = "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i input li ol p pre s span strong sub sup table tbody td th thead tr ul".split(" ");
const ALLOWED = { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "class", "start", "align", "type", "checked", "disabled", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true };
const SPANS = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true };

marked.use({ gfm: true, breaks: true, renderer: {
  html: ({ text }) => escaped(text), // a tag that a model wrote is shown as it is
  image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`, // nothing is fetched from elsewhere
} });

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("rel", "noopener noreferrer");
    node.setAttribute("target", "_blank");
  }
  if (node.tagName === "INPUT") {
    node.setAttribute("type", "checkbox");
    node.setAttribute("disabled", "");
    node.setAttribute("aria-label", node.hasAttribute("checked") ? "done" : "to do");
  }
  if (node.hasAttribute("class") && !/^(language-[\w+#-]+|hljs-[\w -]+)$/.test(node.className)) node.removeAttribute("class");
});

let library = null; // of some size, so it is loaded with the first code
let loading = null;

export function markdown(text) {
  const made = purify.sanitize(marked.parse(text), ALLOWED);
  for (const pre of made.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    if (!code) continue;
    const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
    pre.tabIndex = 0;
    const box = el("div", { class: "code" }, el("div", { class: "language" }, el("span", {}, language), copyButton("Copy the code", () => code.textContent)));
    pre.replaceWith(box);
    box.append(pre);
    highlight(code, language);
  }
  for (const table of made.querySelectorAll("table")) {
    const box = el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
  return made;
}

// Colours code where it stands, at once if the highlighter is there.
export function highlight(code, language) {
  if (!library) {
    loading ??= import("./vendor/highlight.min.js").then((module) => { library = module.default; });
    loading.then(() => library && highlight(code, language), () => {});
    return;
  }
  if (!library.getLanguage(language)) return;
  const { value } = library.highlight(code.textContent, { language, ignoreIllegals: true });
  code.replaceChildren(purify.sanitize(value, SPANS));
}
