"use strict";
(() => {
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const root = document.documentElement;
  const hidden = new Map(); // scope of a legend -> series switched off
  const drawn = new Set();

  // ---- theme: follows the system until the button is used; charts take their colours from the style sheet
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const colour = (token) => {
    const [name, alpha] = token.slice(1).split("/");
    if (name === "onheat") return dark() ? "#0b0f14" : "#ffffff";
    const hex = getComputedStyle(root).getPropertyValue("--" + name).trim();
    if (alpha === undefined || !/^#[0-9a-f]{6}$/i.test(hex)) return hex;
    return `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
  };
  const paint = (value) => {
    if (Array.isArray(value)) return value.map(paint);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === "meta" || k === "name" || k === "text" || k === "ticktext" ? v : paint(v)]));
    return typeof value === "string" && /^@[a-z]+\d*(\/[\d.]+)?$/.test(value) ? colour(value) : value;
  };

  // ---- charts
  const holder = document.getElementById("charts");
  let charts = {}, places = [];
  const config = { displaylogo: false, responsive: true, displayModeBar: false, doubleClick: "reset" };

  const unpacked = async (text) => {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the charts");
    const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%:()*+-;,=.?@^_`{|}~";
    const value = new Uint8Array(128);
    for (let i = 0; i < 85; i++) value[letters.charCodeAt(i)] = i;
    const short = (5 - (text.length % 5)) % 5;
    const padded = text + "~".repeat(short);
    const bytes = new Uint8Array((padded.length / 5) * 4);
    for (let i = 0, j = 0; i < padded.length; i += 5, j += 4) {
      let n = 0;
      for (let k = 0; k < 5; k++) n = n * 85 + value[padded.charCodeAt(i + k)];
      bytes[j] = n >>> 24; bytes[j + 1] = n >>> 16; bytes[j + 2] = n >>> 8; bytes[j + 3] = n;
    }
    const stream = new Blob([bytes.subarray(0, bytes.length - short)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const scopeOf = (place) => place.closest("[data-legend]")?.dataset.legend;
  const draw = (place) => {
    const spec = charts[place.dataset.chart];
    const { data, layout } = paint(spec);
    const off = hidden.get(scopeOf(place));
    if (off) data.forEach((trace) => { if (off.has(trace.meta)) trace.visible = false; });
    const font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("@soft") };
    Object.assign(layout, {
      font, height: spec.height, autosize: true, paper_bgcolor: colour("@surface"), plot_bgcolor: "rgba(0,0,0,0)", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: { bgcolor: colour("@surface"), bordercolor: colour("@line"), font: { ...font, color: colour("@ink") }, namelength: 40 },
    });
    if (place.dataset.log) {
      const { tickmode, tickvals, ticktext, range, ...rest } = layout.yaxis;
      const on = place.dataset.log === "on", span = spec.range ? spec.range[on ? "log" : "linear"] : on ? null : range;
      layout.yaxis = { ...rest, type: on ? "log" : "linear", ...(span ? { range: span } : {}), ...(on ? spec.log : {}) };
    }
    if (spec.names && place.clientWidth < 560) { // no room beside the rows: their names stand above them
      const at = { xref: "paper", x: 0, xanchor: "left", yanchor: "bottom", showarrow: false, font: { color: colour("@ink") } };
      layout.annotations = [...(layout.annotations || []), ...layout.yaxis.ticktext.map((text, y) => ({ ...at, text, y }))];
      layout.yaxis.showticklabels = false;
      layout.height = 1.2 * spec.height;
    }
    drawn.add(place);
    return Plotly.react(place, data, layout, config);
  };
  const redraw = () => drawn.forEach(draw);
  const start = async () => {
    if (!holder) return;
    places = all(".chart[data-chart]");
    try {
      const told = holder.textContent.trim();
      charts = JSON.parse(told.startsWith("{") ? told : await unpacked(told));
      const script = document.createElement("script");
      script.textContent = await unpacked(document.getElementById("plotly").textContent.trim());
      document.head.append(script);
      for (const place of places) { draw(place); await new Promise((go) => setTimeout(go)); }
    } catch (error) {
      places.forEach((place) => { place.textContent = `The chart cannot be drawn here (${error.message}); the table below holds its numbers.`; place.style.height = "auto"; });
      all("figure details").forEach((d) => { d.open = true; });
    }
    root.dataset.ready = "yes";
  };

  document.getElementById("theme")?.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // ---- a chart in a folded part has no width until it is unfolded
  all("details").forEach((fold) => fold.addEventListener("toggle", () => {
    if (fold.open) all(".chart", fold).forEach((place) => { if (drawn.has(place)) Plotly.Plots.resize(place); });
  }));

  // ---- legends: a click switches a series off and on, a double click leaves it alone on the page
  const show = (scope) => {
    const off = hidden.get(scope) || new Set();
    all(`.key[data-scope="${scope}"]`).forEach((key) => key.setAttribute("aria-pressed", String(!off.has(key.dataset.series))));
    drawn.forEach((place) => { if (scopeOf(place) === scope) draw(place); });
  };
  const first = new Map(); // scope -> series that begin switched off
  all('.key[aria-pressed="false"]').forEach(({ dataset: { scope, series } }) => first.set(scope, [...(first.get(scope) || []), series]));
  first.forEach((names, scope) => hidden.set(scope, new Set(names)));
  all("[data-show]").forEach((button) => button.addEventListener("click", () => {
    const { scope, show: what } = button.dataset;
    hidden.set(scope, new Set(what === "first" ? first.get(scope) || [] : []));
    show(scope);
  }));
  all(".key").forEach((key) => {
    const { scope, series } = key.dataset;
    key.addEventListener("click", () => {
      const off = hidden.get(scope) || new Set();
      off.has(series) ? off.delete(series) : off.add(series);
      hidden.set(scope, off);
      show(scope);
    });
    key.addEventListener("dblclick", () => {
      const names = all(`.key[data-scope="${scope}"]`).map((k) => k.dataset.series);
      const off = hidden.get(scope) || new Set();
      const alone = names.every((name) => (name === series) !== off.has(name));
      hidden.set(scope, new Set(alone ? [] : names.filter((name) => name !== series)));
      show(scope);
    });
  });
  all("[data-log-of]").forEach((button) => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true", names = button.dataset.logOf.split(" ");
    button.setAttribute("aria-pressed", String(on));
    all(".chart").filter((c) => names.includes(c.dataset.chart)).forEach((place) => {
      place.dataset.log = on ? "on" : "off";
      if (drawn.has(place)) draw(place);
    });
  }));

  all("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const place = all(".chart").find((c) => c.dataset.chart === button.dataset.save);
    if (drawn.has(place)) Plotly.downloadImage(place, { format: "png", scale: 2, width: place.clientWidth, height: charts[button.dataset.save].height, filename: button.dataset.name });
  }));

  // ---- tables that sort, code that copies
  all("th button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") !== "ascending" : head.dataset.first !== "descending";
    all("th", head.parentNode).forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => { const raw = row.cells[column].dataset.value ?? row.cells[column].textContent; const n = Number(raw); return raw !== "" && !Number.isNaN(n) ? n : raw; };
    const empty = (v) => v === "";
    [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (empty(x) || empty(y)) return empty(x) - empty(y);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    }).forEach((row) => body.append(row));
  }));
  all(".code").forEach((box) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const text = box.querySelector("pre").textContent;
      try { await navigator.clipboard.writeText(text); } catch { const range = document.createRange(); range.selectNodeContents(box.querySelector("pre")); getSelection().removeAllRanges(); getSelection().addRange(range); document.execCommand("copy"); getSelection().removeAllRanges(); }
      button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  });

  // ---- paper is light and narrow
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme; root.dataset.theme = "light";
    drawn.forEach((place) => {
      const wide = place.closest("figure.wide"), tall = charts[place.dataset.chart].height;
      draw(place);
      Plotly.relayout(place, { width: wide ? 640 : 300, height: wide ? tall : Math.min(tall, 260), autosize: false, "font.size": 11 });
    });
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    drawn.forEach((place) => { Plotly.relayout(place, { width: null, autosize: true }); draw(place); });
  });
  start();
})();
