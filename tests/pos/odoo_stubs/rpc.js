export class ConnectionLostError extends Error {}
export class RPCError extends Error {}
