// The dialog of a conversation's system prompt and sampling.

import { $ } from "./dom.js";

const RANGES = ["temperature", "top_p"];
const NUMBERS = ["max_tokens", "seed"];

// changed(): after every change, which is in the conversation then.
export function connectSettings(current, changed) {
  for (const name of RANGES) {
    $(name).addEventListener("input", () => {
      current().settings[name] = Number($(name).value);
      show(name, $(name).value);
      changed();
    });
  }
  for (const name of NUMBERS) {
    $(name).addEventListener("input", () => {
      const value = $(name).valueAsNumber;
      current().settings[name] = Number.isSafeInteger(value) && value >= Number($(name).min) ? value : null;
      changed();
    });
  }
  $("system").addEventListener("input", () => {
    current().system = $("system").value;
    changed();
  });
  $("settings").addEventListener("click", () => openSettings(current()));
}

export function openSettings(conversation) {
  for (const name of RANGES) {
    $(name).value = conversation.settings[name];
    show(name, $(name).value);
  }
  for (const name of NUMBERS) $(name).value = conversation.settings[name] ?? "";
  $("system").value = conversation.system;
  $("settings-dialog").showModal();
}

function show(name, value) {
  const zero = name === "temperature" && Number(value) === 0 ? " · always the likeliest" : "";
  $(`${name}-shown`).textContent = Number(value).toFixed(2) + zero;
}
