/** The names and signatures of Odoo 18's `PosOrder` that the module leans on; `raw` is what the sync would send. */
export class PosOrder {
    constructor(raw) {
        this.raw = raw;
        this.uuid = raw.uuid;
        this.id = raw.id ?? `pos.order_${raw.uuid}`;
        this.state = "draft";
        const records = (commands) => commands.map(([, id, vals]) => ({ id: vals.id ?? `new_${id}`, serialize: () => vals }));
        this.lines = records(raw.lines);
        this.payment_ids = records(raw.payment_ids);
    }
    recomputeOrderData() {
        this.recomputed = true;
    }
    serialize({ orm = false } = {}) {
        // Lines that the server has already are references in what is synced.
        const lines = this.raw.lines.map(([code, id, vals]) => (code === 1 ? [4, id] : [code, id, vals]));
        return { ...this.raw, lines, state: this.state, orm: undefined, serialized_for: orm ? undefined : "display" };
    }
    set_partner(partner) {
        this.partner = partner;
    }
}
