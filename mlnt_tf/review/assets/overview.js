// How many labels are worth a look, which classes are confused, and what to type next.

function block(heading, ...children) {
  return el("section", { class: "block" }, el("h2", {}, heading), ...children);
}

function noiseBlock() {
  const { interval } = PAGE.noise;
  const rate = PAGE.noise.rate ?? null;
  const range = Array.isArray(interval) && interval.length === 2
    ? ` (${percent(interval[0])} to ${percent(interval[1])})` : "";
  return block("How many labels are wrong",
    el("p", { class: "figure" }, rate === null
      ? `${PAGE.flagged.toLocaleString("en")} of ${PAGE.total.toLocaleString("en")}`
      : `about ${percent(rate)}${range}`),
    el("p", {}, rate === null
      ? `labels (${percent(PAGE.flagged / Math.max(PAGE.total, 1))}) are worth a look. `
      : `${PAGE.flagged.toLocaleString("en")} of ${plural(PAGE.total, "label")} are worth a look. `,
    "The estimate counts errors of the classifier as wrong labels, so it is usually too high: of "
    + `data without wrong labels, ${PAGE.cleanFlagged} are flagged too. Random images give an `
    + "honest rate:"),
    commandLine(PAGE.auditCommand));
}

function nextBlock() {
  return block("When you have finished",
    el("p", {}, `Save ${PAGE.file} (the button at the top, or Ctrl+S). Then write the corrected `
      + "table:"),
    commandLine(PAGE.command));
}

// Only flagged images have a suggestion. An audit shows none in advance.
function pairBlock(showPair) {
  const counts = new Map();
  for (const index of IS_AUDIT ? [] : PAGE.lists[0].items) {
    const { given, suggested } = PAGE.items[index];
    if (suggested === null) continue;
    const key = `${given} ${suggested}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const pairs = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 15);
  if (!pairs.length) return null;
  return block("Most frequent pairs on this page",
    table(["Given", "Suggested", "Images", ""], pairs.map(([key, count]) => {
      const [given, suggested] = key.split(" ");
      return [name(className(Number(given))), name(className(Number(suggested))), String(count),
        el("button", { type: "button", click: () => showPair(given, suggested) }, "Show")];
    })));
}

function classBlock() {
  const { perClass } = PAGE.noise;
  const isEstimated = Object.keys(perClass).length > 0;
  const rows = PAGE.perClass.map(([label, count, flagged]) => {
    const share = perClass[label];
    return [name(label), count.toLocaleString("en"), flagged.toLocaleString("en"),
      percent(flagged / count),
      ...(isEstimated ? [typeof share === "number" ? percent(share) : "unknown"] : [])];
  });
  return block("Given labels", table(["Class", "Images", "Worth a look", "Share",
    ...(isEstimated ? ["Estimated wrong"] : [])], rows));
}

// For many classes, where a matrix would be too large.
function confusedBlock() {
  const { matrix, pairs } = PAGE.noise;
  if (matrix || !pairs.length) return null;
  return block("Most confused classes (estimated)", table(["True", "Given", "Images"],
    pairs.map((pair) => [name(pair.true), name(pair.given), String(pair.count)])));
}

function matrixBlock() {
  const { matrix } = PAGE.noise;
  if (!matrix) return null;
  const errors = matrix.flatMap((row, i) => row.filter((_, j) => i !== j));
  const largest = Math.max(...errors, 1e-9);
  const cell = (value, true_, given) => {
    const isDiagonal = true_ === given;
    const strength = Math.min(isDiagonal ? 0.45 * value : value / largest, 1);
    const node = el("td", { title: `p(given ${className(given)} | true ${className(true_)}) = `
      + value.toFixed(3) }, value < 0.005 ? "" : value.toFixed(2).replace("0.", "."));
    node.style.background = `color-mix(in srgb, var(${isDiagonal ? "--diagonal" : "--heat"}) `
      + `${(75 * strength).toFixed(0)}%, var(--surface))`;
    return node;
  };
  const names = PAGE.classes.map((text) => el("th", { scope: "col", title: text }, text));
  const result = block("Estimated p(given label | true label)",
    el("p", {}, "One row per true class. Errors are orange, the most frequent one darkest."),
    el("table", { class: "matrix" },
      el("thead", {}, el("tr", {}, el("td"), ...names)),
      el("tbody", {}, ...matrix.map((row, i) => el("tr", {},
        el("th", { scope: "row", title: className(i) }, className(i)),
        ...row.map((value, j) => cell(value, i, j)))))));
  result.classList.add("wide");
  return result;
}

function showOverview(showPair) {
  const blocks = [noiseBlock(), nextBlock(), matrixBlock(), confusedBlock(), pairBlock(showPair),
    classBlock()];
  byId("overview").replaceChildren(...blocks.filter(Boolean));
}

function showBad() {
  const result = block("Images that cannot be decoded",
    el("p", {}, "They are left out of training. Repair or remove these files."),
    table(["Record", "Reason"], PAGE.bad.map(([record, reason]) => [name(record), reason]),
      { class: "text-table" }));
  result.classList.add("wide");
  byId("bad").replaceChildren(result);
}
