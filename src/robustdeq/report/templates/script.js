"use strict";
// Sorting, the image browser, the slider. Everything untrusted is set as text; nothing is fetched.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Tables: a click on a column's name sorts by it, another one the other way round. What is not there comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.ariaSort === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return up * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
}

// Charts along t of one sample: the same look as the charts of the page.
const SIZE = { width: 400, height: 230, left: 54, right: 12, top: 12, bottom: 40 };

function ticks(top) {
  const power = 10 ** Math.floor(Math.log10(top / 4));
  const step = [1, 2, 5, 10].find((factor) => factor * power * 4 >= top * 0.999) * power;
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, k) => Number((k * step).toPrecision(6)));
}

function chart(figure, title, label, lines, top) {
  const { width, height, left, right, bottom } = SIZE;
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  const steps = Math.max(...lines.map((line) => line.values.length));
  const marks = ticks(top || Math.max(...values, 1e-3));
  const x = (t) => left + (width - left - right) * (steps > 1 ? (t - 1) / (steps - 1) : 0.5);
  const y = (value) => height - bottom - (height - SIZE.top - bottom) * value / marks.at(-1);
  const words = lines.map((line) => `${line.name} from ${line.values[0]} to ${line.values.at(-1)}`).join("; ");
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${words}` });
  for (const mark of marks) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }));
    svg.append(element("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, String(mark)));
  }
  const every = Math.ceil(steps / 10);
  for (let t = 1; t <= steps; t += every) {
    svg.append(element("text", { x: x(t), y: height - 22, "text-anchor": "middle" }, String(t)));
  }
  const now = element("line", { class: "now", y1: SIZE.top, y2: height - bottom });
  svg.append(now);
  for (const line of lines) {
    let [path, pen] = ["", "M"];
    line.values.forEach((value, k) => {
      if (value !== null) path += `${pen}${x(k + 1).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = value === null ? "M" : "L";
      if (value !== null && steps <= 60) {
        svg.append(element("circle", { class: `mark ${line.style}`, cx: x(k + 1), cy: y(value), r: 2.6 }));
      }
    });
    svg.append(element("path", { class: `line ${line.style}`, d: path }));
  }
  svg.append(element("text", { x: (width + left - right) / 2, y: height - 5, "text-anchor": "middle" }, "t, of z[t]"));
  const turn = `translate(10 ${(height - 28) / 2}) rotate(-90)`;
  svg.append(element("text", { transform: turn, "text-anchor": "middle" }, label));
  const legend = element("ul", { class: "legend" }, ...lines.map((line) => element("li", {},
    element("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" },
      element("path", { class: `line ${line.style}`, d: "M0 4H22" })), line.name)));
  figure.replaceChildren(element("figcaption", {}, title), svg, ...(lines.length > 1 ? [legend] : []));
  return (t) => { now.setAttribute("x1", x(t)); now.setAttribute("x2", x(t)); };
}

// The image browser.
const OUTCOMES = { broken: "broken", stands: "still right under every attack", wrong: "wrong without an attack", untried: "not attacked" };
const browser = { group: null, shown: [], at: 0, movers: [] };

const className = (k) => browser.group.classes[k] ?? `class ${k}`;
const predicted = (k) => (k < 0 ? "nothing (a logit is not finite)" : className(k));

function picture(number, caption, alt) {
  const image = element("img", { src: data.pictures[number], alt });
  return element("figure", {}, image, element("figcaption", {}, caption));
}

function showImages(sample) {
  const name = className(sample.label);
  const figures = [];
  const has = (key) => sample[key] !== undefined && data.pictures[sample[key]];
  if (has("original")) figures.push(picture(sample.original, "original", `Sample ${sample.sample}, ${name}`));
  if (has("attacked")) figures.push(picture(sample.attacked, `attacked by “${sample.attack}”`, `The same under ${sample.attack}`));
  if (has("change")) {
    const words = sample.largest ? `perturbation × ${sample.factor}; grey is none, at most ${sample.largest}`
      : "no change: the attack gave the image back";
    figures.push(picture(sample.change, words, `What ${sample.attack} added, magnified ${sample.factor} times`));
  }
  if (has("reduced")) {
    const words = `what entropy reduction made of it, at most ${sample.moved} away`;
    figures.push(picture(sample.reduced, words, "The input that entropy reduction found"));
  }
  $("images").replaceChildren(...figures);
}

function sampleText(sample) {
  const tried = Object.entries(sample.tried);
  const broke = tried.filter(([, outcome]) => outcome === 0).map(([name]) => name);
  const words = [`True class ${className(sample.label)}; predicted ${predicted(sample.predicted)}; ${OUTCOMES[sample.outcome]}.`];
  const quoted = (names) => names.map((name) => `“${name}”`).join(", ");
  if (broke.length) words.push(`Broken by ${quoted(broke)}; ${tried.length} attacks tried.`);
  if (!broke.length && tried.length) words.push(`It stood against ${quoted(tried.map(([name]) => name))}.`);
  if (sample.alone) words.push(`Only “${sample.alone}” broke it.`);
  return words.join(" ");
}

function showStep() {
  const sample = browser.shown[browser.at];
  const t = Number($("t").value);
  const names = ["clean", "attacked"].slice(0, sample.probabilities.length);
  $("t-value").textContent = `${t}`;
  $("t").setAttribute("aria-valuetext", `state ${t} of ${$("t").max}`);
  const bars = sample.order.map((k, row) => {
    const values = sample.probabilities.map((of) => of[t - 1][row]);
    const lines = values.map((value, n) => element("span", { class: `bar ${names[n]}`, style: `width:${100 * (value ?? 0)}%` }));
    const numbers = values.map((value) => (value === null ? "–" : value.toFixed(2))).join(" · ");
    return element("div", { class: k === sample.label ? "class true" : "class" },
      element("span", { title: className(k) }, className(k)), element("span", {}, ...lines), element("span", {}, numbers));
  });
  $("bars").replaceChildren(...bars);
  browser.movers.forEach((move) => move(t));
}

function showDynamics(sample) {
  $("along").hidden = !sample.probabilities;
  browser.movers = [];
  if (!sample.probabilities) return;
  const names = ["clean", "attacked"];
  const slider = $("t");
  const last = Number(slider.value) === Number(slider.max) || !slider.dataset.set;
  slider.max = sample.entropies[0].length;
  if (last) slider.value = slider.max;
  slider.dataset.set = "yes";
  const lines = (all) => all.map((values, n) => ({ name: `${names[n]} image`, values, style: names[n] }));
  const row = sample.order.indexOf(sample.label);
  const label = sample.probabilities.map((of) => of.map((probabilities) => probabilities[row]));
  browser.movers.push(chart($("entropy"), "Prediction entropy", "entropy (nats)", lines(sample.entropies)));
  browser.movers.push(chart($("label"), "Probability of the true class", "probability", lines(label), 1));
  $("distance").hidden = !sample.distance;
  if (sample.distance) {
    const distance = [{ name: "distance", values: sample.distance, style: "attacked" }];
    browser.movers.push(chart($("distance"), "Distance to its clean trajectory", "‖z̃[t] − z[t]‖ / ‖z[t]‖", distance));
  }
  showStep();
}

function select(at, focus = false) {
  const buttons = [...$("thumbs").children];
  if (!buttons.length) return;
  browser.at = Math.max(0, Math.min(at, buttons.length - 1));
  buttons.forEach((button, k) => {
    button.setAttribute("aria-selected", String(k === browser.at));
    button.tabIndex = k === browser.at ? 0 : -1;
  });
  const box = $("thumbs"), chosen = buttons[browser.at];
  if (chosen.offsetTop < box.scrollTop || chosen.offsetTop + chosen.offsetHeight > box.scrollTop + box.clientHeight) {
    box.scrollTop = chosen.offsetTop - box.clientHeight / 2;  // inside the box only: the page does not jump
  }
  if (focus) chosen.focus({ preventScroll: true });
  const sample = browser.shown[browser.at];
  $("sample-title").textContent = `Sample ${sample.sample}`;
  $("sample-text").textContent = sampleText(sample);
  $("previous").disabled = browser.at === 0;
  $("next").disabled = browser.at === buttons.length - 1;
  showImages(sample);
  showDynamics(sample);
}

function list() {
  const chosen = $("filter").value;
  const [kind, name] = [chosen.slice(0, chosen.indexOf(" ")), chosen.slice(chosen.indexOf(" ") + 1)];
  const fits = { all: () => true, outcome: (s) => s.outcome === name, alone: (s) => s.alone === name };
  browser.shown = browser.group.samples.filter(fits[kind]);
  $("thumbs").replaceChildren(...browser.shown.map((sample, at) => {
    const number = sample.attacked ?? sample.original;
    const words = `Sample ${sample.sample}, ${className(sample.label)}, ${OUTCOMES[sample.outcome]}`;
    const inside = number !== undefined && data.pictures[number]
      ? element("img", { src: data.pictures[number], alt: "" }) : String(sample.sample);
    const button = element("button", { type: "button", role: "option", class: sample.outcome, "aria-label": words, title: words }, inside);
    button.addEventListener("click", () => select(at));
    return button;
  }));
  $("found").textContent = `${browser.shown.length} of ${browser.group.samples.length} samples`;
  $("sample").hidden = !browser.shown.length;
  select(0);
}

function open(index) {
  browser.group = data.groups[index];
  $("group").value = String(index);
  const count = (fits) => browser.group.samples.filter(fits).length;
  const outcomes = Object.entries(OUTCOMES).filter(([name]) => count((s) => s.outcome === name));
  const attacks = [...new Set(browser.group.samples.map((s) => s.alone).filter(Boolean))];
  const option = (value, text) => element("option", { value }, text);
  $("filter").replaceChildren(option("all ", "all samples"),
    ...outcomes.map(([name, words]) => option(`outcome ${name}`, `${words} (${count((s) => s.outcome === name)})`)),
    ...attacks.map((name) => option(`alone ${name}`, `only “${name}” broke (${count((s) => s.alone === name)})`)));
  list();
}

function keys(event) {
  const columns = Math.max(1, Math.floor($("thumbs").clientWidth / 52));
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity };
  if (!(event.key in moves)) return;
  event.preventDefault();
  select(browser.at + moves[event.key], true);
}

if (data.groups.length) {
  document.querySelector(".noscript").remove();
  $("browser").hidden = false;
  $("group").append(...data.groups.map((group, index) => element("option", { value: index }, group.name)));
  $("group").addEventListener("change", () => open(Number($("group").value)));
  $("filter").addEventListener("change", list);
  $("thumbs").addEventListener("keydown", keys);
  document.querySelector("#sample header").addEventListener("keydown", keys);
  $("previous").addEventListener("click", () => select(browser.at - 1));
  $("next").addEventListener("click", () => select(browser.at + 1));
  $("t").addEventListener("input", showStep);
  for (const link of document.querySelectorAll("a.sample")) {
    const index = data.groups.findIndex((group) => group.name === link.dataset.run);
    const at = index < 0 ? -1 : data.groups[index].samples.findIndex((sample) => String(sample.sample) === link.dataset.sample);
    if (at < 0) {  // not among the samples of this file
      link.replaceWith(link.textContent);
      continue;
    }
    link.addEventListener("click", () => {
      open(index);
      select(at, true);
    });
  }
  open(0);
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
