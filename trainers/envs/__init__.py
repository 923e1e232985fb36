"""Environments that learners take: the contract, and adapters to it."""
