import type { FailureCode } from "../base/errors.ts";
import type { BreakerState } from "../resilience/breaker.ts";
import type { Counter, Gauge, Handles, Histogram, Metrics } from "../telemetry/metrics.ts";

export type Side = "inbound" | "outbound";

const statusForm = /^(?:[0-9]|1[0-6])$/;

/** Counters of one side and service, resolved once: a request costs two array look-ups. */
export class RequestMeter {
  readonly #side: Side;
  readonly #service: string;
  readonly #requests: Handles<Counter>;
  readonly #byStatus: (Counter | undefined)[] = [];
  readonly #byCode = new Map<FailureCode, Counter>();
  readonly #grpc: Handles<Counter>;
  readonly #byGrpc = new Map<string, Counter>();
  readonly latency: Histogram;

  constructor(
    about: { side: Side; service: string },
    families: { requests: Handles<Counter>; grpc: Handles<Counter>; latency: Handles<Histogram> },
  ) {
    this.#side = about.side;
    this.#service = about.service;
    this.#requests = families.requests;
    this.#grpc = families.grpc;
    this.latency = families.latency.with(about.side, about.service);
  }

  /** An answer of the other end. */
  answered(status: number): void {
    let counter = this.#byStatus[status];
    if (counter === undefined) {
      counter = this.#requests.with(this.#side, this.#service, String(status), "");
      this.#byStatus[status] = counter;
    }
    counter.add();
  }

  /** An answer, or the end of an answer, that Hauberk made. */
  refused(code: FailureCode, status: number): void {
    let counter = this.#byCode.get(code);
    if (counter === undefined) {
      counter = this.#requests.with(this.#side, this.#service, String(status), code);
      this.#byCode.set(code, counter);
    }
    counter.add();
  }

  /** How a call of gRPC ended: its status of 0 to 16, "other" for any other, "none" for an answer without one. */
  grpc(status: string | undefined): void {
    const known = status === undefined || statusForm.test(status);
    const label = status === undefined ? "none" : known ? status : "other";
    let counter = this.#byGrpc.get(label);
    if (counter === undefined) {
      counter = this.#grpc.with(this.#side, this.#service, label);
      this.#byGrpc.set(label, counter);
    }
    counter.add();
  }

  /** Whoever asked went away before the answer's head. */
  cancelled(): void {
    this.#requests.with(this.#side, this.#service, "", "CANCELLED").add();
  }
}

/** What is counted of the tunnels of one side and service, while they are open. */
export interface TunnelMeter {
  readonly opened: Counter;
  /** From whoever asked for the tunnel, and to it. */
  readonly bytesIn: Counter;
  readonly bytesOut: Counter;
}

const serialsMax = 32;
const stateNumbers: Readonly<Record<BreakerState, number>> = { closed: 0, probing: 1, open: 2 };

/** Everything that the data plane counts (names end in their unit; see docs). */
export class Meters {
  readonly #requests: Handles<Counter>;
  readonly #grpc: Handles<Counter>;
  readonly #latency: Handles<Histogram>;
  readonly #meters = { inbound: new Map<string, RequestMeter>(), outbound: new Map<string, RequestMeter>() };
  readonly #tunnels = { inbound: new Map<string, TunnelMeter>(), outbound: new Map<string, TunnelMeter>() };
  readonly #tunnelsOpened: Handles<Counter>;
  readonly #tunnelBytes: Handles<Counter>;
  readonly openTunnels: Handles<Gauge>;
  readonly #serials: string[] = [];
  readonly #opened: Handles<Counter>;
  readonly #drained: Handles<Counter>;
  readonly #proofs: Handles<Counter>;
  readonly #breakerTurns: Handles<Counter>;
  readonly #breakerStates: Handles<Gauge>;
  readonly #endpointRequests: Handles<Counter>;
  readonly #retries: Handles<Counter>;
  readonly #retriesRefused: Handles<Counter>;
  readonly #audits: Handles<Counter>;
  readonly #handshakes: Handles<Counter>;
  readonly budgetLeft: Handles<Gauge>;
  readonly openRequests: Handles<Gauge>;
  readonly openConnections: Handles<Gauge>;

  constructor(metrics: Metrics) {
    const counter = (name: string, help: string, ...labels: string[]) => metrics.counter({ name, help, labels });
    const gauge = (name: string, help: string, ...labels: string[]) => metrics.gauge({ name, help, labels });
    this.#requests = counter(
      "hauberk_requests_total",
      "Requests by side, called service, status and, where Hauberk answered, its reason.",
      "side",
      "service",
      "status",
      "reason",
    );
    this.#grpc = counter(
      "hauberk_grpc_calls_total",
      'Calls of gRPC by side, called service and grpc-status; "none" for an answer that ended without one.',
      "side",
      "service",
      "grpc_status",
    );
    this.#latency = metrics.histogram({
      name: "hauberk_request_seconds",
      help: "From the head of a request to the end of its answer.",
      labels: ["side", "service"],
    });
    this.#tunnelsOpened = counter(
      "hauberk_tunnels_opened_total",
      "Tunnels that were opened: TCP connections and upgraded ones, by side and called service.",
      "side",
      "service",
    );
    this.#tunnelBytes = counter(
      "hauberk_tunnel_bytes_total",
      "Bytes carried by tunnels; in is from whoever asked for the tunnel, out is to it.",
      "side",
      "service",
      "direction",
    );
    this.openTunnels = gauge("hauberk_tunnels_open", "Tunnels that are open or asked for.", "side");
    this.#opened = counter(
      "hauberk_connections_opened_total",
      "Mutual TLS connections opened, by side and the serial of the own certificate that they were made with.",
      "side",
      "serial",
    );
    this.#drained = counter(
      "hauberk_connections_drained_total",
      "Mutual TLS connections told to drain, by side and serial of the own certificate.",
      "side",
      "serial",
    );
    this.#proofs = counter(
      "hauberk_connection_proofs_total",
      "Proofs of renewed certificates on running connections: own ones sent and acknowledged, peers' accepted and refused.",
      "side",
      "step",
    );
    this.#breakerTurns = counter(
      "hauberk_breaker_transitions_total",
      "Changes of a breaker by the state that it changed to.",
      "service",
      "instance",
      "to",
    );
    this.#breakerStates = metrics.gauge({
      name: "hauberk_breaker_state",
      help: "0 closed, 1 probing, 2 open; with several workers the worst of theirs.",
      labels: ["service", "instance"],
      over: "max",
    });
    this.#endpointRequests = counter(
      "hauberk_endpoint_requests_total",
      "Attempts sent to an instance of a called service.",
      "service",
      "instance",
    );
    this.#retries = counter(
      "hauberk_retries_total",
      "Attempts after the first, by what was wrong before.",
      "service",
      "because",
    );
    this.#retriesRefused = counter(
      "hauberk_retries_refused_total",
      "Retries that the budget did not allow.",
      "service",
    );
    this.#audits = counter(
      "hauberk_policy_audits_total",
      "Calls that a policy in mode AUDIT matched.",
      "side",
      "policy",
    );
    this.#handshakes = counter(
      "hauberk_handshakes_refused_total",
      "Connections refused before their first request.",
      "side",
      "code",
    );
    this.budgetLeft = gauge("hauberk_retry_budget_left", "Retries that the budget allows now.", "service");
    this.openRequests = gauge("hauberk_requests_open", "Requests under way.", "side");
    this.openConnections = gauge("hauberk_connections_open", "Open connections.", "side");
  }

  /** `service` is "" where none was found: names that callers invent are no labels. */
  requests(side: Side, service: string): RequestMeter {
    let meter = this.#meters[side].get(service);
    if (meter === undefined) {
      const families = { requests: this.#requests, grpc: this.#grpc, latency: this.#latency };
      meter = new RequestMeter({ side, service }, families);
      this.#meters[side].set(service, meter);
    }
    return meter;
  }

  tunnels(side: Side, service: string): TunnelMeter {
    let meter = this.#tunnels[side].get(service);
    if (meter === undefined) {
      meter = {
        opened: this.#tunnelsOpened.with(side, service),
        bytesIn: this.#tunnelBytes.with(side, service, "in"),
        bytesOut: this.#tunnelBytes.with(side, service, "out"),
      };
      this.#tunnels[side].set(service, meter);
    }
    return meter;
  }

  forgetService(service: string): void {
    this.#tunnels.outbound.delete(service);
    this.#meters.outbound.delete(service);
    this.budgetLeft.forget(service);
  }

  opened(side: Side, serial: string): void {
    this.#opened.with(side, this.#known(serial)).add();
  }

  drained(side: Side, serial: string): void {
    this.#drained.with(side, this.#known(serial)).add();
  }

  proof(side: Side, step: "sent" | "acknowledged" | "accepted" | "refused"): void {
    this.#proofs.with(side, step).add();
  }

  breakerTurned(service: string, instance: string, to: BreakerState): void {
    this.#breakerTurns.with(service, instance, to).add();
    this.#breakerStates.with(service, instance).set(stateNumbers[to]);
  }

  endpointRequests(service: string, instance: string): Counter {
    this.#breakerStates.with(service, instance).set(stateNumbers.closed);
    return this.#endpointRequests.with(service, instance);
  }

  /** The state of what is gone is no state; its counts stay, as counters do, until the family is full. */
  forgetEndpoint(service: string, instance: string): void {
    this.#breakerStates.forget(service, instance);
  }

  retried(service: string, because: string): void {
    this.#retries.with(service, because).add();
  }

  retryRefused(service: string): void {
    this.#retriesRefused.with(service).add();
  }

  audited(side: Side, policy: string): void {
    this.#audits.with(side, policy).add();
  }

  handshakeRefused(side: Side, code: FailureCode): void {
    this.#handshakes.with(side, code).add();
  }

  /** Serials come for ever; only the latest stay labels. */
  #known(serial: string): string {
    if (!this.#serials.includes(serial)) {
      this.#serials.push(serial);
      if (this.#serials.length > serialsMax) {
        const old = this.#serials.shift() as string;
        for (const side of ["inbound", "outbound"]) {
          this.#opened.forget(side, old);
          this.#drained.forget(side, old);
        }
      }
    }
    return serial;
  }
}
