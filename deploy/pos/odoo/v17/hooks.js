/** @odoo-module */
/*
 * Odoo 17. A validated order is handed to `PosStore.push_single_order`, which keeps it and then tries to send it, whether
 * the line to Odoo is up or not; `afterOrderValidation` may come never. So the hook is before it.
 */
import { Order } from "@point_of_sale/app/store/models";
import { PosStore } from "@point_of_sale/app/store/pos_store";
import { patch } from "@web/core/utils/patch";
import { carefully } from "@pos_tillstream/bridge";
import { tillstream } from "@pos_tillstream/till";

/** An order as it is sent to `create_from_ui`. */
export function whole(order) {
    return { id: order.uid, data: order.export_as_JSON(), to_invoice: Boolean(order.is_to_invoice?.()) };
}

patch(PosStore.prototype, {
    push_single_order(order) {
        carefully(() => {
            const payload = whole(order);
            return tillstream.validated(order.uid, `paid ${payload.data.date_order ?? payload.data.creation_date}`, payload);
        });
        return super.push_single_order(...arguments);
    },
});

patch(Order.prototype, {
    set_partner(partner) {
        const result = super.set_partner(...arguments);
        carefully(() => tillstream.identified(this.uid, partner));
        return result;
    },
});
