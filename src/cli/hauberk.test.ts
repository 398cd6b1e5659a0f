import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const program = fileURLToPath(new URL("hauberk.ts", import.meta.url));

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Starts the program the way a shell does, on a Node that says it is `version`. */
function start(args: readonly string[], version = process.versions.node): Promise<Ended> {
  const pretend = `Object.defineProperty(process, "versions", { value: { ...process.versions, node: "${version}" } })`;
  const node = ["--import", `data:text/javascript,${encodeURIComponent(pretend)}`, program, ...args];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, node, (_, out, err) => resolve({ code: child.exitCode ?? -1, out, err }));
  });
}

test.each(["20.19.0", "22.14.0", "24.16.9"])(
  "Node %s is refused with a sentence and the next step",
  async (version) => {
    const { code, out, err } = await start(["--version"], version);
    expect(code).toBe(70);
    expect(out).toBe("");
    expect(err).toMatch(
      /^error: Cannot start hauberk: this is Node .* wanted 24\.17 or later \(NODE_TOO_OLD\)\nhint: /,
    );
  },
);

test.each(["24.17.0", "26.0.0"])("Node %s is new enough", async (version) => {
  expect(await start(["--version"], version)).toMatchObject({
    code: 0,
    err: "",
    out: expect.stringMatching(/^hauberk \d/) as string,
  });
});

test("without a command the overview is shown, as a usage error", async () => {
  const { code, out } = await start([]);
  expect(code).toBe(2);
  expect(out).toContain("policy explain");
});

test("an unknown command ends with 2, on standard error", async () => {
  const { code, out, err } = await start(["fly", "--json"]);
  expect({ code, out }).toEqual({ code: 2, out: "" });
  expect(JSON.parse(err)).toMatchObject({ code: "USAGE", hint: "See hauberk --help" });
});

test("the first word of a family names the family", async () => {
  expect((await start(["policy"])).err).toContain('"policy" needs one of apply, test, explain');
});

test("every command shows its help without doing anything", async () => {
  const { code, out } = await start(["policy", "explain", "--help"]);
  expect(code).toBe(0);
  expect(out).toContain("Usage: hauberk policy explain");
});
