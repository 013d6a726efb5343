// "Send 64 at once": many requests together, and which calls of the engine they shared.
import { bar, byId, make, milliseconds, number, plural } from "/web/page.js";
import { queryOf, send, sendPicture } from "/web/ask.js";

const PICTURES = 64;
const BROWSER_CONNECTIONS = 6; // that browsers open to one server over HTTP/1.1

// Sends 64 pictures (`files` in turn), `each` of them in one request, and draws the batches into `place`.
export async function burst(target, files, each, place) {
  place.replaceChildren(make("p", { className: "soft" }, `Sending ${PICTURES} pictures …`));
  const started = performance.now();
  const requests = Array.from({ length: PICTURES / each }, (_, at) => ask(target, files, at * each, each));
  const answers = await Promise.all(requests);
  const ms = performance.now() - started;
  const good = answers.filter((answer) => answer.ok);
  const bad = answers.find((answer) => !answer.ok);
  const parts = [make("p", {}, `${plural(good.length * each, "picture")} answered in ${milliseconds(ms)}: ${number(Math.round((good.length * each * 1000) / ms))} a second.`)];
  if (bad) parts.push(make("p", { className: "bad" }, `${plural(answers.length - good.length, "request")} failed; the first: ${bad.status} ${bad.error}`));
  if (good.length) parts.push(...drawBatches(good, each));
  place.replaceChildren(...parts);
}

function ask(target, files, first, each) {
  if (each === 1) return sendPicture(target, files[first % files.length]);
  const form = new FormData();
  for (const [name, value] of queryOf(target)) form.append(name, value);
  for (let at = first; at < first + each; at++) form.append("images", files[at % files.length], `${at}`);
  return send("/", form, "");
}

// How many pictures travelled in calls of which size; so many of one size made count / size calls.
function drawBatches(answers, each) {
  const counts = new Map();
  for (const { times } of answers) if (times?.batch) counts.set(times.batch, (counts.get(times.batch) ?? 0) + each);
  const rows = [...counts].sort(([a], [b]) => b - a);
  const most = Math.max(...counts.values());
  const list = rows.map(([size, count]) => make("li", {}, make("span", {}, `batch of ${size}`), bar(count / most), make("span", { className: "soft" }, plural(count, "picture"))));
  const calls = rows.reduce((sum, [size, count]) => sum + Math.max(1, Math.round(count / size)), 0);
  const words = `About ${plural(calls, "call")} of the engine. `;
  const why = each === 1 ? `A browser keeps ${BROWSER_CONNECTIONS} connections to a server, so at most ${BROWSER_CONNECTIONS} of its requests share a call; other clients have no such limit.` : "";
  return [make("ol", { className: "batches", id: "batches" }, ...list), make("p", { className: "soft small" }, words + why)];
}

// The section of the page; `current` returns {target, files} when the button is pressed.
export function wireBurst(current) {
  byId("burst-send").addEventListener("click", async (event) => {
    const { target, files } = await current();
    event.target.disabled = true;
    await burst(target, files, Number(byId("burst-each").value), byId("burst-answer"));
    event.target.disabled = false;
  });
}
