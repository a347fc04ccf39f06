// Curves and bars as SVG. Colours come from run.css; every picture has its numbers as text for screen readers.
const WIDTH = 340, HEIGHT = 170, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 22;
const POINTS = 160; // of a line: more are averaged, which also takes out the noise of single steps

export function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Means of neighbours, so that at most POINTS are left: [[x, y], …]. */
function averaged(points) {
  const size = Math.ceil(points.length / POINTS);
  const mean = (part, axis) => part.reduce((sum, point) => sum + point[axis], 0) / part.length;
  return Array.from({ length: Math.ceil(points.length / size) }, (_, i) => points.slice(i * size, (i + 1) * size))
    .map((part) => [mean(part, 0), mean(part, 1)]);
}

/** The round numbers from `low` to `high`, about four: [0, 0.2, …]. */
export function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)));
}

export const short = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
  : String(Number(value.toPrecision(3)));

/** A picture of `lines` {label: [[step, value], …]}; `steps` is the last step of the stage, which may be far ahead. */
export function plot(title, lines, steps) {
  const drawn = Object.entries(lines).map(([label, points]) => [label, averaged(points)]);
  const values = drawn.flatMap(([, points]) => points.map(([, y]) => y));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (step) => LEFT + (WIDTH - LEFT - RIGHT) * step / steps;
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / (high - low || 1);
  const grid = ticks(low, high).flatMap((value) => [
    svg("path", { d: `M${LEFT} ${y(value).toFixed(1)}H${WIDTH - RIGHT}`, class: "grid-line" }),
    svg("text", { x: LEFT - 6, y: (y(value) + 3.5).toFixed(1), "text-anchor": "end" }, short(value))]);
  const foot = ticks(0, steps).map((step) =>
    svg("text", { x: x(step).toFixed(1), y: HEIGHT - 6, "text-anchor": "middle" }, short(step)));
  const curves = drawn.map(([, points], i) => points.length > 1
    ? svg("polyline", { points: points.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" "),
      class: `line line${i}` })
    : svg("circle", { cx: x(points[0][0]).toFixed(1), cy: y(points[0][1]).toFixed(1), r: 2.5, class: `dot line${i}` }));
  const told = drawn.map(([label, points]) =>
    `${label} from ${short(points[0][1])} to ${short(points.at(-1)[1])}`).join(", ");
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot", "aria-label": `${title}: ${told}` },
    ...grid, ...foot, ...curves);
}

/** A bar for a share from 0 to 1, with its standard error and a mark for chance. */
export function bar(share, error, chance, kind) {
  const x = (value) => (100 * Math.min(Math.max(value, 0), 1)).toFixed(1);
  const nodes = [svg("rect", { x: 0, y: 2, width: x(share), height: 8, class: `fill${kind}` })];
  if (error) nodes.push(svg("path", { d: `M${x(share - error)} 6H${x(share + error)}`, class: "error-line" }));
  if (chance) nodes.push(svg("path", { d: `M${x(chance)} 0V12`, class: "chance-line" }));
  return svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" },
    ...nodes);
}
