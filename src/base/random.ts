/** Randomness as an argument: real in `cli/system.ts`, seeded in `test/support/seeded-random.ts`. */
export interface Random {
  /** A number in [0, 1), for spreading and balancing; never for secrets. */
  draw(): number;
  /** `length` unpredictable bytes, for serials, identifiers and secrets. */
  bytes(length: number): Buffer;
}

/** An identifier of 128 random bits in 32 lower-case hexadecimal digits. */
export function randomId(random: Random): string {
  return random.bytes(16).toString("hex");
}
