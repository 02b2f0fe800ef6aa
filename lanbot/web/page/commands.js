// Commands that are typed, and the hints while one is.

import { $, el } from "./dom.js";

const COMMANDS = {
  new: "Start another conversation",
  system: "Set the system prompt: /system Answer in one sentence.",
  clear: "Delete the messages of this conversation",
  export: "Save this conversation as a file",
  help: "Show commands and keys",
};
const KEYS = {
  "Enter": "Send",
  "Shift+Enter": "A new line",
  "Esc": "Stop the answer",
  "Ctrl+K": "Search the conversations",
  "Shift+Ctrl+O": "A new conversation",
};

// {name, rest} if the text is a command that exists.
export function commandOf(text) {
  const found = /^\/(\w+)(?:\s+([\s\S]*))?$/.exec(text.trim());
  return found && found[1] in COMMANDS ? { name: found[1], rest: found[2] ?? "" } : null;
}

const startingWith = (text) => (/^\/\w*$/.test(text) ? Object.keys(COMMANDS).filter((name) => name.startsWith(text.slice(1))) : []);

export function showHints(text) {
  const names = startingWith(text);
  $("hints").hidden = !names.length;
  $("hints").replaceChildren(...names.map((name) => el("li", {}, el("code", {}, `/${name}`), ` ${COMMANDS[name]}`)));
}

// What Tab makes of the beginning of a command; null if nothing.
export function completed(text) {
  const [name] = startingWith(text);
  return name ? `/${name} ` : null;
}

export function showHelp() {
  const rows = [...Object.entries(COMMANDS).map(([name, what]) => [`/${name}`, what]), ...Object.entries(KEYS)];
  $("help").replaceChildren(...rows.map(([name, what]) => el("div", {}, el("dt", {}, el("code", {}, name)), el("dd", {}, what))));
  $("help-dialog").showModal();
}
