"use strict";
// Charts from the data in the page, and the sliders of the pictures. Texts go in as text, never as markup.
const WIDTH = 480, HEIGHT = 220, LEFT = 58, RIGHT = 22, TOP = 10, BOTTOM = 24;
const COLOURS = ["#1d5fa8", "#c2571a", "#2f8f4e", "#8e44ad", "#b02a4c", "#5b6b7b"];

function shape(name, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

function styled(chart) {
  const hasMean = chart.curves.some((curve) => curve.kind === "mean");
  return chart.curves.map((curve, index) => {
    if (curve.kind === "floor") return { ...curve, colour: "#444", dash: "5 4" };
    if (curve.kind === "mean") return { ...curve, colour: COLOURS[0] };
    return { ...curve, colour: hasMean ? "#a9c4e2" : COLOURS[index % COLOURS.length] };
  });
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high + step * 1e-9; place++) found.push(place * step);
  return found;
}

const short = (value) => String(Number(value.toPrecision(4)));
const large = (value) => (value >= 1e4 ? `${short(value / 1000)}k` : short(value));

function pathOf(points, x, y) {
  let text = "", pen = "M";
  for (const [iteration, value] of points) {
    if (value === null) { pen = "M"; continue; } // a gap where the value is not finite
    text += `${pen}${x(iteration).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function draw(figure, chart) {
  const curves = styled(chart), all = curves.flatMap((curve) => curve.points.filter((point) => point[1] !== null));
  const box = figure.querySelector("div"), legend = document.createElement("div");
  if (!all.length) { box.textContent = "no finite value"; return; }
  const xs = all.map((point) => point[0]), ys = all.map((point) => point[1]);
  const least = (values) => values.reduce((a, b) => Math.min(a, b));
  const most = (values) => values.reduce((a, b) => Math.max(a, b));
  const first = least(xs), last = Math.max(most(xs), first + 1);
  let low = least(ys), high = most(ys);
  const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  low = low >= 0 && low < room * 4 ? 0 : low - room;
  high += room;
  const x = (value) => LEFT + ((value - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chart.title }, box);
  for (const value of ticks(low, high, 4)) {
    shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }, svg);
    shape("text", { class: "label", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, svg).textContent = short(value);
  }
  for (const value of ticks(first, last, 5)) {
    if (value % 1) continue;
    shape("text", { class: "label", x: x(value), y: HEIGHT - 6, "text-anchor": "middle" }, svg).textContent = large(value);
  }
  for (const curve of curves) {
    const line = shape("path", { d: pathOf(curve.points, x, y), stroke: curve.colour }, svg);
    if (curve.dash) line.setAttribute("stroke-dasharray", curve.dash);
    for (const [iteration, value] of curve.points.length < 30 && curve.kind === "value" ? curve.points : []) {
      if (value !== null) shape("circle", { cx: x(iteration), cy: y(value), r: 2.5, fill: curve.colour }, svg);
    }
  }
  const cross = shape("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, svg);
  legend.className = "legend";
  legend.style.minHeight = `${18 * curves.length + 2}px`; // with values under the pointer each may take a line
  box.append(legend);
  const tell = (iteration) => {
    legend.replaceChildren(...curves.map((curve) => {
      const entry = document.createElement("span"), mark = document.createElement("i");
      mark.style.background = curve.dash
        ? `repeating-linear-gradient(90deg, ${curve.colour} 0 5px, transparent 5px 9px)` : curve.colour;
      const near = iteration === null ? null : nearest(curve.points, iteration);
      entry.append(mark, near ? `${curve.name}: ${near[1] === null ? "not finite" : short(near[1])} @ ${near[0]}` : curve.name);
      return entry;
    }));
  };
  tell(null);
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect(), place = ((event.clientX - area.left) / area.width) * WIDTH;
    const wanted = first + ((place - LEFT) / (WIDTH - LEFT - RIGHT)) * (last - first);
    const at = x(nearest(curves.flatMap((curve) => curve.points), wanted)[0]);
    cross.setAttribute("x1", at);
    cross.setAttribute("x2", at);
    cross.setAttribute("visibility", "visible");
    tell(wanted);
  });
  svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); tell(null); });
}

function nearest(points, iteration) {
  return points.reduce((best, point) => (Math.abs(point[0] - iteration) < Math.abs(best[0] - iteration) ? point : best), points[0]);
}

const charts = JSON.parse(document.getElementById("charts").textContent);
for (const figure of document.querySelectorAll("[data-chart]")) draw(figure, charts[Number(figure.dataset.chart)]);
for (const slider of document.querySelectorAll(".compare input")) {
  slider.addEventListener("input", () => slider.parentElement.style.setProperty("--cut", `${slider.value}%`));
}
