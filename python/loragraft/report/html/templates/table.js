// The table of decisions: sorted, filtered, and shown a page at a time.
const PAGE = 25;
const BRIEF = 24;

const FORMS = {
  share(value) {
    for (const digits of [2, 4, 6]) {
      const text = (100 * value).toFixed(digits);
      if (value >= 1 || !text.startsWith("100")) return `${text}%`;
    }
    return "almost 100%";
  },
  number(value) {
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
  },
  count: (value) => value.toLocaleString("en"),
};

function makeTable({ columns, rows }) {
  const part = (id) => document.getElementById(id);
  const [head, body] = [part("table").tHead.rows[0], part("table").tBodies[0]];
  const isText = (column) => column.words !== undefined;
  const cell = (column, row) => (isText(column) ? column.words[column.codes[row]] : column.values[row]);
  const every = Uint32Array.from({ length: rows }, (_, row) => row);
  const looks = columns.map((column) => {
    if (!isText(column)) return "figure";
    const brief = column.form === "text" && column.words.every((word) => word.length <= BRIEF);
    return brief ? "text brief" : column.form;
  });
  const chosen = new Map();
  let sorted = { column: null, down: false }, found = every, first = 0;

  // Texts are ordered as people count: layer 2 before layer 10.
  function keys(column) {
    if (!isText(column)) return (row) => column.values[row];
    if (!column.order) {
      const collator = new Intl.Collator("en", { numeric: true });
      const order = column.words.map((_, code) => code).sort((a, b) => collator.compare(column.words[a], column.words[b]));
      column.order = new Uint32Array(order.length);
      order.forEach((code, place) => { column.order[code] = place; });
    }
    return (row) => column.order[column.codes[row]];
  }

  function matching() {
    const terms = part("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = columns.filter(isText);
    const hits = terms.map((term) => texts.map((column) => column.words.map((word) => String(word).toLowerCase().includes(term))));
    return every.filter((row) => hits.every((hit) => texts.some((column, place) => hit[place][column.codes[row]]))
      && [...chosen].every(([column, word]) => cell(column, row) === word));
  }

  function sort(rowsFound) {
    if (!sorted.column) return rowsFound;
    const key = keys(sorted.column), sign = sorted.down ? -1 : 1;
    // Rows without a figure come last either way.
    return rowsFound.slice().sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  function show() {
    body.replaceChildren(...Array.from(found.subarray(first, first + PAGE), (row) => {
      const line = document.createElement("tr");
      for (const [place, column] of columns.entries()) {
        const value = cell(column, row), box = line.insertCell();
        box.className = looks[place];
        box.textContent = isText(column) ? value : value === null ? "–" : FORMS[column.form](value);
      }
      return line;
    }));
    const last = Math.min(first + PAGE, found.length), count = (number) => number.toLocaleString("en");
    part("count").textContent = found.length ? `${count(first + 1)}–${count(last)} of ${count(found.length)}` : "nothing matches";
    part("previous").disabled = first === 0;
    part("next").disabled = last >= found.length;
  }

  function update() {
    found = sort(matching());
    first = 0;
    show();
  }

  function heading(column) {
    const box = document.createElement("th"), button = document.createElement("button");
    box.scope = "col";
    box.className = isText(column) ? "" : "figure";
    box.setAttribute("aria-sort", "none");
    button.type = "button";
    button.textContent = column.label;
    button.addEventListener("click", () => {
      // Up, down, and back to the order of the report.
      const same = sorted.column === column;
      sorted = same && sorted.down ? { column: null, down: false } : { column, down: same };
      for (const one of head.cells) one.setAttribute("aria-sort", "none");
      if (sorted.column) box.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      update();
    });
    box.append(button);
    return box;
  }

  function choice(column) {
    const label = document.createElement("label"), list = document.createElement("select");
    list.append(new Option("all", ""), ...column.words.filter(Boolean).map((word) => new Option(word, word)));
    list.addEventListener("change", () => {
      if (list.value) chosen.set(column, list.value); else chosen.delete(column);
      update();
    });
    label.append(`${column.label} `, list);
    return label;
  }

  function turn(by) {
    first += by;
    show();
    part("records").scrollIntoView({ block: "start" });
  }

  head.replaceChildren(...columns.map(heading));
  part("choices").replaceChildren(...columns.filter((column) => column.choice && column.words.length > 1).map(choice));
  part("filter").addEventListener("input", update);
  part("previous").addEventListener("click", () => turn(-PAGE));
  part("next").addEventListener("click", () => turn(PAGE));
  show();
}
