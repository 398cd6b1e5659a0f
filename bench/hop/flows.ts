import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import type { Hop, HopShape, IdentityFiles } from "./hauberk.ts";
import { h2load, loadProgram, wrk, type Load } from "./measure.ts";
import { bigBytes, routeePorts, streamMessages, type Flow } from "./peers.ts";

/** One of those that are measured: a pair of proxies. */
export interface Side {
  readonly name: string;
  readonly port: number;
  readonly tlsPort: number;
  readonly pids: readonly number[];
  readonly headers: readonly string[];
  /** What a client without a sidecar shows the inbound listener. */
  readonly identity: IdentityFiles;
  readonly hop?: Hop;
  readonly children: readonly ChildProcess[];
}

export interface Run {
  readonly connections: number;
  readonly seconds: number;
  readonly folder: string;
  readonly rate?: number;
}

/** How one flow is measured. */
export interface FlowPlan {
  readonly what: string;
  /** What is counted. */
  readonly unit: string;
  readonly connections: string;
  /** Requests at a time on each connection. */
  readonly streams: number;
  /** Sidecars that each request passes. */
  readonly hops: 1 | 2;
  /** The sidecars' own counters must rise by the number of requests. */
  readonly counted: boolean;
  readonly shape: HopShape;
  readonly ours: readonly string[];
  /** A routee of its own. */
  readonly routee?: { readonly file: string; readonly port: number };
  load(side: Side, run: Run): Promise<Load>;
}

const gets = `to: [{ methods: [GET], paths: ["/*"] }]`;
const posts = `to: [{ methods: [POST], paths: ["/*"] }]`;
const grpcStreams = 16;

const http = (path: string) => (side: Side, run: Run) =>
  wrk(`http://127.0.0.1:${side.port}${path}`, {
    connections: run.connections,
    seconds: run.seconds,
    headers: side.headers,
  });

/** For h2load, which makes Host of it where it speaks HTTP/1.1. */
const authorityOf = (side: Side): readonly string[] => (side.hop === undefined ? [] : [":authority: routee"]);

const grpc = (path: string) => (side: Side, run: Run) =>
  h2load(`http://127.0.0.1:${side.port}${path}`, {
    connections: run.connections,
    seconds: run.seconds,
    folder: run.folder,
    streams: grpcStreams,
    headers: ["content-type: application/grpc", "te: trailers", ...authorityOf(side)],
    bodyFile: join(run.folder, "www", "unary"),
  });

/** Half of what HAProxy's HTTP/1.1 hop carries at most here, or what is asked for. */
const halfRate = (run: Run): number => run.rate ?? 10_000;

export const flows: Readonly<Record<Flow, FlowPlan>> = {
  http: {
    what: "HTTP/1.1, 34-byte answers",
    unit: "req",
    connections: "1,64",
    streams: 1,
    hops: 2,
    counted: true,
    shape: { app: `http:${routeePorts.http}`, allows: gets },
    ours: ["hauberk", "hauberk-jwt"],
    load: http("/"),
  },
  half: {
    what: "HTTP/1.1, 34-byte answers, at a rate that does not saturate (--rate, 10,000 by default)",
    unit: "req",
    connections: "64",
    streams: 1,
    hops: 2,
    counted: true,
    shape: { app: `http:${routeePorts.http}`, allows: gets },
    ours: ["hauberk"],
    load: (side, run) =>
      h2load(`http://127.0.0.1:${side.port}/`, {
        ...run,
        streams: 1,
        headers: authorityOf(side),
        http1: true,
        rate: halfRate(run),
      }),
  },
  big: {
    what: `HTTP/1.1, answers of ${bigBytes} bytes`,
    unit: "req",
    connections: "64",
    streams: 1,
    hops: 2,
    counted: true,
    shape: { app: `http:${routeePorts.http}`, allows: gets },
    ours: ["hauberk"],
    load: http("/big"),
  },
  grpc: {
    what: `gRPC unary, ${grpcStreams} calls at a time on each connection`,
    unit: "call",
    connections: "4",
    streams: grpcStreams,
    hops: 2,
    counted: true,
    shape: { app: `h2:${routeePorts.grpc}`, allows: posts },
    ours: ["hauberk"],
    load: grpc("/unary"),
  },
  stream: {
    what: `gRPC server streaming, ${streamMessages} messages of 100 bytes in each call`,
    unit: "call",
    connections: "4",
    streams: grpcStreams,
    hops: 2,
    counted: true,
    shape: { app: `h2:${routeePorts.grpc}`, allows: posts },
    ours: ["hauberk"],
    load: grpc("/stream"),
  },
  tcp: {
    what: "TCP, the routee sends as fast as it is read",
    unit: "MiB",
    connections: "1,4",
    streams: 1,
    hops: 2,
    counted: false,
    shape: { app: `tcp:${routeePorts.tcp}`, allows: `to: [{ ports: [${routeePorts.tcp}] }]`, to: 9951 },
    ours: ["hauberk"],
    routee: { file: "routee-tcp.ts", port: routeePorts.tcp },
    load: (side, { connections, seconds }) => loadProgram("bulk", { port: side.port, connections, seconds }),
  },
  ws: {
    what: "WebSocket, small messages that are said back",
    unit: "msg",
    connections: "64",
    streams: 1,
    hops: 2,
    counted: false,
    shape: { app: `http:${routeePorts.ws}`, allows: gets },
    ours: ["hauberk"],
    routee: { file: "routee-ws.ts", port: routeePorts.ws },
    load: (side, { connections, seconds }) =>
      loadProgram("echo", { port: side.port, host: side.hop === undefined ? "b" : "routee", connections, seconds }),
  },
  setup: {
    what: "mutual TLS handshakes with the inbound listener",
    unit: "connection",
    connections: "8",
    streams: 1,
    hops: 1,
    counted: false,
    shape: { app: `http:${routeePorts.http}`, allows: gets },
    ours: ["hauberk"],
    load: (side, { connections, seconds }) =>
      loadProgram("setup", { port: side.tlsPort, ...side.identity, connections, seconds }),
  },
};
