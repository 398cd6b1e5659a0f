import { isScalar } from "yaml";
import { failures, type FailureCode } from "../base/errors.ts";
import { defaultsOf, type OptionValues } from "../base/options.ts";
import type { CaseCall, PolicyCase } from "./cases.ts";
import { policyOptions } from "./options.ts";
import { readDocuments } from "./yaml-documents.ts";
import {
  integer,
  list,
  map,
  oneOf,
  record,
  text,
  word,
  type At,
  type Desk,
  type Problem,
  type Read,
} from "./yaml-shape.ts";

/** `policies/cases/*.yaml`: read as strictly as the policies, because a case that is misread tests nothing. */
export type CaseSet =
  | { readonly is: "read"; readonly cases: readonly PolicyCase[] }
  | { readonly is: "refused"; readonly problems: readonly Problem[] };

type Tokens = NonNullable<CaseCall["tokens"]>;

/** `invalid`, `unavailable`, or the claims of a valid token. */
const token: Read<Tokens[string]> = (at, key, desk) => {
  if (isScalar(at)) return oneOf("invalid", "unavailable")(at, key, desk);
  const claims = at === null ? undefined : (at.toJSON() as unknown);
  if (typeof claims === "object" && claims !== null && !Array.isArray(claims)) return claims as Record<string, unknown>;
  return desk.wrong(
    at,
    `Cannot use ${key}: it is neither claims nor "invalid" nor "unavailable"`,
    "Write { scope: orders:read }",
  );
};

const anyKey = (): undefined => undefined;
const call = map(
  {
    from: text(),
    to: text(),
    method: text(),
    path: text(),
    host: text(),
    port: integer(1, 65_535),
    headers: record(anyKey, list(word())),
    address: text(),
    tokens: record(anyKey, token),
  },
  ["to", "method"],
);
const one = map(
  {
    name: text(),
    call,
    expect: oneOf("allow", "deny", "unknown"),
    code: oneOf(...(Object.keys(failures) as FailureCode[])),
    by: text(),
  },
  ["name", "call", "expect"],
);
const several: Read<At[]> = (at, key, desk) => list<At>((item) => item)(at, key, desk);
const file = map({ apiVersion: oneOf("hauberk.dev/v1"), kind: oneOf("PolicyCases"), cases: several }, [
  "apiVersion",
  "kind",
  "cases",
]);

/** Never throws on content: either every case, or every problem. A case's name stands once in the set. */
export function readCases(
  files: readonly { readonly path: string; readonly text: string }[],
  limits: OptionValues<typeof policyOptions> = defaultsOf(policyOptions),
): CaseSet {
  const cases: PolicyCase[] = [];
  const problems: Problem[] = [];
  for (const input of files) {
    const { desk, roots } = readDocuments(input, limits);
    for (const root of roots) {
      for (const at of file(root, "the file of cases", desk)?.values.cases ?? [])
        readCase(at, { desk, path: input.path, cases });
    }
    problems.push(...desk.problems);
  }
  return problems.length > 0
    ? { is: "refused", problems: problems.slice(0, limits.policyProblemsMax) }
    : { is: "read", cases };
}

interface Place {
  readonly desk: Desk;
  readonly path: string;
  readonly cases: PolicyCase[];
}

function readCase(at: At, { desk, path, cases }: Place): void {
  const found = one(at, "the case", desk)?.values;
  const { to, method, path: written, ...rest } = found?.call?.values ?? {};
  if (found?.name === undefined || found.expect === undefined) return;
  if (to === undefined || method === undefined) return;
  const target = method === "CONNECT" ? "" : written;
  if (target === undefined) {
    desk.wrong(at, 'Cannot read the call: "path" is missing', "Add path: /, or method: CONNECT for a TCP connection");
    return;
  }
  if (cases.some((other) => other.name === found.name))
    desk.wrong(at, `Cannot use the case "${found.name}": another has this name`, "Rename one of them");
  cases.push({
    name: found.name,
    file: path,
    line: desk.lineOf(at),
    call: { to, method, path: target, ...rest },
    expect: found.expect,
    ...(found.code === undefined ? {} : { code: found.code }),
    ...(found.by === undefined ? {} : { by: found.by }),
  });
}
