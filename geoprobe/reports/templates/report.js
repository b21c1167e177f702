(async function () {
  "use strict";

  // The contents: which section is read now.
  const contents = document.querySelector(".contents");
  const links = [...contents.querySelectorAll("li a")];
  const goals = [...document.querySelectorAll("header[id], main > section[id]")];
  let current = null;
  function follow() {
    const line = window.innerHeight / 4;
    const ended = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const passed = goals.filter((goal) => goal.getBoundingClientRect().top <= line);
    const goal = ended && window.scrollY > 0 ? goals[goals.length - 1] : passed[passed.length - 1] || goals[0];
    if (goal === current) return;
    current = goal;
    for (const link of links) {
      if (link.hash !== `#${goal.id}`) {
        link.removeAttribute("aria-current");
        continue;
      }
      link.setAttribute("aria-current", "location");
      contents.querySelector(".here").textContent = link.textContent;
      const above = link.offsetTop - contents.scrollTop;
      if (above < 40 || above > contents.clientHeight - 40) contents.scrollTop = link.offsetTop - contents.clientHeight / 2;
    }
  }
  let waiting = false;
  window.addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; follow(); });
    waiting = true;
  }, { passive: true });
  window.addEventListener("resize", follow);
  const narrow = contents.querySelector("details");
  contents.addEventListener("click", (event) => {
    if (event.target.closest("li a")) narrow.open = false;
  });
  contents.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && narrow.open) {
      narrow.open = false;
      narrow.querySelector("summary").focus();
    }
  });
  follow();

  // What is packed in the page: the charts' script, whose hash the page's policy knows, and data.
  async function unpacked(id) {
    const text = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }
  const bundle = document.createElement("script");
  bundle.textContent = new TextDecoder().decode(await unpacked("geoprobe-bundle"));
  document.head.append(bundle);
  const packed = await unpacked("geoprobe-data");
  const length = new DataView(packed).getUint32(0, true);
  const page = JSON.parse(new TextDecoder().decode(new Uint8Array(packed, 4, length)));
  const blob = new Uint8Array(packed, 4 + length);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Tables: a column is {levels, codes} or {values}. Those of many rows come from the blob.
  function read([at, width], count) {
    const found = new Int32Array(count);
    for (let place = 0; place < width; place++) {
      const start = at + place * count;
      for (let i = 0; i < count; i++) found[i] |= blob[start + i] << (8 * place);
    }
    for (let i = 0; i < count; i++) found[i] = (found[i] >>> 1) ^ -(found[i] & 1);
    return found;
  }
  const tens = Array.from({ length: 23 }, (_, i) => Number(`1e${i}`));
  function number(whole, power) {
    if (power === 1000) return NaN;
    if (power < -22 || power > 22) return Number(`${whole}e${power}`);
    return power < 0 ? whole / tens[-power] : whole * tens[power];
  }
  function expand(table) {
    const { rows, kinds } = table;
    const what = read(table.what, rows);
    for (let row = 1; row < rows; row++) what[row] += what[row - 1];
    for (const column of Object.values(table.columns)) {
      if (column.of) {
        column.codes = read(column.of, kinds).map((code) => code - 1);
        column.what = what;
      } else if (column.row) {
        const last = new Int32Array(kinds);
        column.codes = read(column.row, rows).map((change, row) => (last[what[row]] += change) - 1);
      } else {
        const wholes = read(column.whole, rows), powers = read(column.power, rows);
        const last = new Int32Array(kinds), before = new Int32Array(kinds);
        column.values = new Float64Array(rows);
        for (let row = 0; row < rows; row++) {
          const kind = what[row], power = before[kind] + powers[row], step = before[kind] - power;
          let whole = wholes[row];
          if (step === 0) whole += last[kind];
          else if (step === 1) whole += last[kind] * 10;
          else if (step === -1) whole += Math.floor(last[kind] / 10 + 0.5);
          last[kind] = whole;
          before[kind] = power;
          column.values[row] = number(whole, power);
        }
      }
    }
  }
  for (const table of Object.values(page.tables)) if (table.what) expand(table);
  function code(column, row) {
    const found = column.codes[column.what ? column.what[row] : row];
    return found === null || found < 0 ? null : found;
  }
  function cell(column, row) {
    if (column.values) return Number.isNaN(column.values[row]) ? null : column.values[row];
    const found = code(column, row);
    return found === null ? null : column.levels[found];
  }
  function pick(source, chosen) {
    const table = page.tables[source.table];
    const columns = table.columns;
    const tests = [];
    function only(name, values) {
      const column = columns[name];
      if (column.codes) {
        const codes = new Set(values.map((value) => column.levels.indexOf(value)));
        tests.push((row) => codes.has(code(column, row)));
      } else {
        const wanted = new Set(values);
        tests.push((row) => wanted.has(column.values[row]));
      }
    }
    for (const name of Object.keys(source.where)) only(name, source.where[name]);
    for (const name of source.controls) {
      if (!(name in chosen)) continue;
      const at = chosen[name].at;
      if (at === null) only(name, [chosen[name].value]);
      else tests.push((row) => at[cell(columns.run, row)] === cell(columns.index, row));
    }
    const rows = [];
    for (let row = 0; row < table.rows; row++) {
      if (!tests.every((test) => test(row))) continue;
      const record = {};
      for (const name of Object.keys(columns)) record[name] = cell(columns[name], row);
      if ("measure" in record) record.title = page.titles[record.measure] || record.measure;
      rows.push(record);
    }
    return rows;
  }

  // Charts and their controls.
  function heading(chart, chosen) {
    return chart.heading
      .map(([name, text]) => (name in chosen ? chosen[name].label : text))
      .filter((text) => text)
      .join(" · ");
  }
  function describe(chart, chosen, readings) {
    const figure = document.getElementById(`figure-${chart.name}`);
    figure.querySelector(".shown").textContent = heading(chart, chosen);
    let low = Infinity, high = -Infinity;
    for (const row of readings || []) {
      if (row.n === null) continue;
      low = Math.min(low, row.n);
      high = Math.max(high, row.n);
    }
    const words = (n) => n.toLocaleString("en");
    figure.querySelector(".sizes").textContent =
      low > high ? "" : low === high ? `n = ${words(low)}` : `n = ${words(low)} to ${words(high)}`;
  }
  function specification(chart, chosen, width) {
    const measure = chart.heading.filter(([name]) => name === "measure").map(([, text]) => text)[0];
    const title = "measure" in chosen ? chosen.measure.label : measure;
    const spec = JSON.parse(JSON.stringify(chart.spec), (_, v) => {
      if (v === "@measure") chart.named = true;
      return v === "@measure" ? title : v;
    });
    spec.datasets = {};
    for (const name of Object.keys(chart.sources)) spec.datasets[name] = pick(chart.sources[name], chosen);
    describe(chart, chosen, spec.datasets.readings);
    if (chart.heading.length) {
      spec.params = [{ name: "heading", value: heading(chart, chosen) }].concat(spec.params || []);
      spec.title = { text: { expr: "heading" } };
    }
    if (spec.columns) {
      const inner = (spec.spec && spec.spec.width) || 235;
      const gap = (spec.spacing && spec.spacing.column) || 75;
      // Between panels, axes stand in the gap; the first has none, and an axis of 50 or less.
      const room = spec.spacing && spec.spacing.column ? width + gap - 50 : width;
      spec.columns = Math.max(1, Math.min(spec.columns, Math.floor(room / (inner + gap))));
    }
    return spec;
  }
  async function draw(section, chart) {
    const place = document.querySelector(`[data-chart="${chart.name}"]`);
    const spec = specification(chart, section.chosen, place.clientWidth);
    if (chart.view) chart.view.finalize();
    const drawn = await window.vegaEmbed(place, spec, {
      ast: true,
      config: page.themes[dark.matches ? "dark" : "light"],
      renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: chart.name,
      tooltip: { theme: "custom" },
      logLevel: 1,
    });
    chart.view = drawn.view;
    place.dataset.drawn = "yes";
  }
  async function update(section, name) {
    for (const chart of section.charts) {
      const sources = Object.keys(chart.sources).filter((s) => chart.sources[s].controls.includes(name));
      if (!sources.length) continue;
      if (!chart.view || (name === "measure" && chart.named)) {
        await draw(section, chart);
        continue;
      }
      for (const s of sources) {
        const rows = pick(chart.sources[s], section.chosen);
        chart.view.data(s, rows);
        if (s === "readings") describe(chart, section.chosen, rows);
      }
      if (!("readings" in chart.sources)) describe(chart, section.chosen, []);
      if (chart.heading.length) chart.view.signal("heading", heading(chart, section.chosen));
      await chart.view.runAsync();
    }
  }
  for (const section of page.sections) {
    section.chosen = {};
    for (const control of section.controls) section.chosen[control.name] = control.options[control.initial];
    const form = document.querySelector(`form[data-section="${section.name}"]`);
    if (form) {
      form.addEventListener("submit", (event) => event.preventDefault());
      form.addEventListener("input", (event) => {
        const input = event.target.closest("[data-control]");
        const control = section.controls.find((c) => c.name === input.dataset.control);
        const option = control.options[Number(input.value)];
        section.chosen[control.name] = option;
        if (input.type === "range") {
          input.setAttribute("aria-valuetext", option.label);
          input.closest(".control").querySelector("output").textContent = option.label;
        }
        update(section, control.name);
      });
      for (const button of form.querySelectorAll("[data-step]")) {
        button.addEventListener("click", () => {
          const input = button.closest(".control").querySelector("input");
          input.value = String(Number(input.value) + Number(button.dataset.step));
          input.dispatchEvent(new Event("input", { bubbles: true }));
        });
      }
    }
  }
  async function drawAll() {
    for (const section of page.sections) for (const chart of section.charts) await draw(section, chart);
    document.documentElement.dataset.charts = "drawn";
  }
  await drawAll();
  dark.addEventListener("change", drawAll);

  // The table of readings.
  const holder = document.getElementById("table-of-readings");
  if (!holder) return;
  const table = page.tables.readings;
  const hidden = new Set(["run", "index", "x", "order", "preferred"]);
  if (table.columns.run.levels.length > 1) hidden.delete("run");
  const names = Object.keys(table.columns).filter((name) => !hidden.has(name));
  const empty = new Set(names.filter((name) => {
    const column = table.columns[name];
    return column.levels && column.levels.length === 0;
  }));
  const shownNames = names.filter((name) => !empty.has(name));
  const size = 50;
  let order = [], first = 0, sorted = null, down = false;
  const form = holder.querySelector("form");
  form.addEventListener("submit", (event) => event.preventDefault());
  const filters = ["run", "checkpoint", "measure", "site", "relation", "deactivated", "module", "data", "labels", "tokens", "sinks", "sae", "activations", "seed", "rows", "basis", "convention"].filter(
    (name) => shownNames.includes(name) && table.columns[name].levels.length > 1
  );
  for (const name of filters) {
    const span = document.createElement("span");
    span.className = "control";
    const label = document.createElement("label");
    label.textContent = name;
    label.htmlFor = `filter-${name}`;
    const select = document.createElement("select");
    select.id = `filter-${name}`;
    select.append(new Option("any", ""));
    table.columns[name].levels.forEach((level, code) => select.append(new Option(level, String(code))));
    select.addEventListener("input", filter);
    span.append(label, select);
    form.append(span);
  }
  const head = holder.querySelector("thead").insertRow();
  for (const name of shownNames) {
    const th = document.createElement("th");
    th.scope = "col";
    if (!["stage", "step", "training_tokens", "epoch", "k", "value", "stderr", "n"].includes(name)) th.className = "word";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name.replace("_", " ");
    button.addEventListener("click", () => {
      down = sorted === name ? !down : false;
      sorted = name;
      for (const other of head.cells) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      filter();
    });
    th.append(button);
    head.append(th);
  }
  function filter() {
    const wanted = filters
      .map((name) => [table.columns[name], document.getElementById(`filter-${name}`).value])
      .filter(([, value]) => value !== "")
      .map(([column, value]) => [column, Number(value)]);
    order = [];
    for (let row = 0; row < table.rows; row++) {
      if (wanted.every(([column, value]) => code(column, row) === value)) order.push(row);
    }
    if (sorted) {
      const column = table.columns[sorted];
      const sign = down ? -1 : 1;
      order.sort((a, b) => {
        const x = cell(column, a), y = cell(column, b);
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (x < y ? -sign : x > y ? sign : 0) || a - b;
      });
    }
    first = 0;
    show();
  }
  function shown(name, value) {
    if (value === null || value === undefined) return "";
    if (name === "value" || name === "stderr") return String(Number(value.toPrecision(6)));
    return String(value);
  }
  function show() {
    const body = holder.querySelector("tbody");
    body.replaceChildren();
    for (const row of order.slice(first, first + size)) {
      const line = body.insertRow();
      for (const name of shownNames) {
        const td = line.insertCell();
        const value = cell(table.columns[name], row);
        if (typeof value !== "number") td.className = "word";
        if (name === "measure" && document.getElementById(`card-${value}`)) {
          const link = document.createElement("a");
          link.href = `#card-${value}`;
          link.textContent = value;
          td.append(link);
        } else td.textContent = shown(name, value);
      }
    }
    const last = Math.min(first + size, order.length);
    holder.querySelector("[role=status]").textContent = order.length
      ? `Readings ${first + 1} to ${last} of ${order.length}`
      : "No reading fits these filters.";
    holder.querySelector('[data-page="-1"]').disabled = first === 0;
    holder.querySelector('[data-page="1"]').disabled = last >= order.length;
  }
  function quoted(value) {
    if (value === null || value === undefined) return "";
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }
  function download(rows) {
    const lines = [names.map(quoted).join(",")];
    for (const row of rows) lines.push(names.map((name) => quoted(cell(table.columns[name], row))).join(","));
    const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = "readings.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
  holder.addEventListener("click", (event) => {
    const turn = event.target.dataset.page;
    if (turn) {
      first = Math.max(0, first + Number(turn) * size);
      show();
    }
    if (event.target.dataset.download === "shown") download(order);
    if (event.target.dataset.download === "all") download(Array.from({ length: table.rows }, (_, i) => i));
  });
  holder.hidden = false;
  filter();
})();
