// A request's own waterfall: which part of its time was reading, waiting, the call that it shared, and writing.
import { make, milliseconds, plural } from "/web/page.js";

const STEPS = [
  ["read", "parse", ["parse", "decode", "inspect"]],
  ["wait", "queue", ["queue"]],
  ["run", "execute", ["collate", "execute", "split"]],
  ["write", "answer", ["serialize"]],
];

export function drawWaterfall(times, roundTripMs) {
  const rows = [];
  let at = 0;
  for (const [kind, word, stages] of STEPS) {
    const parts = stages.filter((stage) => stage in times.stages);
    if (!parts.length) continue;
    const ms = parts.reduce((sum, stage) => sum + times.stages[stage], 0);
    const more = kind === "run" && times.batch ? `, batch of ${times.batch}` : "";
    const title = parts.map((stage) => `${stage} ${milliseconds(times.stages[stage])}`).join(", ");
    rows.push({ kind, word: word + more, at, ms, title });
    at += ms;
  }
  const rest = Math.max(0, roundTripMs - times.total);
  rows.push({ kind: "net", word: "network and browser", at, ms: rest, title: "the round trip without the server's part" });
  const whole = at + rest || 1;
  const list = make("ol", { className: "waterfall" }, ...rows.map((row) => drawRow(row, whole)));
  const why = { idle: "the engine was free", full: "more would not be faster", linger: "its window was over", slack: "one of it would have been late", retry: "an earlier one failed" }[times.reason];
  const shared = times.batch > 1 ? `It shared its call with ${plural(times.batch - 1, "other picture")}` : "It had its call alone";
  const foot = times.batch ? `${shared}${why ? `; the call left because ${why}` : ""}.` : "";
  return make("div", {}, list, make("p", { className: "soft small" }, foot));
}

function drawRow({ kind, word, at, ms, title }, whole) {
  const slice = make("span", { className: `slice ${kind}` });
  slice.style.marginLeft = `${(at / whole) * 100}%`;
  slice.style.width = `${(ms / whole) * 100}%`;
  const lane = make("span", { className: "lane", ariaHidden: "true" }, slice);
  return make("li", { title }, make("span", {}, word), lane, make("span", { className: "soft" }, milliseconds(ms)));
}
