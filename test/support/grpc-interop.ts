import {
  Client,
  Metadata,
  Server,
  ServerCredentials,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
  type MethodDefinition,
  type sendUnaryData,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import { decodeMessage, encodeMessage, type Message, type Schema } from "./protobuf.ts";

/** The interop service of gRPC (grpc/grpc, doc/interop-test-descriptions.md), server and client, on @grpc/grpc-js. */

const payload: Schema = { type: { number: 1, kind: "int" }, body: { number: 2, kind: "bytes" } };
const echoStatus: Schema = { code: { number: 1, kind: "int" }, message: { number: 2, kind: "text" } };
const responseParameters: Schema = { size: { number: 1, kind: "int" }, intervalUs: { number: 2, kind: "int" } };
const empty: Schema = {};
const simpleRequest: Schema = {
  responseType: { number: 1, kind: "int" },
  responseSize: { number: 2, kind: "int" },
  payload: { number: 3, kind: payload },
  responseStatus: { number: 7, kind: echoStatus },
};
const simpleResponse: Schema = { payload: { number: 1, kind: payload } };
const inputRequest: Schema = { payload: { number: 1, kind: payload } };
const inputResponse: Schema = { aggregatedPayloadSize: { number: 1, kind: "int" } };
const outputRequest: Schema = {
  responseType: { number: 1, kind: "int" },
  responseParameters: { number: 2, kind: responseParameters, list: true },
  payload: { number: 3, kind: payload },
  responseStatus: { number: 7, kind: echoStatus },
};
const outputResponse: Schema = { payload: { number: 1, kind: payload } };

type Definition = MethodDefinition<Message, Message>;

function method(
  path: string,
  of: { request: Schema; response: Schema; streams: "neither" | "request" | "response" | "both" },
): Definition {
  return {
    path,
    requestStream: of.streams === "request" || of.streams === "both",
    responseStream: of.streams === "response" || of.streams === "both",
    requestSerialize: (message) => encodeMessage(of.request, message),
    requestDeserialize: (bytes) => decodeMessage(of.request, bytes),
    responseSerialize: (message) => encodeMessage(of.response, message),
    responseDeserialize: (bytes) => decodeMessage(of.response, bytes),
  };
}

const base = "/grpc.testing.TestService";
export const methods = {
  emptyCall: method(`${base}/EmptyCall`, { request: empty, response: empty, streams: "neither" }),
  unaryCall: method(`${base}/UnaryCall`, { request: simpleRequest, response: simpleResponse, streams: "neither" }),
  streamingInputCall: method(`${base}/StreamingInputCall`, {
    request: inputRequest,
    response: inputResponse,
    streams: "request",
  }),
  streamingOutputCall: method(`${base}/StreamingOutputCall`, {
    request: outputRequest,
    response: outputResponse,
    streams: "response",
  }),
  fullDuplexCall: method(`${base}/FullDuplexCall`, {
    request: outputRequest,
    response: outputResponse,
    streams: "both",
  }),
} as const;
/** Not of the server. */
export const unimplemented = {
  method: method(`${base}/UnimplementedCall`, { request: empty, response: empty, streams: "neither" }),
  service: method("/grpc.testing.UnimplementedService/UnimplementedCall", {
    request: empty,
    response: empty,
    streams: "neither",
  }),
} as const;

export interface SeenCall {
  readonly path: string;
  readonly metadata: Metadata;
  cancelled: boolean;
}

export interface InteropServer {
  readonly port: number;
  readonly server: Server;
  readonly calls: SeenCall[];
  end(): void;
}

type AnyCall =
  | ServerUnaryCall<Message, Message>
  | ServerReadableStream<Message, Message>
  | ServerWritableStream<Message, Message>
  | ServerDuplexStream<Message, Message>;

/** On a port of its own, in clear, as a routee is. */
export async function serveInterop(options: ChannelOptions = {}): Promise<InteropServer> {
  const server = new Server(options);
  const calls: SeenCall[] = [];
  const see = (path: string, call: AnyCall): Metadata => {
    const emitter: NodeJS.EventEmitter = call;
    const seen = { path: path.slice(base.length + 1), metadata: call.metadata, cancelled: false };
    calls.push(seen);
    emitter.on("cancelled", () => (seen.cancelled = true));
    const initial = call.metadata.get("x-grpc-test-echo-initial");
    if (initial.length > 0) {
      const head = new Metadata();
      head.set("x-grpc-test-echo-initial", initial[0] as string);
      call.sendMetadata(head);
    }
    const trailer = new Metadata();
    for (const value of call.metadata.get("x-grpc-test-echo-trailing-bin"))
      trailer.add("x-grpc-test-echo-trailing-bin", value);
    return trailer;
  };
  server.addService(methods, {
    emptyCall: (call: ServerUnaryCall<Message, Message>, answer: sendUnaryData<Message>) =>
      answer(null, {}, see(methods.emptyCall.path, call)),
    unaryCall: (call: ServerUnaryCall<Message, Message>, answer: sendUnaryData<Message>) => {
      const trailer = see(methods.unaryCall.path, call);
      const wanted = statusIn(call.request);
      // The interop server is told by a size that it is not to answer.
      if (call.request["responseSize"] === sleeps) return;
      if (wanted === undefined) answer(null, { payload: payloadOf(call.request["responseSize"]) }, trailer);
      else answer({ ...wanted, metadata: trailer });
    },
    streamingInputCall: (call: ServerReadableStream<Message, Message>, answer: sendUnaryData<Message>) => {
      const trailer = see(methods.streamingInputCall.path, call);
      let bytes = 0;
      call.on("data", (message: Message) => (bytes += sizeIn(message)));
      call.on("end", () => answer(null, { aggregatedPayloadSize: bytes }, trailer));
    },
    streamingOutputCall: (call: ServerWritableStream<Message, Message>) => {
      const trailer = see(methods.streamingOutputCall.path, call);
      respondAll(call, call.request);
      if (statusIn(call.request)?.code !== sleeps) call.end(trailer);
    },
    fullDuplexCall: (call: ServerDuplexStream<Message, Message>) => {
      const trailer = see(methods.fullDuplexCall.path, call);
      call.on("data", (message: Message) => {
        const wanted = statusIn(message);
        if (wanted === undefined) respondAll(call, message);
        else call.emit("error", { ...wanted, metadata: trailer });
      });
      call.on("end", () => call.end(trailer));
    },
  });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  return { port, server, calls, end: () => server.forceShutdown() };
}

/** As a size or a status: never answer. */
export const sleeps = 77_777;

function statusIn(message: Message): { code: number; details: string } | undefined {
  const status = message["responseStatus"] as Message | undefined;
  if (status === undefined) return undefined;
  return {
    code: (status["code"] as number | undefined) ?? 0,
    details: (status["message"] as string | undefined) ?? "",
  };
}

function sizeIn(message: Message): number {
  return ((message["payload"] as Message | undefined)?.["body"] as Buffer | undefined)?.length ?? 0;
}

export function payloadOf(size: unknown): Message {
  return { body: Buffer.alloc((size as number | undefined) ?? 0) };
}

function respondAll(call: { write(message: Message): unknown }, message: Message): void {
  for (const { size } of (message["responseParameters"] as { size?: number }[] | undefined) ?? [])
    call.write({ payload: payloadOf(size) });
}

export interface Ended {
  readonly code: number;
  readonly details: string;
  readonly trailer: Metadata;
}

export interface UnaryResult extends Ended {
  readonly message: Message | undefined;
  readonly head: Metadata | undefined;
}

export interface CallWish {
  readonly metadata?: Readonly<Record<string, string | Buffer>>;
  readonly timeoutMs?: number;
}

/** A client of the interop service whose calls always resolve, with the status that they ended with. */
export class InteropClient {
  readonly client: Client;

  constructor(address: string, credentials: ChannelCredentials, options: ChannelOptions) {
    // One channel of its own each: else clients of one address share a connection.
    this.client = new Client(address, credentials, { "grpc.use_local_subchannel_pool": 1, ...options });
  }

  close(): void {
    this.client.close();
  }

  unary(of: Definition, message: Message = {}, wish: CallWish = {}): Promise<UnaryResult> {
    return new Promise((resolve) => {
      let head: Metadata | undefined;
      let got: Message | undefined;
      const call = this.client.makeUnaryRequest(
        of.path,
        of.requestSerialize,
        of.responseDeserialize,
        message,
        metadataOf(wish),
        optionsOf(wish),
        (_error: ServiceError | null, value?: Message) => (got = value),
      );
      call.on("metadata", (metadata: Metadata) => (head = metadata));
      call.on("status", ({ code, details, metadata }) =>
        // The callback comes in the same turn.
        setImmediate(() => resolve({ code, details, trailer: metadata, head, message: got })),
      );
    });
  }

  input(wish: CallWish = {}) {
    const of = methods.streamingInputCall;
    let message: Message | undefined;
    const call = this.client.makeClientStreamRequest(
      of.path,
      of.requestSerialize,
      of.responseDeserialize,
      metadataOf(wish),
      optionsOf(wish),
      (_error: ServiceError | null, value?: Message) => (message = value),
    );
    const ended = new Promise<Ended & { message: Message | undefined }>((resolve) =>
      call.on("status", ({ code, details, metadata }) =>
        setImmediate(() => resolve({ code, details, trailer: metadata, message })),
      ),
    );
    return { call, ended };
  }

  output(message: Message, wish: CallWish = {}) {
    const of = methods.streamingOutputCall;
    return follow(
      this.client.makeServerStreamRequest(
        of.path,
        of.requestSerialize,
        of.responseDeserialize,
        message,
        metadataOf(wish),
        optionsOf(wish),
      ),
    );
  }

  duplex(wish: CallWish = {}) {
    const of = methods.fullDuplexCall;
    return follow(
      this.client.makeBidiStreamRequest(
        of.path,
        of.requestSerialize,
        of.responseDeserialize,
        metadataOf(wish),
        optionsOf(wish),
      ),
    );
  }
}

/** Collects what a stream brings; `next` is the size of its next message, `ended` how it ended. */
function follow<C extends ClientReadableStream<Message>>(call: C) {
  const sizes: number[] = [];
  const waiting: ((size: number) => void)[] = [];
  let head: Metadata | undefined;
  call.on("metadata", (metadata: Metadata) => (head = metadata));
  call.on("data", (message: Message) => {
    const size = sizeIn(message);
    sizes.push(size);
    waiting.shift()?.(size);
  });
  call.on("error", () => undefined);
  const ended = new Promise<Ended & { head: Metadata | undefined }>((resolve) =>
    call.on("status", ({ code, details, metadata }) => resolve({ code, details, trailer: metadata, head })),
  );
  const next = (): Promise<number> => new Promise((resolve) => waiting.push(resolve));
  return { call, sizes, next, ended };
}

function metadataOf(wish: CallWish): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(wish.metadata ?? {})) metadata.set(name, value);
  return metadata;
}

function optionsOf(wish: CallWish): { deadline?: number } {
  return wish.timeoutMs === undefined ? {} : { deadline: Date.now() + wish.timeoutMs };
}
