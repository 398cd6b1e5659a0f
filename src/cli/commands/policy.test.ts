import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { readInput, type Run } from "../command.ts";
import { commands } from "../commands.ts";
import type { HauberkError } from "../../base/errors.ts";
import { run as apply } from "./policy-apply.ts";
import { run as explain } from "./policy-explain.ts";
import { run as testCases } from "./policy-test.ts";

const home = mkdtempSync(join(tmpdir(), "hauberk-policy-"));
const policies = join(home, "policies");
afterAll(() => rmSync(home, { recursive: true }));

const resources = `
apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: web-reads }
spec:
  target: { service: orders }
  action: ALLOW
  rules:
    - from: [{ services: [web] }]
      to: [{ methods: [GET], paths: ["/orders/*"] }]
    - from: [{ services: [web] }]
      to: [{ methods: [POST], headers: { x-shop: [one] } }]
      jwt: { provider: corp, claims: { scope: ["orders:write"] } }
    - from: [{ services: [batch], addresses: [10.0.0.0/8] }]
---
apiVersion: hauberk.dev/v1
kind: JwtProvider
metadata: { name: corp }
spec:
  issuer: https://corp.example
  audiences: [orders]
  algorithms: [ES256]
  keys: { uri: "https://corp.example/keys" }
`;
const cases = (expected: string): string => `
apiVersion: hauberk.dev/v1
kind: PolicyCases
cases:
  - name: web reads
    call: { from: web, to: orders, method: GET, path: /orders/1 }
    expect: ${expected}
`;

beforeEach(() => {
  rmSync(policies, { recursive: true, force: true });
  mkdirSync(join(policies, "team", "cases"), { recursive: true });
  writeFileSync(join(home, "hauberk.yaml"), "trustDomain: shop.example\n");
  writeFileSync(join(policies, "orders.yaml"), resources);
});

interface Said {
  readonly code: number;
  readonly out: string;
}

async function call(name: string, run: Run, args: readonly string[]): Promise<Said> {
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) throw new Error(`no command ${name}`);
  const out: string[] = [];
  const terminal = { json: args.includes("--json"), out: (text: string) => void out.push(text), err: () => undefined };
  const code = await run(readInput(command, args, { environment: {}, terminal, cwd: home }));
  return { code, out: out.join("\n") };
}

const asked = (...args: string[]): Promise<Said> => call("policy explain", explain, args);
const tested = (...args: string[]): Promise<Said> => call("policy test", testCases, args);
const write = (text: string): void => writeFileSync(join(policies, "team", "cases", "a.yaml"), text);

test("cases that all come out as expected end with 0, also those of a folder within", async () => {
  write(cases("allow"));
  expect(await tested()).toEqual({ code: 0, out: "ok      web reads\n\n1 case, all as expected" });
});

test("a case that does not ends with 1, and shows what was expected, what came, and the walk", async () => {
  write(cases("deny"));
  const said = await tested();
  expect(said.code).toBe(1);
  expect(said.out).toContain("FAILED  web reads (policies/team/cases/a.yaml:5)");
  expect(said.out).toMatch(/expected deny\n {8}got {6}allow, by default\/web-reads\n {8}\| spiffe:\/\/shop\.example/);
  expect(said.out).toContain("1 case, 1 not as expected");
});

test("the cases as JSON say the same", async () => {
  write(cases("deny"));
  const { out } = await tested("--json");
  expect(JSON.parse(out)).toMatchObject({
    passed: 0,
    failed: 1,
    cases: [{ name: "web reads", passed: false, got: { verdict: "allow", code: null } }],
  });
});

test("a folder without a case is refused: a test of nothing does not pass", async () => {
  await expect(tested()).rejects.toMatchObject({
    code: "USAGE",
    message: "Cannot test the policies: there is no folder policies/cases, and none deeper holds a case",
  });
  mkdirSync(join(policies, "cases"));
  await expect(tested()).rejects.toMatchObject({
    code: "USAGE",
    message: "Cannot test the policies: policies/cases holds no case",
  });
});

test("a case that cannot be read is refused with its line", async () => {
  write(cases("perhaps"));
  await expect(tested()).rejects.toMatchObject({
    code: "POLICY_INVALID",
    message: expect.stringContaining("a.yaml:7:") as string,
  });
});

test("a folder that is not there is refused", async () => {
  await expect(tested("nothing")).rejects.toMatchObject({ code: "USAGE" });
});

test("a folder without a policy allows nothing, which is explained and tested, and is not applied", async () => {
  rmSync(join(policies, "orders.yaml"));
  const { code, out } = await asked("--from", "web", "--to", "orders");
  expect([code, out]).toEqual([1, expect.stringContaining("no policy guards this service")]);
  write(cases("deny"));
  expect((await tested()).code).toBe(0);
  await expect(call("policy apply", apply, [])).rejects.toMatchObject({
    code: "POLICY_SET_EMPTY",
    message: expect.stringContaining("would remove all"),
  });
});

test("of several problems each is told with its place and its hint", async () => {
  writeFileSync(join(policies, "orders.yaml"), resources.replace("action:", "acton:").replace("target:", "targett:"));
  const refusal = await asked("--from", "web", "--to", "orders").catch((thrown: unknown) => thrown as HauberkError);
  expect(refusal).toMatchObject({ code: "POLICY_INVALID" });
  const { message } = refusal as HauberkError;
  expect(message).toMatch(/there are \d problems\n  policies\/orders.yaml:\d+:\d+: /);
  expect(message).toMatch(/"acton": it is not known in spec\n    hint: .*action/);
  expect(message).toMatch(/"targett": it is not known in spec\n    hint: .*target/);
});

test("an allowed call ends with 0 and names the policy, read by the home's trust domain", async () => {
  const { code, out } = await asked("--from", "web", "--to", "orders", "GET", "/orders/1?x=1");
  expect(code).toBe(0);
  expect(out).toContain("spiffe://shop.example/ns/default/sa/web calls orders.default: GET /orders/1\n");
  expect(out).toMatch(/allow, by default\/web-reads$/m);
});

test("a denied call ends with 1 and its code", async () => {
  const { code, out } = await asked("--from", "web", "--to", "orders", "DELETE", "/orders/1");
  expect(code).toBe(1);
  expect(out).toMatch(/deny with DENIED, by default deny$/m);
});

test("an answer names the folder that it was read from, and how that comes to be what the mesh does", async () => {
  const words = ["--from", "web", "--to", "orders", "GET"];
  for (const path of ["/orders/1", "/orders/%2f"]) {
    const { out } = await asked(...words, path);
    expect(out.split("\n").at(-1)).toBe(
      `Read from ${policies}, not from the mesh: hauberk policy apply puts it in force, --dry-run first shows what differs`,
    );
    expect(JSON.parse((await asked(...words, path, "--json")).out)).toMatchObject({ folder: policies });
  }
  const named = await asked(...words, "/orders/1", "--policies", "policies/team");
  expect(named.out).toContain(
    `Read from ${join(policies, "team")}, not from the mesh: hauberk policy apply policies/team puts`,
  );
});

test("the path is normalized before it is judged", async () => {
  expect(await asked("--from", "web", "--to", "orders", "/orders/%31/../2", "--json")).toMatchObject({
    code: 0,
    out: expect.stringContaining('"path": "/orders/2"') as string,
  });
  const refused = await asked("--from", "web", "--to", "orders", "/orders/%2f");
  expect(refused.code).toBe(1);
  expect(refused.out).toContain("deny with REQUEST_INVALID, before any policy");
});

test("CONNECT is a TCP connection: a rule on HTTP does not let it in, and the answer says so", async () => {
  const { code, out } = await asked("--from", "web", "--to", "orders", "--port", "6379", "CONNECT");
  expect(code).toBe(1);
  expect(out).toContain("calls orders.default: CONNECT port 6379\n");
  expect(out).toContain("a TCP connection shows no such thing");
});

test("a port that was only assumed is named where a policy asks for one, as the sidecar knows the real one", async () => {
  writeFileSync(join(policies, "orders.yaml"), resources.replace("[GET], paths", "[GET], ports: [8080], paths"));
  const assumed = await asked("--from", "web", "--to", "orders", "/orders/1");
  expect([assumed.code, assumed.out]).toEqual([1, expect.stringContaining("port 80 was assumed")]);
  const named = await asked("--from", "web", "--to", "orders", "--port", "8080", "/orders/1");
  expect([named.code, named.out]).toEqual([0, expect.not.stringContaining("assumed")]);
});

test("without an address the caller's sidecar decides, which leaves it to the callee", async () => {
  const { code, out } = await asked("--from", "batch", "--to", "orders");
  expect(code).toBe(1);
  expect(out).toContain("unknown, by default/web-reads\n  only the sidecar of orders.default can tell");
  expect((await asked("--from", "batch", "--to", "orders", "--address", "10.1.2.3")).code).toBe(0);
  expect((await asked("--from", "batch", "--to", "orders", "--address", "192.0.2.1")).code).toBe(1);
});

test("claims make a token of the only provider, headers reach the rules", async () => {
  const words = ["--from", "web", "--to", "orders", "POST", "/orders", "--header", "X-Shop: one"];
  expect((await asked(...words)).out).toMatch(/deny with JWT_MISSING/);
  expect((await asked(...words, "--claim", "scope=openid orders:write")).code).toBe(0);
  expect(
    (await asked(...words, "--claim", "scope=openid", "--claim", "scope=orders:write", "--provider", "corp")).code,
  ).toBe(0);
  expect((await asked(...words, "--provider", "default/corp")).out).toMatch(/deny with DENIED/);
});

test("a service that no policy lets in hears that it does not exist", async () => {
  const { out } = await asked("--from", "ledger", "--to", "orders", "--json");
  expect(JSON.parse(out)).toMatchObject({ verdict: "deny", code: "SERVICE_UNKNOWN", side: "caller" });
});

test.each([
  [["--to", "orders"], "--from SERVICE is missing"],
  [["--from", "web"], "--to SERVICE is missing"],
  [["--from", "web", "--to", "Orders"], 'the service name "Orders"'],
  [["--from", "web", "--to", "orders", "--port", "0"], "--port 0"],
  [["--from", "web", "--to", "orders", "--address", "here"], "--address here is no IP address"],
  [["--from", "web", "--to", "orders", "--header", "x"], '--header "x" is not NAME: VALUE'],
  [["--from", "web", "--to", "orders", "--claim", "x"], '--claim "x" is not NAME=VALUE'],
  [["--from", "web", "--to", "orders", "--provider", "other"], 'no JwtProvider "other"'],
  [["--from", "web", "--to", "orders", "/orders", "GET"], '"/orders" is no method'],
  [["--from", "web", "--to", "orders", "CONNECT", "/orders"], "CONNECT is a TCP connection"],
])("policy explain %j is refused as usage", async (words, what) => {
  await expect(asked(...words)).rejects.toMatchObject({
    code: "USAGE",
    message: expect.stringContaining(what) as string,
  });
});

test("a folder that is a link is part of the set, an editor's mark is not, and a file that cannot be read is named", async () => {
  const elsewhere = mkdtempSync(join(tmpdir(), "hauberk-linked-"));
  onTestFinished(() => rmSync(elsewhere, { recursive: true }));
  rmSync(join(policies, "orders.yaml"));
  writeFileSync(join(elsewhere, "orders.yaml"), resources);
  symlinkSync(elsewhere, join(policies, "linked"));
  symlinkSync("ann@host.1234", join(policies, ".#orders.yaml"));
  expect(await asked("--from", "web", "--to", "orders", "GET", "/orders/1")).toMatchObject({ code: 0 });
  symlinkSync("nowhere", join(policies, "gone.yaml"));
  await expect(asked("--from", "web", "--to", "orders")).rejects.toMatchObject({
    code: "POLICY_INVALID",
    message: expect.stringContaining(join("policies", "gone.yaml")) as string,
  });
});

test("TRACE is denied before any policy, as sidecars do it", async () => {
  writeFileSync(
    join(policies, "orders.yaml"),
    resources.replace('[{ methods: [GET], paths: ["/orders/*"] }]', '[{ paths: ["/*"] }]'),
  );
  expect(await asked("--from", "web", "--to", "orders", "PUT", "/")).toMatchObject({ code: 0 });
  const traced = await asked("--from", "web", "--to", "orders", "TRACE", "/", "--json");
  expect(traced.code).toBe(1);
  expect(JSON.parse(traced.out)).toMatchObject({ verdict: "deny", code: "METHOD_UNSUPPORTED" });
});
