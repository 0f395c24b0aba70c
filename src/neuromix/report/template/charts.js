// Draws each chart from the JSON inside it, with the colours of the page as it is now: light or dark.
(() => {
  const root = document.documentElement;
  const charts = [...document.querySelectorAll(".chart")].map((element) => {
    const source = element.querySelector("script");
    const figure = JSON.parse(source.textContent);
    source.remove();
    return { element, figure };
  });

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
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "var(--muted)" },
      margin: { l: 12, r: 12, t: 8, b: 12 },
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom", traceorder: "normal", font: { color: "var(--ink)" } },
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--ink)" } },
      dragmode: false,
      ...own,
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(own).filter((key) => /^[xy]axis\d*$/.test(key))])) {
      const mine = own[name] || {};
      layout[name] = { ...axis, ...mine, title: { ...axis.title, ...(mine.title || {}) } };
    }
    return layout;
  };

  const draw = () => {
    const coloured = colours();
    for (const { element, figure } of charts)
      Plotly.react(element, coloured(figure.data), coloured(layoutOf(figure.layout)), {
        displayModeBar: false,
      });
  };

  // Follows the card that a chart is in, not only the window: a fold that opens, a phone that turns.
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.clientWidth > 0) Plotly.Plots.resize(target);
  });

  draw();
  for (const { element } of charts) observer.observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
