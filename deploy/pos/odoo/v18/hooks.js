/** @odoo-module */
/*
 * Odoo 18. A validated order is marked `paid` and then handed to `PosStore.syncAllOrders`, whether the line to Odoo is up
 * or not; `afterOrderValidation` is reached only once the server has answered. So the hook is before the sync.
 */
import { PosOrder } from "@point_of_sale/app/models/pos_order";
import { PosStore } from "@point_of_sale/app/store/pos_store";
import { RPCError } from "@web/core/network/rpc";
import { patch } from "@web/core/utils/patch";
import { carefully } from "@pos_tillstream/bridge";
import { tillstream } from "@pos_tillstream/till";

/**
 * An order as it is sent to `sync_from_ui`, but always whole: what Odoo's server has already is sent there as a
 * reference, and half an order must not replace a whole one here.
 */
export function whole(order) {
    order.recomputeOrderData?.();
    const created = (records) => records.map((one) => [0, 0, { ...one.serialize({ orm: true }), id: one.id }]);
    return {
        ...order.serialize({ orm: true }),
        lines: created([...order.lines]),
        payment_ids: created([...order.payment_ids]),
    };
}

/** Capture what was validated and is about to be synced. */
function capture(pos, options) {
    const { orderToCreate, orderToUpdate } = pos.getPendingOrder();
    const orders = options?.orders ?? [...orderToCreate, ...orderToUpdate];
    return orders
        .filter((order) => ["paid", "done", "invoiced"].includes(order.state))
        .map((order) => {
            const payload = whole(order);
            carefully(() => tillstream.validated(order.uuid, `${order.state} ${payload.date_order}`, payload));
            return { order, payload };
        });
}

patch(PosStore.prototype, {
    async syncAllOrders(options = {}) {
        const captured = carefully(() => capture(this, options)) ?? [];
        try {
            return await super.syncAllOrders(...arguments);
        } catch (error) {
            // After a refusal of the server, the payment screen opens the order at hand again. A lost line refuses nothing.
            const refused = captured.find(({ order }) => order.uuid === this.selectedOrderUuid);
            if (error instanceof RPCError && refused) {
                carefully(() => tillstream.reopened(refused.order.uuid, refused.payload));
            }
            throw error;
        }
    },
});

patch(PosOrder.prototype, {
    set_partner(partner) {
        const result = super.set_partner(...arguments);
        carefully(() => tillstream.identified(this.uuid, partner));
        return result;
    },
});
