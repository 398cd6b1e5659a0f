import type { ServerConnection } from "../transport/exchange.ts";
import type { Carried } from "../transport/tls-tenure.ts";
import type { Meters } from "./meters.ts";

/** One connection of a peer, as its listener knows it; counted once when it is drained. */
export class AcceptedConnection implements Carried {
  readonly #connection: ServerConnection;
  readonly #meters: Meters;
  /** Of the own certificate that it was made with. */
  readonly #serial: string;
  #drained = false;

  constructor(connection: ServerConnection, meters: Meters, serial: string) {
    this.#connection = connection;
    this.#meters = meters;
    this.#serial = serial;
    meters.opened("inbound", serial);
  }

  get exchanges(): number {
    return this.#connection.exchanges;
  }

  drain(withinMs: number): void {
    if (!this.#drained) this.#meters.drained("inbound", this.#serial);
    this.#drained = true;
    this.#connection.drain(withinMs);
  }
}
