// Many images at once. A click, the space bar or shift with the arrows selects; a verdict applies
// to the selected images, or to the current one if none is selected.

function suggestionLine(item, entry) {
  const suggestion = suggestionOf(item, entry);
  return suggestion === null ? el("span", { class: "to missing" }, missingSuggestion(entry))
    : el("span", { class: "to" }, "→ ", name(className(suggestion)));
}

class GridView {
  constructor(app) {
    this.app = app;
    this.root = byId("grid");
    this.selected = new Set();  // Indices of items.
    this.anchor = 0;
  }

  show() {
    const { list } = this.app;
    this.cards = list.map((index, place) => this.card(index, place));
    this.selected = new Set([...this.selected].filter((index) => list.includes(index)));
    this.container = el("div", { class: "cards", role: "listbox", "aria-multiselectable": "true",
      "aria-label": "Images", tabindex: "-1" }, ...this.cards);
    this.count = el("span", { class: "count" });
    const empty = el("p", { class: "empty" }, "No image matches these filters.");
    this.root.replaceChildren(list.length ? this.container : empty,
      el("div", { class: "apply" }, this.count,
        verdictButtons(this.app, "grid", null)));
    this.update();
  }

  card(index, place) {
    const item = PAGE.items[index];
    const entry = this.app.store.get(item.id);
    const group = this.app.filters.groupOf(index);
    const node = el("div", { class: "card", role: "option", tabindex: "-1",
      click: (event) => this.click(event, place),
      dblclick: () => this.app.open(place),
    }, picture(item.image, imageText(item, entry)),
    group ? el("span", { class: "group" }, `group ${group}`) : null,
    el("div", { class: "text" }, el("span", { class: "from" }, name(className(item.given))),
      suggestionLine(item, entry)));
    node.dataset.index = index;
    return node;
  }

  // Updates marks and selection without building the cards again.
  update() {
    const { list, position, store } = this.app;
    for (const [place, node] of this.cards.entries()) {
      const item = PAGE.items[list[place]];
      const entry = store.get(item.id);
      if (IS_AUDIT) node.querySelector(".to").replaceWith(suggestionLine(item, entry));
      const old = node.querySelector(".badge");
      if (old) old.remove();
      if (entry) node.append(badge(entry));
      node.classList.toggle("judged", Boolean(entry));
      node.setAttribute("aria-selected", String(this.selected.has(list[place])));
      node.tabIndex = place === position ? 0 : -1;
    }
    this.count.textContent = this.selected.size
      ? `${this.selected.size} selected. Apply:` : "Select, then apply:";
  }

  focus() {
    const node = this.cards?.[this.app.position];
    node?.focus({ preventScroll: true });
    node?.scrollIntoView({ block: "nearest" });
  }

  click(event, place) {
    const { list } = this.app;
    if (event.shiftKey) this.selectRange(this.anchor, place);
    else {
      const index = list[place];
      if (!this.selected.delete(index)) this.selected.add(index);
      this.anchor = place;
    }
    this.app.position = place;
    this.update();
    this.focus();
  }

  selectRange(from, to) {
    const { list } = this.app;
    for (let place = Math.min(from, to); place <= Math.max(from, to); place++) {
      this.selected.add(list[place]);
    }
  }

  // The number of cards in a row, from their places on the screen.
  columns() {
    const top = this.cards[0]?.offsetTop;
    const count = this.cards.findIndex((node) => node.offsetTop !== top);
    return count < 1 ? Math.max(this.cards.length, 1) : count;
  }

  // Handles the keys of the grid. Returns whether the key was one of them.
  press(event) {
    const { list } = this.app;
    if (!list.length) return false;
    const last = list.length - 1, position = this.app.position;
    const moves = { ArrowRight: position + 1, ArrowLeft: position - 1,
      ArrowDown: position + this.columns(), ArrowUp: position - this.columns(), Home: 0,
      End: last };
    if (event.key in moves) {
      const place = moves[event.key];
      this.app.position = Math.max(0, Math.min(last, place));
      if (event.shiftKey) this.selectRange(this.anchor, this.app.position);
      else this.anchor = this.app.position;
    } else if (event.key === " ") {
      const index = list[position];
      if (!this.selected.delete(index)) this.selected.add(index);
      this.anchor = position;
    } else if (event.key === "a") {
      this.selected = new Set(list);
    } else if (event.key === "Escape") {
      this.selected.clear();
    } else if (event.key === "Enter") {
      this.app.open(position);
      return true;
    } else {
      return false;
    }
    this.update();
    this.focus();
    return true;
  }
}
