/** @odoo-module */
import { reactive } from "@odoo/owl";
import { Bridge, SETTINGS, settings } from "@pos_tillstream/bridge";
import { Tillstream } from "@pos_tillstream/tillstream";

const found = settings(window.localStorage);

/** This till's agent, for the life of the page. */
export const tillstream = new Bridge(
    found.token ? new Tillstream(found) : undefined,
    reactive({ basket: "", offers: [], paired: Boolean(found.token) })
);

/**
 * Exchange a one-time code for this till's token, and keep it in this browser.
 * @param {string} code
 * @returns {Promise<boolean>}
 */
export async function pair(code) {
    const token = await Tillstream.pair({ ...settings(window.localStorage), code });
    if (!token) return false;
    const about = { ...settings(window.localStorage), token };
    window.localStorage.setItem(SETTINGS, JSON.stringify(about));
    tillstream.client = new Tillstream(about);
    tillstream.state.paired = true;
    return true;
}
