/** @odoo-module */
import { Component, useState, xml } from "@odoo/owl";
import { usePos } from "@point_of_sale/app/store/pos_hook";
import { registry } from "@web/core/registry";
import { carefully } from "@pos_tillstream/bridge";
import { pair, tillstream } from "@pos_tillstream/till";

/** One strip below the POS. It takes no focus, covers nothing that is touched, and Escape empties it. */
export class TillstreamStrip extends Component {
    static template = xml`
        <div t-if="offers.length or !state.paired" class="tillstream-strip" role="status" aria-live="polite"
             t-on-keydown="(ev) => ev.key === 'Escape' and this.dismiss()">
            <form t-if="!state.paired" class="tillstream-pair" t-on-submit.prevent="pair">
                <label>Tillstream is not paired with this till. Code:
                    <input name="code" size="10" autocomplete="off" t-ref="code"/>
                </label>
                <button type="submit">Pair</button>
                <span t-if="local.wrong"> This code does not fit. </span>
            </form>
            <div t-foreach="offers" t-as="one" t-key="one.offer" class="tillstream-offer">
                <span t-esc="text(one)"/>
                <button type="button" t-on-click="() => this.answer(one, true)">Yes</button>
                <button type="button" t-on-click="() => this.answer(one, false)">No</button>
            </div>
            <button t-if="offers.length" type="button" class="tillstream-dismiss" aria-label="Dismiss"
                    t-on-click="dismiss">×</button>
        </div>`;
    static props = {};

    setup() {
        this.pos = usePos();
        this.state = useState(tillstream.state);
        this.local = useState({ wrong: false });
    }

    get offers() {
        const order = this.pos.get_order?.();
        // The state is read here too, so that a change of it shows.
        return this.state.offers.length ? tillstream.offersFor(order?.uuid ?? order?.uid) : [];
    }

    /** @param {any} outcome */
    text(outcome) {
        return outcome.effects.map((one) => one.text).filter(Boolean).join(" · ");
    }

    /**
     * @param {any} outcome
     * @param {boolean} yes
     */
    answer(outcome, yes) {
        carefully(() => tillstream.answered(outcome, yes));
    }

    dismiss() {
        tillstream.dismiss();
    }

    /** @param {Event} event */
    async pair(event) {
        const code = event.target.elements.code.value.trim();
        this.local.wrong = !(await pair(code));
    }
}

registry.category("main_components").add("TillstreamStrip", { Component: TillstreamStrip, props: {} });
