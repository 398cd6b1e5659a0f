/** The table of floors (DESIGN, section 10): a folder imports only from floors strictly below its own. */
export const floors: Readonly<Record<string, { floor: number; idea: string }>> = {
  cli: { floor: 6, idea: "turn words into calls, errors into hints" },
  control: { floor: 5, idea: "the control plane: puts its parts behind one API" },
  sidecar: { floor: 5, idea: "the workload's program: identity, discovery and proxy together" },
  authority: { floor: 4, idea: "decide what to sign, and sign it" },
  registry: { floor: 4, idea: "who is where, for how long" },
  identity: { floor: 4, idea: "obtain, renew and publish this workload's certificate" },
  proxy: { floor: 4, idea: "carry one request from socket to endpoint" },
  storage: { floor: 3, idea: "one store port, several drivers" },
  telemetry: { floor: 3, idea: "events into metrics, traces, log lines" },
  transport: { floor: 3, idea: "TLS over real sockets; HTTP/1 and HTTP/2 connections; who is the peer" },
  policy: { floor: 2, idea: "may this call happen, and why (pure)" },
  contract: { floor: 2, idea: "what control plane and sidecar say to each other (pure)" },
  x509: { floor: 1, idea: "read and write certificates, requests, chains, bundles (pure)" },
  http: { floor: 1, idea: "bytes to HTTP events and back: HTTP/1, HTTP/2 frames, HPACK (pure)" },
  routing: { floor: 1, idea: "which route does this request match (pure)" },
  balancing: { floor: 1, idea: "which endpoint next (pure)" },
  resilience: { floor: 1, idea: "when to stop, wait, try again (pure)" },
  base: { floor: 0, idea: "clock, random, errors, SPIFFE IDs, options, published values (pure)" },
};

/** Two sides that never import each other; only `cli` sees both. */
const sides: readonly (readonly string[])[] = [
  ["storage", "authority", "registry", "control"],
  ["identity", "proxy", "sidecar"],
];

/** Floors 0 to 2 read no clock, no environment, no file and open no socket. */
export const pureFloorMax = 2;

/** Node's modules that a pure folder may use: they compute. */
export const pureModules: ReadonlySet<string> = new Set(["node:crypto", "node:buffer", "node:zlib"]);

/** What is wrong with an import from `from` (a folder of src) to `to`; undefined where nothing is. */
export function wrongImport(from: string, to: string): string | undefined {
  if (from === to) return undefined;
  const above = floors[from];
  const below = floors[to];
  if (above === undefined || below === undefined)
    return `${above === undefined ? from : to} is not in the table of floors`;
  for (const [index, side] of sides.entries()) {
    const other = sides[1 - index];
    if (side.includes(from) && other?.includes(to) === true)
      return `${from} and ${to} are on different sides; only cli sees both`;
  }
  if (above.floor <= below.floor) {
    return `${from} (floor ${above.floor}) imports ${to} (floor ${below.floor}): pass it in from above, or move the shared idea down`;
  }
  return undefined;
}

/** The floors as the picture that README shows. */
export function picture(): string {
  const lines: string[] = [];
  for (let floor = 6; floor >= 0; floor--) {
    const names = Object.keys(floors).filter((name) => floors[name]?.floor === floor);
    lines.push(`${floor}  ${names.join("  ")}`);
  }
  return lines.join("\n");
}
