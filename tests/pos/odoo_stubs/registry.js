const categories = {};
export const registry = {
    category(name) {
        categories[name] ??= { entries: new Map(), add(key, value) { this.entries.set(key, value); } };
        return categories[name];
    },
};
