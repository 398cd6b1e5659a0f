import { isRefusal, type Refusal } from "../base/errors.ts";
import type { BodyEvents, Handler, Loss, ServerExchange } from "../transport/exchange.ts";
import type { EarlyBytes } from "../transport/exchange-socket.ts";
import { HeldBytes } from "../transport/held-bytes.ts";
import type { Fields } from "../http/message.ts";
import { callOutbound, outboundHandler, showsSecret, type OutboundContext } from "./outbound.ts";
import { Routes, type Route } from "./routes.ts";
import type { Service } from "./snapshot.ts";

export interface ForwardTerms {
  /** The whole value that Proxy-Authorization must have; undefined for an open listener. */
  readonly secret: string | undefined;
  /** Serves HTTP inside of a tunnel whose client has been told that it is open. */
  serveInside(exchange: ServerExchange, handler: Handler, early: EarlyBytes): void;
}

/**
 * The handler of the listener for all services. A CONNECT names a service and a port: TCP is tunnelled to it, and for HTTP the
 * tunnel ends here, with each request inside decided by itself and sent to that service alone (what clients do that take a
 * proxy for a way through: gRPC, for one). Everything else about a CONNECT is refused as any request would be.
 */
export function forwardHandler(context: OutboundContext, terms: ForwardTerms): Handler {
  const requests = outboundHandler(context, { secret: terms.secret });
  return (exchange) => {
    if (exchange.head.method === "CONNECT") new Forward(context, terms, exchange).start();
    else requests(exchange);
  };
}

class Forward implements BodyEvents {
  readonly #context: OutboundContext;
  readonly #terms: ForwardTerms;
  readonly #exchange: ServerExchange;
  /** What came while discovery was asked: whoever goes on with the exchange hears of it. */
  readonly #held = new HeldBytes();
  #ended = false;
  #over = false;

  constructor(context: OutboundContext, terms: ForwardTerms, exchange: ServerExchange) {
    this.#context = context;
    this.#terms = terms;
    this.#exchange = exchange;
  }

  start(): void {
    const { discovery, snapshot, routes } = this.#context;
    const { head } = this.#exchange;
    const route = routes.read(head.authority);
    // Refused by whoever refuses everything, with its counters and its log.
    if (isRefusal(route) || !showsSecret(head.fields, this.#terms.secret)) return this.#carry(undefined);
    const known = discovery.known(route.key, snapshot.read());
    if (known !== undefined) return this.#decide(route, known);
    this.#exchange.listen(this);
    discovery.find(route.key, (answer) => {
      if (this.#over) return;
      try {
        this.#decide(route, answer);
      } catch (thrown) {
        this.#exchange.abort({ kind: "lost", because: "a bug" });
        throw thrown; // For the log, by whoever calls.
      }
    });
  }

  data(chunk: Buffer): void {
    this.#held.add(chunk);
  }

  lent(chunk: Buffer): void {
    this.#held.add(chunk, true);
  }

  end(_trailers: Fields | undefined): void {
    this.#ended = true;
  }

  aborted(_loss: Loss): void {
    this.#over = true;
  }

  drained(): void {
    // Nothing was written.
  }

  #decide(route: Route, answer: Service | null | Refusal): void {
    const service = answer === null || isRefusal(answer) ? undefined : answer;
    // An authority with port 80 reads like one without: it is the port 80 of the service, or its first for HTTP.
    const port = route.port ?? (service?.ports.has(80) === true ? 80 : service?.defaultPorts[0]) ?? 80;
    const to = Routes.to(route.name, port);
    const protocol = service?.ports.get(port);
    const { openTunnels, options } = this.#context;
    const full = openTunnels.value >= options.tunnelsMax;
    // One too many is refused as any tunnel is.
    if (protocol === undefined || protocol === "tcp" || full) return this.#carry(to);
    const early = { chunks: this.#held, ended: this.#ended };
    this.#terms.serveInside(this.#exchange, outboundHandler(this.#context, { to }), early);
  }

  #carry(to: Route | undefined): void {
    const { secret } = this.#terms;
    const events = callOutbound(this.#context, this.#exchange, { secret, to, connects: true });
    for (const chunk of this.#held) events.data(chunk);
    if (this.#ended) events.end(undefined);
  }
}
