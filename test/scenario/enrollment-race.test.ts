import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { eventually, Mesh, says, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";

let mesh: Mesh;
let routee: Routee;

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  routee = await openRoutee({ name: "orders" });
  await Promise.all([
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders") + allow("unit", "orders")),
  ]);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("of sidecars that race with one token exactly one wins, and the others are told TOKEN_ALREADY_USED", async () => {
  const token = await mesh.token("racer");
  const racers = await Promise.all(
    [1, 2, 3, 4].map((instance) =>
      run("racer", ["--instance", String(instance), "--token-file", token], [process.execPath, "-e", ""]),
    ),
  );
  expect(racers.map(({ code }) => code).sort((a, b) => a - b)).toEqual([0, 1, 1, 1]);
  for (const { code, err } of racers) if (code === 1) expect(err).toContain("TOKEN_ALREADY_USED");
});

test("the same unit, with the flags and the used token that it always had, survives a restart", async () => {
  const unit = ["proxy", "--service", "unit", "--token-file", await mesh.token("unit"), "--open-outbound"];
  const first = await mesh.start(unit);
  await first.kill("SIGKILL");
  const second = await mesh.start(unit);
  expect(second.ready["instance"]).toBe(first.ready["instance"]);
  await second.kill("SIGTERM");
  const third = await mesh.start(unit);
  expect(third.ready["instance"]).toBe(first.ready["instance"]);
  expect(await third.kill("SIGTERM")).toBe(0);
});

test("a token handed over by HAUBERK_TOKEN is removed from the program's environment, and stands in no argument and no log", async () => {
  const token = readFileSync(await mesh.token("env"), "utf8").trim();
  const told = join(mesh.folder, "environment.json");
  const program = `require("node:fs").writeFileSync(${JSON.stringify(told)}, JSON.stringify({ pid: process.pid, env: process.env })); setInterval(() => {}, 1000);`;
  const sidecar = await mesh.start(["run", "--service", "env", "--log-level", "debug"], {
    environment: { HAUBERK_TOKEN: token },
    program: [process.execPath, "-e", program],
  });
  const { pid, env } = await eventually("the program told its environment", 5_000, () => {
    try {
      return JSON.parse(readFileSync(told, "utf8")) as { pid: number; env: Record<string, string> };
    } catch {
      return undefined;
    }
  });
  // The sidecar itself was given it so: what is shown here is that the search would find it.
  expect(readFileSync(`/proc/${sidecar.pid}/environ`, "utf8")).toContain(token);
  expect(readFileSync(`/proc/${pid}/environ`, "utf8")).not.toContain(token);
  expect(JSON.stringify(env)).not.toContain(token);
  expect(env).not.toHaveProperty("HAUBERK_TOKEN");
  expect(env["http_proxy"]).toMatch(/^http:\/\/hauberk:[\w-]{32}@127\.0\.0\.1:\d+$/);
  expect(env["HTTP_PROXY"]).toBe(env["http_proxy"]);
  const lines = commandLines();
  expect(lines).toContain("--service env");
  expect(lines).not.toContain(token);
  expect(sidecar.output()).not.toContain(token.slice(0, 40));
  await sidecar.kill("SIGTERM");
});

test("hauberk run passes its program's exit code on: 0, 7, and 128 + the signal", async () => {
  await run("web", ["--token-file", await mesh.token("web")], [process.execPath, "-e", ""]);
  for (const [program, code] of [
    ["process.exit(0)", 0],
    ["process.exit(7)", 7],
    ["process.kill(process.pid, 'SIGTERM')", 128 + 15],
  ] as const) {
    expect((await run("web", [], [process.execPath, "-e", program])).code, program).toBe(code);
  }
});

test("a program behind hauberk run calls services through http_proxy, and with the secret of its proxy only", async () => {
  await eventually("web calls orders", 5_000, async () => {
    const answer = await run("web", [], ["curl", "-sS", "http://orders/"]);
    return answer.code === 0 && answer.out === "orders" ? true : undefined;
  });
  const without = await run(
    "web",
    [],
    ["sh", "-c", 'curl -s -x "http://${http_proxy#*@}" -o /dev/null -w "%{http_code}" http://orders/'],
  );
  expect(without.out).toBe("407");
});

test("hauberk run ends its program before the sidecar: on its way out the program can still call", async () => {
  const script = [
    'const { get } = require("node:http");',
    'process.on("SIGTERM", () => get("http://orders/goodbye", (answer) => { console.log("last " + answer.statusCode); process.exit(3); }));',
    'console.log("program is up"); setInterval(() => {}, 1000);',
  ].join("\n");
  const sidecar: Started = await mesh.start(["run", "--service", "web"], { program: [process.execPath, "-e", script] });
  await eventually("the program is up", 5_000, () => (sidecar.output().includes("program is up") ? true : undefined));
  expect(await sidecar.kill("SIGTERM")).toBe(3);
  await eventually("its last call was answered", 2_000, () =>
    sidecar.output().includes("last 200") ? true : undefined,
  );
  expect(routee.requests.at(-1)?.path).toBe("/goodbye");
});

test("hauberk run says that it kills a program which heeds no signal, and after how long", async () => {
  const deaf = ["sh", "-c", "trap '' INT; echo the program is deaf; exec sleep 60"];
  const sidecar = await mesh.start(["run", "--service", "web", "--grace", "1s"], { program: deaf });
  await says(sidecar, "the program is deaf");
  expect(await sidecar.kill("SIGINT")).toBe(137);
  await says(sidecar, "sh did not end within 1s of SIGINT and is killed; --grace allows more");
});

test("a program does not outlive its sidecar that is killed with -9: both can be started anew", async () => {
  const script = "console.log('pid ' + process.pid + ' is up'); setInterval(() => {}, 1000);";
  const flags = ["run", "--service", "web", "--token-file", await mesh.token("web")];
  const sidecar = await mesh.start(flags, { program: [process.execPath, "-e", script] });
  const pid = await eventually("the program is up", 5_000, () => /pid (\d+) is up/.exec(sidecar.output())?.[1]);
  onTestFinished(() => {
    try {
      process.kill(Number(pid), "SIGKILL");
    } catch {
      // It has ended, as it should.
    }
  });
  await sidecar.kill("SIGKILL");
  await eventually("the program has ended", 20_000, () => {
    try {
      process.kill(Number(pid), 0);
      return undefined;
    } catch {
      return true;
    }
  });
});

function run(service: string, flags: readonly string[], program: readonly string[]): ReturnType<Mesh["run"]> {
  return mesh.run(["run", "--service", service, ...flags, "--", ...program]);
}

/** What `ps` shows of every process of this machine. */
function commandLines(): string {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        return ""; // Ended since it was listed.
      }
    })
    .join("\n");
}
