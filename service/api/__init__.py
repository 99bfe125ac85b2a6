"""HTTP side of the service: FastAPI starts and stops here."""
