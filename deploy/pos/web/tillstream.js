// @ts-check
/**
 * Speaks to the Tillstream agent of this till from a POS that runs in a browser.
 *
 * It fails open: no call rejects, none takes longer than its deadline, and a POS need not look at the answer. What a
 * customer did (a sale above all) is put into a small outbox first, which survives a reload; if the agent is away, it is
 * sent again, in order, once each. What is only worth something now (a basket still open) is not kept.
 *
 * The agent must know this page's origin (`hook.origins`), and the page the hook's token.
 *
 * @module tillstream
 */

/** @typedef {import("./tillstream").Tillstream} Declared */
/** @typedef {import("./tillstream").Answer} Answer */
/** @typedef {import("./tillstream").Entry} Entry */
/** @typedef {import("./tillstream").Keeper} Keeper */
/** @typedef {import("./tillstream").Notice} Notice */
/** @typedef {import("./tillstream").Options} Options */

const URL_OF_AGENT = "http://127.0.0.1:8710";
const DEADLINE_MS = 250;
const KEPT = 1000;
const TRIPPED_AFTER = 3;
const REST_MS = 2000;
const LONGEST_REST_MS = 60_000;
const BACKGROUND_MS = 5000;
/** Browsers let 64 KiB of a page's requests outlive it. */
const MOST_OUTLIVING = 16_000;
const STORE = "outbox";
const JSON_TYPE = "application/json";
/** What every adapter takes, whatever its format is. */
const BYTES_TYPE = "application/octet-stream";
const ADAPTERS = "/v1/adapters/";
/** @type {RequestInit} */
const QUIETLY = {
    mode: "cors",
    credentials: "omit",
    cache: "no-store",
    redirect: "error",
    referrerPolicy: "no-referrer",
};

/**
 * What a POS need not keep trying: it would be refused again. A token may be set right, so 401 and 403 wait, and so
 * does 415, which is about how a sale was sent and not about the sale.
 */
const FINAL = new Set([400, 404, 405, 409, 413, 422]);
const WAITS = new Set([401, 403, 415]);

/** Outbox entries in IndexedDB, oldest first. */
class Kept {
    /** @param {IDBDatabase} database */
    constructor(database) {
        this.database = database;
        this.persistent = true;
    }

    /**
     * @param {string} name
     * @returns {Promise<Kept>}
     */
    static async open(name) {
        const asked = indexedDB.open(name, 1);
        asked.onupgradeneeded = () => {
            const store = asked.result.createObjectStore(STORE, { keyPath: "at", autoIncrement: true });
            store.createIndex("key", "key");
        };
        const database = await done(asked);
        database.onversionchange = () => database.close();
        return new Kept(database);
    }

    /** @returns {Promise<Entry[]>} */
    all() {
        return done(this.database.transaction(STORE).objectStore(STORE).getAll());
    }

    /**
     * @param {Omit<Entry, "at">} entry
     * @returns {Promise<number>}
     */
    async add(entry) {
        // "strict": a power cut a moment later must not undo it.
        const change = this.database.transaction(STORE, "readwrite", { durability: "strict" });
        const over = finished(change);
        const store = change.objectStore(STORE);
        const there = (await done(store.index("key").getAll(entry.key))).find((one) => isSame(one, entry));
        const at = there === undefined ? await done(store.add(entry)) : there.at;
        await over;
        return Number(at);
    }

    /** @param {number} at */
    async remove(at) {
        const change = this.database.transaction(STORE, "readwrite");
        const over = finished(change);
        change.objectStore(STORE).delete(at);
        await over;
    }
}

/** The same in memory, where the browser keeps nothing for this page. */
class Remembered {
    constructor() {
        /** @type {Entry[]} */
        this.entries = [];
        this.next = 1;
        this.persistent = false;
    }

    async all() {
        return [...this.entries];
    }

    /** @param {Omit<Entry, "at">} entry */
    async add(entry) {
        const there = this.entries.find((one) => isSame(one, entry));
        if (there !== undefined) return there.at;
        this.entries.push({ ...entry, at: this.next });
        return this.next++;
    }

    /** @param {number} at */
    async remove(at) {
        this.entries = this.entries.filter((one) => one.at !== at);
    }
}

/**
 * Whether two entries are one call made twice. The same sale with another content is another call.
 * @param {Omit<Entry, "at">} one
 * @param {Omit<Entry, "at">} other
 */
function isSame(one, other) {
    return one.key === other.key && one.path === other.path && isSameBody(one.body, other.body);
}

/**
 * @param {Entry["body"]} one
 * @param {Entry["body"]} other
 */
function isSameBody(one, other) {
    if (typeof one === "string" || typeof other === "string") return one === other;
    return one.length === other.length && one.every((byte, index) => byte === other[index]);
}

/**
 * A POS's own bytes, copied, for the POS may write over them while they wait. Nothing if the payload is no bytes.
 * @param {unknown} payload
 */
function bytesOf(payload) {
    if (payload instanceof ArrayBuffer) return new Uint8Array(payload.slice(0));
    if (!ArrayBuffer.isView(payload)) return undefined;
    return Uint8Array.from(new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength));
}

/**
 * @param {unknown} body
 * @returns {body is Uint8Array<ArrayBuffer>}
 */
function isBytes(body) {
    return body instanceof Uint8Array;
}

/**
 * How an entry is sent. One of a version that kept no type may hold any adapter's format.
 * @param {Omit<Entry, "at">} entry
 */
function typeOf(entry) {
    return entry.type ?? (entry.path.startsWith(ADAPTERS) ? BYTES_TYPE : JSON_TYPE);
}

/** Stops calling an agent that is not there, and tries again after a while. */
class Breaker {
    constructor() {
        this.failures = 0;
        this.until = 0;
        this.rest = REST_MS;
    }

    get open() {
        return performance.now() < this.until;
    }

    worked() {
        this.failures = 0;
        this.until = 0;
        this.rest = REST_MS;
    }

    failed() {
        this.failures += 1;
        if (this.failures >= TRIPPED_AFTER) {
            this.until = performance.now() + this.rest;
            this.rest = Math.min(2 * this.rest, LONGEST_REST_MS);
        }
    }
}

/**
 * One till's agent, as a page sees it. Make one for the life of the page.
 * @implements {Declared}
 */
export class Tillstream {
    /** @type {Promise<Keeper>} */
    #keeper;
    /** @type {Options & {url: string, deadlineMs: number, kept: number}} */
    #options;
    #breaker = new Breaker();
    /** @type {Promise<void> | undefined} */
    #draining;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    #later;
    #closed = false;
    #wakes = () => void this.flush();

    /** @param {Options} options */
    constructor(options) {
        this.#options = { url: URL_OF_AGENT, deadlineMs: DEADLINE_MS, kept: KEPT, ...options };
        this.#options.url = this.#options.url.replace(/\/+$/, "");
        this.#keeper = this.#open();
        globalThis.addEventListener?.("focus", this.#wakes);
        void this.flush();
    }

    /**
     * Exchange a one-time code, which the till's operator was shown, for a token of this page's own.
     * @param {{url?: string, code: string, deadlineMs?: number}} about
     * @returns {Promise<string | undefined>} nothing if the code is wrong or the agent is away
     */
    static async pair({ url = URL_OF_AGENT, code, deadlineMs = 10_000 }) {
        const stop = new AbortController();
        const timer = setTimeout(() => stop.abort(), deadlineMs);
        try {
            const reply = await fetch(url.replace(/\/+$/, "") + "/v1/pair", {
                method: "POST",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ code }),
                signal: stop.signal,
                ...QUIETLY,
            });
            return reply.ok ? (await reply.json()).token : undefined;
        } catch {
            return undefined;
        } finally {
            clearTimeout(timer);
        }
    }

    /**
     * Ask once when the POS opens, so that a browser's question to the cashier comes before the first customer.
     * @param {{patienceMs?: number}} [about]
     * @returns {Promise<Answer>}
     */
    async reach({ patienceMs = 60_000 } = {}) {
        // An empty identification is refused by an agent that lets this page in, and captures nothing.
        const answer = await this.#send("POST", "/v1/members/identify", {}, { patienceMs });
        return answer.status === 400 ? { ok: true, kept: false, status: 400 } : answer;
    }

    /**
     * A finished sale, return or other transaction, in the canonical form. Kept until the agent has it.
     * @param {import("./tillstream").Transaction} transaction
     * @returns {Promise<Answer>}
     */
    transaction(transaction) {
        const { source, store, till, business_date: day, pos_id: id, revision } = transaction;
        const key = JSON.stringify([source?.system, store, till, day, id, revision ?? 0]);
        return this.#keep(`sale ${key}`, "POST", "/v1/transactions", transaction);
    }

    /**
     * A POS's own format, for the adapter of that name: text or bytes, which are sent as they are, or a value, which is
     * sent as JSON. Kept like a transaction.
     * @param {string} name
     * @param {unknown} payload
     * @param {{key: string}} about key: the same for the same sale in the same state
     * @returns {Promise<Answer>}
     */
    adapt(name, payload, { key }) {
        const said = typeof payload === "string" ? payload : bytesOf(payload);
        const path = ADAPTERS + encodeURIComponent(name);
        const type = said === undefined ? JSON_TYPE : BYTES_TYPE;
        return this.#keep(`adapt ${name} ${key}`, "POST", path, said ?? payload, type);
    }

    /**
     * A basket as it is now. What is closed is kept like a transaction; an open one is worth something only now.
     * @param {string} id
     * @param {import("./tillstream").Basket} basket
     * @returns {Promise<Answer>}
     */
    basket(id, basket) {
        const path = `/v1/baskets/${encodeURIComponent(id)}`;
        if (basket.state === "open" || basket.state === "suspended") return this.#send("PUT", path, basket);
        return this.#keep(`basket ${id} ${basket.revision}`, "PUT", path, basket);
    }

    /**
     * Somebody showed a card, or said a number: what the till has for them.
     * @param {import("./tillstream").Identifier[]} identifiers
     * @param {{basket?: string}} [about]
     * @returns {Promise<Answer>}
     */
    identify(identifiers, about = {}) {
        return this.#send("POST", "/v1/members/identify", { identifiers, ...about });
    }

    /**
     * @param {string} offer
     * @returns {Promise<Answer>}
     */
    accept(offer) {
        return this.#answer(offer, "accepted");
    }

    /**
     * @param {string} offer
     * @returns {Promise<Answer>}
     */
    decline(offer) {
        return this.#answer(offer, "declined");
    }

    /**
     * What the cashier noticed.
     * @param {string} kind
     * @param {{text?: string, basket?: string}} [about]
     * @returns {Promise<Answer>}
     */
    observe(kind, about = {}) {
        return this.#note("/v1/observations", { kind, ...about });
    }

    /**
     * What a customer answered to a question.
     * @param {string} question
     * @param {string} answer
     * @param {{basket?: string, offer?: string}} [about]
     * @returns {Promise<Answer>}
     */
    surveyAnswer(question, answer, about = {}) {
        return this.#note("/v1/survey-answers", { question, answer, ...about });
    }

    /**
     * What a customer would have bought.
     * @param {{text?: string, sku?: string, basket?: string}} wish
     * @returns {Promise<Answer>}
     */
    wish(wish) {
        return this.#note("/v1/wish-list", wish);
    }

    /**
     * Send what waits. Nobody need call it: it happens by itself.
     * @returns {Promise<void>}
     */
    flush() {
        this.#draining ??= this.#drain().finally(() => (this.#draining = undefined));
        return this.#draining;
    }

    /**
     * How much waits, and whether it would survive a reload.
     * @returns {Promise<{waiting: number, persistent: boolean}>}
     */
    async waiting() {
        const keeper = await this.#keeper;
        return { waiting: (await orElse(keeper.all(), [])).length, persistent: keeper.persistent };
    }

    /** Send nothing more. What waits is sent by the next one of the same page. */
    close() {
        this.#closed = true;
        clearTimeout(this.#later);
        globalThis.removeEventListener?.("focus", this.#wakes);
    }

    /** @returns {Promise<Keeper>} */
    async #open() {
        try {
            return await within(5000, Kept.open(this.#options.outbox ?? "tillstream"));
        } catch (error) {
            this.#notice({ what: "not_persistent", reason: String(error) });
            return new Remembered();
        }
    }

    /**
     * @param {string} offer
     * @param {"accepted" | "declined"} answer
     */
    #answer(offer, answer) {
        const path = `/v1/offers/${encodeURIComponent(offer)}/${answer}`;
        return this.#keep(`offer ${offer} ${answer}`, "POST", path, null);
    }

    /**
     * @param {string} path
     * @param {object} body
     */
    #note(path, body) {
        const event = randomId();
        return this.#keep(`event ${event}`, "POST", path, { ...body, event_id: event });
    }

    /**
     * Put a call into the outbox, then send it if nothing older waits. The deadline holds for both together.
     * @param {string} key
     * @param {string} method
     * @param {string} path
     * @param {unknown} body
     * @param {string} [type]
     * @returns {Promise<Answer>}
     */
    #keep(key, method, path, body, type = JSON_TYPE) {
        const held = typeof body === "string" || isBytes(body) ? body : body === null ? "" : JSON.stringify(body);
        const call = { key, method, path, type, body: held, since: Date.now() };
        return new Promise((resolve) => {
            let kept = false;
            setTimeout(() => resolve({ ok: false, kept, reason: "deadline" }), this.#options.deadlineMs);
            void this.#put(call, resolve, () => (kept = true));
        });
    }

    /**
     * @param {Omit<Entry, "at">} entry
     * @param {(answer: Answer) => void} told
     * @param {() => void} kept
     */
    async #put(entry, told, kept) {
        const keeper = await this.#keeper;
        try {
            const at = await keeper.add(entry);
            this.#asked.set(at, told);
            kept();
            await this.#bound(keeper);
        } catch (error) {
            // The browser's disk may be full. Then this call is made once, and lost if the agent is away.
            this.#notice({ what: "not_kept", reason: String(error), key: entry.key });
            told(await this.#sendEntry(entry, {}));
            return;
        }
        await this.flush();
        await this.flush(); // the first may have begun before this was added
    }

    /** @type {Map<number, (answer: Answer) => void>} */
    #asked = new Map();

    /**
     * Send what waits, oldest first; stop at what cannot be sent now.
     * @returns {Promise<void>}
     */
    async #drain() {
        const keeper = await this.#keeper;
        for (const entry of await orElse(keeper.all(), [])) {
            if (this.#closed) return;
            // In the background a call may take longer than a cashier waits.
            const how = { patienceMs: Math.max(this.#options.deadlineMs, BACKGROUND_MS), outlives: true };
            const answer = await this.#sendEntry(entry, how);
            const told = this.#asked.get(entry.at);
            this.#asked.delete(entry.at);
            if (answer.ok || (answer.status !== undefined && FINAL.has(answer.status))) {
                await orElse(keeper.remove(entry.at), undefined);
                if (!answer.ok) this.#notice({ what: "refused", key: entry.key, error: answer.error });
                told?.(answer);
            } else {
                if (answer.status !== undefined && WAITS.has(answer.status)) {
                    this.#notice({ what: "not_let_in", key: entry.key, error: answer.error });
                }
                told?.({ ...answer, kept: true });
                this.#tellTheOthers(answer);
                this.#tryLater();
                return;
            }
        }
    }

    /** @param {Answer} answer */
    #tellTheOthers(answer) {
        for (const told of this.#asked.values()) told({ ...answer, kept: true });
        this.#asked.clear();
    }

    #tryLater() {
        if (this.#closed) return;
        clearTimeout(this.#later);
        this.#later = setTimeout(this.#wakes, Math.max(500, this.#breaker.until - performance.now()));
    }

    /**
     * Let the oldest go when there are too many, and say so.
     * @param {Keeper} keeper
     */
    async #bound(keeper) {
        const entries = await keeper.all();
        for (const entry of entries.slice(0, Math.max(0, entries.length - this.#options.kept))) {
            await keeper.remove(entry.at);
            this.#notice({ what: "dropped", key: entry.key, reason: `more than ${this.#options.kept} wait` });
        }
    }

    /**
     * One call of the outbox. What an adapter does not read as JSON it is given as bytes, to say itself what is wrong:
     * else it would hold up all that waits behind it.
     * @param {Omit<Entry, "at">} entry
     * @param {{patienceMs?: number, outlives?: boolean}} how
     * @returns {Promise<Answer>}
     */
    async #sendEntry(entry, how) {
        const type = typeOf(entry);
        const answer = await this.#send(entry.method, entry.path, entry.body, { ...how, type });
        if (answer.status !== 415 || type === BYTES_TYPE || !entry.path.startsWith(ADAPTERS)) return answer;
        return this.#send(entry.method, entry.path, entry.body, { ...how, type: BYTES_TYPE });
    }

    /**
     * One call, within the deadline. Never rejects.
     * @param {string} method
     * @param {string} path
     * @param {unknown} body
     * @param {{patienceMs?: number, outlives?: boolean, type?: string}} [how] how long it may take; whether it may
     *     outlive the page; what the body is
     * @returns {Promise<Answer>}
     */
    async #send(method, path, body, how = {}) {
        const { patienceMs = this.#options.deadlineMs, outlives = false, type = JSON_TYPE } = how;
        if (this.#breaker.open) return { ok: false, kept: false, reason: "resting" };
        const stop = new AbortController();
        const timer = setTimeout(() => stop.abort(), patienceMs);
        try {
            const sent = typeof body === "string" || isBytes(body) ? body : JSON.stringify(body);
            const reply = await fetch(this.#options.url + path, {
                method,
                headers: { Authorization: `Bearer ${this.#options.token}`, "Content-Type": type },
                body: sent,
                signal: stop.signal,
                ...QUIETLY,
                keepalive: outlives && sent.length < MOST_OUTLIVING,
            });
            const said = await reply.json();
            if (reply.ok || FINAL.has(reply.status)) this.#breaker.worked();
            else this.#breaker.failed();
            if (reply.ok) return { ok: true, kept: false, status: reply.status, body: said, effects: effectsOf(said) };
            return { ok: false, kept: false, status: reply.status, error: said.error, reason: "refused" };
        } catch (error) {
            this.#breaker.failed();
            const reason = stop.signal.aborted ? "deadline" : "unreachable";
            return { ok: false, kept: false, reason, detail: String(error) };
        } finally {
            clearTimeout(timer);
        }
    }

    /** @param {Notice} notice */
    #notice(notice) {
        try {
            (this.#options.onNotice ?? ((one) => console.warn("tillstream", one)))(notice);
        } catch {
            // The POS's own trouble must not become a sale's.
        }
    }
}

/**
 * @param {any} said
 * @returns {import("./tillstream").Outcome[]}
 */
function effectsOf(said) {
    if (Array.isArray(said?.effects)) return said.effects;
    return (said?.transactions ?? []).flatMap((/** @type {any} */ one) => one.effects ?? []);
}

/** @returns {string} */
function randomId() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function done(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

/**
 * @param {IDBTransaction} change
 * @returns {Promise<void>}
 */
function finished(change) {
    return new Promise((resolve, reject) => {
        change.oncomplete = () => resolve();
        change.onabort = change.onerror = () => reject(change.error);
    });
}

/**
 * @param {number} ms
 * @returns {Promise<void>}
 */
function pause(ms) {
    return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}

/**
 * @template T
 * @param {number} ms
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
function within(ms, promise) {
    const late = pause(ms).then(() => Promise.reject(new Error(`took longer than ${ms} ms`)));
    return Promise.race([promise, late]);
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {T} otherwise
 * @returns {Promise<T>}
 */
function orElse(promise, otherwise) {
    return promise.catch(() => otherwise);
}
