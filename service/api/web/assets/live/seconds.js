// Seconds as the server tells them, added up: rates, batches, outcomes, and quantiles out of histograms.

// What happened in these seconds to the models that `wanted` takes: counts by outcome, edge and so on, all models together.
export function addUp(seconds, wanted = () => true) {
  const sum = { requests: {}, latency: {}, batches: {}, shadow: {}, distance: {}, images: 0, queue: 0 };
  for (const { models } of seconds) {
    sum.queue = 0; // of the last second
    for (const told of models.filter(wanted)) {
      for (const name of ["requests", "latency", "batches", "shadow", "distance"]) {
        for (const [key, count] of Object.entries(told[name] ?? {})) sum[name][key] = (sum[name][key] ?? 0) + count;
      }
      sum.images += told.images;
      sum.queue += told.queue;
    }
  }
  return sum;
}

export const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// A quantile in seconds out of counts by upper edge, evenly spread within a bucket; null if there is no value.
export function quantile(counts, share) {
  const buckets = Object.entries(counts).map(([edge, count]) => [edge === "+Inf" ? Infinity : Number(edge), count]).sort(([a], [b]) => a - b);
  let left = total(counts) * share;
  if (!buckets.length) return null;
  for (const [edge, count] of buckets) {
    if (left <= count) {
      const low = lowerEdge(edge);
      return edge === Infinity ? low : low + (edge - low) * (left / count);
    }
    left -= count;
  }
  return buckets.at(-1)[0];
}

// The edge within which a share of the counted values is; null if there is no value.
export function within(counts, share) {
  let left = total(counts) * share;
  const edges = Object.keys(counts).sort((a, b) => Number(a.replace("+Inf", "Infinity")) - Number(b.replace("+Inf", "Infinity")));
  return edges.find((edge) => (left -= counts[edge]) <= 0) ?? null;
}

// The edges of the server's histograms of time (service/telemetry/histogram.py); an SLO may add one.
const EDGES = [0, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10];
const lowerEdge = (edge) => EDGES.findLast((each) => each < edge) ?? 0;

// Outcomes in the order and the words of the pages.
export const OUTCOMES = { ok: "answered", invalid_input: "bad input", queue_full: "queue full", predicted_late: "would be late", expired: "too late", cancelled: "client left", draining: "draining", model_error: "model error", out_of_memory: "out of memory" };
export const wordOf = (outcome) => OUTCOMES[outcome] ?? outcome.replaceAll("_", " ");
