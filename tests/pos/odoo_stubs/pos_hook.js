import { useState } from "@odoo/owl";
export const usePos = () => useState(window.pos);
