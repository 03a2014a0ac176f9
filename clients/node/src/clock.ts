/** Time that neither a machine's sleep nor a hand on its clock makes shorter. */

/** Seconds since some moment. */
export type Clock = () => number;

const NOISE_SECONDS = 0.1; // two clocks are never read at one moment

/**
 * A clock that never goes back, and never slower than either of two clocks.
 *
 * The monotonic clock stands still while a machine sleeps, or lies in a snapshot as a Lambda
 * environment may; the wall clock can be wrong or be set. At each look the larger advance since the
 * last one counts. A token can look older than it is, at the price of one early renewal, but never
 * younger.
 */
export function steadyClock(
  monotonic: Clock = () => performance.now() / 1000,
  wall: Clock = () => Date.now() / 1000,
): Clock {
  let offset = wall() - monotonic();
  let lead = 0;
  return () => {
    const now = monotonic();
    const gained = wall() - now - offset;
    if (Math.abs(gained) > NOISE_SECONDS) {
      offset += gained;
      lead += Math.max(0, gained);
    }
    return now + lead;
  };
}
