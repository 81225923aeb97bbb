// Draws what the server wrote into data-chart, with uPlot, in the colours of the page.
(() => {
  const plots = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function written(value, unit) {
    if (value == null) return "–";
    if (value === 0) return "0";
    if (unit === "s") {
      if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
      if (value < 1) return `${Math.round(value * 1e3)} ms`;
      return value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`;
    }
    const size = value >= 1e6 ? [1e6, "M"] : value >= 1e4 ? [1e3, "k"] : [1, ""];
    const digits = value >= 10 || Number.isInteger(value) ? (size[1] ? 1 : 0) : 2;
    return (value / size[0]).toFixed(digits).replace(/\.0+$/, "") + size[1] + (unit ? ` ${unit}` : "");
  }

  const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const day = { month: "short", day: "numeric" };

  // The day where it begins, else the time of the reader.
  function moment(at) {
    const date = new Date(at * 1000);
    return date.toLocaleString("en", date.getHours() || date.getMinutes() ? clock : day);
  }

  function options(data, width) {
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    return {
      width,
      height: 164,
      padding: [10, 24, 0, 0],
      cursor: { y: false, points: { size: 6 } },
      legend: { live: true },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, size: 26, space: 70, values: (_, ticks) => ticks.map(moment) },
        { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => written(tick, data.unit)) },
      ],
      series: [
        { label: "At", value: (_, at) => (at == null ? "–" : new Date(at * 1000).toLocaleString("en", { ...day, ...clock })) },
        ...data.series.map((one) => ({
          label: one.label,
          stroke: colour(one.kind),
          fill: one.fill ? colour(`${one.kind}-soft`) : undefined,
          width: 1.5,
          dash: one.dash,
          points: { show: true, filter: alone, size: 4 },
          spanGaps: false,
          value: (_, value) => written(value, data.unit),
        })),
      ],
    };
  }

  // Lines join neighbours: what has none is a point.
  function alone(plot, series) {
    const values = plot.data[series];
    return values.flatMap((value, at) => (value != null && values[at - 1] == null && values[at + 1] == null ? [at] : []));
  }

  function draw(place) {
    const text = place.dataset.chart;
    const known = plots.get(place);
    if (known?.text === text && known.width === place.clientWidth) return;
    const data = JSON.parse(text);
    const rows = [data.times, ...data.series.map((one) => one.values)];
    if (known && known.width === place.clientWidth && known.series === data.series.length) {
      known.plot.setData(rows);
      known.text = text;
      return;
    }
    known?.plot.destroy();
    const plot = new uPlot(options(data, place.clientWidth), rows, place);
    plots.set(place, { plot, text, width: place.clientWidth, series: data.series.length });
  }

  function all() {
    for (const [place, { plot }] of plots) {
      if (!place.isConnected) { plot.destroy(); plots.delete(place); }
    }
    for (const place of document.querySelectorAll("[data-chart]")) draw(place);
  }

  function again() {
    for (const { plot } of plots.values()) plot.destroy();
    plots.clear();
    all();
  }

  all();
  document.addEventListener("htmx:after:swap", all);
  document.addEventListener("pgqueue:theme", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let waits;
  addEventListener("resize", () => { clearTimeout(waits); waits = setTimeout(all, 100); });
})();
