/** Types of the browser client. What a POS sends is explained in docs/reference/transaction.md. */

export interface Options {
    /** The content of the agent's `hook-token`. */
    token: string;
    /** Where the agent's hook is; http://127.0.0.1:8710 if not said. */
    url?: string;
    /** How long any call may take, in milliseconds; 250 if not said. */
    deadlineMs?: number;
    /** How many calls the outbox keeps at most; 1,000 if not said. Then the oldest go, with a notice. */
    kept?: number;
    /** The outbox's name in IndexedDB; `tillstream` if not said. */
    outbox?: string;
    /** Told of what a POS may want to log; `console.warn` if not said. */
    onNotice?: (notice: Notice) => void;
}

export interface Notice {
    what:
        | "not_persistent" // the browser keeps nothing for this page: what waits is lost at a reload
        | "not_kept" // this call was not put into the outbox, and made once only
        | "dropped" // too much waited, and this was the oldest
        | "refused" // the agent will not take this, now or later
        | "not_let_in"; // the token or the origin is wrong; what waits goes on waiting
    reason?: string;
    key?: string;
    error?: AgentError;
}

/** What came of a call. It is never an exception, and never needs to be looked at. */
export interface Answer {
    /** The agent has it. */
    ok: boolean;
    /** It lies in the outbox, and is sent as soon as the agent is there. */
    kept: boolean;
    /** The HTTP status, if there was an answer. */
    status?: number;
    /** Why there is no success. */
    reason?: "deadline" | "unreachable" | "resting" | "refused";
    detail?: string;
    error?: AgentError;
    /** What the agent said. */
    body?: Reply;
    /** What the POS should do or show now; also for a basket of an adapter's transactions. */
    effects?: Outcome[];
}

export interface AgentError {
    code: string;
    message: string;
    field?: string;
    limit?: string;
    hint?: string;
    retryable?: boolean;
}

export interface Reply {
    till?: string;
    epoch?: string;
    seq?: number;
    ack?: "os" | "disk";
    effects?: Outcome[];
    basket?: string;
    revision?: number;
    state?: BasketState;
    transactions?: Reply[];
    repeat?: boolean;
}

export interface Outcome {
    offer: string;
    campaign: string;
    version: number;
    outcome: "offered" | "refused";
    decided_at: string;
    expires_ms: number;
    reason?: string;
    lease?: string;
    effects?: Effect[];
}

export type Effect =
    | {
          type: "discount";
          text: string;
          scope?: "basket" | "line";
          amount?: number;
          currency?: string;
          basis_points?: number;
          sku?: string;
      }
    | { type: "points"; text: string; points: number }
    | { type: "gift"; text: string; sku: string }
    | { type: "cashier_message" | "customer_message" | "receipt_line"; text: string }
    | { type: "prompt"; text: string; question: string; choices?: string[] }
    | { type: "reserve_coupon"; text: string; coupon: string };

export interface Identifier {
    scheme: "loyalty" | "phone" | "email" | "card" | "device" | "cookie" | "account" | "other";
    value: string;
}

export type BasketState = "open" | "suspended" | "closed" | "voided";

export interface Basket {
    /** Grows with each change. */
    revision: number;
    state: BasketState;
    lines: Line[];
    /** Minor units. */
    total: number;
    currency?: string;
    identifiers?: Identifier[];
    /** With `closed`, and only then. */
    sale?: Transaction;
}

export interface Line {
    seq: number;
    /** Minor units, after the line's discounts. */
    amount: number;
    quantity?: string;
    type?: "item" | "gift_card" | "deposit" | "fee" | "tip" | "rounding" | "coupon" | "discount" | "text" | "other";
    sku?: string;
    gtin?: string;
    scan?: string;
    name?: string;
    price?: string;
    regular_price?: string;
    [field: string]: unknown;
}

export interface Transaction {
    source: { system: string; version?: string };
    kind:
        | "sale"
        | "return"
        | "exchange"
        | "void"
        | "suspend"
        | "resume"
        | "cancel"
        | "no_sale"
        | "paid_in"
        | "paid_out"
        | "sign_on"
        | "sign_off"
        | "open"
        | "close";
    pos_id: string;
    /** YYYY-MM-DD, as the POS counts it. */
    business_date: string;
    end: { at: number; offset_minutes?: number; offset_from?: "explicit" | "store" | "assumed"; text?: string };
    /** Minor units: positive when the customer pays. */
    total?: number;
    currency?: string;
    revision?: number;
    store?: string;
    till?: string;
    lines?: Line[];
    tenders?: { type: string; amount: number; [field: string]: unknown }[];
    customer?: { identifiers?: Identifier[]; [field: string]: unknown };
    [field: string]: unknown;
}

/** One call that waits. */
export interface Entry {
    at: number;
    key: string;
    method: string;
    path: string;
    /** The content type it is sent as; entries of earlier versions have none. */
    type?: string;
    body: string | Uint8Array<ArrayBuffer>;
    /** When it was put there, in milliseconds since 1970. */
    since: number;
}

/** Where they wait. */
export interface Keeper {
    readonly persistent: boolean;
    all(): Promise<Entry[]>;
    add(entry: Omit<Entry, "at">): Promise<number>;
    remove(at: number): Promise<void>;
}

export class Tillstream {
    constructor(options: Options);
    /** Exchange a one-time code for a token of this page's own; nothing if it is wrong or the agent is away. */
    static pair(about: { url?: string; code: string; deadlineMs?: number }): Promise<string | undefined>;
    /** Ask once when the POS opens, so that a browser's question to the cashier comes before the first customer. */
    reach(about?: { patienceMs?: number }): Promise<Answer>;
    /** A finished transaction, in the canonical form. Kept until the agent has it. */
    transaction(transaction: Transaction): Promise<Answer>;
    /**
     * A POS's own format, for the adapter of that name: text or bytes (an ArrayBuffer or a view of one) as they are, any
     * other value as JSON. Kept. `key`: the same for the same sale in the same state.
     */
    adapt(name: string, payload: unknown, about: { key: string }): Promise<Answer>;
    /** A basket as it is now. Kept once it is closed or voided. */
    basket(id: string, basket: Basket): Promise<Answer>;
    /** Somebody showed a card, or said a number. */
    identify(identifiers: Identifier[], about?: { basket?: string }): Promise<Answer>;
    /** A customer said yes to an offer. Kept. */
    accept(offer: string): Promise<Answer>;
    /** A customer said no to an offer. Kept. */
    decline(offer: string): Promise<Answer>;
    /** What the cashier noticed. Kept. */
    observe(kind: string, about?: { text?: string; basket?: string }): Promise<Answer>;
    /** What a customer answered. Kept. */
    surveyAnswer(question: string, answer: string, about?: { basket?: string; offer?: string }): Promise<Answer>;
    /** What a customer would have bought. Kept. */
    wish(wish: { text?: string; sku?: string; basket?: string }): Promise<Answer>;
    /** Send what waits. It happens by itself. */
    flush(): Promise<void>;
    /** How much waits, and whether it would survive a reload. */
    waiting(): Promise<{ waiting: number; persistent: boolean }>;
    /** Send nothing more from here. */
    close(): void;
}
