import { readFileSync } from "node:fs";
import { isMap, isScalar, LineCounter, parseDocument, type Node, type Pair } from "yaml";
import { HauberkError } from "../base/errors.ts";
import { isTrustDomain } from "../base/spiffe-id.ts";
import { readDuration } from "./terminal.ts";

/** What hauberk.yaml says: every key optional but the trust domain, unknown keys refused. */
export interface Config {
  readonly trustDomain: string;
  /** `host:port` of the two listeners of the control plane. */
  readonly mesh: string;
  readonly enrollment: string;
  /** Host names or addresses at which sidecars reach the control plane; empty for this machine's own. */
  readonly advertise: readonly string[];
  /** The SQLite file, relative to the mesh home. */
  readonly store: string;
  readonly leafLifetimeMs: number | undefined;
  readonly tokenLifetimeMs: number | undefined;
  readonly allowSeconds: boolean;
  /** Option names with their values, checked against the tables where they are used. */
  readonly options: Readonly<Record<string, number | string | boolean>>;
}

type Read = (value: unknown) => string | undefined;

const address: Read = (value) =>
  typeof value === "string" && /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/.test(value)
    ? undefined
    : "an address HOST:PORT";
const duration: Read = (value) =>
  typeof value === "string" && readDuration(value) !== undefined ? undefined : "a duration such as 30s, 10m, 24h or 7d";
const truth: Read = (value) => (typeof value === "boolean" ? undefined : "true or false");
const text: Read = (value) => (typeof value === "string" && value !== "" ? undefined : "a text");
const texts: Read = (value) =>
  Array.isArray(value) && value.every((entry) => typeof entry === "string" && entry !== "")
    ? undefined
    : "a list of texts";
const plain: Read = (value) =>
  ["string", "number", "boolean"].includes(typeof value) ? undefined : "a number, a text, true or false";

const shape: Readonly<Record<string, Read | Readonly<Record<string, Read>> | "any">> = {
  trustDomain: (value) =>
    typeof value === "string" && isTrustDomain(value) ? undefined : 'a trust domain of a-z, 0-9, ".", "_", "-"',
  addresses: { mesh: address, enrollment: address, advertise: texts },
  store: { sqlite: text },
  lifetimes: { leaf: duration, token: duration, allowSeconds: truth },
  options: "any",
};

/** Reads and checks the file; the first problem is told with its line and column. */
export function readConfig(file: string): Config {
  let source: string;
  try {
    source = readFileSync(file, "utf8");
  } catch (thrown) {
    throw new HauberkError(
      "CONFIG_INVALID",
      `Cannot read ${file}: ${(thrown as Error).message}`,
      "Check that it exists and that you may read it",
      thrown,
    );
  }
  const lines = new LineCounter();
  const document = parseDocument(source, { lineCounter: lines, maxAliasCount: 0 } as object);
  const where = (offset: number | undefined): string => {
    const { line, col } = lines.linePos(offset ?? 0);
    return `${file}:${line}:${col}`;
  };
  const [error] = document.errors;
  // The library says the place once more.
  const said = error?.message.split("\n")[0]?.replace(/ at line \d+, column \d+:?$/, "");
  if (error !== undefined) throw invalid(where(error.pos[0]), said ?? "it is no YAML", "Mend the YAML");
  const root = document.contents;
  if (root !== null && !isMap(root))
    throw invalid(where(0), "the file is not a mapping", "Start with trustDomain: NAME");
  const values: Record<string, unknown> = {};
  for (const pair of root?.items ?? []) readKey(pair, values, where);
  if (values["trustDomain"] === undefined)
    throw invalid(where(0), "trustDomain is missing", "Add trustDomain: NAME, the name that hauberk init gave the CA");
  return configOf(values);
}

function readKey(
  pair: Pair<Node, Node | null>,
  values: Record<string, unknown>,
  where: (offset?: number) => string,
): void {
  const key = isScalar(pair.key) ? String(pair.key.value) : "";
  const rule = Object.hasOwn(shape, key) ? shape[key] : undefined;
  if (rule === undefined)
    throw invalid(
      where(pair.key.range?.[0]),
      `"${key}" is no key of it`,
      `Use one of ${Object.keys(shape).join(", ")}`,
    );
  const at = where(pair.value?.range?.[0] ?? pair.key.range?.[0]);
  const value: unknown = pair.value === null ? null : (pair.value as { toJSON(): unknown }).toJSON();
  if (typeof rule === "function") {
    const wanted = rule(value);
    if (wanted !== undefined) throw invalid(at, `"${key}" is not ${wanted}`, "Mend this line");
    values[key] = value;
    return;
  }
  if (!isMap(pair.value)) throw invalid(at, `"${key}" is not a mapping`, "Mend this line");
  for (const inner of pair.value.items as Pair<Node, Node | null>[]) {
    const name = isScalar(inner.key) ? String(inner.key.value) : "";
    const check = rule === "any" ? plain : Object.hasOwn(rule, name) ? rule[name] : undefined;
    const start = where(inner.key.range?.[0]);
    if (check === undefined)
      throw invalid(start, `"${key}.${name}" is no key of it`, `Use one of ${Object.keys(rule).join(", ")}`);
    const content: unknown = inner.value === null ? null : (inner.value as { toJSON(): unknown }).toJSON();
    const wanted = check(content);
    if (wanted !== undefined)
      throw invalid(
        where(inner.value?.range?.[0] ?? inner.key.range?.[0]),
        `"${key}.${name}" is not ${wanted}`,
        "Mend this line",
      );
    values[`${key}.${name}`] = content;
  }
}

function invalid(at: string, what: string, hint: string): HauberkError {
  return new HauberkError("CONFIG_INVALID", `Cannot use ${at}: ${what}`, hint);
}

function configOf(values: Record<string, unknown>): Config {
  const options: Record<string, number | string | boolean> = {};
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("options.")) options[name.slice("options.".length)] = value as number | string | boolean;
  }
  const ms = (name: string): number | undefined =>
    values[name] === undefined ? undefined : readDuration(values[name] as string);
  return Object.freeze({
    trustDomain: values["trustDomain"] as string,
    mesh: (values["addresses.mesh"] as string | undefined) ?? "0.0.0.0:7443",
    enrollment: (values["addresses.enrollment"] as string | undefined) ?? "0.0.0.0:7444",
    advertise: (values["addresses.advertise"] as string[] | undefined) ?? [],
    store: (values["store.sqlite"] as string | undefined) ?? "certs/control/store.db",
    leafLifetimeMs: ms("lifetimes.leaf"),
    tokenLifetimeMs: ms("lifetimes.token"),
    allowSeconds: (values["lifetimes.allowSeconds"] as boolean | undefined) ?? false,
    options: Object.freeze(options),
  });
}

/** `0.0.0.0:7443` to its parts. */
export function splitAddress(text: string): { host: string; port: number } {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
}
