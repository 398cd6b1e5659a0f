import { serve } from "./json-server.ts";

/** ledger: a REST API that only orders may call. It says who called, as its sidecar proved it. */
serve([
  [
    "GET",
    /^\/entries\/(\w+)$/,
    (request, [, account]) => ({ value: { account, balance: 42, caller: request.headers["x-forwarded-client-cert"] } }),
  ],
  ["GET", /^\/healthz$/, () => ({ value: { pid: process.pid } })],
]);
