/** Types of runstore.js. Fields of runs and events are as the gateway answers them. */

export type Status = "pending" | "running" | "success" | "failed" | "timed_out" | "cancelled";
export type Events = "terminal" | "all";
export type LinkState = "idle" | "live" | "streams" | "polling" | "lost";

export interface Output {
  status: Status;
  exit_code: number | null;
  stdout: string;
  stderr: string;
  outputs: unknown;
}

export interface Run {
  run_id: string;
  run_number: number | null;
  project_name: string;
  status: Status;
  commit_sha: string | null;
  started_at: string | null;
  finished_at: string | null;
  error_message: string | null;
  output: Output | null;
  truncated: boolean;
}

export interface ListedRun extends Omit<Run, "output"> {
  created_at: string;
  tags: string[];
}

export interface RunPage {
  runs: ListedRun[];
  next_cursor: string | null;
}

export interface RunEvent {
  status: Status;
  at: string;
  recorded_at: string;
  attempt: number;
  ignored: boolean;
  reason: string | null;
  worker: string | null;
  error_message: string | null;
  event_id: string | null;
}

export interface RunToken {
  token: string;
  run_id: string;
  expires_at: string;
}

export interface Progress {
  fraction?: number | null;
  message?: string | null;
}

export interface Filters {
  project_name?: string | null;
  /** Any of these. */
  status?: Status | Status[] | null;
  /** A commit, or its beginning. */
  commit_sha?: string | null;
  /** All of these. */
  tag?: string | string[] | null;
  created_after?: string | Date | null;
  created_before?: string | Date | null;
  finished_after?: string | Date | null;
}

export interface Abortable {
  signal?: AbortSignal;
}

export interface Options {
  /** A token, or a function that returns one: it is asked anew for each request. */
  token?: string | (() => string | Promise<string>) | null;
  /** How long one request may take, beyond the time it asked the gateway to hold its answer. Seconds; 30. */
  timeoutS?: number;
  /** How long the handshake of a websocket may take. Seconds; 10. */
  connectTimeoutS?: number;
  /** How long a request that may be repeated is repeated while the gateway is away or too busy. Seconds; 5. */
  retryForS?: number;
  /** How long waits and watches look for a gateway that they lost before they fail. Seconds; 300. */
  giveUpS?: number;
  /** After how much silence the websocket is asked whether it still lives; half as long again, and it is lost; 30. */
  heartbeatS?: number;
  /** The first pause before another attempt; it doubles, and the real one is drawn between 0 and it. Seconds; 0.2. */
  backoffS?: number;
  /** The longest pause before another attempt. Seconds; 5. */
  maxBackoffS?: number;
  /** The pause before a subscription that the gateway could not begin is asked for again. Seconds; 1. */
  putOffS?: number;
  /** How long an unused websocket is kept open. Seconds; 5. */
  idleS?: number;
  /** How long the client goes on without a websocket, where these are refused, before it tries one again; 60. */
  websocketRetryS?: number;
  /** How long a stream of events may be without a first word before it counts as held back by a proxy; 5. */
  streamPatienceS?: number;
  /** Runs that are held at one time without a websocket; 3 in a browser, 48 elsewhere. */
  heldAtOnce?: number;
  /** How many runs a watch keeps for a slow reader before it lets go and resumes by cursor; 10,000. */
  bufferItems?: number;
  /** How many characters of runs a watch keeps for a slow reader, likewise; 32 Mi. */
  bufferCharacters?: number;
  /** The class of websockets, where there is no global one (Node 20): such as that of the package `ws`. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
}

export interface RunOptions extends Abortable {
  inputs?: Record<string, unknown>;
  mode?: "async" | "sync";
  timeout_s?: number;
  queue_timeout_s?: number;
  commit_sha?: string;
  branch?: string;
  tags?: string[];
  run_id?: string;
  idempotencyKey?: string;
}

export interface WatchOptions extends Abortable {
  /** Runs, by their ids or prefixes; either these or a project. */
  runIds?: string | string[];
  projectName?: string | null;
  events?: Events;
  /** Whether runs come with their output. */
  output?: boolean;
  /** The place to go on from, as another watch told it. */
  cursor?: string | null;
  onProgress?: (runId: string, progress: Progress) => void;
}

export interface Watch extends AsyncIterableIterator<Run> {
  /** The place behind the last run that was handed out; null before there is one, and for over a thousand runs. */
  readonly cursor: string | null;
  /** Wait until the gateway listens: what happens from then on is heard. */
  ready(): Promise<Watch>;
  /** Listen no longer; may be called twice. */
  close(): void;
}

export interface Link {
  state: LinkState;
  /** Why touch was lost. */
  reason: string;
  /** When the gateway was last heard on behalf of waits and watches; ms since 1970. */
  heardAt: number | null;
}

/** What went wrong. */
export class RunstoreError extends Error {
  constructor(code: string, detail: string, more?: { status?: number | null; candidates?: string[]; retryAfterS?: number });
  /** One of the gateway's codes, or `gateway_unreachable`, `wait_timeout`, `unexpected_answer`. */
  readonly code: string;
  /** The HTTP status, where there was an answer. */
  readonly status: number | null;
  /** The full ids that an ambiguous prefix begins. */
  readonly candidates: string[];
  readonly retryAfterS: number;
  /** Whether the same may go well later. */
  readonly retryable: boolean;
}

/** A client of one gateway. It fires the event `link`, a CustomEvent whose `detail` is a `Link`, when its state changes. */
export class Client extends EventTarget {
  /** Without `url`: the page's own origin in a browser, RUNSTORE_URL with RUNSTORE_TOKEN elsewhere. */
  constructor(url?: string | URL, options?: Options);
  readonly link: Link;
  run(projectName: string, options?: RunOptions): Promise<Run>;
  getRun(runId: string, options?: { waitS?: number; after?: string } & Abortable): Promise<Run>;
  wait(runId: string, options?: { timeoutS?: number | null } & Abortable): Promise<Run>;
  watch(options: WatchOptions): Watch;
  listPage(options?: Filters & { limit?: number; cursor?: string | null } & Abortable): Promise<RunPage>;
  listRuns(options?: Filters & Abortable): AsyncGenerator<ListedRun, void, void>;
  cancel(runId: string, options?: Abortable): Promise<Run>;
  output(runId: string, name?: null, options?: Abortable): Promise<Output>;
  output(runId: string, name: string, options?: Abortable): Promise<unknown>;
  events(runId: string, options?: Abortable): Promise<RunEvent[]>;
  logs(runId: string, options?: Abortable): AsyncGenerator<{ stream: "stdout" | "stderr"; text: string }, void, void>;
  runToken(runId: string, options?: { expiresS?: number } & Abortable): Promise<RunToken>;
  get(path: string, options?: Abortable): Promise<unknown>;
  close(): void;
}

/** Whether a run has ended: its status never changes again. */
export function isTerminal(run: { status: Status }): boolean;
