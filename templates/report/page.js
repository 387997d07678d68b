"use strict";
(() => {
  const root = document.documentElement;
  const notice = document.getElementById("errors");
  const fail = (what) => {
    root.dataset.errors = Number(root.dataset.errors || 0) + 1;
    notice.hidden = false;
    notice.textContent = `A plot could not be drawn: ${what}`;
  };
  addEventListener("error", (e) => fail(e.message));
  addEventListener("unhandledrejection", (e) => fail(e.reason));
  document.addEventListener("securitypolicyviolation", (e) => fail(e.violatedDirective));

  const plots = JSON.parse(document.getElementById("plots").textContent);
  const boxes = document.querySelectorAll("[data-plot]");

  // A text that begins with two dashes is the name of a colour of the style sheet.
  const themed = (value, style) => {
    if (typeof value === "string") return /^--[a-z0-9-]+$/.test(value) ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((one) => themed(one, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, themed(one, style)]));
  };
  const axis = (given) => ({
    gridcolor: "--line", zerolinecolor: "--line", linecolor: "--line", tickcolor: "--line", ticks: "outside",
    ticklen: 4, fixedrange: true, title: {}, ...given,
    title: { font: { color: "--muted", size: 12 }, standoff: 10, ...(given && given.title) },
  });
  const layout = (given) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", bargap: 0.08, dragmode: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--ink" },
    hoverlabel: { bgcolor: "--tip", bordercolor: "--tip", font: { color: "--on-tip", size: 12 }, align: "left" },
    margin: { l: 48, r: 12, t: 8, b: 44 }, showlegend: false, ...given,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    xaxis: axis(given.xaxis), yaxis: axis(given.yaxis),
  });
  const draw = (box) => {
    const style = getComputedStyle(root);
    const { data, layout: given } = plots[box.dataset.plot];
    return Plotly.react(box, themed(data, style), themed(layout(given), style), {
      displayModeBar: false, responsive: true,
    });
  };
  const redraw = () => Promise.all([...boxes].map(draw));
  const inView = (box) => {
    const { top, bottom } = box.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  };
  // First what is in view; then the rest one by one, so that the page scrolls all the while.
  const open = async () => {
    const waiting = [...boxes].filter((box) => !inView(box));
    await Promise.all([...boxes].filter(inView).map(draw));
    root.dataset.open = performance.now().toFixed();  // ms after the page was asked for
    if (document.readyState !== "complete") await new Promise((loaded) => addEventListener("load", loaded));
    for (const box of waiting) {
      await new Promise((rested) => setTimeout(rested));
      await draw(box);
    }
    root.dataset.drawn = boxes.length;
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  open();
})();
