/** The names and signatures of Odoo 17's `Order` that the module leans on; `raw` is what it exports. */
export class Order {
    constructor(raw) {
        this.raw = raw;
        this.uid = raw.uid;
    }
    export_as_JSON() {
        return this.raw;
    }
    is_to_invoice() {
        return false;
    }
    set_partner(partner) {
        this.partner = partner;
    }
}
