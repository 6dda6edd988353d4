import { ConnectionLostError, RPCError } from "@web/core/network/rpc";

/** The names and signatures of Odoo 18's `PosStore` that the module leans on. `line` is what becomes of a call. */
export class PosStore {
    constructor() {
        this.orders = [];
        this.pending = new Set();
        this.line = "up";
    }
    get_order() {
        return this.orders.find((order) => order.uuid === this.selectedOrderUuid);
    }
    set_order(order) {
        this.selectedOrderUuid = order?.uuid;
    }
    addPendingOrder(ids) {
        ids.forEach((id) => this.pending.add(id));
        return true;
    }
    getPendingOrder() {
        const waiting = this.orders.filter((order) => this.pending.has(order.id));
        const isNew = (order) => typeof order.id === "string";
        return {
            orderToDelele: [],
            orderToCreate: waiting.filter(isNew),
            orderToUpdate: waiting.filter((order) => !isNew(order)),
        };
    }
    async syncAllOrders(options = {}) {
        if (this.line === "lost") {
            if (options.throw) throw new ConnectionLostError();
            return [];
        }
        if (this.line === "refuses") throw new RPCError();
        const { orderToCreate, orderToUpdate } = this.getPendingOrder();
        this.pending.clear();
        return [...orderToCreate, ...orderToUpdate];
    }
}
