// The four charts of the page "Live", drawn by uPlot in the colours of the stylesheet.
import { make, number } from "/web/page.js";
import { quantile, total } from "/web/seconds.js";

const HEIGHT = 200;
const AREA = "0.14"; // how much of its colour the area under the first line has
const FAILED = new Set(["ok", "cancelled"]); // of these outcomes neither is the server's fault or the request's
const ms = (sum, share) => { const found = quantile(sum.latency, share); return found === null ? null : found * 1000; };
const mean = (sum) => { const calls = total(sum.batches); return calls ? sum.images / calls : null; };
const failed = (sum) => Object.entries(sum.requests).reduce((all, [outcome, count]) => all + (FAILED.has(outcome) ? 0 : count), 0);

const CHARTS = [
  { title: "Rate, a second", lines: [["requests", (sum) => total(sum.requests)], ["pictures", (sum) => sum.images], ["failed", failed, 0]] },
  { title: "Time of a request, ms", lines: [["p50", (sum) => ms(sum, 0.5)], ["p99", (sum) => ms(sum, 0.99)]] },
  { title: "Pictures a call", lines: [["mean", mean]] },
  { title: "Waiting pictures", lines: [["queue", (sum) => sum.queue]] },
];
const COLOURS = ["--first", "--second", "--safelight"];

export class Charts {
  constructor(place) {
    this.place = place;
    this.plots = [];
    this.shown = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
    new ResizeObserver(() => this.fit()).observe(place);
  }

  // `seconds`: their numbers; `sums`: what happened in each.
  draw(seconds, sums) {
    this.shown = [seconds, sums];
    if (!this.plots.length) this.build();
    this.plots.forEach(({ plot, box, chart }) => {
      plot.setData([seconds, ...chart.lines.map(([, read, none]) => hideNone(sums.map(read), none))]);
      if (plot.cursor.left < 0) plot.setLegend({ idx: seconds.length - 1 }, false); // else it tells the second under the mouse
      box.setAttribute("aria-label", `${chart.title}. ${chart.lines.map(([name, read]) => `${name}: ${tell(read(sums.at(-1)))}`).join(", ")} now.`);
    });
  }

  build() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => resolve(style.getPropertyValue(name));
    for (const chart of CHARTS) {
      const box = make("div", { role: "img" });
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
      const series = chart.lines.map(([label, , none], at) => ({ label, stroke: colour(COLOURS[at]), width: 2, points: { size: 5, filter: alone }, value: (_, value) => tell(value ?? none) }));
      series[0].fill = colour(COLOURS[0]).replace("rgb(", "rgba(").replace(")", `, ${AREA})`);
      const options = { width: 300, height: HEIGHT, padding: [10, 28, 0, 0], scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } }, axes: [{ ...axis, size: 30, space: 80, values: (_, splits) => splits.map(clock) }, { ...axis, size: 55 }], series: [{ label: "at", value: (_, second) => (second === null ? "–" : clock(second)) }, ...series], cursor: { drag: { x: false } } };
      this.place.append(make("section", { className: "chart", ariaLabel: chart.title }, make("h2", {}, chart.title), box));
      this.plots.push({ plot: new globalThis.uPlot(options, [[], ...chart.lines.map(() => [])], box), box, chart });
    }
    this.fit();
  }

  rebuild() {
    for (const { plot } of this.plots) plot.destroy();
    this.plots = [];
    this.place.replaceChildren();
    if (this.shown) this.draw(...this.shown);
  }

  fit() {
    for (const { plot, box } of this.plots) plot.setSize({ width: Math.max(200, box.clientWidth), height: HEIGHT });
  }
}

// The points that no line shows: those between seconds of which there is nothing to tell.
function alone(plot, at, isDense) {
  const values = plot.data[at];
  const found = [...values.keys()].filter((index) => values[index] != null && values[index - 1] == null && values[index + 1] == null);
  return isDense || !found.length ? null : found;
}

// A line that would only say "none" all the way is not drawn.
const hideNone = (values, none) => (values.every((value) => value === none) ? values.map(() => null) : values);

const clock = (second) => new Date(second * 1000).toTimeString().slice(0, 8);
const tell = (value) => (value === null || value === undefined ? "–" : number(Number(value.toPrecision(3))));

// A colour of the stylesheet as a canvas knows it: light-dark() is chosen by an element that has it.
function resolve(value) {
  const probe = make("i");
  probe.style.color = value;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
