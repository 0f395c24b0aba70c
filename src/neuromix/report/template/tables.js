// Sorts the rows of a table by the column whose heading is pressed: up, then down; what is unknown comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : typeof a === typeof b
        ? a.localeCompare(b, undefined, { numeric: true })
        : typeof a === "number" ? -1 : 1;

  const sort = (column, sign) => {
    const rows = [...body.rows].map((row) => ({ row, value: JSON.parse(row.cells[column].dataset.value) }));
    const known = rows.filter(({ value }) => value !== null).sort((a, b) => sign * compare(a.value, b.value));
    const unknown = rows.filter(({ value }) => value === null);
    body.append(...[...known, ...unknown].map(({ row }) => row));
  };

  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(column, up ? 1 : -1);
    }),
  );
}
