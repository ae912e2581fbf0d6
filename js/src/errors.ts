// errors.ts: what goes wrong, as a sentence fit to be shown to a user.

/**
 * Why a model was refused:
 *
 * - `fetch`: it could not be read
 * - `not-compiled`: dcc did not write it
 * - `corrupt`: it is damaged, or holds what a compiled model must not hold
 * - `over-limit`: it would expand to more than `maxDecodedBytes`
 * - `memory`: there is too little memory for it
 */
export type Reason = "fetch" | "not-compiled" | "corrupt" | "over-limit" | "memory";

/** Text from the file stands in `message`: show it as text, not as markup. */
export class DccError extends Error {
  override readonly name = "DccError";

  constructor(
    readonly reason: Reason,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
