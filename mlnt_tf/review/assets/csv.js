// Reading and writing of corrections.csv (RFC 4180).

const HEADER = ["id", "record", "given_label", "corrected_label", "verdict", "sample"];
const FORMULA = /^'*[=+\-@\t\r]/;

// Spreadsheets compute cells that begin like a formula. One apostrophe in front prevents that;
// mlnt_tf/files/cells.py takes it away again.
function protectCell(text) {
  return FORMULA.test(text) ? `'${text}` : text;
}

function restoreCell(cell) {
  return cell.startsWith("'") && FORMULA.test(cell) ? cell.slice(1) : cell;
}

function csvCell(value) {
  const text = protectCell(String(value));
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function toCsv(rows) {
  return [HEADER, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}

function parseCsv(text) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  const endRow = () => {
    row.push(restoreCell(cell));
    if (row.length > 1 || row[0]) rows.push(row);
    row = [];
    cell = "";
  };
  for (let i = text.charCodeAt(0) === 0xfeff ? 1 : 0; i < text.length; i++) {
    const character = text[i];
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (character === '"' && cell === "") {
      quoted = true;
    } else if (character === ",") {
      row.push(restoreCell(cell));
      cell = "";
    } else if (character === "\n" || character === "\r") {
      if (character === "\r" && text[i + 1] === "\n") i++;
      endRow();
    } else {
      cell += character;
    }
  }
  endRow();
  return rows;
}
