"""From a sealed batch to the ledger, its projections and the triggers, in one transaction."""
