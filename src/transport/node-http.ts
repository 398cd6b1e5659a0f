/**
 * Node's own HTTP, for the few places of a sidecar that are not the data path. `import … from "node:http"` makes every export
 * of it a binding and so reads its WebSocket, which loads the undici that lies inside Node: 16 MB of resident memory in a
 * process that may hold 80 (measured, Node 26).
 */
export const { createServer, request } = process.getBuiltinModule("node:http");
