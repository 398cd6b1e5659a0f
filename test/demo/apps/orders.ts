import { env } from "node:process";
import { call } from "./mesh-call.ts";
import { serve } from "./json-server.ts";

/** orders: a REST API. What an order costs it asks of ledger, through its own sidecar. */
let mode = "well";
let turn = 0;

serve([
  [
    "GET",
    /^\/orders\/flaky$/,
    () =>
      env["FLAKY"] !== undefined && turn++ % 6 === 5
        ? { status: 503, value: { error: "flaky" } }
        : { value: { order: "flaky", instance: env["INSTANCE"] } },
  ],
  [
    "GET",
    /^\/orders\/(\w+)$/,
    (_request, [, order]) =>
      mode === "broken"
        ? { status: 503, value: { error: "broken on purpose" } }
        : { value: { order, instance: env["INSTANCE"] } },
  ],
  [
    "GET",
    /^\/orders\/(\w+)\/total$/,
    async (_request, [, order]) => {
      const answer = await call({ url: `http://ledger/entries/${order}` });
      return { status: answer.status, value: { order, ledger: JSON.parse(answer.body) as unknown } };
    },
  ],
  [
    "POST",
    /^\/orders$/,
    (request, _match, body) => ({
      status: 201,
      value: { created: body.length, by: request.headers["x-forwarded-client-cert"] },
    }),
  ],
  ["GET", /^\/healthz$/, () => ({ value: { pid: process.pid } })],
  // For whoever runs the demo, on loopback: no policy lets anybody call it through the mesh.
  [
    "PUT",
    /^\/demo\/(well|broken)$/,
    (_request, [, wanted]) => {
      mode = wanted ?? "well";
      return { value: { mode } };
    },
  ],
]);
