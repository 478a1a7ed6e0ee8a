/** Types of the streaming client; client.js says what everything means. */

export type SubscriptionType =
  | "events"
  | "metrics"
  | "alerts"
  | "predictions"
  | "aggregations"
  | "system_status";

export type Scalar = string | number | boolean | null;
/** What the value at a path must pass, all of it. */
export interface Operators {
  eq?: Scalar;
  ne?: Scalar;
  in?: Scalar[];
  nin?: Scalar[];
  exists?: boolean;
  gt?: number | string;
  gte?: number | string;
  lt?: number | string;
  lte?: number | string;
  prefix?: string;
  suffix?: string;
  contains?: Scalar;
}
/**
 * Dotted paths of the payload, each with the value, any of the values, or the operators, that it
 * must match; and under `$or` filters of which one must match.
 */
export type Filters =
  | { [path: string]: Scalar | Scalar[] | Operators }
  | { $or: Filters[]; [path: string]: Scalar | Scalar[] | Operators | Filters[] };
/** A place in a type's log, to resume after. */
export interface Position {
  epoch: string;
  offset: number;
}

/** What `data` messages hold: the payload under a key of its type. */
export interface Data {
  subscription_type: SubscriptionType;
  event?: Record<string, unknown>;
  metrics?: Record<string, unknown>;
  alert?: Record<string, unknown>;
  prediction?: Record<string, unknown>;
  aggregation?: Record<string, unknown>;
  status?: Record<string, unknown>;
}

export interface Message<Payload = Record<string, unknown>> {
  type: SubscriptionType;
  payload: Payload;
  data: Data;
  /** When it was published: RFC 3339, UTC. */
  timestamp: string;
  /** Where it is in the log; null for what is not there. */
  position: Position | null;
  subscriptionId: string;
}

/** Messages that cannot be had any more: refetch what they would have changed. */
export interface Gap {
  /** The server's, or `not recovered` after a resume from what is no longer retained. */
  reason: string;
  first?: number;
  last?: number | null;
}

export type Callback<Payload = Record<string, unknown>> = (
  data: Data,
  message: Message<Payload>,
) => void;

export interface SubscriptionOptions {
  id?: string;
  resume?: Position;
  /** The newest so many matching messages first, at most 1000. */
  rewind?: number;
  /** Ask what of the newest messages matches: the subscription's `explanation`. */
  explain?: boolean;
  onGap?: (gap: Gap) => void;
  /** At most so many messages per second, 0.001 to 1000; the newest wins. */
  maxRate?: number;
  /** A path: the newest message per value of it, `maxRate` times a second, by default once. */
  conflate?: string;
  /** Milliseconds, 1 to 10000, that a message may wait to share a frame with others. */
  batchMs?: number;
  /** Paths: only these parts of the payload come. */
  fields?: string[];
  /** `drop`: who reads too little misses messages, of which `onGap` tells, rather than be cut. */
  onOverflow?: "close" | "drop";
}

/** The options in force, under the protocol's names. */
export interface OptionsInForce {
  max_rate?: number;
  conflate?: string;
  batch_ms?: number;
  fields?: string[];
  on_overflow?: "drop";
}

/** How many messages match filters, and have each of their paths and match there. */
export interface Matching {
  matching: number;
  paths: Record<string, { present: number; matching: number }>;
  /** The same of each filter in `$or`. */
  or?: Matching[];
}

/** What of the newest messages, up to 1000, matches. */
export interface Explanation extends Matching {
  retained: number;
}

/** What the server first says of a subscription. */
export interface Subscribed {
  type: SubscriptionType;
  filters: Filters;
  epoch: string;
  offset: number;
  recovered: boolean;
  replayed: number;
  explain?: Explanation;
  options?: OptionsInForce;
}

export class Subscription<Payload = Record<string, unknown>>
  implements AsyncIterable<Message<Payload>>
{
  readonly id: string;
  readonly type: SubscriptionType;
  readonly filters: Filters;
  /** Rejects with a {@link StreamingError} if the server refuses it. */
  readonly ready: Promise<Subscribed>;
  /** Null unless it was asked for, and before `ready`. */
  readonly explanation: Explanation | null;
  /** The position up to which every matching message has been handed out. */
  readonly position: Position | null;
  unsubscribe(): void;
  toString(): string;
  [Symbol.asyncIterator](): AsyncIterator<Message<Payload>, undefined>;
}

export class StreamingError extends Error {
  /** An error code of the protocol, or a close code. */
  readonly code?: string | number;
  readonly details: Record<string, unknown>;
}

export type State = "connecting" | "open" | "recovering" | "closed";
export type Transport = "websocket" | "sse";

export interface StateDetail {
  state: State;
  previous: State;
  /** How the connection before ended. */
  code?: number;
  reason?: string;
  /** Seconds until the next attempt. */
  retryIn?: number;
  /** Why it is closed, if its user has not closed it. */
  error?: StreamingError;
}

export interface ClientEvents {
  state: CustomEvent<StateDetail>;
  gap: CustomEvent<Gap & { subscription: Subscription }>;
  error: CustomEvent<{ subscription: Subscription; error: StreamingError }>;
  latency: CustomEvent<{ latency: number }>;
}

/** Times are in seconds. */
export interface ClientOptions {
  backoff?: [first: number, most: number];
  heartbeat?: number;
  answerTimeout?: number;
  connectTimeout?: number;
  transports?: Transport[];
  streamUrl?: string;
  /** Messages that may wait to be iterated. */
  buffer?: number;
  WebSocket?: new (url: string) => unknown;
  fetch?: typeof fetch;
}

export type Token = string | null | (() => string | Promise<string>);

export class StreamingClient extends EventTarget {
  constructor(url: string, token?: Token, options?: ClientOptions);
  readonly url: string;
  readonly state: State;
  readonly transport: Transport | null;
  /** Milliseconds of the last ping, there and back. */
  readonly latency: number | null;
  readonly subscriptions: Map<string, Subscription>;
  /** Open for the first time; rejects with a {@link StreamingError} if it never will be. */
  readonly ready: Promise<void>;
  subscribe<Payload = Record<string, unknown>>(
    type: SubscriptionType,
    filters?: Filters | null,
    callback?: Callback<Payload>,
    options?: SubscriptionOptions,
  ): Subscription<Payload>;
  subscribe<Payload = Record<string, unknown>>(
    type: SubscriptionType,
    filters: Filters | null | undefined,
    options: SubscriptionOptions,
  ): Subscription<Payload>;
  unsubscribe(subscription: Subscription | string): void;
  close(): void;
  addEventListener<Name extends keyof ClientEvents>(
    type: Name,
    listener: (event: ClientEvents[Name]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof ClientEvents>(
    type: Name,
    listener: (event: ClientEvents[Name]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
