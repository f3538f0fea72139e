// Charts: data in, traces and a layout out. Plotly reads some HTML in texts, so texts are escaped.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const percent = (value) => `${+(100 * value).toPrecision(2)}%`;

function layoutOf(colours, width, height, margin) {
  return {
    width, height, margin,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif", size: 12, color: colours.soft },
    hoverlabel: { bgcolor: colours.raised, bordercolor: colours.line, font: { color: colours.ink, size: 13 }, align: "left", namelength: -1 },
    showlegend: false, dragmode: false,
  };
}

const axisOf = (colours, more) => ({
  fixedrange: true, zeroline: false, showgrid: false, color: colours.soft,
  gridcolor: colours.line, linecolor: colours.line, tickcolor: colours.line, ...more,
});

// Round numbers between two, at equal distances of their logarithms.
function logMarks(low, high) {
  const marks = (digits) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const digit of digits) found.push(+(digit * 10 ** power).toPrecision(2));
    }
    return found.filter((mark) => mark >= low && mark <= high);
  };
  return [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]].map(marks).find((found) => found.length > 2)
    || [low, Math.sqrt(low * high), high].map((mark) => +mark.toPrecision(3));
}

// The figures' range as colours show it, with the marks beside them.
const RANGES = {
  share(values) {
    const least = Math.min(...values);
    const step = [0.1, 0.01, 0.001, 0.0001].find((size) => 1 - least >= size);
    if (!step) return { zmin: 0, zmax: 1, tickformat: ".0%" };
    const digits = Math.max(0, Math.round(-Math.log10(step)) - 1);
    return { zmin: Math.floor(least / step + 1e-9) * step, zmax: 1, tickformat: `.${digits}%` };
  },
  amount(values, share) {
    return { zmin: 0, zmax: Math.max(...values) || 1, tickformat: share ? ".0%" : "" };
  },
  about_zero(values) {
    const most = Math.max(0.1, Math.ceil(10 * Math.max(...values.map(Math.abs)) - 1e-9) / 10);
    return { zmin: -most, zmax: most, tickformat: ".2~f" };
  },
  decades(values) {
    const some = values.filter((value) => value > 0);
    if (!some.length) return { zmin: -1, zmax: 0, tickvals: [], ticktext: [] };
    let [low, high] = [Math.min(...some), Math.max(...some)];
    if (high < 1.5 * low) [low, high] = [low / 1.25, high * 1.25];
    const found = logMarks(low, high);
    return { zmin: Math.log10(low), zmax: Math.log10(high), tickvals: found.map(Math.log10), ticktext: found.map(percent) };
  },
};

function heatMap(chart, width, colours) {
  const rows = chart.rows.length, height = Math.max(3, rows) * 22;
  const flat = chart.values.flat().filter((value) => value !== null);
  const { zmin, zmax, ...marks } = RANGES[chart.scale](flat, chart.form === "share");
  const shown = (value) => (chart.scale === "decades" && value !== null ? (value > 0 ? Math.log10(value) : null) : value);
  const gap = width / chart.columns.length > 10 ? 1 : 0;
  const trace = {
    type: "heatmap", x: chart.columns.map(plain), y: chart.rows.map((_, place) => place),
    z: chart.values.map((row) => row.map(shown)), text: chart.words.map((row) => row.map(plain)),
    hoverinfo: "text", hoverongaps: false, xgap: gap, ygap: gap, zmin, zmax,
    colorscale: chart.scale === "about_zero" ? colours.aboutZero : colours.amount,
    colorbar: {
      orientation: "h", thickness: 10, len: Math.min(1, 300 / width + 0.15), x: 0, xanchor: "left", xpad: 0,
      y: -44 / height, yanchor: "top", ypad: 0, outlinewidth: 0,
      title: { text: plain(chart.label), side: "top", font: { color: colours.soft } },
      tickfont: { color: colours.soft }, ...marks,
    },
  };
  const layout = layoutOf(colours, width, height + 110, { l: 8, r: 12, t: 4, b: 106 });
  layout.xaxis = axisOf(colours, { type: "category", title: { text: "layer", standoff: 4 }, ticks: "", tickangle: 0 });
  layout.yaxis = axisOf(colours, {
    autorange: "reversed", automargin: "width", ticks: "",
    tickvals: trace.y, ticktext: chart.rows.map((row) => plain(row.length > 30 ? `…${row.slice(-29)}` : row)),
  });
  return { traces: [trace], layout };
}

function spectrum(chart, width, colours, all) {
  const numbers = chart.middle.map((_, place) => place + 1);
  const some = (values) => values.map((value) => (value > 0 ? value : null));
  const line = { shape: "linear", color: colours.accent, width: 2 };
  const quiet = { x: numbers, type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
  const traces = [
    { ...quiet, y: some(chart.low) },
    { ...quiet, y: some(chart.high), fill: "tonexty", fillcolor: colours.band },
    {
      x: numbers, y: some(chart.middle), type: "scatter", mode: numbers.length > 1 ? "lines" : "markers", line, marker: { color: colours.accent },
      hovertemplate: "σ%{x}: %{y:.3g}<extra></extra>",
    },
  ];
  const shapes = [{ type: "line", x0: chart.rank + 0.5, x1: chart.rank + 0.5, yref: "paper", y0: 0, y1: 1, line: { color: colours.soft, width: 1, dash: "dot" } }];
  if (chart.floor !== null) {
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: chart.floor, y1: chart.floor, line: { color: colours.second, width: 1.5, dash: "dash" } });
  }
  const values = all.filter((one) => one.chart === "spectrum").flatMap((one) => [...one.low, ...one.high, one.floor]).filter((value) => value > 0);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const marks = logMarks(least, most);
  const layout = layoutOf(colours, width, 190, { l: 64, r: 10, t: 6, b: 38 });
  layout.shapes = shapes;
  layout.xaxis = axisOf(colours, { title: { text: "i", standoff: 4 }, range: [0, Math.max(numbers.length, chart.rank) + 1], showline: true });
  layout.yaxis = axisOf(colours, {
    type: "log", title: { text: "σᵢ / ‖ΔW‖", standoff: 8 }, showgrid: true, tickvals: marks, ticktext: marks.map(String), ticks: "",
    range: [Math.log10(least) - 0.1, Math.log10(most) + 0.1],
  });
  return { traces, layout };
}

const LOOKS = [["circle", "accent"], ["diamond-open", "second"], ["square", "soft"]];

function forest(chart, width, colours) {
  const rows = [...new Set(chart.intervals.map((one) => one.row))];
  const series = [...new Set(chart.intervals.map((one) => one.series))];
  const traces = series.map((name, number) => {
    const own = chart.intervals.filter((one) => one.series === name);
    const [symbol, shade] = LOOKS[number % LOOKS.length];
    const shift = (number - (series.length - 1) / 2) * 0.3;
    const error = {
      type: "data", symmetric: false, array: own.map((one) => one.high - one.value), arrayminus: own.map((one) => one.value - one.low),
      color: chart.bars ? colours.ink : colours[shade], thickness: 1.5, width: chart.bars ? 4 : 0,
    };
    return {
      ...(chart.bars ? { type: "bar", orientation: "h", width: 0.55, marker: { color: colours.band, line: { color: colours.accent, width: 1 } } }
        : { type: "scatter", mode: "markers", marker: { symbol, size: 9, color: colours[shade], line: { width: 1.5, color: colours[shade] } } }),
      x: own.map((one) => one.value), y: own.map((one) => rows.indexOf(one.row) + shift), error_x: error,
      text: own.map((one) => plain(one.words)), textposition: "none", hoverinfo: "text", name: plain(name),
    };
  });
  const layout = layoutOf(colours, width, rows.length * 46 + 96, { l: 8, r: 16, t: series.length > 1 ? 50 : 26, b: 46 });
  layout.showlegend = series.length > 1;
  layout.legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom", yref: "paper", font: { color: colours.ink } };
  if (layout.showlegend) layout.legend = { ...layout.legend, yref: "container", y: 1, yanchor: "top" };
  layout.xaxis = axisOf(colours, { title: { text: plain(chart.label), standoff: 6 }, showgrid: true, showline: true });
  layout.yaxis = axisOf(colours, {
    range: [rows.length - 0.4, -0.6], automargin: "width", ticks: "", tickvals: rows.map((_, place) => place),
    ticktext: rows.map((row) => plain(row).replace(" against ", width < 600 ? "<br>against " : " against ").replace(", ", width < 600 ? ",<br>" : ", ")),
    tickfont: { color: colours.ink },
  });
  layout.shapes = chart.marks.map(([value]) => ({ type: "line", x0: value, x1: value, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: colours.soft, width: 1.5 } }));
  layout.annotations = chart.marks.map(([value, text]) => ({ x: value, y: 1, yref: "paper", yanchor: "bottom", text: plain(text), showarrow: false, font: { color: colours.soft, size: 11 } }));
  return { traces, layout };
}

const DRAWN = { heat_map: heatMap, spectrum, forest };

function draw(place, chart, width, all) {
  const { traces, layout } = DRAWN[chart.chart](chart, width, theme(), all);
  return Plotly.react(place, traces, layout, { displayModeBar: false, responsive: false });
}
