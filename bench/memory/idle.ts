import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, type SecureContext, type TLSSocket } from "node:tls";
import type { Idle } from "./resident.ts";

/** Clients whose connections stay open: each asks one question, or only greets, and then falls silent. */

/** Of the service that everybody forwards to. */
export interface Question {
  readonly host: string;
  readonly path: string;
}

export interface TlsTo {
  readonly port: number;
  readonly secureContext: SecureContext;
}

function idle(socket: Socket): Idle {
  return {
    get closed() {
      return socket.destroyed;
    },
    close: () => socket.destroy(),
  };
}

/** HTTP/1.1 without TLS, which has asked once. */
export async function plainThatAsked(port: number, question: Question): Promise<Idle> {
  const socket = connectTcp(port, "127.0.0.1");
  await ask(socket, question);
  return idle(socket);
}

/** HTTP/1.1 over mutual TLS, which has asked once. */
export async function http1ThatAsked(to: TlsTo, question: Question): Promise<Idle> {
  const socket = await tlsTo(to, "http/1.1");
  await ask(socket, question);
  return idle(socket);
}

function ask(socket: Socket, { host, path }: Question): Promise<void> {
  return new Promise((resolve, reject) => {
    let answer = "";
    socket.on("error", reject);
    socket.on("close", () =>
      reject(new Error(`a connection was closed behind ${JSON.stringify(answer.slice(0, 40))}`)),
    );
    socket.on("data", (chunk: Buffer) => {
      answer += chunk.toString("latin1");
      const end = answer.indexOf("\r\n\r\n");
      if (end < 0) return;
      if (!answer.startsWith("HTTP/1.1 200 ")) return reject(new Error(`answered ${answer.slice(0, 1_000)}`));
      const length = Number(/^content-length: *(\d+)\r$/im.exec(answer.slice(0, end + 2))?.[1] ?? 0);
      if (answer.length >= end + 4 + length) resolve();
    });
    socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
  });
}

/** HTTP/2 over mutual TLS: both sides have sent their settings, and the client has asked where it has a question. */
export async function http2To(to: TlsTo, question?: Question): Promise<Idle> {
  const socket = await tlsTo(to, "h2");
  const session = connectHttp2("https://127.0.0.1", { createConnection: () => socket });
  await new Promise<void>((resolve, reject) => {
    session.on("error", reject);
    session.on("close", () => reject(new Error("a connection was closed before it was used")));
    session.once("remoteSettings", () => {
      if (question === undefined) return resolve();
      const stream = session.request({ ":path": question.path, ":authority": question.host });
      stream.once("response", ({ ":status": status }) => {
        if (status !== 200) reject(new Error(`answered ${status}`));
      });
      stream.once("end", resolve);
      stream.once("error", reject);
      stream.resume();
    });
  });
  return {
    get closed() {
      return session.destroyed;
    },
    close: () => session.destroy(),
  };
}

/** To a server that has no protocol: it greets, and hears a few bytes. */
export async function greeted(to: TlsTo, hello: Buffer): Promise<Idle> {
  const socket = await tlsTo(to, "h2");
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.once("data", () => {
      socket.write(hello.subarray(0, 9));
      socket.once("data", () => resolve());
    });
    socket.write(hello);
  });
  return idle(socket);
}

function tlsTo({ port, secureContext }: TlsTo, alpn: string): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      port,
      host: "127.0.0.1",
      secureContext,
      rejectUnauthorized: false,
      ALPNProtocols: [alpn],
    });
    socket.once("error", reject);
    socket.once("secureConnect", () => resolve(socket));
  });
}
