/** Read by the compiler alone: what a POS may write, and what it may not. */
import { Tillstream, type Answer } from "./tillstream.js";

const till = new Tillstream({ token: "…", deadlineMs: 100, onNotice: (notice) => void notice.what });

export async function sells(): Promise<number> {
    const answer: Answer = await till.transaction({
        source: { system: "pos" },
        kind: "sale",
        pos_id: "1",
        business_date: "2026-01-01",
        end: { at: 0 },
        total: 500,
        lines: [{ seq: 0, amount: 500, sku: "1" }],
    });
    for (const outcome of answer.effects ?? []) {
        for (const effect of outcome.effects ?? []) {
            if (effect.type === "points") return effect.points;
        }
    }
    // @ts-expect-error there is no such kind
    await till.transaction({ source: { system: "pos" }, kind: "gift", pos_id: "1", business_date: "", end: { at: 0 } });
    // @ts-expect-error a basket has a state
    await till.basket("B7", { revision: 1, lines: [], total: 0 });
    // @ts-expect-error what is adapted has a key
    await till.adapt("odoo", {});
    // @ts-expect-error identifiers are a list
    await till.identify({ scheme: "loyalty", value: "1" });
    // @ts-expect-error the token is needed
    return new Tillstream({}) && 0;
}
