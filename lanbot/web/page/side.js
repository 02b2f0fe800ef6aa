// The list of conversations: search, open, rename, delete. `does` has what its buttons do.

import { $, el, iconButton } from "./dom.js";
import { textOf, titleOf } from "./tree.js";

const PHONE = matchMedia("(max-width: 48rem)");

export class Side {
  constructor(does) {
    this.does = does;
    $("search").addEventListener("input", () => this.draw(this.all, this.current));
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && $("search").value) {
        event.stopPropagation();
        $("search").value = "";
        this.draw(this.all, this.current);
      } else if (event.key === "ArrowDown") $("list").querySelector("button")?.focus();
      else if (event.key === "Enter") $("list").querySelector("button")?.click();
    });
    $("list").addEventListener("keydown", (event) => this.arrows(event));
    $("open-side").addEventListener("click", () => this.open());
    $("close-side").addEventListener("click", () => this.close());
    $("veil").addEventListener("click", () => this.close());
    $("side").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOpen) { event.stopPropagation(); this.close(); }
    });
    PHONE.addEventListener("change", () => this.close(false));
    this.close(false);
  }

  draw(all, current) {
    this.all = [...all];
    this.current = current;
    const words = $("search").value.trim().toLowerCase();
    const found = this.all.filter((one) => !words || matches(one, words)).sort((one, two) => two.updated - one.updated);
    $("list").replaceChildren(...found.map((one) => this.row(one, one.id === current.id)));
    if (!found.length) $("list").append(el("li", { class: "note" }, words ? "Nothing found." : "No conversations yet."));
  }

  row(one, current) {
    const title = titleOf(one);
    const open = el("button", { type: "button", class: "open", title, onclick: () => this.does.open(one.id) }, title);
    if (current) open.setAttribute("aria-current", "true");
    return el("li", { class: current ? "current" : "" }, open,
      iconButton("edit", `Rename ${title}`, () => this.does.rename(one)),
      iconButton("trash", `Delete ${title}`, () => this.does.remove(one)));
  }

  arrows(event) {
    if (!["ArrowDown", "ArrowUp"].includes(event.key)) return;
    const buttons = [...$("list").querySelectorAll(".open")];
    const at = buttons.indexOf(document.activeElement.closest("li")?.querySelector(".open"));
    const next = at + (event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
    (buttons[next] ?? $("search")).focus();
  }

  get isPhone() {
    return PHONE.matches;
  }

  // On a phone the list is a drawer.
  get isOpen() {
    return $("side").classList.contains("opened");
  }

  open() {
    $("side").inert = false;
    $("side").classList.add("opened");
    $("room").inert = PHONE.matches;
    $("veil").hidden = false;
    $("new").focus();
  }

  close(back = true) {
    const was = this.isOpen;
    $("side").classList.remove("opened");
    $("side").inert = PHONE.matches;
    $("room").inert = false;
    $("veil").hidden = true;
    if (was && back) $("open-side").focus();
  }

  search() {
    if (PHONE.matches) this.open();
    $("search").focus();
    $("search").select();
  }
}

function matches(one, words) {
  return titleOf(one).toLowerCase().includes(words) || Object.values(one.nodes).some((node) => textOf(node).toLowerCase().includes(words));
}
