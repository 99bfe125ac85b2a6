"""The sub-commands of `hashguard` that belong to the service."""
