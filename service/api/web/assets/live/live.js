// The page "Live": follows the server's events while it is seen, and keeps the last minutes by second.
import { bar, byId, make, milliseconds, number, percent, plural, say } from "/web/page.js";
import { addUp, quantile, total, wordOf } from "/web/seconds.js";
import { Charts } from "/web/charts.js";

const KEPT_S = 300;
const RETRY_MS = 5000; // after the server refused a stream; the browser itself tries again when one breaks
const NOW_S = 10; // the figures at the top are of so many seconds

const seconds = new Map(); // by their number; of one without an entry nothing is to be told
let last = 0;
let events = null;
let retry = 0;
const charts = new Charts(byId("charts"));

function follow() {
  clearTimeout(retry);
  if (document.hidden || events) return;
  events = new EventSource("/live/events");
  events.addEventListener("message", (event) => take(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    say("The server does not answer; trying again …", true);
    if (events.readyState !== EventSource.CLOSED) return;
    stop();
    retry = setTimeout(follow, RETRY_MS);
  });
}

function stop() {
  events?.close();
  events = null;
}

function take(told) {
  for (const second of told) seconds.set(second.second, second);
  last = Math.max(last, ...told.map(({ second }) => second));
  for (const number of seconds.keys()) if (number <= last - KEPT_S) seconds.delete(number);
  fillModels();
  draw();
}

// The versions that were seen, "all" first.
function fillModels() {
  const menu = byId("model");
  const known = new Set([...menu.options].map((option) => option.value));
  for (const { models } of seconds.values()) {
    for (const { model, version } of models) {
      for (const [value, text] of [[JSON.stringify([model]), model], [JSON.stringify([model, version]), `${model}, version ${version}`]]) {
        if (known.has(value)) continue;
        known.add(value);
        menu.append(new Option(text, value));
        if (model === new URLSearchParams(location.search).get("model") && !menu.value && text === model) menu.value = value;
      }
    }
  }
}

function draw() {
  const [model, version] = JSON.parse(byId("model").value || "[]");
  const wanted = (told) => (!model || told.model === model) && (!version || told.version === version);
  const span = Number(byId("span").value);
  const numbers = Array.from({ length: span }, (_, at) => last - span + 1 + at);
  const each = numbers.map((second) => addUp([seconds.get(second) ?? { models: [] }], wanted));
  const kept = (count) => numbers.slice(-count).map((second) => seconds.get(second) ?? { models: [] });
  charts.draw(numbers, each);
  drawNow(addUp(kept(NOW_S), wanted));
  drawCounts(addUp(kept(span), wanted));
  if (!byId("status").textContent.startsWith("Live")) say("Live.");
}

function drawNow(sum) {
  const calls = total(sum.batches);
  const time = (share) => (quantile(sum.latency, share) === null ? "–" : milliseconds(quantile(sum.latency, share) * 1000));
  const facts = { "requests a second": number(Math.round((total(sum.requests) / NOW_S) * 10) / 10), p50: time(0.5), p99: time(0.99), "pictures a call": calls ? (sum.images / calls).toFixed(1) : "–", waiting: number(sum.queue) };
  byId("now").replaceChildren(...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function drawCounts(sum) {
  const edges = Object.keys(sum.batches).sort((a, b) => Number(a) - Number(b));
  const most = Math.max(...Object.values(sum.batches));
  const sizeOf = (edge) => (edge === "1" || edge === "2" ? edge : `up to ${edge}`);
  byId("sizes").replaceChildren(...edges.map((edge) => row(sizeOf(edge), sum.batches[edge] / most, plural(sum.batches[edge], "call"))));
  const all = total(sum.requests);
  const outcomes = Object.entries(sum.requests).sort(([, a], [, b]) => b - a);
  byId("outcomes").replaceChildren(...outcomes.map(([outcome, count]) => row(wordOf(outcome), count / all, `${number(count)} (${percent(count / all)})`)));
  for (const id of ["sizes", "outcomes"]) if (!byId(id).children.length) byId(id).append(make("li", { className: "soft" }, "Nothing yet."));
}

const row = (name, share, text) => make("li", {}, make("span", {}, name), bar(share), make("span", { className: "soft" }, text));

for (const id of ["model", "span"]) byId(id).addEventListener("change", () => { if (last) draw(); });
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return follow();
  stop();
  say("Paused while the page is not seen.");
});
follow();
