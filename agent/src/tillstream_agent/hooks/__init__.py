"""The doors through which a POS speaks to the agent."""
