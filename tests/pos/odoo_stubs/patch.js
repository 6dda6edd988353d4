/** As Odoo's `patch`: the methods of `extension` go before those that `target` has, which are their `super`. */
export function patch(target, extension) {
    const before = Object.create(Object.getPrototypeOf(target));
    for (const name of Object.getOwnPropertyNames(extension)) {
        const there = Object.getOwnPropertyDescriptor(target, name);
        if (there) Object.defineProperty(before, name, there);
    }
    Object.setPrototypeOf(extension, before);
    for (const [name, about] of Object.entries(Object.getOwnPropertyDescriptors(extension))) {
        Object.defineProperty(target, name, { ...about, enumerable: false });
    }
}
