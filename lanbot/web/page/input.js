// The field that a message is written in: it grows, and completes commands.

import { completed, showHints } from "./commands.js";
import { $ } from "./dom.js";

export function setInput(text) {
  $("input").value = text;
  grow();
  showHints("");
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${Math.min($("input").scrollHeight, innerHeight * 0.4)}px`;
}

// typed(text): after every change by hand. send, stop: what Enter and the button do.
export function connectInput({ typed, send, stop }) {
  $("input").addEventListener("input", () => {
    grow();
    showHints($("input").value);
    typed($("input").value);
  });
  $("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Tab" && !event.shiftKey && completed($("input").value)) {
      event.preventDefault();
      setInput(completed($("input").value));
    }
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("send").getAttribute("aria-label") === "Stop") stop();
    else send();
  });
}
