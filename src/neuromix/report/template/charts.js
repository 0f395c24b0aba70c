// Draws each chart from the JSON inside it, with the colours of the page as it is now: light or dark.
(() => {
  const root = document.documentElement;
  const charts = new Map(); // element -> its figure
  for (const element of document.querySelectorAll(".chart")) {
    const source = element.querySelector("script");
    charts.set(element, JSON.parse(source.textContent));
    source.remove();
  }
  const hidden = new Set(); // names of legend entries whose marks are not shown

  const colours = () => {
    const style = getComputedStyle(root);
    const replace = (value) => {
      if (typeof value === "string")
        return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
      if (Array.isArray(value)) return value.map(replace);
      if (value && typeof value === "object")
        return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, replace(item)]));
      return value;
    };
    return replace;
  };

  const axis = {
    gridcolor: "var(--grid)",
    linecolor: "var(--line)",
    zerolinecolor: "var(--line)",
    fixedrange: true,
    automargin: true,
    title: { standoff: 10, font: { size: 12.5 } },
  };

  const layoutOf = (own) => {
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "var(--muted)" },
      margin: { l: 12, r: 12, t: 8, b: 12 },
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", traceorder: "normal", font: { color: "var(--ink)" } },
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--ink)" }, align: "left" },
      dragmode: false,
      ...own,
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(own).filter((key) => /^[xy]axis\d*$/.test(key))])) {
      const mine = own[name] || {};
      layout[name] = { ...axis, ...mine, title: { ...axis.title, ...(mine.title || {}) } };
    }
    return layout;
  };

  // Not before a chart has a place: when its fold is opened, or its option is chosen.
  const draw = (element) => {
    const { clientWidth: width, clientHeight: height } = element;
    if (width === 0) return;
    const { data, layout } = charts.get(element);
    const coloured = colours();
    const traces = data.map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    const full = { ...layoutOf(layout), width, height };
    if (width < 600) {
      // There is no room for names beside marks, nor for many numbers at an axis.
      for (const trace of traces) if (trace.mode) trace.mode = trace.mode.replace("+text", "");
      if (full.xaxis.nticks) full.xaxis.nticks = 3;
    }
    Plotly.react(element, coloured(traces), coloured(full), { displayModeBar: false });
    // Where plotly measures texts is nothing to read out.
    document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");
  };
  const redraw = () => [...charts.keys()].forEach(draw);

  // Follows the card that a chart is in, not only the window: a fold that opens, a phone that turns.
  const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => draw(target)));
  for (const element of charts.keys()) observer.observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const boxes = [...document.querySelectorAll(".legend input")];
  const toggle = (names, shown) => {
    for (const name of names) shown ? hidden.delete(name) : hidden.add(name);
    for (const box of boxes) box.checked = !hidden.has(box.value);
    redraw();
  };
  for (const legend of document.querySelectorAll(".legend")) {
    const names = [...legend.querySelectorAll("input")].map((box) => box.value);
    legend.addEventListener("change", ({ target }) => toggle([target.value], target.checked));
    for (const button of legend.querySelectorAll("button"))
      button.addEventListener("click", () => toggle(names, button.dataset.all !== ""));
  }
})();
