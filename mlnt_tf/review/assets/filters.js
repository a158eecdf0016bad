// Which images are shown, and in which order.

const TABS = {
  suspects: PAGE.sample === "audit" ? "Random images" : "Suspects", duplicates: "Duplicates",
  near: "Near duplicates", outliers: "Outliers", bad: "Not decodable", overview: "Overview",
};
const NOTES = {
  suspects: PAGE.sample === "audit"
    ? "Drawn at random. Judge all of them: their errors estimate the rate in all labels."
    : "The labels that are most worth a look come first.",
  duplicates: "Equal images with different labels. Each group has a number.",
  near: "Similar images, those with different labels first. "
    + `Cosine distance of their features below ${PAGE.nearDistance}.`,
  outliers: "The images that are least similar to all others.",
};
const ORDERS = [
  ["listed", "As listed", null],
  ["label_score", "Most suspicious", (item) => item.label_score],
  ["suggestion_score", "Clearest suggestion", (item) => -item.suggestion_score],
  ["neighbor_agreement", "Fewest agreeing neighbors", (item) => item.neighbor_agreement],
  ["outlier_score", "Most unusual image", (item) => item.outlier_score],
  ["probability_of_given", "Least probable given label", (item) => item.probability_of_given],
];

class Filters {
  constructor(store, changed) {
    this.store = store;
    this.changed = changed;
    this.tab = "suspects";
    this.values = { given: "", suggested: "", split: "", done: "", kept: "", order: "listed" };
    this.controls = {};
    this.build();
  }

  get list() {
    return PAGE.lists.find((list) => list.key === this.tab);
  }

  build() {
    const items = PAGE.items;
    const counted = (values) => {
      const counts = new Map();
      for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
      return [...counts].sort((a, b) => b[1] - a[1]);
    };
    const classes = (key) => counted(items.map((item) => item[key]))
      .map(([index, count]) => [String(index), `${className(index)} (${count})`]);
    const splits = counted(items.map((item) => item.split)).map(([split]) => [split, split]);
    this.add("given", "Given", [["", "any label"], ...classes("given")]);
    this.add("suggested", "Suggested", [["", "any label"], ...classes("suggested")]);
    if (splits.length > 1) this.add("split", "Split", [["", "all"], ...splits]);
    this.add("done", "Show", [["", "all"], ["todo", "not reviewed"], ["done", "reviewed"]]);
    if (items.some((item) => item.filter_kept !== undefined)) {
      this.add("kept", "Filter of the run", [["", "all"], ["true", "kept"], ["false", "removed"]]);
    }
    const orders = ORDERS.filter(([key]) => key === "listed"
      || items.some((item) => typeof item[key] === "number"));
    this.add("order", "Order", orders.map(([key, text]) => [key, text]));
    this.note = el("span", { class: "note" });
    byId("filters").append(this.note);
  }

  add(key, text, options) {
    const select = el("select", { id: `filter-${key}`, change: () => {
      this.values[key] = select.value;
      this.changed();
    } }, ...options.map(([value, label]) => el("option", { value }, label)));
    this.controls[key] = select;
    byId("filters").append(el("label", {}, text, select));
  }

  set(key, value) {
    this.values[key] = value;
    if (this.controls[key]) this.controls[key].value = value;
  }

  clear() {
    for (const key of ["given", "suggested", "split", "done", "kept"]) this.set(key, "");
  }

  // The images of the list that match, as indices of items. The result is not updated when a
  // verdict changes, so that an image does not vanish under the hand of the person who judges it.
  matching() {
    const { given, suggested, split, done, kept, order } = this.values;
    const places = (this.list?.items ?? []).filter((index) => {
      const item = PAGE.items[index];
      return (!given || String(item.given) === given)
        && (!suggested || String(item.suggested) === suggested)
        && (!split || item.split === split)
        && (!done || (done === "done") === this.store.verdicts.has(item.id))
        && (!kept || String(item.filter_kept) === kept);
    });
    const value = ORDERS.find(([key]) => key === order)[2];
    if (value) {
      const rank = (index) => {
        const number = value(PAGE.items[index]);
        return Number.isFinite(number) ? number : Infinity;
      };
      places.sort((a, b) => (rank(a) < rank(b) ? -1 : Number(rank(a) > rank(b))));
    }
    return places;
  }

  groupOf(index) {
    const list = this.list;
    return list?.groups ? list.groups[list.items.indexOf(index)] : null;
  }
}
