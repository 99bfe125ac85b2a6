"""The service under kill -9: clients, killer and driver on one side, an oracle in a process of its own."""
