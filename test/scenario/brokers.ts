import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect as connectTcp, createServer as createTcpServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { connect as connectNats, type NatsConnection } from "@nats-io/transport-node";
import { Aedes } from "aedes";
import { Redis } from "ioredis";
import { connectAsync } from "mqtt";
import { Client } from "pg";
import { eventually } from "../support/mesh.ts";
import { freePort } from "./routees.ts";

/** Real brokers and databases, each with a stream of numbered messages that counts what was sent and what has arrived. */
export interface Broker {
  readonly name: string;
  /** Why it cannot be started here, or undefined. */
  readonly missing: string | undefined;
  start(): Promise<RunningBroker>;
}

export interface RunningBroker {
  readonly port: number;
  /** Sends numbers one by one through `port`, from a producer to a consumer with connections of their own, until it is stopped. */
  begin(port: number): Promise<Stream>;
  stop(): Promise<void>;
}

export interface Stream {
  /** Sent, and acknowledged by the broker. */
  sent(): number;
  /** Numbers that have arrived, each counted once. */
  arrived(): number;
  /** Connections that were lost so far. */
  cuts(): number;
  /** Sends no more, waits for what is under way, and leaves. */
  end(): Promise<void>;
}

const everyMs = 20;

interface Line {
  sent(): number;
  end(): Promise<void>;
  /** Ends, and gives what is under way some time to be seen; the test says what it means that something was not. */
  endDelivered(seen: ReadonlySet<string>): Promise<void>;
}

/** Numbers in order: each is sent again until it is acknowledged, and the next one comes after that. */
function numbers(send: (number: number) => Promise<unknown>): Line {
  let next = 0;
  const line = { stopped: false };
  const go = async (): Promise<void> => {
    while (!line.stopped) {
      await send(next).then(
        () => next++,
        () => undefined, // The connection was cut under it: it is sent again.
      );
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  };
  const running = go();
  const end = (): Promise<void> => {
    line.stopped = true;
    return running;
  };
  return {
    sent: () => next,
    end,
    endDelivered: async (seen) => {
      await end();
      await eventually("all is delivered", 5_000, () => seen.size >= next || undefined).catch(() => undefined);
    },
  };
}

/** MQTT, both sides from npm: at least once, with sessions that outlive a connection. */
export const mqtt: Broker = {
  name: "MQTT (aedes, mqtt)",
  missing: undefined,
  start: async () => {
    const broker = await Aedes.createBroker();
    const server = createTcpServer((socket) => broker.handle(socket));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return {
      port: (server.address() as AddressInfo).port,
      begin: async (port) => {
        const seen = new Set<string>();
        let cuts = 0;
        const open = async (clientId: string) => {
          const url = `mqtt://127.0.0.1:${port}`;
          const client = await connectAsync(url, { clientId, clean: false, reconnectPeriod: 50 });
          client.on("close", () => cuts++);
          client.on("error", () => undefined);
          return client;
        };
        const [producer, consumer] = [await open("producer"), await open("consumer")];
        consumer.on("message", (_topic, payload) => seen.add(payload.toString()));
        await consumer.subscribeAsync("numbers", { qos: 1 });
        const line = numbers((number) => producer.publishAsync("numbers", String(number), { qos: 1 }));
        return {
          sent: () => line.sent(),
          arrived: () => seen.size,
          cuts: () => cuts,
          end: async () => {
            await line.endDelivered(seen);
            producer.end(true);
            consumer.end(true);
          },
        };
      },
      stop: async () => {
        server.close();
        await new Promise<void>((resolve) => broker.close(() => resolve()));
      },
    };
  },
};

/** A Redis stream: XADD at one end, a blocking XREAD from the last id at the other. */
export const redis: Broker = {
  name: "Redis (redis-server, ioredis)",
  missing: program("redis-server") === undefined ? "there is no redis-server: run test/peers/install.sh" : undefined,
  start: async () => {
    const port = await freePort();
    const folder = mkdtempSync(join(tmpdir(), "hauberk-redis-"));
    const flags = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
    const server = await startServer(program("redis-server") as string, flags, port);
    return {
      port,
      begin: async (at) => {
        const seen = new Set<string>();
        let cuts = 0;
        const reader = { over: false };
        const open = async (): Promise<Redis> => {
          const client = new Redis({
            host: "127.0.0.1",
            port: at,
            maxRetriesPerRequest: null,
            retryStrategy: () => 50,
            lazyConnect: true,
          });
          client.on("error", () => undefined);
          client.on("close", () => cuts++);
          await client.connect();
          return client;
        };
        const [producer, consumer] = [await open(), await open()];
        const reading = (async (): Promise<void> => {
          let last = "0";
          while (!reader.over) {
            const found = await consumer
              .xread("COUNT", 100, "BLOCK", 200, "STREAMS", "numbers", last)
              .catch(() => null);
            for (const [id, fields] of found?.[0]?.[1] ?? []) {
              last = id;
              seen.add(fields[1] as string);
            }
          }
        })();
        const line = numbers((number) => producer.xadd("numbers", "*", "n", String(number)));
        return {
          sent: () => line.sent(),
          arrived: () => seen.size,
          cuts: () => cuts,
          end: async () => {
            await line.endDelivered(seen);
            reader.over = true;
            await reading;
            producer.disconnect();
            consumer.disconnect();
          },
        };
      },
      stop: () => stopServer(server, folder),
    };
  },
};

/** PostgreSQL: an INSERT for each number, told to a listener by NOTIFY, and read again where the listener was cut. */
export const postgres: Broker = {
  name: "PostgreSQL (postgresql, pg)",
  missing: postgresProgram("initdb") === undefined ? "there is no PostgreSQL: run test/peers/install.sh" : undefined,
  start: async () => {
    const port = await freePort();
    const folder = mkdtempSync(join(tmpdir(), "hauberk-postgres-"));
    const asUser = unprivileged(folder);
    const [init, ...initFlags] = [
      ...asUser,
      postgresProgram("initdb") as string,
      "-D",
      join(folder, "data"),
      "-U",
      "postgres",
      "-A",
      "trust",
      "--no-sync",
    ];
    execFileSync(init, initFlags, { stdio: "pipe" });
    const [run, ...runFlags] = [
      ...asUser,
      postgresProgram("postgres") as string,
      "-D",
      join(folder, "data"),
      "-p",
      String(port),
      "-h",
      "127.0.0.1",
      "-k",
      folder,
      "-F",
    ];
    const server = await startServer(run, runFlags, port);
    await setUp(port);
    return {
      port,
      begin: (at) => beginPostgres(at),
      stop: () => stopServer(server, folder, "SIGINT"),
    };
  },
};

async function setUp(port: number): Promise<void> {
  // The port is there a moment before the database takes connections.
  const client = await eventually("PostgreSQL takes connections", 20_000, async () => {
    const fresh = new Client({ host: "127.0.0.1", port, user: "postgres" });
    return fresh.connect().then(
      () => fresh,
      () => undefined,
    );
  });
  await client.query("CREATE TABLE numbers (n integer PRIMARY KEY)");
  await client.end();
}

async function beginPostgres(port: number): Promise<Stream> {
  const seen = new Set<string>();
  let cuts = 0;
  const stream = { over: false };
  const open = async (onConnected: (client: Client) => Promise<void>): Promise<Client> => {
    const client = new Client({ host: "127.0.0.1", port, user: "postgres" });
    client.on("error", () => undefined);
    client.once("end", () => {
      if (!stream.over) cuts++;
    });
    await client.connect();
    await onConnected(client);
    return client;
  };
  /** One connection after the other, as long as the stream lasts. */
  const keep = (onConnected: (client: Client) => Promise<void>) => {
    let current: Client | undefined;
    const renew = async (): Promise<void> => {
      while (!stream.over) {
        const client = await open(onConnected).catch(() => undefined);
        if (client === undefined) {
          await new Promise((resolve) => setTimeout(resolve, 50));
          continue;
        }
        current = client;
        await new Promise<void>((resolve) => client.once("end", () => resolve()));
      }
    };
    void renew();
    return (): Client => {
      if (current === undefined) throw new Error("not connected");
      return current;
    };
  };
  const producer = keep(() => Promise.resolve());
  const consumer = keep(async (client) => {
    client.on("notification", ({ payload }) => payload !== undefined && seen.add(payload));
    await client.query("LISTEN numbers");
    // What was told while nobody listened.
    const { rows } = await client.query<{ n: number }>("SELECT n FROM numbers");
    for (const { n } of rows) seen.add(String(n));
  });
  const text =
    "WITH added AS (INSERT INTO numbers VALUES ($1) ON CONFLICT DO NOTHING) SELECT pg_notify('numbers', $1::text)";
  const line = numbers(async (number) => producer().query(text, [number]));
  await eventually("PostgreSQL answers", 5_000, () => seen.size > 0 || undefined);
  return {
    sent: () => line.sent(),
    arrived: () => seen.size,
    cuts: () => cuts,
    end: async () => {
      await line.endDelivered(seen);
      stream.over = true;
      await Promise.all([producer().end(), consumer().end()]);
    },
  };
}

/** NATS: requests from one connection, answered by another. The server speaks first. */
export const nats: Broker = {
  name: "NATS (nats-server, @nats-io/transport-node)",
  missing: program("nats-server") === undefined ? "there is no nats-server: run test/peers/install.sh" : undefined,
  start: async () => {
    const port = await freePort();
    const server = await startServer(program("nats-server") as string, ["-a", "127.0.0.1", "-p", String(port)], port);
    return {
      port,
      begin: async (at) => {
        const seen = new Set<string>();
        let cuts = 0;
        const open = async (): Promise<NatsConnection> => {
          const servers = `127.0.0.1:${at}`;
          const connection = await connectNats({ servers, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
          void (async () => {
            for await (const status of connection.status()) if (status.type === "disconnect") cuts++;
          })();
          return connection;
        };
        const [producer, consumer] = [await open(), await open()];
        consumer.subscribe("numbers", {
          callback: (_error, message) => {
            seen.add(message.string());
            message.respond("taken");
          },
        });
        await consumer.flush();
        const line = numbers((number) => producer.request("numbers", String(number), { timeout: 1_000 }));
        return {
          sent: () => line.sent(),
          arrived: () => seen.size,
          cuts: () => cuts,
          end: async () => {
            await line.end();
            await producer.close();
            await consumer.close();
          },
        };
      },
      stop: () => stopServer(server, undefined),
    };
  },
};

/** Where a program lies, or undefined. */
function program(name: string): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** Debian keeps the programs of each version in a folder of its own. */
function postgresProgram(name: string): string | undefined {
  const root = "/usr/lib/postgresql";
  const versions = existsSync(root) ? readdirSync(root).toSorted((a, b) => Number(b) - Number(a)) : [];
  return versions.map((version) => join(root, version, "bin", name)).find((path) => existsSync(path)) ?? program(name);
}

/** PostgreSQL refuses to run as root: then it gets its own user, and the folder. */
function unprivileged(folder: string): string[] {
  if (process.getuid?.() !== 0) return [];
  const idOf = (flag: string): number => Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }));
  const [uid, gid] = [idOf("-u"), idOf("-g")];
  chownSync(folder, uid, gid);
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"];
}

async function startServer(command: string, flags: readonly string[], port: number): Promise<ChildProcess> {
  const child = spawn(command, flags, { stdio: "ignore", cwd: tmpdir() });
  await eventually(`${command} listens`, 20_000, () => {
    if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}`);
    return new Promise<true | undefined>((resolve) => {
      const socket = connectTcp(port, "127.0.0.1", () => resolve(true));
      socket.once("error", () => resolve(undefined));
      socket.once("close", () => resolve(undefined));
      socket.once("connect", () => socket.destroy());
    });
  });
  return child;
}

async function stopServer(
  child: ChildProcess,
  folder: string | undefined,
  signal: NodeJS.Signals = "SIGKILL",
): Promise<void> {
  const exited = child.exitCode === null ? once(child, "exit") : undefined;
  child.kill(signal);
  await exited;
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
}
