"""Builds the agent's packages: .deb, .rpm, and a bundle that installs without a network."""
