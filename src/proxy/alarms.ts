import type { Clock } from "../base/clock.ts";

/** Something that may be rung once; it is its own list node, so that setting and cancelling an alarm allocates nothing. */
export abstract class Alarm {
  /** Undefined while no alarm is set. */
  alarmAtMs: number | undefined = undefined;
  alarmBefore: Alarm | undefined = undefined;
  alarmAfter: Alarm | undefined = undefined;

  abstract ring(): void;
}

class Bell extends Alarm {
  ring(): void {
    // The head of a list; never set.
  }
}

interface Wheel {
  readonly tickMs: number;
  readonly slotsMax: number;
}

/** For the deadlines of requests. */
const fineWheel: Wheel = { tickMs: 8, slotsMax: 2_048 };
/** For limits of minutes and hours: it hardly turns, and hardly takes memory. */
export const coarseWheel: Wheel = { tickMs: 1_000, slotsMax: 64 };

/**
 * Deadlines of all requests on one coarse timer (a hashed wheel): every request sets one and nearly all cancel it again,
 * so both cost a few assignments. An alarm rings at most one tick late, never early.
 */
export class Alarms {
  readonly #clock: Clock;
  readonly #onFault: (thrown: unknown) => void;
  readonly #tickMs: number;
  readonly #slots: Bell[];
  #count = 0;
  #tick = 0;
  #cancel: (() => void) | undefined;

  /** `onFault` hears of a ring that threw; the others ring all the same. */
  constructor(clock: Clock, onFault: (thrown: unknown) => void, { tickMs, slotsMax }: Wheel = fineWheel) {
    this.#clock = clock;
    this.#onFault = onFault;
    this.#tickMs = tickMs;
    this.#slots = Array.from({ length: slotsMax }, () => {
      const bell = new Bell();
      bell.alarmBefore = bell;
      bell.alarmAfter = bell;
      return bell;
    });
  }

  get count(): number {
    return this.#count;
  }

  /** Sets or moves an alarm. */
  set(alarm: Alarm, atMs: number): void {
    this.cancel(alarm);
    if (this.#cancel === undefined) {
      // The wheel stood still: nothing is in it, so it may start at now.
      this.#tick = Math.floor(this.#clock.monotonicMs() / this.#tickMs);
      this.#plan();
    }
    alarm.alarmAtMs = atMs;
    const bell = this.#slots[Math.max(this.#tick + 1, Math.ceil(atMs / this.#tickMs)) % this.#slots.length] as Bell;
    const last = bell.alarmBefore as Alarm;
    alarm.alarmBefore = last;
    alarm.alarmAfter = bell;
    last.alarmAfter = alarm;
    bell.alarmBefore = alarm;
    this.#count++;
  }

  cancel(alarm: Alarm): void {
    if (alarm.alarmAtMs === undefined) return;
    const before = alarm.alarmBefore as Alarm;
    const after = alarm.alarmAfter as Alarm;
    before.alarmAfter = after;
    after.alarmBefore = before;
    alarm.alarmAtMs = undefined;
    alarm.alarmBefore = undefined;
    alarm.alarmAfter = undefined;
    this.#count--;
  }

  #plan(): void {
    this.#cancel = this.#clock.after(this.#tickMs, () => this.#turn());
  }

  #turn(): void {
    const nowMs = this.#clock.monotonicMs();
    const now = Math.floor(nowMs / this.#tickMs);
    // After a long pause every slot is looked at once, not once per missed turn.
    const from = Math.max(this.#tick + 1, now - this.#slots.length + 1);
    this.#tick = now;
    for (let tick = from; tick <= now; tick++) this.#ringSlot(this.#slots[tick % this.#slots.length] as Bell, nowMs);
    if (this.#count > 0) this.#plan();
    else this.#cancel = undefined;
  }

  #ringSlot(bell: Bell, nowMs: number): void {
    let alarm = bell.alarmAfter as Alarm;
    while (alarm !== bell) {
      const next = alarm.alarmAfter as Alarm;
      if ((alarm.alarmAtMs as number) <= nowMs) {
        this.cancel(alarm);
        try {
          alarm.ring();
        } catch (thrown) {
          this.#onFault(thrown);
        }
        // A ring may cancel its neighbours: from the start again, the due ones are gone.
        alarm = bell.alarmAfter as Alarm;
      } else {
        alarm = next;
      }
    }
  }
}
