import { call, type MeshAnswer, type MeshCall } from "./mesh-call.ts";
import { serve } from "./json-server.ts";

/** web: a server for people and a client of the mesh. It makes the calls that it is asked for, one or a steady load of them. */
interface Load {
  readonly counts: Record<string, number>;
  readonly instances: Record<string, number>;
  readonly codes: Record<string, number>;
  sent: number;
  done: number;
  running: boolean;
  startedMs: number;
  endedMs: number;
}

let load: Load | undefined;

function begin(wanted: MeshCall & { perSecond: number }): Load {
  const begun: Load = {
    counts: {},
    instances: {},
    codes: {},
    sent: 0,
    done: 0,
    running: true,
    startedMs: performance.now(),
    endedMs: 0,
  };
  const tick = setInterval(() => {
    if (!begun.running) {
      clearInterval(tick);
      return;
    }
    const due = Math.floor(((performance.now() - begun.startedMs) / 1000) * wanted.perSecond);
    // Bounded: what a stalled mesh holds back is not sent all at once.
    while (begun.sent < due && begun.sent - begun.done < 64) {
      begun.sent++;
      void call(wanted).then(
        (answer) => count(begun, answer),
        (thrown: unknown) => count(begun, { status: 0, code: String(thrown), body: "" }),
      );
    }
  }, 5);
  return begun;
}

function count(into: Load, answer: MeshAnswer): void {
  into.done++;
  into.counts[answer.status] = (into.counts[answer.status] ?? 0) + 1;
  if (answer.code !== undefined) into.codes[answer.code] = (into.codes[answer.code] ?? 0) + 1;
  const instance = /"instance":"([^"]+)"/.exec(answer.body)?.[1];
  if (instance !== undefined) into.instances[instance] = (into.instances[instance] ?? 0) + 1;
}

/** Waits for the answers of what was sent. */
async function end(): Promise<Load | undefined> {
  const ended = load;
  if (ended === undefined) return undefined;
  ended.running = false;
  ended.endedMs = performance.now();
  while (ended.done < ended.sent) await new Promise((resolve) => setImmediate(resolve));
  return ended;
}

serve([
  ["POST", /^\/call$/, async (_request, _match, body) => ({ value: await call(JSON.parse(body) as MeshCall) })],
  [
    "POST",
    /^\/load$/,
    (_request, _match, body) => {
      load = begin(JSON.parse(body) as MeshCall & { perSecond: number });
      return { value: {} };
    },
  ],
  ["GET", /^\/load$/, () => ({ value: load ?? null })],
  ["DELETE", /^\/load$/, async () => ({ value: (await end()) ?? null })],
  ["GET", /^\/healthz$/, () => ({ value: { pid: process.pid } })],
]);
