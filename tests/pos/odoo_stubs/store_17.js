/** The names and signatures of Odoo 17's `PosStore` that the module leans on. */
export class PosStore {
    kept = [];
    get_order() {
        return this.order;
    }
    push_single_order(order) {
        this.kept.push(order.export_as_JSON());
        return Promise.reject(new Error("the line is down"));
    }
}
