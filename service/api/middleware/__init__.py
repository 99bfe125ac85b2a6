"""What every request passes before a route sees it; plain ASGI, outermost first in `service/api/app.py`."""
