
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.order;
    const rows = Array.from(table.tBodies[0].rows);
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) {
        if (x !== y) return x === undefined ? 1 : -1;
        const [s, t] = [a, b].map((row) => row.cells[column].textContent.trim());
        if ((s === "–") !== (t === "–")) return s === "–" ? 1 : -1;
        return (down ? -1 : 1) * s.localeCompare(t, undefined, { numeric: true });
      }
      return (down ? -1 : 1) * (Number(x) - Number(y));
    });
    for (const row of rows) table.tBodies[0].append(row);
  });
}
