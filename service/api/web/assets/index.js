// The first page: the server, every model with the state of its versions, what it takes and gives, and where to go next.
import { byId, code, make, milliseconds, number, percent, plural, say } from "/web/page.js";
import { fetchModels, isServed, isUnloaded, shapeText, signaturesOf, takesPicture, takesPictures, typeOf } from "/web/models.js";
import { addUp, quantile, total, within, wordOf } from "/web/seconds.js";

const REFRESH_MS = 5000; // while the page is seen

const NO_MODEL = "No model is here yet. One appears on this page as soon as its folder, NAME/1/saved_model.pb, is in the folder that is served.";
const words = { scores: "scores", boxes: "boxes", detection: "part of its boxes", mask: "a mask", image: "a picture", embedding: "an embedding", text: "text" };

function tensorsText(tensors) {
  return tensors.map((tensor) => `${tensor.name}: ${typeOf(tensor)} ${shapeText(tensor)}`);
}

// What a signature takes and gives, as a sentence.
function sentenceOf(signature, labels) {
  const takes = signature.inputs.map((input) => (input.name === signature.image_input ? `pictures (${signature.formats.join(", ")})` : `${input.name}, ${typeOf(input)} ${shapeText(input)}`));
  const gives = signature.outputs.map((output) => {
    const told = signature.kinds?.[output.name];
    const last = output.shape?.length === 2 ? output.shape[1] : 0;
    const kind = told?.kind ?? (last && last === labels ? "scores" : "");
    const what = kind === "scores" && last > 1 ? `${number(last)} scores` : (words[kind] ?? `${typeOf(output)} ${shapeText(output)}`);
    return `${output.name} (${what})`;
  });
  return `Takes ${takes.join(" and ") || "nothing"}; gives ${gives.join(", ")}.`;
}

// How much a shared call gains, as the server measured it: {size: milliseconds of one call}.
function gainOf(signature) {
  if (!signature.batched) return `Served one request at a time: ${signature.unbatched_reason}.`;
  const calls = Object.entries(signature.call_ms ?? {}).map(([size, ms]) => [Number(size), ms]);
  const [one, best] = [calls.find(([size]) => size === 1), calls.reduce((a, b) => (b[1] / b[0] < a[1] / a[0] ? b : a), calls[0] ?? [0, 0])];
  if (!one || best[0] < 2) return "Requests share calls.";
  const times = (one[1] * best[0]) / best[1];
  return `Requests share calls: one picture alone takes ${milliseconds(one[1])}, ${best[0]} together take ${milliseconds(best[1])}. That is ${times.toFixed(1)} times as many pictures a second.`;
}

function drawPasses(passes) {
  const items = passes.map(({ name, applied, reason }) => make("li", {}, make("span", { className: applied ? "yes" : "no" }, applied ? "applied" : "left out"), ` ${name}`, reason ? make("span", { className: "soft" }, `: ${reason}`) : ""));
  return make("ul", { className: "passes" }, ...items);
}

function drawSignature(name, signature, labels) {
  const applied = signature.passes.filter((pass) => pass.applied).length;
  const facts = make("dl", {},
    ...["inputs", "outputs"].flatMap((side) => [make("dt", {}, side === "inputs" ? "takes" : "gives"), ...tensorsText(signature[side]).map((text) => make("dd", {}, make("code", {}, text)))]),
  );
  const rewritten = make("details", {}, make("summary", {}, `Rewritten at the load: ${applied} of ${plural(signature.passes.length, "pass", "passes")} applied`), drawPasses(signature.passes));
  return make("section", { className: "signature", ariaLabel: `Signature ${name}` }, make("h3", {}, name), make("p", {}, sentenceOf(signature, labels)), make("p", { className: "soft small" }, gainOf(signature)), facts, ...(signature.passes.length ? [rewritten] : []));
}

// TensorFlow Serving has one state, END, for a version that failed and for one that was unloaded; the reason stands beside it.
const wordOfState = (state) => (state === "END" ? "not served" : state.toLowerCase());
// A version of a lazy model that is not in memory: nothing is wrong with it.
const isAsleep = ({ state, status }) => state === "AVAILABLE" && status.error_code === "OK" && status.error_message !== "";

function drawVersions(states) {
  const items = states.map((each) => {
    const { version, state, status } = each;
    if (isAsleep(each)) return make("li", {}, make("span", { className: "state" }, "not loaded yet"), ` version ${version}`, make("span", { className: "soft" }, ": the first request loads it"));
    const name = version === "0" ? "no version" : `version ${version}`;
    const why = status.error_message ? make("span", { className: "soft" }, `: ${status.error_message}`) : "";
    return make("li", {}, make("span", { className: `state ${state === "AVAILABLE" ? "good" : status.error_message ? "wrong" : ""}` }, wordOfState(state)), ` ${name}`, why);
  });
  return make("ul", { className: "versions" }, ...items);
}

// Which versions answer requests that name none, as the operator's rule has it; nothing without a rule.
function drawTraffic({ traffic }) {
  if (!traffic) return [];
  const shares = Object.entries(traffic.shares).map(([version, share], _, { length }) => (length > 1 ? `${percent(share)} to version ${version}` : `to version ${version}`));
  const kept = traffic.sticky === "picture" ? "the same picture always meets the same version" : `the same ${traffic.sticky} always meets the same version`;
  const beside = traffic.shadow ? ` Version ${traffic.shadow.version} runs beside, for ${percent(traffic.shadow.share)} of the answers at most.` : "";
  const amiss = [...traffic.missing.map((name) => `version ${name} is not served, and the others have its share`), traffic.trouble].filter(Boolean);
  const notes = amiss.map((text) => make("p", { className: "note" }, `Traffic: ${text}.`));
  return [make("p", { className: "small" }, `Requests that name no version go ${shares.join(", ")}${shares.length > 1 ? `; ${kept}` : ""}.${beside}`), ...notes];
}

// How the answers of the versions that ran beside compare with those that were given, a sentence or two for each.
function comparedTexts(seconds, keptS, name) {
  const told = seconds.flatMap(({ models }) => models.filter((each) => each.model === name && each.shadow));
  return [...new Set(told.map(({ version }) => version))].map((version) => {
    const { shadow, distance } = addUp(seconds, (each) => each.model === name && each.version === version);
    const { same = 0, different = 0, unranked = 0, failed = 0, dropped = 0, shadow_s: ran = 0, answer_s: would = 0 } = shadow;
    const upTo = (share) => (within(distance, share) === "+Inf" ? "more than 100" : `at most ${Number(within(distance, share)).toLocaleString("en", { maximumFractionDigits: 6 })}`);
    const compared = same + different + unranked;
    const parts = [`Version ${version} beside: ${plural(compared, "picture")} compared in the last ${Math.round(keptS / 60)} minutes`];
    if (same + different) parts[0] += `, ${percent(same / (same + different))} of them have the same class`;
    if (total(distance)) parts.push(`Half of the answers differ by ${upTo(0.5)}, 99 % by ${upTo(0.99)}`);
    if (ran && would) parts.push(`Its calls take ${(ran / would).toFixed(1)} times as long`);
    const more = [failed ? `${number(failed)} failed` : "", dropped ? `${number(dropped)} left out, as there was no time` : ""].filter(Boolean);
    return `${[...parts, ...(more.length ? [more.join(", ")] : [])].join(". ")}.`;
  });
}

function linksOf(model) {
  const query = new URLSearchParams({ model: model.model_name });
  const link = (page, text, className = "button") => make("a", { href: `/${page}?${query}`, className }, text);
  const what = isUnloaded(model) ? "Load it and try" : takesPictures(model) ? "Try a picture" : "Fill in a form";
  const links = [link("image_inference", what, "button main"), link("json_inference", "Send JSON"), link("generate_clients", "Get a client"), link("live", "Watch it live")];
  const name = encodeURIComponent(model.model_name);
  if (model.label_count) links.push(make("a", { href: `/v1/models/${name}/labels` }, plural(model.label_count, "label")));
  links.push(make("a", { href: `/v1/models/${name}` }, "As JSON"));
  return make("p", { className: "links" }, ...links);
}

function drawModel(model) {
  const head = make("h2", {}, model.model_name);
  const parts = [head, drawVersions(model.model_version_status), ...drawTraffic(model)];
  if (isServed(model)) {
    const signatures = Object.entries(signaturesOf(model)).map(([name, signature]) => drawSignature(name, signature, model.label_count));
    const refused = Object.entries(model.refused_signatures).map(([name, reason]) => make("p", { className: "note" }, `Signature ${name} is refused: ${reason}`));
    parts.push(make("p", { className: "recent soft small" }), make("div", { className: "compared soft small" }), ...signatures, ...refused, linksOf(model));
  } else if (isUnloaded(model)) parts.push(linksOf(model));
  const card = make("article", { className: "card model" }, ...parts);
  card.dataset.model = model.model_name;
  return card;
}

// What happened to one model in the last minutes, as a sentence.
function recentText(seconds, keptS, name) {
  const sum = addUp(seconds, ({ model }) => model === name);
  const requests = total(sum.requests);
  const minutes = `the last ${Math.round(keptS / 60)} minutes`;
  if (!requests) return `No requests in ${minutes}.`;
  const outcomes = Object.entries(sum.requests).sort(([, a], [, b]) => b - a).map(([outcome, count]) => `${number(count)} ${wordOf(outcome)}`);
  const calls = total(sum.batches);
  const shared = calls ? `; ${plural(calls, "call")} of ${(sum.images / calls).toFixed(1)} on average` : "";
  const [half, most] = [0.5, 0.99].map((share) => milliseconds(quantile(sum.latency, share) * 1000));
  return `In ${minutes}: ${outcomes.join(", ")}${shared}; half within about ${half}, 99 % within ${most}.`;
}

function upText(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function deviceText({ devices, cores }) {
  const gpus = devices.filter((device) => device.startsWith("gpu"));
  return gpus.length ? `${plural(gpus.length, "GPU")} and ${plural(cores, "core")}` : `CPU, ${plural(cores, "core")}`;
}

async function showRecent() {
  const answer = await fetch("/live/events");
  if (!answer.ok) return; // such a token may not read metrics
  const { server, seconds, kept_s: keptS } = await answer.json();
  const workers = server.workers > 1 ? `, ${server.workers} workers` : "";
  byId("server").textContent = `Darkroom ${server.version} with TensorFlow ${server.tensorflow}, up ${upText(server.uptime_s)}, on ${deviceText(server)}${workers}.${server.trouble ? ` Not ready: ${server.trouble}.` : ""}`;
  for (const card of document.querySelectorAll("[data-model]")) {
    const line = card.querySelector(".recent");
    if (line) line.textContent = recentText(seconds, keptS, card.dataset.model);
    const compared = comparedTexts(seconds, keptS, card.dataset.model).map((text) => make("p", {}, text));
    card.querySelector(".compared")?.replaceChildren(...compared);
  }
}

let drawn = "";

// The cards are drawn anew only when they changed, so that folds stay open.
async function show() {
  try {
    const models = await fetchModels();
    const served = models.filter(isServed);
    const text = JSON.stringify(models.map(({ signatures, ...rest }) => [rest, Object.values(signatures).map(({ call_ms, ...others }) => others)]));
    if (text !== drawn) {
      drawn = text;
      byId("models").replaceChildren(...models.map(drawModel));
      const asked = served.find((model) => Object.values(model.signatures).some(takesPicture)) ?? served[0];
      byId("ask").hidden = !asked;
      if (asked) byId("curl").replaceChildren(code(`curl '${location.origin}/v1/models/${encodeURIComponent(asked.model_name).replaceAll("'", "%27")}/gen_client' | bash`, "A client of bash"));
    }
    say(served.length ? "" : models.length ? "No model is served yet." : NO_MODEL, !served.length);
    await showRecent();
  } catch (error) {
    say(`The server does not answer: ${error.message}`, true);
  }
}

show();
setInterval(() => { if (!document.hidden) show(); }, REFRESH_MS);
