import { createServer as createHttp } from "node:http";
import { createServer as createHttp2 } from "node:http2";
import { createServer, type AddressInfo, type Server } from "node:net";
import { afterEach, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import { silent, type Logger } from "../telemetry/logger.ts";
import { http2Options } from "../transport/http2-options.ts";
import { RouteeHealth, routeeCheck } from "./health.ts";
import { proxyOptions } from "./options.ts";

const options = defaultsOf(proxyOptions);
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function watched(log: Logger = silent) {
  const clock = new ManualClock();
  const state = { answer: "not yet" as string | undefined, checks: 0 };
  const health = new RouteeHealth({
    clock,
    log,
    options,
    check: () => {
      state.checks++;
      return Promise.resolve(state.answer);
    },
  });
  health.start();
  ends.push(() => health.stop());
  return { clock, state, health };
}

test("a routee is not well until it answers, and is looked at often until then", async () => {
  const { clock, state, health } = watched();
  await settle();
  expect(health.healthy.read()).toBe(false);
  clock.advance(options.healthStartMs);
  await settle();
  expect(state.checks).toBe(2);
  state.answer = undefined;
  clock.advance(options.healthStartMs);
  await settle();
  expect(health.healthy.read()).toBe(true);
  clock.advance(options.healthIntervalMs - 1);
  expect(state.checks).toBe(3);
});

test("a routee that has not answered for 5 s is told of once, with what to look at", async () => {
  const said: string[] = [];
  const { clock, state } = watched({ ...silent, warn: (message) => void said.push(message) });
  const pass = async (ms: number): Promise<void> => {
    for (let passedMs = 0; passedMs < ms; passedMs += options.healthStartMs) {
      await settle();
      clock.advance(options.healthStartMs);
    }
    await settle();
  };
  await pass(5_000 - options.healthStartMs);
  expect(said).toEqual([]);
  await pass(10_000);
  expect(said).toEqual(["the routee has not answered yet, so nobody is sent to it"]);
  state.answer = undefined;
  await pass(options.healthStartMs);
  expect(said).toHaveLength(1);
});

test("one failure is chance, three in a row are not; one success brings it back", async () => {
  const { clock, state, health } = watched();
  const said: boolean[] = [];
  health.healthy.subscribe((is) => said.push(is));
  state.answer = undefined;
  await settle();
  clock.advance(options.healthStartMs);
  await settle();
  for (const answer of ["bad", "bad", undefined, "bad", "bad", "bad", undefined]) {
    state.answer = answer;
    clock.advance(options.healthIntervalMs);
    await settle();
  }
  expect(said).toEqual([true, false, true]);
});

test("a check that throws is a failure, and stop ends the checks", async () => {
  const clock = new ManualClock();
  let checks = 0;
  const health = new RouteeHealth({
    clock,
    log: silent,
    options,
    check: () => {
      checks++;
      return Promise.reject(new Error("odd"));
    },
  });
  health.start();
  await settle();
  health.stop();
  clock.advance(60_000);
  await settle();
  expect([checks, health.healthy.read()]).toEqual([1, false]);
});

const terms = (clock = new ManualClock()) => ({ clock, timeoutMs: 1_000, http2: defaultsOf(http2Options) });

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

test("a port that accepts is well, one that refuses is not", async () => {
  const server = createServer((socket) => socket.destroy());
  const port = await listen(server);
  const ports = [{ port, protocol: "tcp" }] as const;
  expect(await routeeCheck({ host: "127.0.0.1", ports }, terms())()).toBeUndefined();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  expect(await routeeCheck({ host: "127.0.0.1", ports }, terms())()).toMatch(/ECONNREFUSED/);
});

test("a path has to answer 2xx or 3xx, in time", async () => {
  const asked = Promise.withResolvers<void>();
  const server = createHttp((request, response) => {
    if (request.url === "/silent") return asked.resolve();
    response.statusCode = request.url === "/ok" ? 204 : 500;
    return void response.end();
  });
  ends.push(() => server.closeAllConnections());
  const port = await listen(server);
  const clock = new ManualClock();
  const check = (path: string) =>
    routeeCheck({ host: "127.0.0.1", ports: [{ port, protocol: "http" }], path }, terms(clock))();
  expect(await check("/ok")).toBeUndefined();
  expect(await check("/bad")).toBe("GET /bad answered 500");
  const silentCheck = check("/silent");
  await asked.promise;
  clock.advance(1_000);
  expect(await silentCheck).toMatch(/no answer within 1000 ms/);
});

test("a port that was declared as h2 has to begin HTTP/2, and to answer where a path is given", async () => {
  const server = createHttp2((request, response) => {
    response.statusCode = request.url === "/ok" ? 204 : 500;
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => server.close());
  const ports = [{ port: (server.address() as AddressInfo).port, protocol: "h2" }] as const;
  const check = (path?: string) => routeeCheck({ host: "127.0.0.1", ports, path }, terms())();
  expect(await check()).toBeUndefined();
  expect(await check("/ok")).toBeUndefined();
  expect(await check("/bad")).toBe("GET /bad answered 500");
});

test("a port that was declared as h2 and speaks HTTP/1.1, or nothing, is not well", async () => {
  const http1 = await listen(createHttp());
  expect(await routeeCheck({ host: "127.0.0.1", ports: [{ port: http1, protocol: "h2" }] }, terms())()).toMatch(
    /Cannot open HTTP\/2/,
  );
  const accepted = Promise.withResolvers<void>();
  const mute = await listen(
    createServer((socket) => {
      ends.push(() => socket.destroy());
      socket.on("data", () => accepted.resolve());
    }),
  );
  const clock = new ManualClock();
  const looked = routeeCheck({ host: "127.0.0.1", ports: [{ port: mute, protocol: "h2" }] }, terms(clock))();
  await accepted.promise;
  clock.advance(1_000);
  expect(await looked).toMatch(/did not begin HTTP\/2 within 1000 ms/);
});
