import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CertificateRow, ServicesAnswer } from "../../src/contract/admin.ts";
import { ask, eventually, sumOf } from "../support/mesh.ts";
import type { MeshCall } from "./apps/mesh-call.ts";
import type { Stage } from "./stage.ts";

/**
 * The story, step by step. Each gives what was seen; each throws when it did not happen; each can be sabotaged:
 * its own mechanism is broken, and then it must fail.
 */
export interface Step {
  readonly name: string;
  readonly title: string;
  readonly run: (stage: Stage, sabotaged: boolean) => Promise<string>;
}

function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Error(otherwise);
}

const order: MeshCall = { url: "http://orders/orders/1" };

function asAnn(stage: Stage, wanted: MeshCall, scope = "orders:read"): MeshCall {
  return { ...wanted, headers: { ...wanted.headers, authorization: `Bearer ${stage.token({ scope })}` } };
}

/** Calls until it is answered so: policies reach sidecars within moments, not at once. */
async function callUntil(stage: Stage, wanted: MeshCall, status: number): Promise<string> {
  let last = "";
  return eventually(`${wanted.url} answers ${status}`, 3_000, async () => {
    const answer = await stage.call(wanted);
    last = `${answer.status} ${answer.code ?? ""}`.trim();
    return answer.status === status ? last : undefined;
  }).catch(() => {
    throw new Error(`${wanted.url} answered ${last} where ${status} was expected`);
  });
}

const bootstrap: Step = {
  name: "bootstrap",
  title: "A certificate authority and a control plane are started",
  run: async (stage, sabotaged) => {
    await stage.bootstrap({ withoutKey: sabotaged });
    return `hauberk init made a root and an issuing CA; hauberk control listens on ${stage.mesh.ports.mesh} (mesh API) and ${stage.mesh.ports.enrollment} (enrollment)`;
  },
};

let usedToken = "";

const enroll: Step = {
  name: "enroll",
  title: "Four workloads enroll with tokens, each a real program behind a sidecar of its own",
  run: async (stage, sabotaged) => {
    const cast = [
      ["web", "web", "web.ts"],
      ["orders-1", "orders", "orders.ts"],
      ["orders-2", "orders", "orders.ts"],
      ["ledger", "ledger", "ledger.ts"],
    ] as const;
    usedToken = "";
    await Promise.all(
      cast.map(async ([name, service, program]) => {
        const token = await stage.mesh.token(
          service,
          stage.sabotage === "token-twice" && name === "orders-1" ? ["--uses", "2"] : [],
        );
        if (name === "orders-1") usedToken = token;
        if (sabotaged && name === "ledger") damage(token);
        await stage.play(name, { service, program, environment: environmentOf(name) }, token);
      }),
    );
    const { certificates } = await stage.mesh.json<{ certificates: CertificateRow[] }>([
      "certs",
      "list",
      ...stage.mesh.controlFlag,
    ]);
    const ids = certificates.map((row) => row.id).filter((id) => id.includes("/ns/"));
    expect(ids.length === 4, `${ids.length} certificates were issued, not 4`);
    return [...new Set(ids)].sort().join("\n");
  },
};

function environmentOf(name: string): Record<string, string> {
  if (name === "orders-1") return { FLAKY: "1" };
  return name === "web" ? { HAUBERK_BREAKER_OPEN_MS: "1500" } : {};
}

/** web again, with something broken: its identity is on disk. */
async function cripple(stage: Stage, environment: Record<string, string>): Promise<void> {
  await stage.player("web").sidecar.kill("SIGTERM");
  await stage.play("web", {
    service: "web",
    program: "web.ts",
    environment: { ...environmentOf("web"), ...environment },
  });
}

/** One character of its signature is another one. */
function damage(path: string): void {
  const text = readFileSync(path, "utf8").trim();
  const at = text.length - 20;
  writeFileSync(path, `${text.slice(0, at)}${text[at] === "A" ? "B" : "A"}${text.slice(at + 1)}\n`);
}

const tokenTwice: Step = {
  name: "token-twice",
  title: "A token that was used is worth nothing",
  run: async (stage) => {
    const again = await stage.mesh.run([
      "run",
      "--service",
      "orders",
      "--instance",
      "thief",
      "--token-file",
      usedToken,
      "--inbound-host",
      "127.0.0.1",
      "--",
      "true",
    ]);
    expect(again.code !== 0, "the token enrolled a second sidecar");
    expect(again.err.includes("TOKEN_ALREADY_USED"), `the refusal was another: ${again.err}`);
    return again.err.trim();
  },
};

const denyByDefault: Step = {
  name: "deny-by-default",
  title: "A fresh mesh allows no call",
  run: async (stage, sabotaged) => {
    if (sabotaged) await apply(stage);
    const answer = await stage.call(asAnn(stage, order));
    expect(
      answer.status === 404 && answer.code === "SERVICE_UNKNOWN",
      `web -> orders answered ${answer.status} ${answer.code ?? ""}`,
    );
    return `web -> orders: 404 SERVICE_UNKNOWN: ${messageOf(answer.body)}`;
  },
};

async function apply(stage: Stage, change?: (text: string) => string): Promise<string> {
  const applied = await stage.mesh.applyPolicies(stage.preparePolicies(change));
  expect(applied.code === 0, applied.err.trim());
  return applied.out.trim();
}

function messageOf(body: string): string {
  return String((JSON.parse(body) as { message?: unknown }).message);
}

const allowed: Step = {
  name: "allowed",
  title: "Policies are applied, and what they allow works",
  run: async (stage, sabotaged) => {
    const shown = await apply(
      stage,
      sabotaged ? (text) => text.replaceAll("services: [web]", "services: [nobody]") : undefined,
    );
    await callUntil(stage, asAnn(stage, order), 200);
    const total = await stage.call(asAnn(stage, { url: "http://orders/orders/1/total" }));
    expect(
      total.status === 200 && total.body.includes("/sa/orders"),
      `orders -> ledger answered ${total.status} ${total.body}`,
    );
    return `${shown}\nweb -> orders: 200\norders -> ledger: 200, and ledger was told who called: ${/URI=[^"]+/.exec(total.body)?.[0]}`;
  },
};

const jwtMissing: Step = {
  name: "jwt-missing",
  title: "The same call without a token of a person is refused",
  run: async (stage, sabotaged) => {
    if (sabotaged) {
      await apply(stage, (text) => text.replaceAll(/^ +jwt:.*$/gm, ""));
      await eventually("the weaker policy arrives", 3_000, async () =>
        (await stage.call(order)).status === 200 ? true : undefined,
      );
    }
    const answer = await stage.call(order);
    expect(answer.status === 401 && answer.code === "JWT_MISSING", `it answered ${answer.status} ${answer.code ?? ""}`);
    return `401 JWT_MISSING: ${messageOf(answer.body)}`;
  },
};

const jwtScope: Step = {
  name: "jwt-scope",
  title: "A token that lacks the scope is refused",
  run: async (stage, sabotaged) => {
    const poor = asAnn(stage, order, "profile");
    if (sabotaged) {
      await apply(stage, (text) => text.replaceAll(/, claims: \{[^}]*\}/g, ""));
      await eventually("the weaker policy arrives", 3_000, async () =>
        (await stage.call(poor)).status === 200 ? true : undefined,
      );
    }
    const answer = await stage.call(poor);
    expect(answer.status === 403 && answer.code === "DENIED", `it answered ${answer.status} ${answer.code ?? ""}`);
    return `403 DENIED: ${messageOf(answer.body)}`;
  },
};

const unknown: Step = {
  name: "unknown-service",
  title: "For an identity that may not call it, a service does not exist",
  run: async (stage, sabotaged) => {
    if (sabotaged) {
      await apply(stage, (text) => text.replaceAll("services: [orders]", "services: [orders, web]"));
      await eventually("the weaker policy arrives", 3_000, async () =>
        (await stage.call({ url: "http://ledger/entries/1" })).status === 200 ? true : undefined,
      );
    }
    const real = await stage.call({ url: "http://ledger/entries/1", headers: { "x-request-id": "the-same" } });
    const invented = await stage.call({ url: "http://ledgen/entries/1", headers: { "x-request-id": "the-same" } });
    expect(
      real.status === 404 && real.code === "SERVICE_UNKNOWN",
      `web -> ledger answered ${real.status} ${real.code ?? ""}`,
    );
    expect(
      real.body.replaceAll("ledger", "X") === invented.body.replaceAll("ledgen", "X"),
      "the two answers can be told apart",
    );
    return `web -> ledger and web -> ledgen (which nobody runs): 404 SERVICE_UNKNOWN, word for word the same`;
  },
};

const balancing: Step = {
  name: "balancing",
  title: "Requests are balanced over two instances",
  run: async (stage, sabotaged) => {
    if (sabotaged) await stage.player("orders-2").sidecar.kill("SIGTERM");
    const before = await stage.metrics("web");
    for (let count = 0; count < 40; count++)
      expect((await stage.call(asAnn(stage, order))).status === 200, "a call failed");
    const counts = instanceCounts(before, await stage.metrics("web"));
    stage.report["balancing"] = counts;
    const values = Object.values(counts);
    expect(
      values.length === 2 && values.every((count) => count >= 12),
      `the counts per instance are ${JSON.stringify(counts)}`,
    );
    return `40 requests, by web's own metrics: ${Object.entries(counts)
      .map(([instance, count]) => `${count} to ${instance.slice(0, 8)}`)
      .join(", ")}`;
  },
};

function instanceCounts(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [key, value] of after) {
    if (!key.startsWith("hauberk_endpoint_requests_total") || !key.includes('service="orders.default"')) continue;
    const rose = value - (before.get(key) ?? 0);
    const instance = /instance="([^"]+)"/.exec(key)?.[1];
    if (instance !== undefined && rose > 0) counts[instance] = rose;
  }
  return counts;
}

const kill: Step = {
  name: "kill",
  title: "An instance is killed with -9 while GETs run, and none is lost",
  run: async (stage, sabotaged) => {
    if (sabotaged) await cripple(stage, { HAUBERK_RETRIES_MAX: "0" });
    const victim = stage.player("orders-2");
    const { body } = await ask({ port: victim.appPort, path: "/healthz" });
    const program = (JSON.parse(body) as { pid: number }).pid;
    await stage.beginLoad({ ...asAnn(stage, order), perSecond: 300 });
    await eventually("the load runs", 5_000, async () => ((await stage.load()).done > 100 ? true : undefined));
    process.kill(victim.sidecar.pid, "SIGKILL");
    process.kill(program, "SIGKILL");
    const atDeath = (await stage.load()).done;
    await eventually("the load goes on", 5_000, async () =>
      (await stage.load()).done > atDeath + 250 ? true : undefined,
    );
    const load = await stage.endLoad();
    stage.report["kill"] = load;
    expect(
      load.counts["200"] === load.sent,
      `of ${load.sent} GETs were answered ${JSON.stringify(load.counts)} ${JSON.stringify(load.codes)}`,
    );
    await stage.play("orders-2", { service: "orders", program: "orders.ts" });
    return `${load.sent} GETs, ${load.counts["200"]} times 200; orders-2 is back with the identity on its disk, without a token`;
  },
};

const retry: Step = {
  name: "retry",
  title: "A flaky routee is retried within the budget",
  run: async (stage, sabotaged) => {
    if (sabotaged) await cripple(stage, { HAUBERK_RETRIES_MAX: "0" });
    const before = await stage.metrics("web");
    const failed: number[] = [];
    for (let count = 0; count < 60; count++) {
      const { status } = await stage.call(asAnn(stage, { url: "http://orders/orders/flaky" }));
      if (status !== 200) failed.push(status);
    }
    const after = await stage.metrics("web");
    const retries = sumOf(after, "hauberk_retries_total") - sumOf(before, "hauberk_retries_total");
    stage.report["retries"] = retries;
    expect(failed.length === 0, `${failed.length} of 60 calls answered ${failed.join(", ")}`);
    expect(retries > 0 && retries <= 112, `there were ${retries} retries`);
    return `60 calls, all 200; the program failed ${retries} of them with 503, and each was sent once more, to the other instance`;
  },
};

const breaker: Step = {
  name: "breaker",
  title: "A breaker opens, and closes again",
  run: async (stage, sabotaged) => {
    if (sabotaged) await cripple(stage, { HAUBERK_BREAKER_FAILURES_MAX: "1000", HAUBERK_BREAKER_SUCCESS_RATIO: "0" });
    const before = await stage.metrics("web");
    await both(stage, "broken");
    const refused = await eventually("BREAKER_OPEN", 5_000, async () => {
      const answer = await stage.call(asAnn(stage, order));
      return answer.code === "BREAKER_OPEN" ? answer : undefined;
    });
    await both(stage, "well");
    await eventually("the breakers close", 10_000, async () => {
      await stage.call(asAnn(stage, order));
      const now = await stage.metrics("web");
      return turns(before, now, "closed") >= 2 ? true : undefined;
    });
    const after = await stage.metrics("web");
    const seen = {
      open: turns(before, after, "open"),
      probing: turns(before, after, "probing"),
      closed: turns(before, after, "closed"),
    };
    stage.report["breaker"] = seen;
    expect(seen.open >= 2 && seen.probing >= 2, `the transitions are ${JSON.stringify(seen)}`);
    return `${refused.status} BREAKER_OPEN at once: ${messageOf(refused.body)}\nby web's own metrics: opened ${seen.open} times, probed ${seen.probing}, closed ${seen.closed}`;
  },
};

async function both(stage: Stage, mode: "well" | "broken"): Promise<void> {
  for (const name of ["orders-1", "orders-2"])
    await ask({ port: stage.player(name).appPort, method: "PUT", path: `/demo/${mode}` });
}

function turns(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>, to: string): number {
  const label = [`to="${to}"`];
  return (
    sumOf(after, "hauberk_breaker_transitions_total", label) - sumOf(before, "hauberk_breaker_transitions_total", label)
  );
}

const controlDown: Step = {
  name: "control-down",
  title: "The control plane is stopped: traffic goes on, also across a sidecar's restart; then it is started again",
  run: async (stage, sabotaged) => {
    await stage.stopControl();
    const player = stage.player("orders-1");
    await player.sidecar.kill("SIGTERM");
    if (sabotaged) rmSync(join(stage.mesh.home, "certs", "orders", "1", "snapshot.json"), { force: true });
    await stage.play("orders-1", { service: "orders", program: "orders.ts" });
    const instances = new Set<string>();
    await eventually("orders-1 answers from its last good snapshot", 3_000, async () => {
      const answer = await stage.call(asAnn(stage, order));
      expect(answer.status === 200, `a call answered ${answer.status} ${answer.code ?? ""}`);
      instances.add(/"instance":"([^"]+)"/.exec(answer.body)?.[1] ?? "");
      return instances.has("orders-1") ? true : undefined;
    });
    await stage.startControl();
    const answer = await eventually("every sidecar is back", 10_000, async () => {
      const services = await stage.mesh.json<ServicesAnswer>(["services", ...stage.mesh.controlFlag]);
      return services.sidecars.length === 4 && services.sidecars.every((sidecar) => sidecar.acknowledged !== null)
        ? services
        : undefined;
    });
    return `calls went on, orders-1 was restarted meanwhile and serves; ${answer.sidecars.length} sidecars are connected again, without a restart`;
  },
};

const rotation: Step = {
  name: "rotation",
  title: "Every certificate rotates twice under load, and no request fails",
  run: async (stage, sabotaged) => {
    const before = await serials(stage);
    await stage.beginLoad({ ...asAnn(stage, order), perSecond: 240 });
    const rotations = new Map<string, Set<string>>([...before].map(([name, serial]) => [name, new Set([serial])]));
    const withinMs = sabotaged ? 5_000 : 25_000;
    await eventually("every certificate rotated twice", withinMs, async () => {
      for (const [name, serial] of await serials(stage)) rotations.get(name)?.add(serial);
      return [...rotations.values()].every((seen) => seen.size >= 3) ? true : undefined;
    });
    const load = await stage.endLoad();
    const perSecond = (load.sent * 1000) / (load.endedMs - load.startedMs);
    const drained = sumOf(await stage.metrics("web"), "hauberk_connections_drained_total");
    stage.report["rotation"] = {
      serials: Object.fromEntries([...rotations].map(([name, seen]) => [name, [...seen]])),
      load,
      perSecond,
      drained,
    };
    expect(
      load.counts["200"] === load.sent,
      `of ${load.sent} requests were answered ${JSON.stringify(load.counts)} ${JSON.stringify(load.codes)}`,
    );
    expect(perSecond >= 200, `the load was ${perSecond.toFixed(0)} requests per second`);
    expect(drained > 0, "no old connection was drained");
    return `${load.sent} requests at ${perSecond.toFixed(0)} per second, ${load.counts["200"]} times 200; ${[...rotations].map(([name, seen]) => `${name} ${seen.size - 1} times`).join(", ")}; web drained ${drained} old connections`;
  },
};

/** The serial that each sidecar serves with now, by its own metrics. */
async function serials(stage: Stage): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const name of stage.players.keys()) {
    for (const key of (await stage.metrics(name)).keys()) {
      const serial = /^hauberk_certificate_info\{serial="([^"]+)"/.exec(key)?.[1];
      if (serial !== undefined) found.set(name, serial);
    }
  }
  return found;
}

export const steps: readonly Step[] = [
  bootstrap,
  enroll,
  tokenTwice,
  denyByDefault,
  allowed,
  jwtMissing,
  jwtScope,
  unknown,
  balancing,
  kill,
  retry,
  breaker,
  controlDown,
  rotation,
];
