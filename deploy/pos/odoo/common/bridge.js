/**
 * Between Odoo's Point of Sale and the till's agent. Nothing here keeps the cashier waiting, opens a dialog or throws:
 * a sale goes on whatever becomes of it.
 */

/** Where this till's browser keeps how to reach its agent: {"token": "…", "url": "…"}. */
export const SETTINGS = "tillstream";

/** @param {Storage} storage */
export function settings(storage) {
    try {
        return JSON.parse(storage.getItem(SETTINGS) ?? "{}") ?? {};
    } catch {
        return {};
    }
}

/**
 * Do it, and let the POS go on if it fails.
 * @template T
 * @param {() => T} work
 * @returns {T | undefined}
 */
export function carefully(work) {
    try {
        const result = work();
        if (result instanceof Promise) result.catch((error) => console.warn("tillstream", error));
        return result;
    } catch (error) {
        console.warn("tillstream", error);
        return undefined;
    }
}

/**
 * What a customer of Odoo's is called. Its number is the one that its sales carry.
 * @param {any} partner
 */
export function identifiersOf(partner) {
    const named = [
        ["account", partner.id],
        ["loyalty", partner.barcode],
        ["phone", partner.mobile || partner.phone],
        ["email", partner.email],
    ];
    return named.filter(([, value]) => value).map(([scheme, value]) => ({ scheme, value: String(value) }));
}

/** What is offered belongs to one basket and one customer, and goes with either. */
export class Bridge {
    /** Sent in this page's life, by order: Odoo tries again and again while its server is away. */
    #sent = new Map();
    #turn = 0;

    /**
     * @param {any} client of the agent; nothing until this till is paired
     * @param {{basket: string, offers: any[], paired: boolean}} state what the strip shows
     */
    constructor(client, state) {
        this.client = client;
        this.state = state;
    }

    /**
     * Capture an order, in Odoo's own shape. The same order again, unchanged, is not sent again.
     * @param {string} basket
     * @param {string} state
     * @param {object} order
     */
    async validated(basket, state, order) {
        const text = JSON.stringify([order]);
        if (this.#sent.get(basket) === text || !this.client) return;
        this.#sent.set(basket, text);
        const turn = this.#turn;
        const answer = await this.client.adapt("odoo", text, { key: `${basket} ${state}` });
        if (turn === this.#turn) this.#show(basket, answer.effects ?? []);
    }

    /**
     * Odoo's server refused an order that was captured as paid, and it is open again.
     * @param {string} basket
     * @param {object} order
     */
    async reopened(basket, order) {
        await this.validated(basket, "cancel", { ...order, state: "cancel" });
    }

    /**
     * The customer of a basket was chosen, changed or taken away.
     * @param {string} basket
     * @param {any} partner
     */
    async identified(basket, partner) {
        const turn = ++this.#turn;
        this.dismiss();
        if (!partner || !this.client) return;
        const answer = await this.client.identify(identifiersOf(partner), { basket });
        if (turn === this.#turn) this.#show(basket, answer.effects ?? []);
    }

    /**
     * What may be shown while this basket is on the screen.
     * @param {string | undefined} basket
     */
    offersFor(basket) {
        const now = Date.now();
        if (!basket || this.state.basket !== basket) return [];
        return this.state.offers.filter((one) => one.expires_ms > now);
    }

    /**
     * @param {any} outcome
     * @param {boolean} yes
     */
    async answered(outcome, yes) {
        this.state.offers = this.state.offers.filter((one) => one.offer !== outcome.offer);
        await (yes ? this.client.accept(outcome.offer) : this.client.decline(outcome.offer));
    }

    dismiss() {
        this.state.offers = [];
    }

    /**
     * @param {string} basket
     * @param {any[]} outcomes
     */
    #show(basket, outcomes) {
        const offered = outcomes.filter((one) => one.outcome === "offered" && one.effects?.some((e) => e.text));
        if (!offered.length) return;
        const kept = this.state.basket === basket ? this.state.offers : [];
        const fresh = offered.filter((one) => !kept.some((other) => other.offer === one.offer));
        this.state.basket = basket;
        this.state.offers = [...fresh, ...kept].slice(0, 3);
    }
}
