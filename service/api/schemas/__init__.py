"""What goes over the wire: one Pydantic model for each JSON body and answer."""
