/**
 * Options are tables: each folder declares its own beside the code that uses it; `cli` joins them,
 * reads file, environment and flags once, and hands plain frozen objects down.
 */
export interface NumberOption {
  readonly kind?: "number";
  readonly env: string;
  /** In the unit that the name ends with: Ms, Bytes, Max, Ratio. */
  readonly default: number;
  readonly min: number;
  readonly max: number;
  readonly why: string;
}

export interface TextOption {
  readonly kind: "text";
  readonly env: string;
  readonly default: string;
  /** What the text has to look like, in words. */
  readonly form: string;
  readonly why: string;
}

export interface SwitchOption {
  readonly kind: "switch";
  readonly env: string;
  readonly default: boolean;
  readonly why: string;
}

export type Option = NumberOption | TextOption | SwitchOption;
export type OptionTable = Readonly<Record<string, Option>>;

/** The plain object that a table becomes. */
export type OptionValues<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends TextOption ? string : T[K] extends SwitchOption ? boolean : number;
};

/** Every option at its default, frozen. */
export function defaultsOf<const T extends OptionTable>(table: T): OptionValues<T> {
  const values: Record<string, number | string | boolean> = {};
  for (const [name, option] of Object.entries(table)) values[name] = option.default;
  return Object.freeze(values) as OptionValues<T>;
}
