"use strict";
// Filters, the chart, and the theme. Without it the page shows everything but the chart, whose figures stand in a table.
(() => {
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Filters.
  const filters = find("filters");
  if (filters) {
    const questions = [...document.querySelectorAll(".question")].map((element) => ({
      element,
      direction: element.dataset.direction,
      document: element.dataset.document,
      outcomes: element.dataset.outcomes.split("|"),
      text: element.textContent.toLowerCase(),
    }));
    const value = (id) => (find(id) ? find(id).value : "");
    const apply = () => {
      const [direction, about, outcome, run] = ["direction", "document", "outcome", "run"].map(value);
      const holds = value("holds").trim().toLowerCase();
      let shown = 0;
      for (const each of questions) {
        const outcomes = run === "" ? each.outcomes : [each.outcomes[Number(run)]];
        const fits =
          (direction === "" || each.direction === direction) &&
          (about === "" || each.document === about) &&
          (outcome === "" || outcomes.includes(outcome)) &&
          (holds === "" || each.text.includes(holds));
        each.element.hidden = !fits;
        shown += fits;
      }
      find("count").textContent = `${shown} of ${questions.length} questions`;
    };
    filters.addEventListener("input", apply);
    filters.addEventListener("submit", (event) => event.preventDefault());
    // A link to a question that a filter hides shows it again.
    const reveal = () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (target && target.hidden) {
        filters.reset();
        apply();
        target.scrollIntoView();
      }
    };
    window.addEventListener("hashchange", reveal);
    filters.hidden = false;
    apply();
    reveal();
  }

  // The chart.
  const holder = find("chart");
  const curves = holder && JSON.parse(find("chart-data").textContent).runs.filter((run) => run.step.length);
  let plot = null;
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const draw = () => {
    if (!holder) return;
    const measure = find("measure").value;
    const axis = find("axis").value;
    const tables = [];
    const series = [{ label: { step: "step", tokens: "tokens", seconds: "seconds" }[axis] }];
    const dashes = { forward: [], backward: [7, 5], unknown: [2, 4] };
    const shown = (_, number) => (number == null ? "-" : number.toFixed(2));
    for (const run of curves) {
      for (const [direction, scores] of Object.entries(run.values)) {
        // A logarithmic axis has no place for 0.
        const points = run[axis].map((at, index) => [Math.max(at, 1e-3), scores[measure][index]]);
        const distinct = points.filter(([at], index) => index === 0 || at > points[index - 1][0]);
        tables.push([distinct.map(([at]) => at), distinct.map(([, score]) => score)]);
        series.push({
          label: `${run.name}, ${direction}`, stroke: run.color, width: 2, dash: dashes[direction], spanGaps: true,
          points: { show: true, size: 6, fill: run.color }, value: shown,
        });
        if (run.before[direction]) {
          const before = run.before[direction][measure];
          const ends = [...new Set([distinct[0][0], distinct[distinct.length - 1][0]])];
          tables.push([ends, ends.map(() => before)]);
          series.push({
            label: `${run.name}, ${direction}, before`, stroke: run.color, width: 1, alpha: 0.6, dash: dashes[direction],
            spanGaps: true, points: { show: ends.length === 1, size: 4 }, value: shown,
          });
        }
      }
    }
    if (plot) plot.destroy();
    const lines = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    plot = new uPlot(
      {
        width: holder.clientWidth || 900, height: 320,
        scales: { x: { time: false, distr: 3 }, y: { range: [-0.02, 1.02] } },
        axes: [
          { ...lines, label: axis === "step" ? "steps" : axis, labelSize: 24, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : tick.toLocaleString("en"))) },
          { ...lines, size: 56 },
        ],
        series,
        legend: { live: false },
        cursor: { drag: { x: false, y: false } },
      },
      uPlot.join(tables),
      holder,
    );
  };
  if (holder) {
    find("chart-controls").hidden = false;
    find("chart-controls").addEventListener("input", draw);
    draw();
    let width = holder.clientWidth;
    window.addEventListener("resize", () => {
      if (holder.clientWidth !== width) {
        width = holder.clientWidth;
        draw();
      }
    });
  }

  // Theme and print.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  const button = find("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    draw();
  });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => { each.open = true; });
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((each) => { each.open = false; });
    draw();
  });
  window.matchMedia("print").addEventListener("change", draw);
})();
