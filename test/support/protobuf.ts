/**
 * As much of Protocol Buffers (proto3, binary) as the interop messages of gRPC need: varints, bytes, texts, messages within
 * messages, and lists of these.
 */
type Kind = "int" | "bytes" | "text" | Schema;

export interface Field {
  readonly number: number;
  readonly kind: Kind;
  readonly list?: boolean;
}

export interface Schema {
  readonly [name: string]: Field;
}

export type Message = Record<string, unknown>;

export function encodeMessage(schema: Schema, message: Message): Buffer {
  const parts: Buffer[] = [];
  for (const [name, field] of Object.entries(schema)) {
    const value = message[name];
    if (value === undefined) continue;
    for (const one of field.list === true ? (value as unknown[]) : [value]) parts.push(encodeField(field, one));
  }
  return Buffer.concat(parts);
}

function encodeField({ number, kind }: Field, value: unknown): Buffer {
  if (kind === "int") return Buffer.concat([varint(number << 3), varint(value as number)]);
  const bytes =
    kind === "bytes"
      ? (value as Buffer)
      : kind === "text"
        ? Buffer.from(value as string, "utf8")
        : encodeMessage(kind, value as Message);
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

export function decodeMessage(schema: Schema, bytes: Buffer): Message {
  const message: Message = {};
  const byNumber = new Map(Object.entries(schema).map(([name, field]) => [field.number, { name, field }]));
  let at = 0;
  const read = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 0x80) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("a message that is cut off");
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const key = read();
    const known = byNumber.get(key >> 3);
    let value: unknown = read();
    if ((key & 7) === 2) {
      const end = at + (value as number);
      if (end > bytes.length) throw new Error("a field that is cut off");
      value = valueOf(known?.field.kind ?? "bytes", bytes.subarray(at, end));
      at = end;
    } else if ((key & 7) !== 0) throw new Error(`wire type ${key & 7}`);
    if (known === undefined) continue;
    const { name, field } = known;
    if (field.list === true) ((message[name] ??= []) as unknown[]).push(value);
    else message[name] = value;
  }
  return message;
}

function valueOf(kind: Kind, bytes: Buffer): unknown {
  if (kind === "bytes") return bytes;
  if (kind === "text") return bytes.toString("utf8");
  return kind === "int" ? undefined : decodeMessage(kind, bytes);
}
