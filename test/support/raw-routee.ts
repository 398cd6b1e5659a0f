import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** A routee, or a client, of which every byte is seen. */
export class RawPeer {
  readonly socket: Socket;
  /** What came, as latin1. */
  text = "";
  ended = false;
  closed = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
      this.#wake?.();
    });
    socket.on("end", () => {
      this.ended = true;
      this.#wake?.();
    });
    socket.on("close", () => {
      this.closed = true;
      this.#wake?.();
    });
    socket.on("error", () => undefined);
  }

  static to(port: number): RawPeer {
    return new RawPeer(connect({ host: "127.0.0.1", port, allowHalfOpen: true }));
  }

  send(text: string): this {
    this.socket.write(text, "latin1");
    return this;
  }

  /** Waits until `holds` after something came, or until nothing can come any more. */
  async until(holds: (text: string) => boolean): Promise<string> {
    while (!holds(this.text) && !this.ended && !this.closed)
      await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.text;
  }

  /** Waits for the end of the connection. */
  async over(): Promise<string> {
    while (!this.ended && !this.closed) await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.text;
  }
}

/** A routee that says what the test tells it. */
export class RawRoutee {
  readonly port: number;
  readonly peers: RawPeer[] = [];
  /** Asked with each request's head; gives what is written at once. */
  answer: (head: string, peer: RawPeer) => string | undefined = () => ok("ok");
  readonly #close: () => void;

  private constructor(port: number, close: () => void) {
    this.port = port;
    this.#close = close;
  }

  static async start(): Promise<RawRoutee> {
    const sockets = new Set<Socket>();
    let routee: RawRoutee | undefined = undefined as RawRoutee | undefined;
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
      routee?.take(new RawPeer(socket));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    routee = new RawRoutee((server.address() as AddressInfo).port, () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    });
    return routee;
  }

  take(peer: RawPeer): void {
    this.peers.push(peer);
    let seen = 0;
    peer.socket.on("data", () => {
      for (;;) {
        const end = peer.text.indexOf("\r\n\r\n", seen);
        if (end < 0) return;
        const head = peer.text.slice(seen, end + 4);
        seen = end + 4;
        if (!/^[A-Z]+ /.test(head)) return; // A body.
        const length = Number(/content-length: *([0-9]+)/i.exec(head)?.[1] ?? 0);
        seen += length;
        const text = this.answer(head, peer);
        if (text !== undefined) peer.send(text);
      }
    });
  }

  /** The connections on which something was said; a sidecar's look at whether the port accepts says nothing. */
  get asked(): RawPeer[] {
    return this.peers.filter(({ text }) => text !== "");
  }

  /** Every byte that came, of all connections. */
  get text(): string {
    return this.peers.map(({ text }) => text).join("");
  }

  forget(): void {
    for (const peer of this.peers.splice(0)) peer.socket.destroy();
  }

  close(): void {
    this.#close();
  }
}

export function ok(body: string, fields = ""): string {
  return `HTTP/1.1 200 OK\r\n${fields}Content-Length: ${body.length}\r\n\r\n${body}`;
}
