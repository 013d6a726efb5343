// One predict request of the page: what is asked for, and what came back with its times.

// The forms that the page can draw, by kind of output: far less to send than the numbers.
const FORMS = { boxes: "objects", mask: "png", image: "png" };
const MOST_GREY = 256; // a mask of more classes takes 16 bits a pixel, which a canvas can't read

// The query of `POST /` for a target; the same one goes into the snippets.
export function queryOf(target) {
  const { model, version, name, signature } = target;
  const query = new URLSearchParams({ model_name: model.model_name });
  if (version) query.set("model_version", version);
  if (name !== "serving_default") query.set("signature_name", name);
  const as = formsOf(signature);
  if (Object.keys(as).length) query.set("as", JSON.stringify(as));
  if (version && version !== model.model_version_list.at(-1)) query.set("top_k", 10); // with its own labels
  return query;
}

// The form that is asked of each output; an output that is not named comes as numbers.
export function formsOf(signature) {
  const forms = {};
  for (const [output, { kind, as = [], classes }] of Object.entries(signature.kinds ?? {})) {
    const form = kind === "mask" && classes > MOST_GREY ? "colours" : FORMS[kind];
    if (form && as.includes(form)) forms[output] = form;
  }
  return forms;
}

export const sendPicture = (target, picture) => send(`/?${queryOf(target)}`, picture, "application/octet-stream");

// Sends a body and returns {ok, status, body or error, ms, times}; never throws.
export async function send(url, body, type) {
  const started = performance.now();
  try {
    const headers = type ? { "Content-Type": type } : {};
    const answer = await fetch(url, { method: "POST", body, headers });
    const text = await answer.text();
    const ms = performance.now() - started;
    const times = readTimes(answer.headers.get("Server-Timing") ?? "");
    if (!answer.ok) return { ok: false, status: answer.status, error: messageOf(text), ms, times };
    return { ok: true, status: answer.status, body: JSON.parse(text), ms, times, bytes: text.length };
  } catch (error) {
    return { ok: false, status: 0, error: `No answer: ${error.message}`, ms: performance.now() - started, times: null };
  }
}

function messageOf(text) {
  try {
    return JSON.parse(text).error ?? text.slice(0, 500);
  } catch {
    return text.slice(0, 500);
  }
}

// `Server-Timing` as {stages: {parse: ms, …}, total, batch, reason}; null where it says nothing of stages.
export function readTimes(header) {
  const stages = {};
  for (const [, name, ms] of header.matchAll(/([a-z]+);dur=([\d.]+)/g)) stages[name] = Number(ms);
  const { total, ...rest } = stages;
  if (!Object.keys(rest).length) return null;
  return { stages: rest, total, batch: Number(/batch;desc="(\d+)"/.exec(header)?.[1] ?? 0), reason: /reason;desc="(\w+)"/.exec(header)?.[1] };
}
