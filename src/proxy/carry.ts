import type { Clock } from "../base/clock.ts";
import { failures, refuse, type FailureCode, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import {
  asksForTunnel,
  fieldOf,
  opensTunnel,
  type Fields,
  type RequestHead,
  type ResponseHead,
} from "../http/message.ts";
import type { AccessLog } from "../telemetry/access-log.ts";
import type { LogFields, Logger } from "../telemetry/logger.ts";
import type {
  BodyEvents,
  ClientConnection,
  ClientExchange,
  Loss,
  ResponseEvents,
  ServerExchange,
} from "../transport/exchange.ts";
import { HeldBytes } from "../transport/held-bytes.ts";
import { writeLent } from "../transport/lent-reads.ts";
import { Alarm, type Alarms } from "./alarms.ts";
import { cutAnswer, sendAnswer, statusOf } from "./answer.ts";
import type { Audits } from "./audits.ts";
import { takeResponse, takeTrailers, type Labels, type RequestNotes } from "./headers.ts";
import type { Meters, RequestMeter, Side, TunnelMeter } from "./meters.ts";
import type { proxyOptions } from "./options.ts";
import { respell, spellingField } from "./spelling.ts";
import type { Level } from "./peer-share.ts";
import { lostBefore, tunnelIdle, tunnelTooOld, unforeseen, upstreamInvalid, upstreamLost } from "./refusals.ts";

/** What every request of one side shares. */
export interface CarryContext {
  readonly side: Side;
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof proxyOptions>;
  readonly alarms: Alarms;
  /** Coarse: the limits of open tunnels are minutes and hours. */
  readonly tunnelAlarms: Alarms;
  readonly meters: Meters;
  readonly labels: Labels;
  readonly access: AccessLog | undefined;
  readonly openRequests: Level;
  /** A tunnel counts there as soon as it is asked for, or a burst would pass the limit; and until its answer among the requests. */
  readonly openTunnels: Level;
  readonly audits: Audits;
  /** Counts what led to no service. */
  readonly noService: RequestMeter;
  /** Whether the far end is a sidecar, whose answers may say a code of ours. */
  readonly keepCode: boolean;
  /** Something of ours threw and cost one request: for the log. */
  readonly onFault: (thrown: unknown, about?: LogFields) => void;
}

/** One sending of the request: events of an attempt that was given up reach nobody. */
export class Attempt implements ResponseEvents {
  readonly carry: Carry;
  exchange: ClientExchange | undefined = undefined;
  over = false;

  constructor(carry: Carry) {
    this.carry = carry;
  }

  // What our own code throws here costs this request: its connection carries others.

  informed(head: ResponseHead): void {
    try {
      if (!this.over) this.carry.onInformed(head);
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  head(head: ResponseHead, end: boolean): void {
    try {
      if (!this.over) this.carry.onHead(this, head, end);
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  data(chunk: Buffer): void {
    this.#data(chunk, false);
  }

  lent(chunk: Buffer): void {
    this.#data(chunk, true);
  }

  #data(chunk: Buffer, lent: boolean): void {
    try {
      if (this.over) this.exchange?.consume(chunk.length);
      else this.carry.onData(this, chunk, lent);
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  end(trailers: Fields | undefined): void {
    try {
      if (!this.over) this.carry.onEnd(this, trailers);
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  aborted(loss: Loss): void {
    try {
      if (!this.over) this.carry.onAborted(this, loss);
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  drained(): void {
    try {
      if (!this.over) this.carry.onUpstreamDrained();
    } catch (thrown) {
      this.carry.fault(thrown);
    }
  }

  /** Wants no more of it: nothing of this attempt is heard again. */
  abandon(because: string): void {
    if (this.over) return;
    this.over = true;
    this.exchange?.abort({ kind: "cancelled", because });
  }
}

const deciding = 0;
/** Looking for an endpoint, waiting for a connection or for the next attempt. */
const waiting = 1;
const sent = 2;
const answered = 3;
const finished = 4;
type Phase = typeof deciding | typeof waiting | typeof sent | typeof answered | typeof finished;

/** What a client makes of its own leaving. */
const grpcCancelled = "1";

/**
 * One request on its way through the sidecar and its answer on the way back: bodies stream with backpressure both ways, the
 * request's body is held while it might have to be sent again, one alarm watches the deadline, and it ends exactly once.
 * What an attempt is and what may be tried again is for each side to say.
 *
 * A tunnel (CONNECT, upgrade) is carried by the same code: what its client sends before the answer is held within the window
 * and goes to nobody (CVE-2025-64763), from the answer on there is no deadline, but an idle limit and, where wanted, one for
 * its whole life, and it is complete when both directions have ended.
 */
export abstract class Carry extends Alarm implements BodyEvents {
  readonly exchange: ServerExchange;
  readonly startedMs: number;
  readonly notes: RequestNotes;
  readonly requestId: string;
  /** A tunnel was asked for. */
  readonly tunnels: boolean;
  protected readonly shared: CarryContext;
  protected meter: RequestMeter;
  protected attempt: Attempt | undefined = undefined;
  /** Sendings so far. */
  protected attempts = 0;
  /** An attempt that is over may have been processed: no refusal may say that nothing was. */
  protected maybeProcessed = false;
  /** For the access log: whose policy decided, who was called, who answered. */
  protected decidedBy = "";
  protected service = "";
  #phase: Phase = deciding;
  #status = 0;
  /** Of a gRPC call: the head that went out, and how the call ended. */
  #grpcHead: ResponseHead | undefined = undefined;
  #grpcStatus: string | undefined = undefined;
  /** The request's body from its first byte, while it is held whole. */
  #held: HeldBytes | undefined = undefined;
  #whole = true;
  #requestEnded: boolean;
  #answerEnded = false;
  /** Undefined until the tunnel is open; then what it is counted by. */
  #tunnel: TunnelMeter | undefined = undefined;
  /** What came before the tunnel was open has been sent on; from now on everything is, at once. */
  #flowing = false;
  /** At the last look of the idle limit: what had gone through, and since when no more did. */
  #bytesSeen = 0;
  #quietSinceMs = 0;
  #openedMs = 0;
  #requestTrailers: Fields | undefined = undefined;
  /** Received of the request, and not yet taken off its sender's window. */
  #owedToSender = 0;
  /** Received of the answer, and not yet taken off the upstream's window. */
  #owedToUpstream = 0;
  #bytesIn = 0;
  #bytesOut = 0;

  constructor(shared: CarryContext, exchange: ServerExchange, notes: RequestNotes) {
    super();
    this.shared = shared;
    this.exchange = exchange;
    this.startedMs = shared.clock.monotonicMs();
    this.notes = notes;
    this.requestId = notes.requestId ?? shared.labels.requestId();
    this.meter = shared.noService;
    this.tunnels = asksForTunnel(exchange.head);
    this.#requestEnded = exchange.bodyless;
    shared.openRequests.add(1);
    if (this.tunnels) shared.openTunnels.add(1);
    exchange.listen(this);
  }

  /** An attempt was lost before its head; gives the answer to make, or undefined where it goes on. */
  protected abstract lost(attempt: Attempt, loss: Loss): Refusal | undefined;
  /** A head arrived, with `end` all of the answer; true where it is not passed on because the request is sent again. */
  protected abstract judged(attempt: Attempt, head: ResponseHead, end: boolean): boolean;
  /** The answer to a call of gRPC is whole, with this status. */
  protected abstract concluded(attempt: Attempt, grpcStatus: string | undefined): void;
  /** An attempt is over, in whatever way: what it held is free. Called once for each. */
  protected abstract released(attempt: Attempt, how: "answered" | "lost" | "given up"): void;
  /** The principal that asks, for the access log. */
  protected abstract get principalText(): string;
  protected abstract get endpointName(): string;
  /** What refusals call the one who was asked. */
  protected get called(): string {
    return this.service;
  }
  /** The deadline passed or the asker left while nothing was sent. */
  protected abstract stopWaiting(): void;

  get isOver(): boolean {
    return this.#phase === finished;
  }

  get headWritten(): boolean {
    return this.#phase >= answered;
  }

  /** The method by which it is judged whether to send it again: to open a tunnel twice is not the same as once. */
  protected get repeatedAs(): string {
    return this.tunnels ? "CONNECT" : this.exchange.head.method;
  }

  /** Whether every byte of the body is still at hand. */
  protected get replayable(): boolean {
    return this.#whole;
  }

  /** How long the sidecar itself waits for a head. A gRPC call has its deadline from its caller, and without one it has none. */
  protected get ownLimitMs(): number {
    return this.notes.grpc ? Infinity : this.shared.options.requestTimeoutMs;
  }

  /** Whether all that the request waits for is its answer: the own deadline counts from here. */
  protected get answerIsDue(): boolean {
    return this.#requestEnded || this.tunnels;
  }

  /** Something of ours threw: it costs this request alone, and whoever was on the way through it goes on. */
  fault(thrown: unknown): void {
    const about = { requestId: this.requestId };
    this.shared.onFault(thrown, about);
    try {
      if (this.#phase === finished) this.ended();
      else this.refuse(unforeseen);
    } catch (again) {
      // Not even that can be said: the exchange is cut, and what it held is given back.
      this.shared.onFault(again, about);
      this.#drop();
    }
  }

  #drop(): void {
    if (this.#phase !== finished) this.#leave();
    this.ended();
    this.exchange.abort({ kind: "lost", because: "a bug" });
  }

  // The request's side.

  lent(chunk: Buffer): void {
    this.#take(chunk, true);
  }

  data(chunk: Buffer): void {
    this.#take(chunk, false);
  }

  #take(chunk: Buffer, lent: boolean): void {
    try {
      this.#pass(chunk, lent);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #pass(chunk: Buffer, lent: boolean): void {
    this.#bytesIn += chunk.length;
    if (this.#phase === finished) {
      this.exchange.consume(chunk.length); // Nobody wants it, but its sender must not hang.
      return;
    }
    if (this.#flowing) this.#tunnel?.bytesIn.add(chunk.length);
    else if (this.#whole) this.#hold(chunk, lent);
    const upstream = this.tunnels ? this.#farEnd() : this.#phase >= sent ? this.attempt?.exchange : undefined;
    // Without somebody to give it to it is not consumed, so the sender's window bounds what is held.
    const room = upstream !== undefined && (lent ? writeLent(upstream, chunk) : upstream.write(chunk));
    if (!room || this.#owedToSender > 0) this.#owedToSender += chunk.length;
    else this.exchange.consume(chunk.length);
  }

  end(trailers: Fields | undefined): void {
    try {
      if (this.#phase !== finished) this.#endRequest(trailers);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #endRequest(trailers: Fields | undefined): void {
    this.#requestEnded = true;
    if (this.tunnels) return this.#endTunnelledRequest();
    this.#requestTrailers = takeTrailers(trailers);
    if (this.#phase >= sent) this.attempt?.exchange?.end(this.#requestTrailers);
    if (this.#phase < answered) this.requestComplete();
  }

  /** Whoever asked has gone. */
  aborted(loss: Loss): void {
    try {
      if (this.#phase !== finished) this.#abandoned(loss);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #abandoned(loss: Loss): void {
    this.#giveUp(loss.because);
    this.#grpcStatus = grpcCancelled;
    if (this.headWritten) this.meter.answered(this.#status);
    else this.meter.cancelled();
    this.#finish(undefined);
  }

  /** The asker's socket takes more. */
  drained(): void {
    try {
      const owed = this.#owedToUpstream;
      this.#owedToUpstream = 0;
      if (owed > 0) this.attempt?.exchange?.consume(owed);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  // The answer's side.

  onInformed(head: ResponseHead): void {
    if (this.#phase !== sent) return;
    this.exchange.inform({ status: head.status, fields: takeResponse(head, false).fields, bodyLength: 0 });
  }

  onHead(attempt: Attempt, head: ResponseHead, end: boolean): void {
    if (this.#opensWrongly(head.status)) {
      this.refuse(upstreamInvalid(this.service));
      return;
    }
    if (this.judged(attempt, head, end)) return;
    this.#phase = answered;
    this.#status = head.status;
    this.shared.alarms.cancel(this);
    if (this.notes.grpc) this.#beganGrpc(head, end);
    const { fields, spelling } = takeResponse(head, this.shared.keepCode);
    if (spelling !== "") this.#spell(fields, spelling);
    this.#answerEnded = end;
    this.exchange.respond({ status: head.status, fields, bodyLength: head.bodyLength }, end);
    if (this.tunnels && opensTunnel(this.exchange.head, head.status)) this.#openTunnel(attempt);
    else if (end) this.#complete(attempt);
  }

  /** Names arrive as the routee wrote them where whoever asked speaks HTTP/1.1, and a sidecar that asks for such a one is told. */
  #spell(fields: Fields, spelling: string): void {
    if (this.exchange.connection.protocol === "http/1.1") respell(fields, spelling);
    else if (this.notes.fromHttp1 && this.shared.side === "inbound") fields.push(spellingField, spelling);
  }

  /** `lent`: the chunk is good only until this returns. */
  onData(attempt: Attempt, chunk: Buffer, lent = false): void {
    this.#bytesOut += chunk.length;
    this.#tunnel?.bytesOut.add(chunk.length);
    const room = lent ? writeLent(this.exchange, chunk) : this.exchange.write(chunk);
    if (room && this.#owedToUpstream === 0) attempt.exchange?.consume(chunk.length);
    else this.#owedToUpstream += chunk.length;
  }

  onEnd(attempt: Attempt, trailers: Fields | undefined): void {
    this.#answerEnded = true;
    if (this.notes.grpc) {
      this.#grpcStatus = trailers === undefined ? undefined : fieldOf(trailers, "grpc-status");
      this.concluded(attempt, this.#grpcStatus);
    }
    const keepCode = this.notes.grpc && this.shared.keepCode;
    this.exchange.end(this.#tunnel === undefined ? takeTrailers(trailers, keepCode) : undefined);
    if (this.#tunnel === undefined || this.#requestEnded) this.#complete(attempt);
  }

  onAborted(attempt: Attempt, loss: Loss): void {
    attempt.over = true;
    if (this.#phase === answered) {
      // The status is out: cutting the answer short is the only way to say that it is not whole.
      this.released(attempt, loss.kind === "cancelled" ? "given up" : "lost");
      const refusal =
        loss.kind === "invalid" ? upstreamInvalid(this.service) : upstreamLost(this.exchange.head.method, this.service);
      this.#cut(refusal);
      this.meter.refused(refusal.code, this.#status);
      this.#finish(refusal.code);
      return;
    }
    this.#phase = waiting;
    const refusal = this.lost(attempt, loss);
    if (refusal !== undefined) this.refuse(refusal);
    else if (loss.kind !== "unprocessed") this.maybeProcessed = true;
  }

  onUpstreamDrained(): void {
    const owed = this.#owedToSender;
    this.#owedToSender = 0;
    if (owed > 0) this.exchange.consume(owed);
  }

  // For the sides.

  /** Nothing more of the body is to come: the deadline of an ordinary request begins here. */
  protected requestComplete(): void {
    // By default nothing.
  }

  protected waits(): void {
    this.#phase = waiting;
  }

  /** Sends the request; false where the connection does not take it (and nothing was written). */
  protected sendOn(connection: Pick<ClientConnection, "request">, attempt: Attempt, head: RequestHead): boolean {
    this.#phase = sent;
    this.attempt = attempt;
    const bodyless =
      !this.tunnels &&
      this.#requestEnded &&
      this.#held === undefined &&
      this.#whole &&
      this.#requestTrailers === undefined;
    const exchange = connection.request(head, bodyless, attempt);
    if (exchange === undefined) {
      this.#phase = waiting;
      this.attempt = undefined;
      return false;
    }
    attempt.exchange = exchange;
    this.attempts++;
    if (!bodyless && !this.tunnels && !attempt.over && this.attempt === attempt) this.#flush(exchange);
    return true;
  }

  /** This attempt's answer is not waited for any more; the request goes on. */
  protected abandon(attempt: Attempt, because: string): void {
    this.#giveUpAttempt(attempt, because);
    this.attempt = undefined;
    this.#owedToUpstream = 0;
    this.#phase = waiting;
  }

  /** Answers with a refusal, or cuts the answer that has begun. */
  refuse(because: Refusal): void {
    if (this.#phase === finished) return;
    // All that is answered with 503 says that nobody took the request.
    const claimsNothing = failures[because.code].status === 503;
    const refusal =
      claimsNothing && (this.maybeProcessed || this.#phase === sent)
        ? lostBefore(this.exchange.head.method, this.called, because.code)
        : because;
    this.#giveUp(refusal.code);
    if (this.#phase === answered) this.#cut(refusal);
    else {
      this.#grpcStatus = String(failures[refusal.code].grpc);
      sendAnswer(this.exchange, refusal, this.requestId);
    }
    this.#status = statusOf(refusal.code);
    this.meter.refused(refusal.code, this.#status);
    this.#finish(refusal.code);
  }

  /** The rest of an answer that has begun will not come. */
  #cut(refusal: Refusal): void {
    this.#grpcStatus = String(failures[refusal.code].grpc);
    cutAnswer(this.exchange, refusal, this.#grpcHead);
  }

  /** The deadline of a gRPC call is that of all of it, also of a stream that has begun. */
  #beganGrpc(head: ResponseHead, end: boolean): void {
    const { grpcTimeoutMs } = this.notes;
    this.#grpcHead = head;
    if (end) this.#grpcStatus = fieldOf(head.fields, "grpc-status");
    else if (grpcTimeoutMs !== undefined) this.shared.alarms.set(this, this.startedMs + grpcTimeoutMs);
  }

  /** Counts and logs what a decision says of policies in mode AUDIT. */
  protected audit(policies: readonly string[]): void {
    if (policies.length === 0) return;
    const { requestId, principalText: principal, service } = this;
    this.shared.audits.matched(policies, { requestId, principal, service });
  }

  // Tunnels.

  /** In HTTP/2 every 2xx opens the tunnel that was asked for by an upgrade, so none may pass as an ordinary answer. */
  #opensWrongly(status: number): boolean {
    const { upgrade } = this.exchange.head;
    return upgrade === undefined ? status === 101 : status >= 200 && status < 300;
  }

  /** Where the client's bytes go; undefined until all that came before has gone there. */
  #farEnd(): ClientExchange | undefined {
    return this.#flowing ? this.attempt?.exchange : undefined;
  }

  #openTunnel(attempt: Attempt): void {
    const { shared } = this;
    const nowMs = shared.clock.monotonicMs();
    this.#tunnel = shared.meters.tunnels(shared.side, this.service);
    this.#openedMs = nowMs;
    this.#quietSinceMs = nowMs;
    shared.openRequests.add(-1);
    this.#tunnel.opened.add();
    this.meter.latency.observe((nowMs - this.startedMs) / 1_000);
    this.#watchTunnel(nowMs);
    const exchange = attempt.exchange as ClientExchange;
    let room = true;
    // Whoever takes a chunk may make more of them come: they queue up behind.
    for (let chunk = this.#held?.first; chunk !== undefined; chunk = this.#held?.first) {
      this.#held?.drop();
      this.#tunnel.bytesIn.add(chunk.length);
      room = exchange.write(chunk);
    }
    this.#letGo();
    this.#flowing = true;
    if (attempt.over) return;
    if (room) this.onUpstreamDrained();
    if (this.#requestEnded) this.#endTunnelledRequest();
  }

  #endTunnelledRequest(): void {
    const { attempt } = this;
    if (!this.#flowing || attempt === undefined) return;
    attempt.exchange?.end();
    if (this.#answerEnded) this.#complete(attempt);
  }

  /** Sets the alarm for the next look at the limits: four times within the idle limit, and at the end of the tunnel's life. */
  #watchTunnel(nowMs: number): void {
    const { tunnelIdleMs, tunnelLifeMs } = this.shared.options;
    const lookMs = tunnelIdleMs === 0 ? Infinity : nowMs + tunnelIdleMs / 4;
    const atMs = Math.min(lookMs, tunnelLifeMs === 0 ? Infinity : this.#openedMs + tunnelLifeMs);
    if (atMs !== Infinity) this.shared.tunnelAlarms.set(this, atMs);
  }

  #lookAtTunnel(): void {
    const nowMs = this.shared.clock.monotonicMs();
    const { tunnelIdleMs, tunnelLifeMs } = this.shared.options;
    const bytes = this.#bytesIn + this.#bytesOut;
    if (bytes !== this.#bytesSeen) {
      this.#bytesSeen = bytes;
      this.#quietSinceMs = nowMs;
    }
    if (tunnelIdleMs > 0 && nowMs - this.#quietSinceMs >= tunnelIdleMs) this.refuse(tunnelIdle(tunnelIdleMs));
    else if (tunnelLifeMs > 0 && nowMs - this.#openedMs >= tunnelLifeMs) this.refuse(tunnelTooOld(tunnelLifeMs));
    else this.#watchTunnel(nowMs);
  }

  /** The deadline, or the time to look at a tunnel. */
  override ring(): void {
    try {
      this.#rang();
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #rang(): void {
    if (this.#tunnel !== undefined) return this.#lookAtTunnel();
    this.refuse(
      refuse(
        "DEADLINE_EXCEEDED",
        `Cannot wait longer for ${this.service === "" ? "the answer" : `"${this.service}"`}: the deadline has passed`,
        "Raise the deadline (x-hauberk-timeout-ms, grpc-timeout, requestTimeoutMs), or look at why the service is slow",
      ),
    );
  }

  #hold(chunk: Buffer, lent: boolean): void {
    const held = (this.#held ??= new HeldBytes());
    // What nobody was given yet must be kept in any case; it is dropped once it has been sent.
    const tooMuch = held.bytes + chunk.length > this.shared.options.replayMaxBytes;
    if (!this.tunnels && tooMuch && this.#phase >= sent) this.#letGo();
    else held.add(chunk, lent);
  }

  #letGo(): void {
    this.#whole = false;
    this.#held = undefined;
  }

  #flush(exchange: ClientExchange): void {
    let room = true;
    const held = this.#held;
    for (const chunk of held ?? []) room = exchange.write(chunk);
    if ((held?.bytes ?? 0) > this.shared.options.replayMaxBytes) this.#letGo();
    if (room) this.onUpstreamDrained();
    if (this.#requestEnded) exchange.end(this.#requestTrailers);
  }

  #complete(attempt: Attempt): void {
    attempt.over = true;
    this.released(attempt, "answered");
    // The answer is whole although the request is not: its rest interests nobody. Of a tunnel that was refused nothing was sent, not even its end.
    if (!this.#requestEnded || (this.tunnels && this.#tunnel === undefined))
      attempt.exchange?.abort({ kind: "cancelled", because: "the answer is complete" });
    this.meter.answered(this.#status);
    this.#finish(undefined);
  }

  #giveUp(because: string): void {
    const attempt = this.attempt;
    if (attempt === undefined || attempt.over) {
      this.stopWaiting();
      return;
    }
    this.#giveUpAttempt(attempt, because);
  }

  /** What it held is free, whatever its connection makes of that. */
  #giveUpAttempt(attempt: Attempt, because: string): void {
    try {
      attempt.abandon(because);
    } finally {
      this.released(attempt, "given up");
    }
  }

  #finish(code: FailureCode | undefined): void {
    this.#leave();
    const { shared } = this;
    const durationMs = shared.clock.monotonicMs() - this.startedMs;
    if (this.notes.grpc) this.meter.grpc(this.#grpcStatus);
    if (this.#tunnel === undefined) this.meter.latency.observe(durationMs / 1_000);
    if (shared.access?.enabled === true) this.#record(code, durationMs);
    // A body that nobody takes any more must not keep its sender waiting.
    if (this.#owedToSender > 0) this.onUpstreamDrained();
    this.#held = undefined;
    this.attempt = undefined;
    this.ended();
  }

  /** Gives back its place, before anything that could fail. */
  #leave(): void {
    this.#phase = finished;
    const { shared } = this;
    if (this.#tunnel === undefined) {
      shared.alarms.cancel(this);
      shared.openRequests.add(-1);
    } else {
      shared.tunnelAlarms.cancel(this);
    }
    if (this.tunnels) shared.openTunnels.add(-1);
  }

  /** The request is over. */
  protected ended(): void {
    // By default nothing.
  }

  #record(code: FailureCode | undefined, durationMs: number): void {
    const { head } = this.exchange;
    this.shared.access?.write({
      direction: this.shared.side,
      method: head.method,
      authority: head.authority,
      path: head.path,
      status: this.#status,
      code,
      principal: this.principalText,
      service: this.service,
      endpoint: this.endpointName,
      policy: this.decidedBy,
      requestId: this.requestId,
      attempts: this.attempts,
      durationMs,
      bytesIn: this.#bytesIn,
      bytesOut: this.#bytesOut,
    });
  }
}
